"""Puts a node's stream before a client of another dialect, streamed or whole.

`Translated` reads and writes; what is said is up to the `Words` of the client's dialect.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from cortex.core.errors import CortexError, NodeProtocolError, NodeTruncatedError
from cortex.core.jsontext import dumps
from cortex.core.nodefaults import classify, classify_event
from cortex.core.stream import Usage
from cortex.core.translate.sse import EventTooLongError
from cortex.core.translate.stream import ComplaintError, TruncatedError
from cortex.gateway.call import Call
from cortex.gateway.errors import JSON, NodeFaultError
from cortex.gateway.line import Line
from cortex.gateway.opening import EVENT_STREAM
from cortex.gateway.ports import Answer, Sending
from cortex.gateway.relay import ERROR_BODY_BYTES, Dialect, GapTimer, cut

PING_S = 10.0
"""Silence of the node after which the client is told that its request lives."""

MAX_WHOLE_BYTES = 32 * 1024 * 1024
"""Of the events of an answer that is gathered into one body."""

Batch = list[dict[str, Any]]


class Words(Protocol):
    """One answer in the client's dialect."""

    @property
    def dialect(self) -> Dialect: ...

    def feed(self, data: bytes, /) -> Batch:
        """What these bytes of the node complete; raises `ComplaintError`."""
        ...

    def end(self) -> Batch:
        """The node's bytes have ended; raises `TruncatedError`."""
        ...

    def head(self) -> bytes:
        """What a stream begins with; empty once it was said."""
        ...

    @property
    def ping(self) -> bytes: ...

    def encode(self, batch: Batch) -> bytes: ...

    @property
    def tail(self) -> bytes:
        """What a stream that went well ends with."""
        ...

    def gather(self, batch: Batch) -> None:
        """Keep what is to become one body."""
        ...

    def whole(self) -> dict[str, Any]:
        """The answer as one body, of all that was gathered."""
        ...

    def counts(self) -> Usage | None:
        """What the node reported."""
        ...


class Translated:
    """A `Relay` that translates."""

    def __init__(self, words: Words, *, stream: bool) -> None:
        self._words = words
        self._stream = stream

    async def __call__(
        self,
        call: Call,
        sending: Sending,
        line: Line,
        *,
        timer: GapTimer,
        headers: Mapping[str, str],
        answered: Callable[[], None] = lambda: None,
    ) -> None:
        """Send the request on and translate the answer; raises as `relay.Passing` does."""
        put = _Stream if self._stream else _Whole
        sink = put(call, line, self._words, headers, answered)
        timer.start(sending)
        try:
            async with sending as answer:
                await _check(answer)
                call.reply.on_room(answer.resume)
                sink.begin(answer)
                try:
                    await answer.pour(sink.take)
                    sink.end()
                except ComplaintError as exc:
                    fault = classify_event(str(exc))
                    raise NodeFaultError(answer.node, fault) from exc
                except TruncatedError as exc:
                    raise NodeTruncatedError("the node ended the stream in the middle") from exc
                except EventTooLongError as exc:
                    raise NodeProtocolError(f"the node sent {exc}") from exc
                finally:
                    call.reply.on_room(None)
                    sink.stop()
        except CortexError as exc:
            if not sink.said:
                raise
            line.failed(exc)
            cut(call, exc, self._words.dialect)
        finally:
            timer.stop()
            counts = self._words.counts()
            if counts is not None:
                line.observed(counts, None)


class _Whole:
    """Gathers a node's stream into one answer."""

    said = False
    """Whether the client has been sent anything."""

    def __init__(
        self,
        call: Call,
        line: Line,
        words: Words,
        headers: Mapping[str, str],
        _answered: Callable[[], None],
    ) -> None:
        self._reply = call.reply
        self._line = line
        self._words = words
        self._headers = headers
        self._taken_bytes = 0

    def begin(self, answer: Answer) -> None:
        """Nothing to do yet."""

    def take(self, data: bytes) -> None:
        # A stream is not kept, hence may be of any length; what becomes one body may not.
        self._taken_bytes += len(data)
        if self._taken_bytes > MAX_WHOLE_BYTES:
            raise NodeProtocolError("the node sent an answer without end")
        batch = self._words.feed(data)
        if batch:
            self._line.real_bytes(data.count(b"\n\n"))
            self._words.gather(batch)

    def end(self) -> None:
        self._words.gather(self._words.end())
        body = dumps(self._words.whole())
        self._line.sending(200)
        self._line.record.response_bytes += len(body)
        self._reply.send(200, {"Content-Type": JSON, **self._headers}, body)

    def stop(self) -> None:
        """Nothing runs."""


class _Stream:
    """Writes a node's stream on in the client's words, and pings while the node is silent."""

    def __init__(
        self,
        call: Call,
        line: Line,
        words: Words,
        headers: Mapping[str, str],
        answered: Callable[[], None],
    ) -> None:
        self._reply = call.reply
        self._line = line
        self._words = words
        self._headers = headers
        self._answered = answered
        self._answer: Answer
        self._wrote_s = 0.0
        self._timer: asyncio.TimerHandle
        self.said = False

    def begin(self, answer: Answer) -> None:
        self._answer = answer
        self._wrote_s = time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(PING_S, self._ping)

    def take(self, data: bytes) -> None:
        batch = self._words.feed(data)
        if batch:
            self._line.real_bytes(data.count(b"\n\n"))
            self._write(self._words.encode(batch))

    def end(self) -> None:
        batch = self._words.end()
        last = (self._words.encode(batch) if batch else b"") + self._words.tail
        if last:
            self._write(last)
        self._reply.end()

    def stop(self) -> None:
        self._timer.cancel()

    def _write(self, data: bytes) -> None:
        if not self.said:
            self.said = True
            self._answered()
            if not self._reply.begun:
                self._reply.begin(200, {**EVENT_STREAM, **self._headers})
                self._line.sending(200)
            data = self._words.head() + data
        self._wrote_s = time.monotonic()
        self._reply.write(data)
        self._line.record.response_bytes += len(data)
        if self._reply.full:
            self._answer.pause()

    def _ping(self) -> None:
        """Re-armed lazily: most of the time something was written meanwhile."""
        silent_s = time.monotonic() - self._wrote_s
        if silent_s >= PING_S:
            silent_s = 0.0
            self._write(self._words.ping)
        self._timer = asyncio.get_running_loop().call_later(PING_S - silent_s, self._ping)


async def _check(answer: Answer) -> None:
    if answer.status >= 400:
        body = await answer.read_at_most(ERROR_BODY_BYTES)
        raise NodeFaultError(answer.node, classify(answer.status, body))
    kind = answer.headers.get("Content-Type", "")
    if answer.status >= 300 or not kind.startswith("text/event-stream"):
        raise NodeProtocolError(f"the node answered HTTP {answer.status} with {kind[:60]!r}")
