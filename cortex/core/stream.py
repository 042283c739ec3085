"""Watches a pass-through answer without parsing it: progress, faults, the end, and the usage.

Per chunk it looks at a few bytes; it remembers the head and the tail and reads them once, at the end.
"""

import re
from dataclasses import dataclass

from cortex.core.jsontext import loads

TAIL_BYTES = 32 * 1024
"""Usage and finish_reason come last; a whole tool call before them does not push them out."""

MAX_TOKENS = 1_000_000_000
"""A count above this is not believed, and unknown."""

_BAD_LINE = re.compile(
    rb'(?:\A|\n)data: ?(?:(\{\s*"error")|(?!\[DONE\])[^{\[\s:])|(?:\A|\n)(event: ?error)'
)
# One whole event that is no error, as mistral.rs flushes them: nothing to search.
_ONE_EVENT = re.compile(rb'data: \{"(?!error)[^\n]*+\n\n')
_BLANK_LINE = re.compile(rb"\n\r?\n")
_USAGE = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
_FINISHED = re.compile(
    rb'"finish_reason"\s*:\s*"|"type"\s*:\s*"(?:message_stop|response\.(?:completed|incomplete|failed))"'
)
_RESPONSE_ID = re.compile(rb'"id"\s*:\s*"(resp_[A-Za-z0-9_-]{1,128})"')
_BAD_HEADS = (b'data:{"error"', b"event:error")
"""What tells an error from data, blanks left out."""
_NO_WORDS = "the node reported an error"
HEAD_BYTES = 4096
"""As much of an answer's beginning as its id is looked for in."""
COMPLAINT_BYTES = 16 * 1024
"""As much of an error event as is waited for."""
HELD_BYTES = 32
"""Longest start of a line that is held back until it can be told."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as the node reported them; None = not reported."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None


UNREPORTED = Usage()


@dataclass(frozen=True, slots=True)
class Fault:
    """The node gave up in the stream. `relayable` bytes before it are good."""

    relayable: bytes
    message: str


class Watch:
    """Sees every chunk of one answer on its way through."""

    __slots__ = ("_carry", "_head", "_tail", "_tail_bytes", "events", "sse")

    def __init__(self, *, sse: bool) -> None:
        self.sse = sse
        self._head = b""
        self._tail: list[bytes] = []
        self._tail_bytes = 0
        self._carry = b""
        #: How many events the last chunk carried; 0 = nothing but keep-alive comments.
        self.events = 0

    def see(self, chunk: bytes) -> bytes | Fault:
        """Look at a chunk; returns what may be relayed of it now, nearly always the chunk itself.

        The start of a line that may yet become an error message is held back until the next
        chunk tells.
        """
        if self.sse and (self._carry or _ONE_EVENT.fullmatch(chunk) is None):
            return self._look_closely(chunk)
        self.events = 1
        self._remember(chunk)
        return chunk

    def _look_closely(self, chunk: bytes) -> bytes | Fault:
        data = self._carry + chunk
        self._carry = b""
        # Continuing a line of the chunk before: its first bytes are no start of a line.
        mid_line = bool(self._tail) and not self._tail[-1].endswith(b"\n")
        for match in _BAD_LINE.finditer(data):
            if mid_line and match.start() == 0 and not data.startswith(b"\n"):
                continue
            start = match.start() + data.startswith(b"\n", match.start())
            if _BLANK_LINE.search(data, start) or len(data) - start > COMPLAINT_BYTES:
                return Fault(data[:start], _message(data[start:]))
            # What it says decides whose failure it is: wait for all of it.
            return self._hold(data, start)
        line = data.rfind(b"\n") + 1
        rest = data[line:]
        starts_line = line > 0 or not mid_line
        if rest and starts_line and _ambiguous(rest):
            self._carry, data = rest, data[:line]
        real = bool(data.strip()) if mid_line else b"data:" in data
        self.events = max(1, data.count(b"\n\n")) if real else 0
        if data:
            self._remember(data)
        return data

    def _hold(self, data: bytes, start: int) -> bytes:
        """Keep a complaint back until its event is complete; what is before it goes on."""
        self._carry, data = data[start:], data[:start]
        self.events = data.count(b"\n\n")
        if data:
            self._remember(data)
        return data

    def _remember(self, data: bytes) -> None:
        if len(self._head) < HEAD_BYTES:
            self._head += data[: HEAD_BYTES - len(self._head)]
        self._tail.append(data)
        self._tail_bytes += len(data)
        if self._tail_bytes > 2 * TAIL_BYTES:
            last = self._last_bytes()
            self._tail, self._tail_bytes = [last], len(last)

    def finished(self) -> bool:
        """True when a stream ended as one should; an answer sent whole is bounded by HTTP itself."""
        if not self.sse:
            return True
        tail = self._last_bytes()
        return (
            tail.rstrip().endswith(b"data: [DONE]")
            or tail.rstrip().endswith(b"data:[DONE]")
            or _FINISHED.search(tail) is not None
        )

    def usage(self) -> Usage:
        """The last usage object of the answer."""
        tail = self._last_bytes()
        at, found = len(tail), None
        while found is None:
            at = tail.rfind(b'"usage"', 0, at)
            if at < 0:
                return UNREPORTED
            found = _USAGE.match(tail, at)
        try:
            counts = loads(found[1])
        except (ValueError, RecursionError):
            return UNREPORTED
        assert isinstance(counts, dict), "it was in braces"
        details = (
            counts.get("prompt_tokens_details") or counts.get("input_tokens_details") or {}
        )
        return Usage(
            prompt_tokens=_count(counts, "prompt_tokens", "input_tokens"),
            cached_tokens=_count(details, "cached_tokens")
            if isinstance(details, dict)
            else None,
            completion_tokens=_count(counts, "completion_tokens", "output_tokens"),
        )

    def response_id(self) -> str | None:
        """The `resp_…` id of a Responses answer, read from its head."""
        if b'"resp_' not in self._head:
            return None
        found = _RESPONSE_ID.search(self._head)
        return found.group(1).decode("ascii") if found else None

    def _last_bytes(self) -> bytes:
        tail = self._tail
        return (tail[0] if len(tail) == 1 else b"".join(tail))[-TAIL_BYTES:]


def _ambiguous(rest: bytes) -> bool:
    """Could `rest`, the start of a line, still become a line that is an error?"""
    if len(rest) > HELD_BYTES:
        return False
    squeezed = rest.replace(b" ", b"")
    return any(head.startswith(squeezed) for head in _BAD_HEADS)


def _message(event: bytes) -> str:
    """The node's words in an error event: JSON's `error.message`, else the bare text."""
    for line in event.splitlines():
        if line.startswith(b"data:"):
            text = line[5:].strip()
            try:
                parsed = loads(text)
            except (ValueError, RecursionError):
                return text.decode("utf-8", "replace")[:1000] or _NO_WORDS
            error = parsed.get("error", parsed) if isinstance(parsed, dict) else parsed
            if isinstance(error, dict):
                error = error.get("message", _NO_WORDS)
            return str(error)[:1000]
    return _NO_WORDS


def _count(counts: dict[str, object], *names: str) -> int | None:
    for name in names:
        value = believed(counts.get(name))
        if value is not None:
            return value
    return None


def believed(count: object) -> int | None:
    """A node's count of tokens; None where it is none."""
    if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= MAX_TOKENS:
        return count
    return None
