"""What the gateway needs from the drivers; `node` and `store` satisfy these structurally."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from cortex.adminapi import (
    EventQuery,
    EventRow,
    HistoryQuery,
    HistoryRow,
    StatsRow,
    StoreStatus,
)
from cortex.core.ids import ModelId, NodeName
from cortex.core.records import RequestRecord


class Payload(Protocol):
    """A request body that can be sent more than once."""

    @property
    def size(self) -> int: ...
    def payload(self) -> bytes | AsyncIterator[bytes]: ...


class Answer(Protocol):
    """A node's answer under way."""

    node: NodeName
    status: int

    @property
    def headers(self) -> Mapping[str, str]: ...
    async def read_some(self) -> bytes: ...
    async def read_at_most(self, limit_bytes: int) -> bytes: ...


class Inference(Protocol):
    """The inference side of one node."""

    endpoint: str

    def send(
        self, method: str, path: str, headers: Mapping[str, str], body: Payload | None
    ) -> AbstractAsyncContextManager[Answer]: ...


class Ledger(Protocol):
    """What was written down: requests and events."""

    def request_done(self, record: RequestRecord) -> None: ...
    async def history(self, query: HistoryQuery) -> list[HistoryRow]: ...
    async def stats(self, query: HistoryQuery) -> list[StatsRow]: ...
    async def events(self, query: EventQuery) -> list[EventRow]: ...
    def subscribe(self) -> AsyncIterator[EventRow]: ...
    async def node_of_response(self, response_id: str) -> NodeName | None: ...
    async def save_pin(self, model: ModelId, node: NodeName | None) -> None: ...
    async def delete_pin(self, model: ModelId, node: NodeName | None) -> None: ...
    def status(self) -> StoreStatus: ...
