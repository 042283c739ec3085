"""Speaks to one node: control calls with their bodies read, inference calls with theirs untouched.

Every aiohttp exception is mapped to a `NodeError` here and nowhere else. Deadlines of control
calls are the caller's; inference is bounded by the gap between bytes, which the relay watches.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import aiohttp
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy

from cortex.core.errors import (
    NodeError,
    NodeProtocolError,
    NodeTimeoutError,
    NodeUnreachableError,
)
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import LifecycleAnswer, Listing, NodeInfo
from cortex.node.wire import read_lifecycle, read_listing, read_system_info

CONTROL_LIMIT_BYTES = 8 * 1024 * 1024
"""Largest answer to a control call that is read."""
READ_BUFFER_BYTES = 64 * 1024


class RequestBody(Protocol):
    """A body that can be sent again, when another node must be tried."""

    @property
    def size(self) -> int: ...

    def payload(self) -> "bytes | AsyncIterator[bytes]": ...


class Upstream:
    """An answer under way. Leaving `NodeClient.send` closes it, which stops a streaming engine."""

    __slots__ = ("_response", "headers", "node", "status")

    def __init__(self, node: NodeName, response: aiohttp.ClientResponse) -> None:
        self.node = node
        self.status: int = response.status
        self.headers: CIMultiDictProxy[str] = response.headers
        self._response = response

    async def read_some(self) -> bytes:
        """The next bytes as they arrived; b"" at the end.

        Raises:
            NodeUnreachableError: The connection broke, or the body ended short of its length.
            NodeProtocolError: The chunked encoding is broken.
        """
        try:
            return await self._response.content.readany()
        except aiohttp.ClientError as exc:
            raise NodeUnreachableError(f"{self.node}: connection lost: {_why(exc)}") from exc
        except OSError as exc:
            raise NodeUnreachableError(f"{self.node}: connection lost: {exc.strerror}") from exc
        except HttpProcessingError as exc:
            raise NodeProtocolError(f"{self.node}: broken encoding of the body") from exc

    async def read_at_most(self, limit_bytes: int) -> bytes:
        """The whole body, or its first `limit_bytes`."""
        parts: list[bytes] = []
        size = 0
        while size < limit_bytes and (chunk := await self.read_some()):
            parts.append(chunk)
            size += len(chunk)
        return b"".join(parts)[:limit_bytes]


class NodeClient:
    """One node's HTTP side; owns its connection pool."""

    def __init__(
        self,
        name: NodeName,
        endpoint: str,
        *,
        connect_timeout_s: float,
        api_key: str | None = None,
    ) -> None:
        self.name = name
        self.endpoint = endpoint
        self._auth = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # A pool without limit: how much a node is given is decided by leases, not by sockets.
        # `force_close` stays off; a stale kept-alive connection shows as "unreachable" before
        # the first byte, which the request path retries.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60.0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=READ_BUFFER_BYTES,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    async def close(self) -> None:
        await self._session.close()

    async def list_models(self) -> Listing:
        """GET /v1/models: the whole residency of the node."""
        return read_listing(await self._control("GET", "/v1/models"))

    async def system_info(self) -> NodeInfo:
        """GET /v1/system/info: expensive on the node, so asked on discovery and after loads only.

        A node without the route (before mistral.rs 0.7.0) has no version and no memory figures.
        """
        try:
            return read_system_info(await self._control("GET", "/v1/system/info"))
        except NodeProtocolError:
            return NodeInfo(version=None)

    async def model_status(self, model: ModelId) -> LifecycleAnswer:
        return await self._lifecycle("status", model)

    async def reload(self, model: ModelId) -> LifecycleAnswer:
        """Bring a model in; answers when it is loaded.

        Only for a model just read as `unloaded`: a reload of a loaded one poisons it until the
        node restarts (contract §2.4).
        """
        return await self._lifecycle("reload", model)

    async def unload(self, model: ModelId) -> LifecycleAnswer:
        """Take a model out; cuts what it is generating, and answers before memory is free."""
        return await self._lifecycle("unload", model)

    async def probe(self, model: ModelId) -> None:
        """Have the model make one token; a model that cannot chat says so, which is proof enough."""
        body = {
            "model": str(model),
            "messages": [{"role": "user", "content": "ping"}],
            "max_tokens": 1,
        }
        await self._control("POST", "/v1/chat/completions", body, refused_from=500)

    @asynccontextmanager
    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: RequestBody | None
    ) -> AsyncIterator[Upstream]:
        """Send a request and yield its answer as soon as the head is in.

        Raises:
            NodeUnreachableError: Refused, unresolvable, or broken before the head came.
        """
        sent = CIMultiDict(headers)
        sent.update(self._auth)
        payload = None
        if body is not None:
            sent["Content-Length"] = str(body.size)
            payload = body.payload()
        try:
            response = await self._session.request(
                method, self.endpoint + path, headers=sent, data=payload, allow_redirects=False
            )
        except (aiohttp.ClientError, OSError) as exc:
            raise self._mapped(exc) from exc
        try:
            yield Upstream(self.name, response)
        finally:
            # A body read to its end has given its connection back; anything else is cut here.
            response.close()

    async def _lifecycle(self, verb: str, model: ModelId) -> LifecycleAnswer:
        return read_lifecycle(
            await self._control("POST", f"/v1/models/{verb}", {"model_id": str(model)})
        )

    async def _control(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        refused_from: int = 400,
    ) -> bytes:
        try:
            async with self._session.request(
                method,
                self.endpoint + path,
                data=None if body is None else json.dumps(body).encode(),
                headers={"Content-Type": "application/json", **self._auth},
                allow_redirects=False,
            ) as response:
                text = await response.content.read(CONTROL_LIMIT_BYTES)
                while not response.content.at_eof():
                    more = await response.content.read(CONTROL_LIMIT_BYTES)
                    text += more
                    if len(text) > CONTROL_LIMIT_BYTES:
                        raise NodeProtocolError(f"{self.name}: {path} answered without end")
        except (aiohttp.ClientError, OSError) as exc:
            raise self._mapped(exc) from exc
        if response.status >= refused_from:
            raise NodeProtocolError(f"{self.name}: {path} answered HTTP {response.status}")
        return text

    def _mapped(self, exc: aiohttp.ClientError | OSError) -> NodeError:
        """`TimeoutError` first: aiohttp's timeouts are both a ClientError and a TimeoutError."""
        if isinstance(exc, asyncio.TimeoutError | TimeoutError):
            return NodeTimeoutError(f"{self.name}: no connection in time")
        if isinstance(exc, aiohttp.ClientPayloadError | aiohttp.ClientResponseError):
            return NodeProtocolError(f"{self.name}: {_why(exc)}")
        return NodeUnreachableError(f"{self.name}: {_why(exc)}")


def _why(exc: BaseException) -> str:
    """A short cause without the URL, which is nobody's business outside the log."""
    if isinstance(exc, aiohttp.ClientConnectorError):
        number = exc.os_error.errno
        # The text of a failed connect names the address; a failed lookup has no positive number.
        named = os.strerror(number) if number and number > 0 else exc.os_error.strerror
        return named or "cannot connect"
    if isinstance(exc, aiohttp.ServerDisconnectedError):
        return "closed the connection"
    if isinstance(exc, aiohttp.ClientResponseError):
        # Its text names the URL.
        return exc.message.partition("\n")[0].rstrip(":")[:120] or "not HTTP"
    return str(exc).splitlines()[0][:120] if str(exc) else type(exc).__name__
