"""What runs now, and recent speed per (node, model); the request log has the long view."""

import asyncio
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from statistics import median

from cortex.core.errors import CortexError, NodeUnreachableError
from cortex.core.identity import moved
from cortex.core.ids import ModelId, NodeName
from cortex.core.records import RequestRecord
from cortex.gateway.gaps import Gaps
from cortex.gateway.line import Running

SAMPLES = 50


class Recent:
    def __init__(self) -> None:
        self.requests_total = 0
        #: Requests inside a handler now, queued ones included.
        self.running = Running()
        #: Those of them that a node has been sent.
        self.relays = Gaps()
        self._rates: dict[tuple[NodeName, ModelId], deque[float]] = {}
        self._answered: Counter[NodeName] = Counter()
        self._medians: dict[tuple[NodeName, ModelId], float] = {}
        self._where: dict[str, NodeName] = {}

    @property
    def in_flight(self) -> int:
        """How many requests run."""
        return len(self.running.lines)

    async def idle_within(self, timeout_s: float) -> bool:
        """Wait until nothing runs; False when something still does after that time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.running.idle.wait()
        return not self.in_flight

    def cut(self, error: CortexError) -> None:
        """End every relay with this error, which its client is told."""
        for relay in self.relays:
            relay.cut(error)

    def leave(self, node: NodeName, reason: str) -> None:
        """Have everything that this node has not begun to answer look for another."""
        for relay in self.relays:
            if relay.asks is not None and relay.asks.node == node:
                relay.cut(NodeUnreachableError(f"{node} is down: {reason}"))

    def renamed(self, renames: Mapping[NodeName, NodeName]) -> None:
        """The same nodes are called otherwise."""
        self._answered = Counter(moved(self._answered, renames))
        self._where = {
            response: renames.get(node, node) for response, node in self._where.items()
        }
        self._rates = {
            (renames.get(node, node), model): rates
            for (node, model), rates in self._rates.items()
        }
        self._medians.clear()

    def request_done(self, record: RequestRecord) -> None:
        self.requests_total += 1
        if record.tokens_per_s is not None and record.node and record.model:
            key = (record.node, record.model)
            self._rates.setdefault(key, deque(maxlen=SAMPLES)).append(record.tokens_per_s)
            self._medians.pop(key, None)
            self._answered[record.node] += 1
        if record.response_id is not None and record.node:
            if len(self._where) >= 10_000:
                self._where.pop(next(iter(self._where)))
            self._where[record.response_id] = record.node

    def answered(self, node: NodeName) -> int:
        """How many requests changed the pace that is known of a node."""
        return self._answered[node]

    def node_of_response(self, response_id: str) -> NodeName | None:
        """Which node made a `resp_…`, among the latest; the request log knows the others."""
        return self._where.get(response_id)

    def tokens_per_s(self, node: NodeName, model: ModelId) -> float | None:
        key = (node, model)
        known = self._medians.get(key)
        if known is None and key in self._rates:
            known = self._medians[key] = median(self._rates[key])
        return known
