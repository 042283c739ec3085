"""A node made of bare sockets: it sends exactly the bytes a test gives it, well-formed or not."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

from multidict import CIMultiDict


@dataclass(frozen=True)
class Got:
    """A request as it arrived."""

    method: str
    path: str
    headers: CIMultiDict[str]
    body: bytes
    rest: asyncio.StreamReader = field(repr=False, compare=False)
    """What the client sends afterwards; ends when it hangs up."""


Answer = Callable[[Got, asyncio.StreamWriter], Awaitable[None]]


def head(status: str = "200 OK", **headers: str) -> bytes:
    """A response head; underscores in names stand for dashes."""
    lines = [f"HTTP/1.1 {status}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def whole(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """A response with its length."""
    return (
        head(
            status,
            **(
                {"Content_Type": "application/json", "Content_Length": str(len(body))} | headers
            ),
        )
        + body
    )


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


STREAM_HEAD = head(Content_Type="text/event-stream", Transfer_Encoding="chunked")
LAST_CHUNK = b"0\r\n\r\n"


def saying(*parts: bytes) -> Answer:
    """An answer that sends `parts`, each by itself."""

    async def answer(_: Got, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return answer


def streaming(*events: bytes) -> Answer:
    """A whole event stream, one chunk an event."""
    return saying(STREAM_HEAD, *map(chunk, events), LAST_CHUNK)


def listing(*models: str) -> bytes:
    """The body of `GET /v1/models` with `models` loaded."""
    data = [{"id": m, "object": "model", "created": 1000, "status": "loaded"} for m in models]
    return json.dumps({"object": "list", "data": data}).encode()


@dataclass
class RawNode:
    """`async with RawNode(["m1"], answer=…) as node:`; control calls are answered properly.

    Paths in `routes` go to their own answer, before anything else.
    """

    models: list[str] = field(default_factory=list)
    answer: Answer = field(default_factory=lambda: saying(whole(b"{}")))
    routes: dict[str, Answer] = field(default_factory=dict)
    got: list[Got] = field(default_factory=list)
    """Requests that were no control calls, or had a route of their own."""
    connections: int = 0
    closed: int = 0
    """Connections that have ended."""
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._writers: set[asyncio.StreamWriter] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()
        async with asyncio.timeout(5):
            while self.closed < self.connections:
                await asyncio.sleep(0.005)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while not writer.is_closing() and (got := await self._read(reader)) is not None:
                await self._answer(got, writer)
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            self.closed += 1
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Got | None:
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        except asyncio.IncompleteReadError:
            return None
        method, path, _ = lines[0].split(" ")
        headers = CIMultiDict(line.split(": ", 1) for line in lines[1:] if line)
        length = int(headers.get("Content-Length", "0"))
        return Got(method, path, headers, await reader.readexactly(length), reader)

    async def _answer(self, got: Got, writer: asyncio.StreamWriter) -> None:
        own = self.routes.get(got.path)
        if own is None and got.path == "/v1/models":
            own = saying(whole(listing(*self.models)))
        elif own is None and got.path == "/v1/system/info":
            own = saying(whole(b'{"build": {"version": "0.9.2"}}'))
        elif own is None and got.path == "/ui/api/list_models":
            own = saying(whole(b'{"models": []}'))
        else:
            self.got.append(got)
        await (own or self.answer)(got, writer)
        await writer.drain()


async def hang_up(_: Got, writer: asyncio.StreamWriter) -> None:
    """Abort the connection instead of an answer."""
    writer.transport.abort()


async def silence(got: Got, _: asyncio.StreamWriter) -> None:
    """Never answer."""
    await got.rest.read()
