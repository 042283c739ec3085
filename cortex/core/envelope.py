"""What routing needs to know of a request body: `model`, `stream`, and a few ids. Nothing else is read.

Small bodies are parsed whole, which also checks them. A large one is scanned: its brackets and
strings are followed, its top-level scalars read, everything else passed over, one chunk at a time
so that the event loop never waits for it. No character stands where JSON has none, so no NaN; the
finer grammar is the node's to judge.
"""

import json
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

from cortex.core.errors import RequestError
from cortex.core.jsontext import loads_strictly
from cortex.core.nesting import BARE, Nesting, NestingError, nesting, whole_escapes

WANTED = frozenset({"model", "stream", "n", "previous_response_id", "prompt_cache_key"})
MAX_DEPTH = 200
MAX_SCALAR_BYTES = 4096
"""A wanted value longer than this is not one."""
MAX_CHOICES = 128
MAX_TOP_TOKENS = 400_000
"""Strings, brackets, colons and commas of a large body's own fields: a hundred thousand fields."""
NEAR_TOKENS = 16
"""As much of nested content is read by token; what is longer is skimmed."""
SKIMMED_BYTES = 128
"""At least as much at a time…"""
MOST_SKIMMED_BYTES = 64 * 1024
"""…and at most."""
SAME_STREAMED = frozenset(
    {
        "enable_thinking", "frequency_penalty", "grammar", "logit_bias", "logprobs",
        "max_completion_tokens", "max_tokens", "messages", "metadata", "min_p", "model", "n",
        "parallel_tool_calls", "presence_penalty", "prompt_cache_key", "reasoning_effort",
        "repetition_penalty", "response_format", "safety_identifier", "seed", "service_tier",
        "stop", "store", "stream", "temperature", "tool_choice", "tools", "top_k", "top_logprobs",
        "top_p", "user", "verbosity",
    }
)  # fmt: skip
"""Fields of a chat that mean the same, and are answered alike, streamed and whole."""


NOWHERE: Mapping[str, tuple[int, int]] = {}


class Envelope(NamedTuple):
    """The routed fields of a body; `model_span` is where the model's JSON string stands in it."""

    model: str
    stream: bool = False
    choices: int = 1
    """How many answers are asked for in one, by `n`; what is no such number is the node's to refuse."""
    previous_response_id: str | None = None
    prompt_cache_key: str | None = None
    model_span: tuple[int, int] | None = None
    """Where the value of `model` stands; None = the body is small, and was not scanned."""
    stream_span: tuple[int, int] | None = None
    """The same of `stream`."""
    same_streamed: bool = False
    """A whole answer to it may be asked for as a stream, and nothing is lost."""
    names_stream: bool = False
    """There is a field `stream`, whatever it says."""
    most_tokens: int | None = None
    """The answer has no more of them; None = nobody said so, or the body was only scanned."""


def read_envelope(
    fields: Mapping[str, object],
    *,
    spans: Mapping[str, tuple[int, int]] = NOWHERE,
    names: AbstractSet[str] = frozenset(),
) -> Envelope:
    """Check the routed fields.

    Args:
        fields: Those of a body, or of them the `WANTED` ones.
        spans: Where the values of such fields stand.
        names: Of all fields.

    Raises:
        RequestError: `model` is missing, or a field has the wrong type; names the field.
    """
    model = fields.get("model")
    if model is None:
        raise RequestError("you must provide a model parameter", param="model")
    if not isinstance(model, str) or not model:
        raise RequestError("model must be a non-empty string", param="model")
    stream = fields.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise RequestError("stream must be a boolean", param="stream")
    previous, cache_key = fields.get("previous_response_id"), fields.get("prompt_cache_key")
    if previous is not None and not isinstance(previous, str):
        raise _no_text("previous_response_id")
    if cache_key is not None and not isinstance(cache_key, str):
        raise _no_text("prompt_cache_key")
    choices = _choices(fields.get("n"))
    return Envelope(
        model=model,
        stream=stream is True,
        choices=choices,
        previous_response_id=previous,
        prompt_cache_key=cache_key,
        model_span=spans.get("model"),
        stream_span=spans.get("stream"),
        same_streamed=not stream and choices == 1 and names <= SAME_STREAMED,
        names_stream="stream" in fields,
        most_tokens=_most_tokens(fields),
    )


