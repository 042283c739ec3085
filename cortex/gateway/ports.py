"""What the gateway needs from the drivers; `node` and `store` satisfy these structurally."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

from cortex.adminapi import (
    EventQuery,
    EventRow,
    EventsBody,
    HistoryBody,
    HistoryQuery,
    StatsBody,
    StoreStatus,
)
from cortex.core.fields import Fields
from cortex.core.ids import NodeName
from cortex.core.records import RequestRecord


class Payload(Protocol):
    """A request body that can be sent more than once."""

    @property
    def size(self) -> int: ...
    def payload(self) -> bytes | AsyncIterator[bytes]: ...
    def release(self) -> None: ...


class Answer(Protocol):
    """A node's answer under way."""

    node: NodeName

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def length(self) -> int | None: ...
    @property
    def derived(self) -> dict[str, Any]:
        """What was computed from status and headers, kept with them."""
        ...

    @property
    def ended(self) -> bool:
        """All has come, and was read."""
        ...

    def ready(self) -> bytes:
        """What has come and was not read."""
        ...

    async def read_some(self) -> bytes: ...
    async def read_at_most(self, limit_bytes: int) -> bytes: ...
    async def pour(self, take: Callable[[bytes], object]) -> None: ...
    def enough(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Sending(Protocol):
    """A request that is sent when this is entered, and its answer."""

    async def __aenter__(self) -> Answer: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...
    def fail(self, error: Exception) -> None:
        """Have `error` raised to whoever waits in it."""
        ...


class Inference(Protocol):
    """The inference side of one node."""

    endpoint: str

    def send(
        self,
        method: str,
        path: str,
        headers: Fields,
        body: Payload | None,
        *,
        own: str = "",
    ) -> Sending: ...


class Follower(Protocol):
    """Committed events as they come."""

    def __aiter__(self) -> AsyncIterator[EventRow]: ...
    async def __anext__(self) -> EventRow: ...
    def take(self) -> Sequence[EventRow]: ...


class Ledger(Protocol):
    """What was written down: requests and events."""

    def request_done(self, record: RequestRecord) -> None: ...
    async def history(self, query: HistoryQuery) -> HistoryBody: ...
    async def stats(self, query: HistoryQuery) -> StatsBody: ...
    async def events(self, query: EventQuery) -> EventsBody: ...
    def subscribe(self) -> Follower: ...
    async def node_of_response(self, response_id: str) -> NodeName | None: ...
    def status(self) -> StoreStatus: ...
