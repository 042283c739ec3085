"""The account of one request, kept as it proceeds and closed once: metrics, request log, log line."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from cortex.core.clock import Clock
from cortex.core.errors import CortexError
from cortex.core.ids import NodeName, RequestId
from cortex.core.records import Outcome, RequestRecord
from cortex.core.written import unquoted
from cortex.fleet.admission import Admitted
from cortex.gateway.errors import status_of
from cortex.gateway.relayed import Relayed


class Trace(Protocol):
    """The spans of one request; see `telemetry.tracing.Traced`."""

    def admitted(self, queue_s: float, load_wait_s: float) -> None: ...
    def asking(self, node: str, model: str | None) -> str: ...
    def done(self, record: RequestRecord) -> None: ...


MESSAGE_CHARS = 300
"""As much of a message as is written down."""


class Running:
    """The accounts that are open, oldest first, each by a number of its own."""

    def __init__(self) -> None:
        self.lines: dict[int, Line] = {}
        #: Set while there is none.
        self.idle = asyncio.Event()
        self.idle.set()
        self._latest = 0

    def begin(self, line: "Line") -> int:
        """One more; returns its number."""
        if not self.lines:
            self.idle.clear()
        self._latest += 1
        self.lines[self._latest] = line
        return self._latest

    def end(self, serial: int) -> None:
        """It is closed."""
        del self.lines[serial]
        if not self.lines:
            self.idle.set()


class Line:
    """Fills a `RequestRecord`; a context manager around the whole handler.

    Args:
        request_id: As the client is told it.
        route: Of metrics and history.
        clock: That the account goes by.
        running: Has it while it is open.
        done: Takes the record at its end.
    """

    __slots__ = (
        "_done",
        "_first_s",
        "_running",
        "_serial",
        "_started_s",
        "events",
        "now_s",
        "record",
        "trace",
    )

    def __init__(
        self,
        request_id: RequestId,
        route: str,
        clock: Clock,
        running: Running,
        done: Callable[[RequestRecord], None],
    ) -> None:
        self._running = running
        self.now_s = clock.now_s
        self._started_s = self.now_s()
        self._first_s: float | None = None
        #: Real events of the node's answer so far; one sent whole counts by the pieces it comes in.
        self.events = 0
        self._done = done
        #: Its spans; None = it is not traced.
        self.trace: Trace | None = None
        self.record = RequestRecord(
            request_id=request_id, started_at_ms=clock.now_ms(), route=route
        )

    def admitted(self, admitted: Admitted) -> None:
        """A node is to be asked, perhaps not the first: what another said before is not in the answer."""
        self._first_s, self.events = None, 0
        record = self.record
        record.ttft_ms = None
        record.node = admitted.lease.node
        record.attempts += 1
        record.queue_ms += admitted.queue_s * 1000
        record.load_wait_ms += admitted.load_wait_s * 1000
        record.cold_start = record.cold_start or admitted.load_wait_s > 0
        if self.trace is not None:
            self.trace.admitted(admitted.queue_s, admitted.load_wait_s)

    def own_lines(self, node: NodeName) -> str:
        """Header lines for `node`, which is asked now, that are of this very request."""
        own = f"x-request-id: {self.record.request_id}\r\n"
        if self.trace is None:
            return own
        return f"{own}traceparent: {self.trace.asking(node, self.record.model)}\r\n"

    def real_bytes(self, events: int) -> None:
        """So many real events have come from the node; when the first of all came is noted."""
        self.events += events
        if self._first_s is None:
            self._first_s = now_s = self.now_s()
            # An answer sent whole has no first token that anyone could see.
            if self.record.stream:
                self.record.ttft_ms = (now_s - self._started_s) * 1000

    @property
    def state(self) -> str:
        """How far it is, in a word of `liveapi.LiveRequest`."""
        if self._first_s is not None:
            return "answering"
        if self.record.node is not None:
            return "sent"
        return "reading" if self.record.model is None else "waiting"

    @property
    def events_per_s(self) -> float | None:
        """The pace of a stream since its first event; None = there is none yet."""
        if self._first_s is None or self.events < 2 or not self.record.stream:
            return None
        return (self.events - 1) / max(0.001, self.now_s() - self._first_s)

    def sending(self, status: int) -> None:
        self.record.status = status

    def failed(self, error: CortexError) -> None:
        record = self.record
        record.outcome = Outcome.ERROR
        record.error_code = error.code
        record.error_message = (error.written or unquoted(error.message))[:MESSAGE_CHARS]
        if not record.status:
            record.status = status_of(error)

    def relayed(self, relayed: Relayed) -> None:
        """What became of the answer, and what it told of itself."""
        record, usage = self.record, relayed.usage
        if relayed.failure is not None:
            self.failed(relayed.failure)
        record.response_bytes += relayed.sent_bytes
        record.prompt_tokens = usage.prompt_tokens
        record.cached_tokens = usage.cached_tokens
        record.completion_tokens = usage.completion_tokens
        record.response_id = relayed.response_id
        whole = relayed.streamed and relayed.failure is None
        if whole and usage.completion_tokens and self._first_s is not None:
            streamed_s = self.now_s() - self._first_s
            # The first token's time is its TTFT, so the rate is that of the others.
            if streamed_s > 0 and usage.completion_tokens > 1:
                record.tokens_per_s = (usage.completion_tokens - 1) / streamed_s

    def __enter__(self) -> Self:
        self._serial = self._running.begin(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the account: synchronous, so that a second cancellation cannot skip it."""
        if error is not None:
            self._ended_by(error)
        record = self.record
        record.duration_ms = (self.now_s() - self._started_s) * 1000
        try:
            self._done(record)
            if self.trace is not None:
                self.trace.done(record)
        finally:
            self._running.end(self._serial)

    def _ended_by(self, error: BaseException) -> None:
        if isinstance(error, CortexError):
            self.failed(error)
        elif isinstance(error, asyncio.CancelledError | ConnectionError):
            self.record.outcome = Outcome.CLIENT_GONE
        else:
            self.failed(CortexError("a bug"))
