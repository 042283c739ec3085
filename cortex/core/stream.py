"""Watches a pass-through answer without parsing it: progress, faults, the end, and the usage.

Per chunk it looks at a few bytes; it remembers the head and the tail and reads them once, at the end.
What is not one of the usual chunks goes through `sse.SseReader`, event by event.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from cortex.core.jsontext import loads
from cortex.core.sse import Event, SseReader

TAIL_BYTES = 32 * 1024
"""Usage and finish_reason come last; a whole tool call before them does not push them out."""

MAX_TOKENS = 1_000_000_000
"""A count above this is not believed, and unknown."""

DONE = "[DONE]"
"""The data of the last event of OpenAI's streams."""
# A whole event that is neither an error nor an end nor a sign of life, as nodes flush them: nothing to
# search. No CR is looked for, which would cost as much again; alone it has no place in JSON.
_PLAIN = (
    rb"(?:event: (?!error|ping|message_stop)[\w.]++\n)?"
    rb'data: \{"(?!error"(?!: ?null\b)|type": ?"(?:error|ping|message_stop)")[^\n]*+\n\n'
)
_ONE_EVENT = re.compile(_PLAIN)
_EVENTS = re.compile(rb"(?:%b)++" % _PLAIN)
_ERROR = re.compile(r'\{\s*"(?:error"\s*:\s*+(?!null\b|false\b|"")|type"\s*:\s*"error")')
_TYPE = re.compile(r'\{\s*"type"\s*:\s*"(ping|message_stop)"')
_USAGE = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
# What may be the last event of a stream that sends no terminator of its dialect.
_FINISHED = re.compile(
    rb'"finish_reason"\s*:\s*"[^"]'
    rb'|"type"\s*:\s*"(?:response\.(?:completed|incomplete|failed)'
    rb'|image_(?:generation|edit)\.completed|(?:speech\.audio|transcript\.text)\.done)"'
)
_RESPONSE_ID = re.compile(rb'"id"\s*:\s*"(resp_[A-Za-z0-9_-]{1,128})"')
HEAD_BYTES = 4096
"""As much of an answer's beginning as its id is looked for in."""
HELD_BYTES = 16 * 1024
"""As much of an event as is held back until it is whole; no error is longer."""


