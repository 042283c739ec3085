"""Recent speed per (node, model), for `status`; the request log has the long view."""

from collections import deque
from statistics import median

from cortex.core.ids import ModelId, NodeName
from cortex.core.records import RequestRecord

SAMPLES = 50


class Recent:
    def __init__(self) -> None:
        self.requests_total = 0
        self.in_flight = 0
        """Requests inside a handler now, queued ones included."""
        self._rates: dict[tuple[NodeName, ModelId], deque[float]] = {}
        self._where: dict[str, NodeName] = {}

    def request_done(self, record: RequestRecord) -> None:
        self.requests_total += 1
        if record.tokens_per_s is not None and record.node and record.model:
            key = (record.node, record.model)
            self._rates.setdefault(key, deque(maxlen=SAMPLES)).append(record.tokens_per_s)
        if record.response_id is not None and record.node:
            if len(self._where) >= 10_000:
                self._where.pop(next(iter(self._where)))
            self._where[record.response_id] = record.node

    def node_of_response(self, response_id: str) -> NodeName | None:
        """Which node made a `resp_…`, among the latest; the request log knows the others."""
        return self._where.get(response_id)

    def tokens_per_s(self, node: NodeName, model: ModelId) -> float | None:
        rates = self._rates.get((node, model))
        return median(rates) if rates else None