def parse_whole(body: bytes) -> Envelope:
    """Parse a small body.

    Raises:
        RequestError: Not JSON, not an object, a routed field of the wrong type, or one that is
            given twice: readers differ on which counts, and the node must see the one that did.
    """
    try:
        parsed = loads_strictly(body)
    except RecursionError as exc:
        raise RequestError("the body is nested too deeply", code="invalid_json") from exc
    except ValueError as exc:
        raise RequestError(f"the body is not valid JSON: {exc}", code="invalid_json") from exc
    if not isinstance(parsed, dict):
        raise RequestError("the body must be a JSON object", code="invalid_json")
    # Nearly always once and in plain letters; else the scanner counts those at the top.
    if (
        body.count(b'"model"') > 1
        or body.count(b'"stream"') > 1
        # The start of every other way to write a letter of `model` or `stream`.
        or b"\\u006" in body
        or b"\\u007" in body
    ):
        Scanner().feed(body)
    return read_envelope(parsed, names=parsed.keys())


# A string whole or cut by the end of the chunk, or one structural character.
_TOKEN = re.compile(rb'"(?:[^"\\]+|\\.)*+"|"|[{}\[\]:,]', re.DOTALL)
_STRING_END = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR = re.compile(rb"[^\s,}\]]+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_PAIRS = {0x7D: 0x7B, 0x5D: 0x5B}


@dataclass(slots=True)
class Scanner:
    """Follows a JSON object chunk by chunk and keeps its wanted top-level scalars.

    `feed` every chunk, then `finish`. Time per chunk is linear in its length.
    """

    fields: dict[str, object] = field(default_factory=dict)
    #: Of all fields at the top; enough of them to tell that some are not in `SAME_STREAMED`.
    names: set[str] = field(default_factory=set)
    #: Where the values of wanted fields stand, quotes included.
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: Tokens of the object itself so far.
    _top: int = 0
    _offset: int = 0
    _carry: bytes = b""
    _depth: bytearray = field(default_factory=bytearray)
    _key: str | None = None
    _expect_key: bool = False
    _in_string: bool = False
    _keep: bool = False
    _done: bool = False

    def feed(self, chunk: bytes) -> None:
        """Read on.

        Raises:
            RequestError: The brackets do not match, or something follows the object.
        """
        data = self._carry + chunk if self._carry else chunk
        base = self._offset - len(self._carry)
        self._carry = b""
        self._offset += len(chunk)
        position = self._leave_string(data, 0) if self._in_string else 0
        nested = 0
        while position >= 0:
            nested = nested + 1 if len(self._depth) > 1 else 0
            if nested > NEAR_TOKENS:
                nested = 0
                position = self._skim(data, position)
                if position < 0:
                    return
            match = _TOKEN.search(data, position)
            if match is None:
                self._stray(data, position, len(data), final=False)
                return
            self._stray(data, position, match.start(), final=True)
            position = self._token(data, match, base)

    def _skim(self, data: bytes, position: int) -> int:
        """Pass over nested content; returns where to read on by token, -1 when the chunk is used up."""
        size, end = SKIMMED_BYTES, len(data)
        while position < end:
            stop = whole_escapes(data, position, min(position + size, end))
            if stop == position:
                self._carry = data[position:]  # the backslash at the very end
                return -1
            try:
                seen = nesting(
                    data[position:stop], in_string=self._in_string, deepest=MAX_DEPTH
                )
            except NestingError as exc:
                raise _invalid(str(exc)) from None
            if len(seen.closed) < len(self._depth) - 1:
                self._take_nesting(seen)
                position, size = stop, min(2 * size, MOST_SKIMMED_BYTES)
            elif stop - position > SKIMMED_BYTES:
                # It comes back to the top in here: where?
                size = max(SKIMMED_BYTES, (stop - position) // 4)
            else:
                return self._leave_string(data, position) if self._in_string else position
        return -1

    def _take_nesting(self, seen: Nesting) -> None:
        depth = self._depth
        for char in seen.closed:
            if depth.pop() != _PAIRS[char]:
                raise _invalid("its brackets do not match")
        if len(depth) + len(seen.opened) > MAX_DEPTH:
            raise _invalid("it is nested too deeply")
        depth += seen.opened
        self._in_string = seen.in_string

    def _token(self, data: bytes, match: re.Match[bytes], base: int) -> int:
        """Take one token; returns where to read on, or -1 when the chunk is used up."""
        token = match.group()
        if len(self._depth) < 2:
            self._top += 1
            if self._top > MAX_TOP_TOKENS:
                raise _invalid("it has too many fields")
        if token == b'"':
            return self._cut_string(data, match)
        if token[0] == 0x22:
            self._string(token, base + match.start(), base + match.end())
        else:
            self._structure(token[0])
        return match.end()

    def _cut_string(self, data: bytes, match: re.Match[bytes]) -> int:
        """A string that the chunk cuts: kept for the next one if wanted, else passed over."""
        if not self._wants_string():
            self._in_string = True
            return self._leave_string(data, match.end())
        if len(data) - match.start() > MAX_SCALAR_BYTES:
            raise RequestError(f"{self._key or 'a key'} is too long")
        self._carry = data[match.start() :]
        return -1

    def finish(self) -> Envelope:
        """The envelope, once the whole body was fed."""
        if not self._done or self._carry or self._in_string:
            raise _invalid("it ends in the middle")
        return read_envelope(self.fields, spans=self.spans, names=self.names)

    def _wants_string(self) -> bool:
        return len(self._depth) == 1 and (self._expect_key or self._key in WANTED)

    def _leave_string(self, data: bytes, position: int) -> int:
        """Skip to behind the closing quote; -1 when it is not in this chunk."""
        match = _STRING_END.match(data, position)
        if match is not None:
            self._in_string = False
            return match.end()
        # Keep an unpaired backslash at the very end: the next byte belongs to it.
        trailing = len(data) - len(data.rstrip(b"\\"))
        if trailing % 2:
            self._carry = b"\\"
        return -1

    def _string(self, token: bytes, start: int, end: int) -> None:
        if len(self._depth) != 1:
            if not self._depth:
                raise _invalid("it must be an object")
            return
        if self._expect_key:
            self._key, self._expect_key = _decode(token), False
            if len(self.names) <= len(SAME_STREAMED):
                self.names.add(self._key)
        elif self._key in WANTED:
            self._take(_decode(token), (start, end))

    def _take(self, value: object, span: tuple[int, int] | None = None) -> None:
        assert self._key is not None
        if span is not None:
            self.spans[self._key] = span
        if self._key in self.fields:
            raise RequestError(f"{self._key} is given twice", param=self._key)
        self.fields[self._key] = value

    def _structure(self, char: int) -> None:
        depth = self._depth
        if char in b"{[":
            if self._done or (not depth and char != 0x7B):
                raise _invalid("it must be one object")
            if len(depth) >= MAX_DEPTH:
                raise _invalid("it is nested too deeply")
            if len(depth) == 1 and self._key in WANTED:
                self._take([])
            depth.append(char)
            self._expect_key = len(depth) == 1
        elif char in b"}]":
            if not depth or depth.pop() != _PAIRS[char]:
                raise _invalid("its brackets do not match")
            self._done = not depth
        elif char == 0x2C and len(depth) == 1:
            self._expect_key, self._key = True, None

    def _stray(self, data: bytes, start: int, end: int, *, final: bool) -> None:
        """Bytes between tokens: a number, a literal, or white space."""
        if data[start:end].translate(None, BARE):
            raise _invalid("a character stands where none may")
        match = _SCALAR.search(data, start, end) if len(self._depth) < 2 else None
        if match is None:
            return
        if not final and match.end() == end:
            if end - match.start() > MAX_SCALAR_BYTES:
                raise _invalid("it holds a bare word")
            self._carry = data[match.start() : end]
            return
        if not self._depth or self._expect_key:
            raise _invalid("a bare word stands where a key should")
        if self._key in WANTED:
            base = self._offset - len(data)
            self._scalar(match.group(), (base + match.start(), base + match.end()))

    def _scalar(self, text: bytes, span: tuple[int, int]) -> None:
        try:
            self._take(json.loads(text), span)
        except ValueError as exc:
            raise _invalid(f"{self._key} is neither string, number nor literal") from exc


def find_span(body: bytes, name: str) -> tuple[int, int]:
    """Where the value of a wanted field stands, quotes included; for a small body, already checked."""
    scanner = Scanner()
    scanner.feed(body)
    return scanner.spans[name]


def _decode(token: bytes) -> str:
    try:
        text = json.loads(token)
    except ValueError as exc:
        raise _invalid("a string is malformed") from exc
    assert isinstance(text, str)
    if _SURROGATE.search(text):
        raise _invalid("half of a surrogate pair stands alone")
    return text


def _choices(n: object) -> int:
    return n if type(n) is int and 1 < n <= MAX_CHOICES else 1


def _most_tokens(fields: Mapping[str, object]) -> int | None:
    one, other = fields.get("max_tokens"), fields.get("max_completion_tokens")
    if other is None:
        return one if type(one) is int else None
    return max((bound for bound in (one, other) if type(bound) is int), default=None)


def _no_text(key: str) -> RequestError:
    return RequestError(f"{key} must be a string", param=key)


def _invalid(why: str) -> RequestError:
    return RequestError(f"the body is not valid JSON: {why}", code="invalid_json")
