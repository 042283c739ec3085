"""Copies a node's answer to the client as it comes: same bytes, no task and no queue in between."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from cortex.core.errors import (
    CortexError,
    NodeProtocolError,
    NodeTruncatedError,
)
from cortex.core.nodefaults import classify, classify_event
from cortex.core.stream import Fault, Watch, last_usage, response_id
from cortex.gateway.call import Call
from cortex.gateway.errors import ClientStalledError, NodeFaultError, error_event
from cortex.gateway.gaps import GapTimer
from cortex.gateway.line import Line
from cortex.gateway.ports import Answer, Sending
from cortex.gateway.relayed import Relayed
from cortex.gateway.reply import Reply

ERROR_BODY_BYTES = 256 * 1024
"""As much of a node's error answer as is read."""
_NOT_RELAYED = frozenset(
    {
        "connection",
        "content-length",
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
        "request-id",
        "x-request-id",
        "x-accel-buffering",
        "x-content-type-options",
        "x-cortex-cold-start",
        "x-cortex-model",
        "x-cortex-node",
        "access-control-allow-origin",
        "access-control-allow-credentials",
        # Said to a browser in the gateway's name, and remembered by it.
        "alt-svc",
        "clear-site-data",
        "content-security-policy",
        "link",
        "location",
        "nel",
        "refresh",
        "report-to",
        "reporting-endpoints",
        "service-worker-allowed",
        "strict-transport-security",
        "www-authenticate",
    }
)


# Among what is derived of a node's head.
_SSE, _LINES = "sse", "lines"
_NO_STREAM = "a streaming request was not answered with a stream"
_ANSWERS = frozenset({200, 201, 202, 204})
"""What an engine answers when it is well; others say that something is missing, or nothing."""
_PAGES = ("text/html", "application/xhtml", "image/svg", "text/xml", "application/xml")
"""What a browser would run in the gateway's name. No engine answers so: it is some proxy's page."""


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


class Passing:
    """A `Relay` that copies: the client speaks the node's dialect.

    Args:
        choices: As many answers as were asked for in one; a stream of fewer is cut short.
    """

    def __init__(self, dialect: Dialect, choices: int = 1) -> None:
        self._dialect = dialect
        self._choices = choices

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
        """Send the request on and copy the answer to the client.

        Until its first byte the node may still be given up for another: everything that goes
        wrong by then is raised. Afterwards a failure is an error event, then an abort.

        Args:
            call: The client's request; its reply may have been begun, as a stream.
            sending: What `Inference.send` returned; entered here.
            line: The account; told when real bytes come, and of a client that hangs up.
            timer: Bounds the silence of the node, its head included, and of the client.
            lines: Header lines for the client, each with its end.
            answered: Called once an answer has begun that is not over at once: no other node is
                tried then.

        Raises:
            NodeError: Before the first byte was sent.
            CortexError: What it was cut with, likewise.
        """
        copy = None
        try:
            async with sending as answer:
                timer.at_work = True
                sse = answer.derived.get(_SSE)
                if sse is None:
                    sse = answer.derived[_SSE] = await check(answer)
                come = answer.ready() or await answer.read_some()
                if not sse and answer.ended:
                    return _put_whole(call, answer, line, lines, come)
                watch = Watch(sse=sse, choices=self._choices)
                first = await _first_bytes(answer, watch, come)
                _begin(call, answer, watch, line, lines)
                answered()
                copy = _Copy(answer, call.reply, line, watch)
                call.reply.wire.on_room = answer.resume
                copy.take(come, first)
                if not answer.ended:
                    await answer.pour(copy.take)
                copy.end()
        except CortexError as exc:
            if copy is None:
                raise
            cut(call, exc if copy.sse else None, self._dialect, in_event=copy.in_event)
            return copy.relayed(exc)
        except BaseException:
            if copy is not None:
                line.relayed(copy.relayed())
            raise
        finally:
            call.reply.wire.on_room = None
        return copy.relayed()


def _begin(call: Call, answer: Answer, watch: Watch, line: Line, lines: str) -> None:
    """The head, unless one was sent ahead."""
    if not call.reply.begun:
        # A stream ends with its terminator, whatever follows in the node's body.
        length = None if watch.sse else answer.length
        lines += _relayed_lines(answer, sse=watch.sse)
        call.reply.begin(answer.status, lines, length=length)
        line.sending(answer.status)
    elif not watch.sse:
        raise NodeProtocolError(_NO_STREAM)


def _put_whole(call: Call, answer: Answer, line: Line, lines: str, body: bytes) -> Relayed:
    """An answer that is no stream and is all here, as engines send short ones: one write."""
    if call.reply.begun:
        raise NodeProtocolError(_NO_STREAM)
    line.sending(answer.status)
    if line.record.stream:
        line.real_bytes(1)
    call.reply.send(answer.status, lines + _relayed_lines(answer, sse=False), body)
    return Relayed(None, last_usage(body), response_id(body), len(body))


