"""HTTP/1.1 answers out of bytes, as they come (RFC 9112); no I/O.

Strict where leniency lets two readers see two answers: lengths, line ends, names. Bodies are
decoded piece by piece, without a copy where a piece is nothing but content.
"""

import re
from typing import Any, NamedTuple, Protocol

from multidict import CIMultiDict, CIMultiDictProxy

from cortex.core.fields import header_fields

MAX_HEAD_BYTES = 32 * 1024
MAX_FIELDS = 128
MAX_PROVISIONAL = 16
"""Heads of status 1xx before the answer's own."""
MAX_LINE_BYTES = 4096
"""Of a chunk's size with its extensions, or of one trailer."""
MAX_TRAILERS = 64
BODILESS = frozenset({204, 304})
"""Answers of these kinds end with their head, whatever it says (RFC 9112, 6.3)."""
CACHED_HEADS = 256
CACHED_HEAD_BYTES = 2048
"""A longer head is read anew each time."""

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ?([0-9]{1,18})(?=\r\n|\Z)")
_DATE = re.compile(rb"\r\n[Dd]ate: ([^\x00-\x08\x0a-\x1f\x7f]*)(?=\r\n|\Z)")
_DIGITS = re.compile(r"[0-9]{1,18}")
_SIZE_LINE = re.compile(rb"([0-9a-fA-F]{1,8})\r\n")
_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\x00\r\n]*)?")


class BadAnswerError(ValueError):
    """What came is not HTTP, or would be read in two ways."""


class Decoder(Protocol):
    """Takes the bytes of a body, gives its content."""

    ended: bool
    """The body is whole: what was fed behind it is in `rest`."""
    rest: bytes

    def feed(self, data: bytes) -> bytes: ...
    def eof(self) -> bool:
        """The connection ended; True when that is a proper end of the body."""
        ...


class Head(NamedTuple):
    """Status and header fields of an answer, those apart that differ from one to the next."""

    status: int
    headers: CIMultiDictProxy[str]
    """Without Date, and without a Content-Length that is in `length`."""
    keep_alive: bool
    """Another request may follow on the connection once the body has ended."""
    plain: bool
    """Nothing in `headers` speaks of the body's end."""
    length: int | None
    """Content-Length, where it is written as usual."""
    derived: dict[str, Any]
    """What was computed from all but `length` and `date`, kept with it: a node repeats its heads."""
    date: str = ""
    """When it was sent, in the node's words; "" where there is no `length`, or it does not say."""


_known: dict[bytes, Head] = {}
"""The latest heads, without Content-Length and Date."""


def read_head(raw: bytes) -> Head:
    """The head of an answer, without the empty line at its end.

    Raises:
        BadAnswerError: It is none.
    """
    length = _LENGTH.search(raw)
    if length is not None:
        raw = raw[: length.start()] + raw[length.end() :]
    date = _DATE.search(raw)
    if date is not None:
        raw = raw[: date.start()] + raw[date.end() :]
    head = _known.get(raw)
    if head is None:
        head = _read(raw)
        if len(raw) <= CACHED_HEAD_BYTES:
            if len(_known) >= CACHED_HEADS:
                del _known[next(iter(_known))]
            _known[raw] = head
    if length is None:
        return head
    return Head(
        head.status,
        head.headers,
        head.keep_alive,
        head.plain,
        int(length[1]),
        head.derived,
        _text(date[1]) if date is not None else "",
    )


def _read(raw: bytes) -> Head:
    first, _, rest = raw.partition(b"\r\n")
    found = _STATUS.fullmatch(first)
    if found is None:
        raise BadAnswerError("not an HTTP answer")
    fields = header_fields(_text(rest))
    if fields is None:
        raise BadAnswerError("a bad header field")
    if len(fields) > MAX_FIELDS:
        raise BadAnswerError(f"more than {MAX_FIELDS} header fields")
    if found[2] == b"101":
        raise BadAnswerError("another protocol, unasked")
    headers = CIMultiDict(fields)
    wanted = headers.get("Connection", "").lower()
    keep_alive = "close" not in wanted and (found[1] == b"1" or "keep-alive" in wanted)
    plain = not ("Transfer-Encoding" in headers or "Content-Length" in headers)
    return Head(int(found[2]), CIMultiDictProxy(headers), keep_alive, plain, None, {})


