"""Puts a node's stream before a client of another dialect, streamed or whole.

`Translated` reads and writes; what is said is up to the `Words` of the client's dialect.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from cortex.core.errors import CortexError, NodeProtocolError, NodeTruncatedError
from cortex.core.jsontext import dumps
from cortex.core.nodefaults import classify_event
from cortex.core.sse import EventTooLongError
from cortex.core.stream import Usage
from cortex.core.translate.reading import ComplaintError, TruncatedError
from cortex.gateway.call import Call
from cortex.gateway.errors import NodeFaultError
from cortex.gateway.gaps import GapTimer
from cortex.gateway.line import Line
from cortex.gateway.opening import EVENT_STREAM
from cortex.gateway.ports import Answer, Sending
from cortex.gateway.relay import Dialect, Passing, check, cut, is_stream
from cortex.gateway.relayed import Relayed
from cortex.gateway.reply import JSON_LINE

PING_S = 10.0
"""Silence of the node after which the client is told that its request lives."""

Batch = list[dict[str, Any]]


class Words(Protocol):
    """One node's answer in the client's dialect."""

    @property
    def dialect(self) -> Dialect: ...

    @property
    def heard(self) -> int:
        """Events of the node so far that were more than a sign of life."""
        ...

    @property
    def done(self) -> bool:
        """The node has told the end."""
        ...

    def feed(self, data: bytes, /) -> Batch:
        """What these bytes of the node complete; raises `ComplaintError`, `TruncatedError`."""
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

    def counts(self) -> Usage:
        """What the node reported."""
        ...


class Translated:
    """A `Relay` that translates.

    Args:
        words: In which the answer is put.
        whole_bytes: Most bytes of a node's stream that become one body; None = the client streams.
    """

    def __init__(self, words: Words, *, whole_bytes: int | None) -> None:
        self._words = words
        self._whole_bytes = whole_bytes

    async def __call__(
        self,
        call: Call,
        sending: Sending,
        line: Line,
        *,
        timer: GapTimer,
        lines: str,
        answered: Callable[[], None] = lambda: None,
    ) -> Relayed:
        """Send the request on and translate the answer; raises as `relay.Passing` does."""
        sink: _Sink
        if self._whole_bytes is None:
            sink = _Stream(call, line, self._words, lines, answered)
        else:
            sink = _Whole(call, line, self._words, lines, answered)
            sink.most_bytes = self._whole_bytes
        try:
            async with sending as answer:
                timer.at_work = True
                await _require_stream(answer)
                call.reply.wire.on_room = answer.resume
                sink.begin(answer)
                try:
                    await answer.pour(sink.take)
                    sink.end()
                except ComplaintError as exc:
                    fault = classify_event(str(exc))
                    raise NodeFaultError(answer.node, fault) from exc
                except TruncatedError as exc:
                    raise NodeTruncatedError(str(exc)) from exc
                except EventTooLongError as exc:
                    raise NodeProtocolError(f"the node sent {exc}") from exc
                finally:
                    call.reply.wire.on_room = None
                    sink.stop()
        except CortexError as exc:
            if not sink.said:
                raise
            cut(call, exc, self._words.dialect)
            return self._relayed(sink, exc)
        except BaseException:
            line.relayed(self._relayed(sink))
            raise
        return self._relayed(sink)

    def _relayed(self, sink: "_Sink", failure: CortexError | None = None) -> Relayed:
        return Relayed(failure, self._words.counts(), sent_bytes=sink.sent_bytes, streamed=True)


class Gathering:
    """A `Relay` for a node that was asked to stream what the client wants whole.

    A node that answers whole all the same is taken at its word.
    """

    def __init__(self, words: Words, passing: Passing, *, whole_bytes: int) -> None:
        self._gather = Translated(words, whole_bytes=whole_bytes)
        self._pass = passing

    async def __call__(
        self,
        call: Call,
        sending: Sending,
        line: Line,
        *,
        timer: GapTimer,
        lines: str,
        answered: Callable[[], None] = lambda: None,
    ) -> Relayed:
        """Send the request on and give the answer whole; raises as `relay.Passing` does."""
        async with sending as answer:
            relay = self._gather if is_stream(answer) else self._pass
            return await relay(
                call,
                _Opened(sending, answer),
                line,
                timer=timer,
                lines=lines,
                answered=answered,
            )


class _Opened:
    """A `Sending` that somebody else has entered, and leaves."""

    def __init__(self, sending: Sending, answer: Answer) -> None:
        self._answer = answer
        self.fail = sending.fail

    async def __aenter__(self) -> Answer:
        return self._answer

    async def __aexit__(self, *_exc: object) -> None:
        """Nothing."""


class _Sink:
    """Takes what the words make of a node's stream."""

    def __init__(
        self,
        call: Call,
        line: Line,
        words: Words,
        lines: str,
        answered: Callable[[], None],
    ) -> None:
        self._reply = call.reply
        self._line = line
        self._words = words
        self._lines = lines
        self._answered = answered
        self._answer: Answer
        self._heard = 0
        self._ended = False
        self.sent_bytes = 0
        self.said = False
        """Whether the client has been sent anything by this node."""

    def begin(self, answer: Answer) -> None:
        self._answer = answer

    def take(self, data: bytes) -> None:
        batch = self._words.feed(data)
        heard = self._words.heard
        if heard > self._heard:
            self._line.real_bytes(heard - self._heard)
            self._heard = heard
        if batch:
            self._put(batch)
        if self._words.done:
            self.end()
            self._answer.enough()

    def end(self) -> None:
        """The node's body has ended, or its answer has."""
        if not self._ended:
            self._ended = True
            self._finish(self._words.end())

    def stop(self) -> None:
        """Nothing comes any more."""

    def _put(self, batch: Batch) -> None:
        raise NotImplementedError

    def _finish(self, batch: Batch) -> None:
        raise NotImplementedError