class _Copy:
    """The hot path: what is done with each chunk, from within the node's connection."""

    __slots__ = ("_answer", "_line", "_reply", "_sent_bytes", "_watch")

    def __init__(self, answer: Answer, reply: Reply, line: Line, watch: Watch) -> None:
        self._answer = answer
        self._reply = reply
        self._line = line
        self._watch = watch
        self._sent_bytes = 0

    @property
    def sse(self) -> bool:
        return self._watch.sse

    @property
    def in_event(self) -> bool:
        """Part of an event has been sent, and not its end."""
        return self._watch.in_event

    def relayed(self, failure: CortexError | None = None) -> Relayed:
        watch = self._watch
        return Relayed(
            failure, watch.usage(), watch.response_id(), self._sent_bytes, streamed=watch.sse
        )

    def take(self, data: bytes, seen: bytes | Fault | None = None) -> None:
        """Send what has come; `seen` is what the watch made of it, where it has looked already."""
        watch, line = self._watch, self._line
        chunk = watch.see(data) if seen is None else seen
        if isinstance(chunk, Fault):
            self._give_up(chunk)
        if line.events:
            line.events += watch.events
        elif watch.events:
            line.real_bytes(watch.events)
        if chunk:
            self._sent_bytes += len(chunk)
            reply = self._reply
            reply.write(chunk)
            if reply.wire.full:
                self._answer.pause()
        if watch.over:
            self._reply.end()
            self._answer.enough()

    def end(self) -> None:
        """The node's body has ended, or its answer before that: which is for the watch to say."""
        watch = self._watch
        if watch.sse and not watch.over:
            last = watch.last()
            if not isinstance(last, Fault) and not watch.finished():
                raise NodeTruncatedError("the node ended the stream in the middle")
            self.take(b"", last)
        if not self._reply.ended:
            self._reply.end()

    def _give_up(self, fault: Fault) -> NoReturn:
        if fault.relayable:
            self._reply.write(fault.relayable)
        raise NodeFaultError(self._answer.node, classify_event(fault.said))


async def _first_bytes(answer: Answer, watch: Watch, come: bytes) -> bytes | Fault:
    """Wait for what can be relayed: an engine's refusal may be the first event of a 200.

    Raises:
        NodeFaultError: The node refused by its first event.
        NodeTruncatedError: It ended a stream that had not begun.
    """
    first = watch.see(come) if come else b""
    while not first and (come := answer.ready() or await answer.read_some()):
        first = watch.see(come)
    if not first:
        first = watch.last()
        if not isinstance(first, Fault) and not watch.finished():
            raise NodeTruncatedError("the node ended the stream before it began")
    if isinstance(first, Fault) and not first.relayable:
        raise NodeFaultError(answer.node, classify_event(first.said))
    return first


def is_stream(answer: Answer) -> bool:
    """Whether it is one of server-sent events, and no refusal."""
    kind = answer.headers.get("Content-Type", "").lower()
    return answer.status < 300 and kind.startswith("text/event-stream")


async def check(answer: Answer) -> bool:
    """Refuse what is no answer; True = it is an event stream.

    Raises:
        NodeFaultError: The node refused.
        NodeProtocolError: It redirected, or answered what no engine does.
    """
    if answer.status >= 400:
        body = await answer.read_at_most(ERROR_BODY_BYTES)
        after = answer.headers.get("Retry-After")
        raise NodeFaultError(answer.node, classify(answer.status, body, after))
    if answer.status not in _ANSWERS:
        # No node redirects, and its address is nothing a client should be sent to.
        raise NodeProtocolError(f"the node answered HTTP {answer.status}")
    content_type = answer.headers.get("Content-Type", "").lower()
    if content_type.startswith(_PAGES):
        raise NodeProtocolError("the node answered with a page")
    sse = is_stream(answer)
    if sse and "Content-Encoding" in answer.headers:
        raise NodeProtocolError("the node answered with a compressed stream, unasked")
    return sse


def cut(
    call: Call, error: CortexError | None, dialect: Dialect, *, in_event: bool = False
) -> None:
    """End an answer so that it cannot pass for a complete one; an `error` is told, if it can be.

    Args:
        call: The request whose answer it is.
        error: None = there is no way to tell it.
        dialect: The client's.
        in_event: The last event that was sent has no end yet.
    """
    last = b""
    if error is not None and not isinstance(error, ClientStalledError):
        last = dialect.error(error, call.request_id)
        if in_event:
            last = b"\n\n" + last
    call.reply.cut(last)


def _relayed_lines(answer: Answer, *, sse: bool) -> str:
    """The header lines of a node's answer that its client is sent too."""
    lines: str | None = answer.derived.get(_LINES)
    if lines is None:
        hop = {name.strip().lower() for name in answer.headers.get("Connection", "").split(",")}
        relayed = {
            name: value
            for name, value in answer.headers.items()
            if name.lower() not in _NOT_RELAYED and name.lower() not in hop
        }
        relayed["X-Content-Type-Options"] = "nosniff"
        if sse:
            relayed["X-Accel-Buffering"] = "no"
        lines = "".join([f"{name}: {value}\r\n" for name, value in relayed.items()])
        answer.derived[_LINES] = lines
    return lines
