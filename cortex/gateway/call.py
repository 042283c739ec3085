"""One inference request, whichever way it came in, and the way back to its client."""

import random
from collections.abc import Mapping
from typing import Protocol

from aiohttp import ClientPayloadError, HttpVersion11, web

from cortex.core.errors import RequestError
from cortex.core.ids import RequestId
from cortex.gateway.facts import Facts, facts_of
from cortex.gateway.paths import canonical
from cortex.gateway.reply import Reply, Wire

_AWAITED = "cortex.awaited"
"""In a request whose client sends no body before it is told to."""
# Unique is enough, none has to be hard to guess, and asking the kernel costs as much as routing.
_ids = random.Random()  # noqa: S311


class Source(Protocol):
    """The body of a request, on its way in."""

    held_bytes: int
    """How much of it is held; `room.Room` counts."""

    @property
    def declared(self) -> int | None:
        """Its length in bytes, where the client tells."""
        ...

    @property
    def complete(self) -> bool:
        """All of it is here: `read` does not wait."""
        ...

    def whole(self) -> bytes | None:
        """All of it, where it is here in one piece and was not read; None = `read` it."""
        ...

    async def read(self) -> bytes:
        """What has come since the last call; waits for some; b"" at the end.

        Raises:
            RequestError: The rest will not come.
        """
        ...


class Call:
    """What the handlers of inference routes are given."""

    __slots__ = ("facts", "headers", "path", "remote", "reply", "request_id", "source")

    def __init__(  # noqa: PLR0913
        self,
        path: str,
        headers: Mapping[str, str],
        facts: Facts,
        remote: str | None,
        source: Source,
        wire: Wire,
        *,
        http11: bool = True,
        keep_alive: bool = True,
    ) -> None:
        self.path = path
        self.headers = headers
        self.facts = facts
        self.remote = remote
        self.source = source
        self.request_id = facts.request_id or _new_id()
        fixed = f"x-request-id: {self.request_id}\r\n"
        if path.startswith("/v1/messages"):
            fixed += f"request-id: {self.request_id}\r\n"
        self.reply = Reply(wire, fixed, http11=http11, keep_alive=keep_alive)


def of_aiohttp(request: web.Request) -> Call:
    """A request that aiohttp read, by whatever path; it is answered past aiohttp."""
    assert request.transport is not None
    wire: Wire = request.transport.get_protocol()  # type: ignore[assignment]
    return Call(
        canonical(request.path),
        request.headers,
        facts_of(request.headers),
        request.remote,
        AiohttpSource(request),
        wire,
        http11=request.version >= (1, 1),
        keep_alive=request.keep_alive,
    )


async def expected(request: web.Request) -> None:
    """Aiohttp's handler of `Expect`: whether the body is wanted shows later, if at all.

    Raises:
        web.HTTPExpectationFailed: Something else is expected than to be told that.
    """
    if request.version < HttpVersion11:
        return
    if request.headers.get("Expect", "").lower() != "100-continue":
        raise web.HTTPExpectationFailed(text="only 100-continue may be expected\n")
    request[_AWAITED] = True


async def proceed(request: web.Request) -> None:
    """Have a client that waits for a word send its body."""
    if request.pop(_AWAITED, False):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # The answer itself has not been begun.
        request.writer.output_size = 0


def request_id_of(headers: Mapping[str, str]) -> RequestId:
    """The client's own, or a new one."""
    return facts_of(headers).request_id or _new_id()


def _new_id() -> RequestId:
    return RequestId("req_" + _ids.randbytes(12).hex())


class AiohttpSource:
    """A body that aiohttp reads: in chunks, after a `100 Continue`, or behind other requests."""

    complete = False

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.held_bytes = 0

    def whole(self) -> None:
        """Never, as far as anyone can tell."""

    @property
    def declared(self) -> int | None:
        return self._request.content_length

    async def read(self) -> bytes:
        try:
            await proceed(self._request)
            return await self._request.content.readany()
        except (ClientPayloadError, web.RequestPayloadError, ValueError) as exc:
            raise RequestError("the body is broken off or badly encoded") from exc
