"""Copies a node's answer to the client as it comes: same bytes, no queue, one timer a stream."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiohttp import web

from cortex.core.errors import (
    CortexError,
    NodeProtocolError,
    NodeTimeoutError,
    NodeTruncatedError,
)
from cortex.core.nodefaults import classify, classify_event
from cortex.core.stream import Fault, Watch
from cortex.gateway.errors import ClientStalledError, NodeFaultError, error_event
from cortex.gateway.line import Line
from cortex.gateway.ports import Answer
from cortex.gateway.recent import Cuttable
from cortex.gateway.services import REQUEST_ID

ERROR_BODY_BYTES = 256 * 1024
"""As much of a node's error answer as is read."""
ABORT_FLUSH_S = 1.0
"""Longest wait for a last error event to leave before the connection is cut."""

_NOT_RELAYED = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        # Made here, or nobody's business.
        "date",
        "server",
        "set-cookie",
        "x-request-id",
        "access-control-allow-origin",
        "access-control-allow-credentials",
    }
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a stream says besides its content."""

    waiting: Callable[[], bytes]
    """While nothing is there yet; every client ignores it."""
    error: Callable[[CortexError, str], bytes]
    """The last event of a stream that failed; takes the request id too."""


OPENAI = Dialect(
    waiting=lambda: b": waiting for the model\n\n",
    error=lambda error, _request_id: error_event(error),
)


class GapTimer:
    """Bounds the gap between real bytes, not the length of a stream.

    One `asyncio.timeout` and one lazily re-armed timer a stream: `touch` is a clock read. While
    it runs it is in `among`, for whoever must end every exchange early.
    """

    __slots__ = (
        "_among",
        "_cut",
        "_gap_s",
        "_handle",
        "_last_s",
        "_loop",
        "_timeout",
        "writing",
    )

    def __init__(self, gap_s: float, among: set[Cuttable]) -> None:
        self._loop = asyncio.get_running_loop()
        self._gap_s = gap_s
        self._among = among
        self._cut: CortexError | None = None
        self._timeout = asyncio.timeout(None)
        self._last_s = self._loop.time()
        self._handle = self._loop.call_later(gap_s, self._check)
        #: True while the client is being written to: then a stall is the client's.
        self.writing = False

    def touch(self) -> None:
        self._last_s = self._loop.time()

    def _check(self) -> None:
        left_s = self._last_s + self._gap_s - self._loop.time()
        if left_s > 0:
            self._handle = self._loop.call_later(left_s, self._check)
        else:
            self._expire()

    def cut(self, error: CortexError) -> None:
        """End the exchange now; `error` is raised in its place."""
        self._cut = error
        self._expire()

    def _expire(self) -> None:
        if not self._timeout.expired():
            self._timeout.reschedule(self._loop.time())

    async def __aenter__(self) -> Self:
        self._among.add(self)
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handle.cancel()
        self._among.discard(self)
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as exc:
            if self._cut is not None:
                raise self._cut from exc
            if self.writing:
                raise ClientStalledError(
                    f"the client read nothing for {self._gap_s:g} s"
                ) from exc
            raise NodeTimeoutError(f"the node sent nothing for {self._gap_s:g} s") from exc


class Passing:
    """A `Relay` that copies: the client speaks the node's dialect."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    async def __call__(
        self,
        request: web.Request,
        sending: AbstractAsyncContextManager[Answer],
        line: Line,
        *,
        timer: GapTimer,
        headers: Mapping[str, str],
        opened: web.StreamResponse | None = None,
    ) -> web.StreamResponse:
        """Send the request on and copy the answer to the client.

        Until its first byte the node may still be given up for another: everything that goes
        wrong by then is raised. Afterwards a failure is an error event, then an abort.

        Args:
            request: The client's.
            sending: What `Inference.send` returned; entered here, so that one timer bounds it all.
            line: The account; a failure after the first byte is told to it.
            timer: Bounds the silence of the node, its head included, and of the client.
            headers: Added to the response.
            opened: The answer, where its head had to be sent ahead.

        Raises:
            NodeError: Before the first byte was sent.
            CortexError: What it was cut with, likewise.
        """
        response: web.StreamResponse | None = None
        sse = False
        try:
            async with timer, sending as answer:
                watch, first = await _first_bytes(answer)
                sse = watch.sse
                response = opened or _head_of(answer, headers, sse=sse)
                if opened is None:
                    await response.prepare(request)
                    line.sending(response.status)
                elif not sse:
                    raise NodeProtocolError(
                        "a streaming request was not answered with a stream"
                    )
                try:
                    await _copy(answer, response, line, watch, timer, first)
                finally:
                    line.observed(watch.usage(), watch.response_id())
        except CortexError as exc:
            if response is None:
                raise
            line.failed(exc)
            await abort(request, response, exc if sse or opened else None, self._dialect)
        return response


def _head_of(answer: Answer, headers: Mapping[str, str], *, sse: bool) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=_relayed(answer.headers))
    response.headers.update(headers)
    if sse:
        response.headers["X-Accel-Buffering"] = "no"
    return response


async def _first_bytes(answer: Answer) -> tuple[Watch, bytes | Fault]:
    """Wait for the first chunk: an engine's refusal may be the first event of a 200.

    Raises:
        NodeFaultError: The node refused, by status or by its first event.
        NodeProtocolError: The node redirected.
    """
    if answer.status >= 400:
        body = await answer.read_at_most(ERROR_BODY_BYTES)
        raise NodeFaultError(answer.node, classify(answer.status, body))
    if answer.status >= 300:
        # No node redirects, and its address is nothing a client should be sent to.
        raise NodeProtocolError(f"the node answered HTTP {answer.status}")
    content_type = answer.headers.get("Content-Type", "")
    watch = Watch(sse=content_type.startswith("text/event-stream"))
    first = watch.see(await answer.read_some())
    if isinstance(first, Fault) and not first.relayable:
        raise NodeFaultError(answer.node, classify_event(first.message))
    return watch, first


async def _copy(
    answer: Answer,
    response: web.StreamResponse,
    line: Line,
    watch: Watch,
    timer: GapTimer,
    chunk: bytes | Fault,
) -> None:
    """The hot loop: read, look, write."""
    while True:
        if isinstance(chunk, Fault):
            if chunk.relayable:
                await response.write(chunk.relayable)
            raise NodeFaultError(answer.node, classify_event(chunk.message))
        if chunk:
            if watch.real:
                line.real_bytes()
                timer.touch()
            timer.writing = True
            await response.write(chunk)
            timer.writing = False
            line.record.response_bytes += len(chunk)
        data = await answer.read_some()
        if not data:
            break
        chunk = watch.see(data)
    if not watch.finished():
        raise NodeTruncatedError("the node ended the stream in the middle")
    await response.write_eof()


async def abort(
    request: web.Request,
    response: web.StreamResponse,
    error: CortexError | None,
    dialect: Dialect,
) -> None:
    """End a response so that it cannot pass for a complete one."""
    transport = request.transport
    if transport is None:
        return
    if error is not None and not isinstance(error, ClientStalledError):
        try:
            async with asyncio.timeout(ABORT_FLUSH_S):
                # An abort throws away what the transport still holds, so wait until that is
                # nothing.
                transport.set_write_buffer_limits(high=0)
                await response.write(dialect.error(error, request[REQUEST_ID]))
                await request.writer.drain()
        except (TimeoutError, ConnectionError):
            pass  # the client is gone or stuck; there is nothing left to tell it
    transport.abort()


def _relayed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _NOT_RELAYED}