class _Whole(_Sink):
    """Gathers a node's stream into one answer."""

    most_bytes: int
    _taken_bytes = 0

    def take(self, data: bytes) -> None:
        # A stream is not kept, hence may be of any length; what becomes one body may not.
        self._taken_bytes += len(data)
        if self._taken_bytes > self.most_bytes:
            most_mib = self.most_bytes / 1024 / 1024
            raise NodeProtocolError(
                f"the answer is larger than {most_mib:.3g} MiB, the most of one that is not streamed"
            )
        super().take(data)

    def _put(self, batch: Batch) -> None:
        self._words.gather(batch)

    def _finish(self, batch: Batch) -> None:
        self._words.gather(batch)
        body = dumps(self._words.whole())
        self._line.sending(200)
        self.sent_bytes += len(body)
        self._reply.send(200, JSON_LINE + self._lines, body)


class _Stream(_Sink):
    """Writes a node's stream on in the client's words, and pings while the node is silent."""

    _wrote_s = 0.0
    _timer: asyncio.TimerHandle

    def begin(self, answer: Answer) -> None:
        super().begin(answer)
        self._wrote_s = self._line.now_s()
        self._timer = asyncio.get_running_loop().call_later(PING_S, self._ping)

    def stop(self) -> None:
        self._timer.cancel()

    def _put(self, batch: Batch) -> None:
        self._write(self._words.encode(batch))

    def _finish(self, batch: Batch) -> None:
        last = (self._words.encode(batch) if batch else b"") + self._words.tail
        if last:
            self._write(last)
        self._reply.end()

    def _write(self, data: bytes) -> None:
        if not self.said:
            self.said = True
            self._answered()
            if not self._reply.begun:
                self._reply.begin(200, EVENT_STREAM + self._lines)
                self._line.sending(200)
            data = self._words.head() + data
        self._wrote_s = self._line.now_s()
        self._reply.write(data)
        self.sent_bytes += len(data)
        if self._reply.full:
            self._answer.pause()

    def _ping(self) -> None:
        """Re-armed lazily: most of the time something was written meanwhile."""
        silent_s = self._line.now_s() - self._wrote_s
        if silent_s >= PING_S:
            silent_s = 0.0
            self._write(self._words.ping)
        self._timer = asyncio.get_running_loop().call_later(PING_S - silent_s, self._ping)


async def _require_stream(answer: Answer) -> None:
    if not await check(answer):
        kind = answer.headers.get("Content-Type", "")[:60]
        raise NodeProtocolError(f"the node answered with {kind!r}, and no stream")