def _text(value: bytes) -> str:
    """UTF-8, else Latin-1: never half a surrogate pair, which nobody could be sent."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def decoder_for(head: Head, method: str) -> Decoder:
    """How the body of an answer to `method` is delimited (RFC 9112, 6.3).

    Raises:
        BadAnswerError: By more than one thing, or by none that is known.
    """
    if method == "HEAD" or head.status in BODILESS:
        return Length(0)
    if head.plain:
        return UntilClose() if head.length is None else Length(head.length)
    encodings = head.headers.getall("Transfer-Encoding", [])
    lengths = head.headers.getall("Content-Length", [])
    if head.length is not None:
        lengths = [str(head.length), *lengths]
    if encodings:
        if lengths or [name.strip().lower() for name in encodings] != ["chunked"]:
            raise BadAnswerError("an unknown framing of the body")
        return Chunked()
    if len(set(lengths)) > 1 or not _DIGITS.fullmatch(lengths[0]):
        raise BadAnswerError("a bad length of the body")
    return Length(int(lengths[0]))


class Length:
    """A body of a known length."""

    __slots__ = ("_left", "ended", "rest")

    def __init__(self, length: int) -> None:
        self._left = length
        self.ended = not length
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        if len(data) > self._left:
            self.rest = data[self._left :]
            data = data[: self._left]
        self._left -= len(data)
        self.ended = not self._left
        return data

    def eof(self) -> bool:
        return self.ended


class UntilClose:
    """A body that only the end of the connection ends."""

    __slots__ = ("ended", "rest")

    def __init__(self) -> None:
        self.ended = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        return data

    def eof(self) -> bool:
        self.ended = True
        return True


class Chunked:
    """A body in chunks, each with its size; extensions and trailers are read over."""

    __slots__ = ("_between", "_closing", "_held", "_left", "_trailers", "ended", "rest")

    def __init__(self) -> None:
        #: Content that is missing of the chunk under way.
        self._left = 0
        #: The chunk's content is there, its line end is not.
        self._closing = False
        #: Trailers so far, after the last chunk.
        self._trailers: int | None = None
        #: The beginning of a line.
        self._held = b""
        #: Next comes a chunk's size, whole.
        self._between = True
        self.ended = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """The content in these bytes.

        Raises:
            BadAnswerError: Broken chunks.
        """
        at, end = 0, len(data)
        if self._between and (size := _SIZE_LINE.match(data)):
            start = size.end()
            stop = start + int(size[1], 16)
            # One whole chunk, as servers flush them.
            if stop + 2 == end and stop > start and data.endswith(b"\r\n"):
                return data[start:stop]
        content: list[bytes] = []
        # Several.
        while self._between and (size := _SIZE_LINE.match(data, at)):
            start = size.end()
            stop = start + int(size[1], 16)
            if start == stop or data[stop : stop + 2] != b"\r\n":
                break
            content.append(data[start:stop])
            at = stop + 2
            if at == end:
                return content[0] if len(content) == 1 else b"".join(content)
        self._feed(data[at:] if at else data, content)
        self._between = not (self._left or self._closing or self._held or self.ended) and (
            self._trailers is None
        )
        return content[0] if len(content) == 1 else b"".join(content)

    def _feed(self, data: bytes, content: list[bytes]) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        at, end = 0, len(data)
        while at < end and not self.ended:
            if self._left:
                piece = data[at : at + self._left]
                content.append(piece)
                at += len(piece)
                self._left -= len(piece)
                self._closing = not self._left
                continue
            stop = data.find(b"\r\n", at, at + MAX_LINE_BYTES + 2)
            if stop < 0:
                self._hold(data[at:])
                break
            self._line(data[at:stop])
            at = stop + 2
        if self.ended:
            self.rest = data[at:]

    def eof(self) -> bool:
        return self.ended

    def _hold(self, start: bytes) -> None:
        if len(start) > MAX_LINE_BYTES or (self._closing and start != b"\r"):
            raise BadAnswerError("a broken chunk")
        self._held = start

    def _line(self, line: bytes) -> None:
        if self._trailers is not None:
            self._trailers += 1
            if not line:
                self.ended = True
            elif self._trailers > MAX_TRAILERS or header_fields(line.decode("latin-1")) is None:
                raise BadAnswerError("bad trailers")
        elif self._closing:
            if line:
                raise BadAnswerError("a broken chunk")
            self._closing = False
        else:
            size = _SIZE.fullmatch(line)
            if size is None:
                raise BadAnswerError("a chunk without a size")
            self._left = int(size[1], 16)
            if not self._left:
                self._trailers = 0
