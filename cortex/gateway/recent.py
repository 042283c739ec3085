"""What runs now, and recent speed per (node, model); the request log has the long view."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from statistics import median
from typing import Protocol

from cortex.core.errors import CortexError
from cortex.core.ids import ModelId, NodeName
from cortex.core.records import RequestRecord

SAMPLES = 50


class Cuttable(Protocol):
    """An exchange under way that can be ended early."""

    def cut(self, error: CortexError) -> None: ...


class Recent:
    def __init__(self) -> None:
        self.requests_total = 0
        #: Requests inside a handler now, queued ones included.
        self.in_flight = 0
        #: Those of them that a node is answering.
        self.relays: set[Cuttable] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._rates: dict[tuple[NodeName, ModelId], deque[float]] = {}
        self._where: dict[str, NodeName] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count a request while it runs."""
        self.in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    async def idle_within(self, timeout_s: float) -> bool:
        """Wait until nothing runs; False when something still does after that time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        return not self.in_flight

    def cut(self, error: CortexError) -> None:
        """End every relay with this error, which its client is told."""
        for relay in tuple(self.relays):
            relay.cut(error)

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
