"""An answer to a client, as bytes on its connection: head, chunks, end. Nothing here waits."""

import asyncio
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\nServer: cortex\r\n"
    for status in HTTPStatus
}
_BODILESS = frozenset({204, 304})
JSON_LINE = "Content-Type: application/json\r\n"
"""The header line of an answer of our own."""


class Wire(Protocol):
    """A client's connection."""

    transport: asyncio.Transport
    full: bool
    """The client reads slower than it is written to."""
    on_room: Callable[[], None] | None
    """Called once it is no longer full."""

    def close(self) -> None:
        """Close once all is sent, or after a while."""
        ...


class Reply:
    """One answer. `begin`, any number of `write`, `end`; or `send`; or `cut` at any time."""

    __slots__ = (
        "_chunked",
        "_date_s",
        "_head",
        "_http11",
        "begun",
        "ended",
        "fixed",
        "keep_alive",
        "signed",
        "wire",
    )

    def __init__(
        self, wire: Wire, fixed: str, *, http11: bool = True, keep_alive: bool = True
    ) -> None:
        self.wire = wire
        #: Header lines of every answer to this request.
        self.fixed = fixed
        #: Further ones, asked for when the head is made.
        self.signed: Callable[[], Mapping[str, str]] | None = None
        self._http11 = http11
        self._chunked = False
        self._head = b""
        self.keep_alive = keep_alive
        self.begun = False
        self.ended = False

    @property
    def full(self) -> bool:
        """The client does not keep up: hold the source back, and see `Wire.on_room`."""
        return self.wire.full

    def add(self, headers: Mapping[str, str]) -> None:
        """Have these in the head too, whatever is answered."""
        self.fixed += header_lines(headers)

    def begin(self, status: int, lines: str, *, length: int | None = None) -> None:
        """The head, which leaves with the first bytes of the body.

        Args:
            status: HTTP's.
            lines: Header lines, each with its end; all but those of connection and framing.
            length: Of the body in bytes; None = in chunks, where the client knows them.
        """
        assert not self.begun, "one answer a request"
        self.begun = True
        first = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\nServer: cortex\r\n"
        signed = "" if self.signed is None else header_lines(self.signed())
        framing = ""
        if length is not None:
            framing = f"Content-Length: {length}\r\n"
        elif status not in _BODILESS:
            self._chunked = self._http11
            framing = "Transfer-Encoding: chunked\r\n" if self._http11 else ""
            self.keep_alive = self.keep_alive and self._http11
        if not self.keep_alive:
            framing += "Connection: close\r\n"
        elif not self._http11:
            framing += "Connection: keep-alive\r\n"
        date = _date(int(time.time()))
        head = f"{first}{date}{self.fixed}{lines}{signed}{framing}\r\n"
        self._head = head.encode("utf-8", "surrogateescape")

    def write(self, data: bytes) -> None:
        """The next bytes of the body; they are on their way when this returns, or held."""
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head:
            data, self._head = self._head + data, b""
        self.wire.transport.write(data)

    def end(self) -> None:
        """The body is whole."""
        last = b"0\r\n\r\n" if self._chunked else b""
        if self._head or last:
            self.wire.transport.write(self._head + last)
            self._head = b""
        self.ended = True

    def send(self, status: int, lines: str, body: bytes) -> None:
        """A whole answer; `lines` as in `begin`."""
        self.begin(status, lines, length=None if status in _BODILESS else len(body))
        self.wire.transport.write(self._head + body)
        self._head = b""
        self.ended = True

    def cut(self, last: bytes = b"") -> None:
        """End in a way that cannot pass for a whole answer; `last` is an event that says why."""
        self.keep_alive = False
        if last:
            self.write(last)
            self.wire.close()
        else:
            self.wire.transport.abort()


def header_lines(headers: Mapping[str, str]) -> str:
    """As they stand in a head."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])


class Sent(web.StreamResponse):
    """Tells aiohttp that a request of its own was answered by a `Reply`."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self._reply = reply

    @property
    def keep_alive(self) -> bool | None:
        return self._reply.keep_alive and self._reply.ended

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Nothing: the head is long gone."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing: so is the end."""


@lru_cache(maxsize=1)
def _date(now_s: int) -> str:
    return f"Date: {formatdate(now_s, usegmt=True)}\r\n"