class Usage(NamedTuple):
    """Token counts as the node reported them; None = not reported."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None


UNREPORTED = Usage()


@dataclass(frozen=True, slots=True)
class Fault:
    """The node gave up in the stream. `relayable` bytes before it are good."""

    relayable: bytes
    said: str
    """The data of its event."""


class Watch:
    """Sees every chunk of one answer on its way through.

    Args:
        sse: It is an event stream; else its bytes mean nothing, and HTTP tells where it ends.
        choices: As many answers as were asked for in one; each has an end of its own.
    """

    __slots__ = (
        "_carry",
        "_choices",
        "_closely",
        "_finished",
        "_flowing",
        "_head",
        "_reader",
        "_tail",
        "_tail_bytes",
        "events",
        "over",
        "sse",
    )

    def __init__(self, *, sse: bool, choices: int = 1) -> None:
        self.sse = sse
        self._choices = choices
        #: Of an event stream.
        self._reader: SseReader
        if sse:
            self._reader = SseReader(keep_bytes=HELD_BYTES)
        self._head = b""
        self._tail: list[bytes] = []
        self._tail_bytes = 0
        #: Of an event that is not whole yet, or of a line.
        self._carry = b""
        #: The event under way is too long to be held back, and no error: it passes as it comes.
        self._flowing = False
        #: The next chunk goes on with something, or is to be read anyway.
        self._closely = choices > 1
        #: Which choices have ended, where there are several.
        self._finished: set[object] = set()
        #: How many events the last chunk brought; 0 = nothing but signs that the node lives.
        self.events = 0
        #: The terminator has come: whatever follows is not the answer's.
        self.over = False

    @property
    def in_event(self) -> bool:
        """Part of an event was given out, and not its end."""
        return self._flowing

    def see(self, chunk: bytes) -> bytes | Fault:
        """Look at a chunk; returns what may be relayed of it now, nearly always the chunk itself.

        An event of which a part is missing yet is held back: it may become an error.
        """
        passed: bytes | Fault = chunk
        if not self.sse or (_ONE_EVENT.fullmatch(chunk) and not self._closely):
            self.events = 1
        elif _EVENTS.fullmatch(chunk) and not self._closely:
            self.events = chunk.count(b"\n\n")
        else:
            passed = self._look_closely(chunk)
        if isinstance(passed, Fault) or not passed:
            return passed
        if len(self._head) < HEAD_BYTES:
            self._head += passed[:HEAD_BYTES]
        self._tail.append(passed)
        self._tail_bytes += len(passed)
        if self._tail_bytes > 2 * TAIL_BYTES:
            last = self._last_bytes()
            self._tail, self._tail_bytes = [last], len(last)
        return passed

    def last(self) -> bytes | Fault:
        """The node's stream has ended; returns what was held back until now."""
        if not self.sse:
            return b""
        event, carry = self._reader.rest(), self._carry
        self._carry = b""
        self.events = 0
        if event is not None and self._is_error(event):
            return Fault(b"", event.data)
        if event is not None:
            self._note(event)
        self._head += carry[:HEAD_BYTES]
        self._tail.append(carry)
        return carry

    def _look_closely(self, chunk: bytes) -> bytes | Fault:
        real = 0
        for event in self._reader.feed(chunk):
            if self._is_error(event):
                # One that begins in this chunk has all that was held back before it.
                good = self._carry + chunk[: event.start] if event.start else b""
                return Fault(good, event.data)
            real += self._note(event)
        passed = self._passable(chunk)
        if isinstance(passed, Fault):
            return passed
        self.events = real or int(self._reader.under_way)
        self._closely = self._choices > 1 or bool(self._carry) or self._flowing
        return passed

    def _passable(self, chunk: bytes) -> bytes | Fault:
        """What can go now, and keep the rest."""
        settled = self._reader.settled
        if self._flowing and not settled:
            return chunk
        self._flowing = False
        passed = self._carry + chunk[:settled] if settled else b""
        self._carry = chunk[settled:] if settled else self._carry + chunk
        if len(self._carry) > HELD_BYTES:
            event = self._reader.rest()
            if event is not None and self._is_error(event):
                return Fault(passed, event.data)
            passed, self._carry = passed + self._carry, b""
            self._flowing = True
        return passed

    def _is_error(self, event: Event) -> bool:
        """An error by its name or its first field, or text where JSON belongs (mistral.rs <= 0.9.2)."""
        data = event.data.lstrip()
        if not data or data.startswith(DONE):
            return False
        return event.name == "error" or data[0] not in "{[" or _ERROR.match(data) is not None

    def _note(self, event: Event) -> bool:
        """Take notice of an event that passes; False = the node only says that it lives."""
        data = event.data.strip()
        if not data:
            return False
        found = _TYPE.match(data)
        kind = found[1] if found else event.name
        if data == DONE or kind == "message_stop":
            self.over = True
        elif self._choices > 1 and "finish_reason" in data:
            self._finished |= _ended_choices(data)
        return kind != "ping"

    def finished(self) -> bool:
        """True when a stream ended as one should; an answer sent whole is bounded by HTTP itself."""
        if not self.sse or self.over:
            return True
        if self._choices > 1:
            return len(self._finished) >= self._choices
        return _FINISHED.search(self._last_bytes()) is not None

    def usage(self) -> Usage:
        """The last usage object of the answer."""
        return last_usage(self._last_bytes())

    def response_id(self) -> str | None:
        """The `resp_…` id of a Responses answer, read from its head."""
        return response_id(self._head)

    def _last_bytes(self) -> bytes:
        tail = self._tail
        return (tail[0] if len(tail) == 1 else b"".join(tail))[-TAIL_BYTES:]


def last_usage(answer: bytes) -> Usage:
    """The last usage object in the end of an answer."""
    start, at, found = max(0, len(answer) - TAIL_BYTES), len(answer), None
    while found is None:
        at = answer.rfind(b'"usage"', start, at)
        if at < 0:
            return UNREPORTED
        found = _USAGE.match(answer, at)
    try:
        counts = loads(found[1])
    except (ValueError, RecursionError):
        return UNREPORTED
    return usage_counts(counts)


def response_id(answer: bytes) -> str | None:
    """The `resp_…` id in the beginning of a Responses answer."""
    if answer.find(b'"resp_', 0, HEAD_BYTES) < 0:
        return None
    found = _RESPONSE_ID.search(answer, 0, HEAD_BYTES)
    return found.group(1).decode("ascii") if found else None


def usage_counts(counts: object) -> Usage:
    """A `usage` object of OpenAI's routes, of whatever shape."""
    if not isinstance(counts, dict):
        return UNREPORTED
    told = counts.get
    prompt, completion = told("prompt_tokens"), told("completion_tokens")
    if type(prompt) is not int or not 0 <= prompt <= MAX_TOKENS:
        prompt = believed(told("input_tokens"))
    if type(completion) is not int or not 0 <= completion <= MAX_TOKENS:
        completion = believed(told("output_tokens"))
    details = told("prompt_tokens_details") or told("input_tokens_details")
    cached = believed(details.get("cached_tokens")) if isinstance(details, dict) else None
    return Usage(prompt, cached, completion)


def complaint(event: dict[str, object]) -> bool:
    """Whether an event of a stream, parsed, is an error; some servers send `"error": null` in each."""
    return event.get("error") not in (None, False, "") or event.get("type") == "error"


def _ended_choices(data: str) -> set[object]:
    """The choices that an event ends."""
    try:
        choices = loads(data)["choices"]
        return {choice.get("index") for choice in choices if choice.get("finish_reason")}
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return set()


def believed(count: object) -> int | None:
    """A node's count of tokens; None where it is none."""
    if type(count) is int and 0 <= count <= MAX_TOKENS:
        return count
    return None
