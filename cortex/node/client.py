"""Speaks to one node: control calls with their bodies read, inference calls with theirs untouched.

Every failure of a connection is mapped to a `NodeError` here and nowhere else. Deadlines of control
calls are the caller's; inference is bounded by the gap between bytes, which the relay watches.
"""

import errno
import json
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import lru_cache
from typing import Protocol, Self
from urllib.parse import quote, urlsplit

from multidict import CIMultiDictProxy

from cortex.core.errors import (
    NodeError,
    NodeProtocolError,
    NodeTimeoutError,
    NodeUnreachableError,
    NodeUntriedError,
)
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import LifecycleAnswer, Listing, NodeInfo, Work
from cortex.core.nodefaults import read_message
from cortex.node.connection import Connection, LostConnectionError
from cortex.node.http1 import BadAnswerError, Head
from cortex.node.pool import Pool
from cortex.node.wire import read_lifecycle, read_listing, read_system_info

CONTROL_LIMIT_BYTES = 1024 * 1024
"""Largest answer to a control call that is read."""
RETRY_S = 2.0
STALE_S = 5.0
"""A kept connection that ends without a byte within this time of a request was closed by the node at
its own end of patience: the request was never read. Later, it may have been."""
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""Failures to connect that say nothing about the node."""


_SMALLEST: Mapping[Work, tuple[str, Mapping[str, object]]] = {
    Work.CHAT: (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "ping"}], "max_tokens": 1},
    ),
    Work.EMBEDDINGS: ("/v1/embeddings", {"input": "ping"}),
}
"""Route and body of the smallest request of its kind, the model apart."""


_NO_SUCH_ROUTE = frozenset({404, 405, 501})
_CHANGES = frozenset({"/v1/models/reload", "/v1/models/unload"})


class RequestBody(Protocol):
    """A body that can be sent again, when another node must be tried."""

    @property
    def size(self) -> int: ...

    def payload(self) -> "bytes | AsyncIterator[bytes]": ...


class Upstream:
    """One request to a node and its answer; a context that sends the one and closes the other.

    Leaving it before the end of the answer cuts the connection, which stops a streaming engine.
    """

    __slots__ = (
        "_body",
        "_connection",
        "_failure",
        "_head",
        "_method",
        "_once",
        "_pool",
        "head",
        "node",
    )

    def __init__(
        self,
        node: NodeName,
        pool: Pool,
        method: str,
        head: bytes,
        body: RequestBody | None,
        *,
        once: bool,
    ) -> None:
        self.node = node
        self._pool = pool
        self._method = method
        self._head = head
        self._body = body
        #: It must not come twice, come what may.
        self._once = once
        self._connection: Connection
        self._failure: Exception | None = None
        #: Of the answer.
        self.head: Head

    async def __aenter__(self) -> Self:
        """Send the request; returns as soon as the head of the answer is in.

        A kept connection that the node closes just as the request comes says nothing of the node: the
        request is sent once more, on a new one (RFC 9112, 9.3.1).

        Raises:
            NodeUnreachableError: Refused, unresolvable, or broken before the head came.
        """
        if not await self._ask(fresh=self._once):
            await self._ask(fresh=True)
        return self

    async def _ask(self, *, fresh: bool) -> bool:
        """Send it on one connection; False = that was stale."""
        try:
            self._connection = connection = await self._pool.take(fresh=fresh)
        except OSError as exc:
            raise self._unanswered(exc) from exc
        sent_s = time.monotonic()
        try:
            if self._failure is not None:
                connection.fail(self._failure)
            payload = None if self._body is None else self._body.payload()
            await connection.send(self._method, self._head, payload)
            self.head = await connection.head()
        except (OSError, BadAnswerError) as exc:
            self._pool.put(connection)
            closed = isinstance(exc, OSError) and connection.unheard
            if closed and connection.reused and time.monotonic() - sent_s < STALE_S:
                return False
            raise self._unanswered(exc) from exc
        except BaseException:
            self._pool.put(connection)
            raise
        return True

    async def __aexit__(self, *_: object) -> None:
        # A body read to its end gives its connection back, as one does whose answer is complete and
        # whose end is a moment late; anything else is cut here.
        self._pool.put(self._connection)

    @property
    def status(self) -> int:
        return self.head.status

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        return self.head.headers

    def fail(self, error: Exception) -> None:
        """Have `error` raised wherever this is waited for, now or later; cuts the connection."""
        self._failure = error
        connection: Connection | None = getattr(self, "_connection", None)
        if connection is not None:
            connection.fail(error)

    async def read_some(self) -> bytes:
        """The next bytes as they arrived; b"" at the end.

        Raises:
            NodeUnreachableError: The connection broke, or the body ended short of its length.
            NodeProtocolError: The framing of the body is broken.
        """
        try:
            return await self._connection.read()
        except (OSError, BadAnswerError) as exc:
            raise self._broken(exc) from exc

    async def pour(self, take: Callable[[bytes], object]) -> None:
        """Have `take` called with all further bytes as they come, until the end or `enough`.

        There is no task between the two sockets: `take` is called by the connection itself. What
        it raises ends the connection and is raised here.

        Raises:
            NodeUnreachableError, NodeProtocolError: As `read_some`.
        """
        try:
            await self._connection.pour(take)
        except (OSError, BadAnswerError) as exc:
            raise self._broken(exc) from exc

    def enough(self) -> None:
        """The answer is whole, whether or not its body has ended."""
        self._connection.enough()

    def pause(self) -> None:
        """Hold the node back; what it sends meanwhile waits in the kernel."""
        self._connection.pause()

    def resume(self) -> None:
        self._connection.resume()

    async def read_at_most(self, limit_bytes: int) -> bytes:
        """The whole body, or its first `limit_bytes`."""
        # Not a list of pieces: of one byte each, they would take fifty times their size.
        whole = bytearray()
        while len(whole) < limit_bytes and (chunk := await self.read_some()):
            whole += chunk
        return bytes(whole[:limit_bytes])

    def _broken(self, exc: OSError | BadAnswerError) -> NodeError:
        if isinstance(exc, BadAnswerError):
            return NodeProtocolError(f"{self.node}: {exc}")
        return NodeUnreachableError(f"{self.node}: connection lost: {_why(exc)}")

    def _unanswered(self, exc: OSError | BadAnswerError) -> NodeError:
        if isinstance(exc, BadAnswerError):
            return NodeProtocolError(f"{self.node}: {exc}")
        if isinstance(exc, TimeoutError):
            return NodeTimeoutError(f"{self.node}: no connection in time")
        if exc.errno in _OURS:
            return NodeUntriedError(
                f"this gateway cannot connect: {_why(exc)}", retry_after_s=RETRY_S
            )
        return NodeUnreachableError(f"{self.node}: {_why(exc)}")


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
        parts = urlsplit(endpoint)
        self._prefix = parts.path.rstrip("/")
        self._fixed = f"Host: {parts.netloc.rpartition('@')[2]}\r\n"
        if api_key:
            self._fixed += f"Authorization: Bearer {api_key}\r\n"
        self._keyed = bool(api_key)
        #: All that it was made from.
        self.settings = (name, endpoint, connect_timeout_s, api_key)
        # Without limit: how much a node is given is decided by leases, not by sockets.
        self._pool = Pool(endpoint, connect_timeout_s=connect_timeout_s)

    async def close(self) -> None:
        self._pool.close()

    async def list_models(self) -> Listing:
        """GET /v1/models: the whole residency of the node."""
        return read_listing(await self._control("GET", "/v1/models"))

    async def system_info(self) -> NodeInfo:
        """GET /v1/system/info: expensive on the node, so asked on discovery and after loads only.

        A node without the route (before mistral.rs 0.7.0) has no version and no memory figures.
        """
        status, text = await self._ask("GET", "/v1/system/info", None)
        if status in _NO_SUCH_ROUTE:
            return NodeInfo(version=None)
        if status >= 400:
            raise NodeProtocolError(f"{self.name}: /v1/system/info answered HTTP {status}")
        return read_system_info(text)

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

    async def wake(self, model: ModelId, work: Work) -> str | None:
        """Ask for the smallest piece of `work`, which has the node load the model first.

        Returns:
            None once it is done; else why the node refused, in its own words.
        """
        path, body = _SMALLEST[work]
        status, text = await self._ask("POST", path, {"model": str(model), **body})
        return None if status < 400 else read_message(text) or f"HTTP {status}"

    async def probe(self, model: ModelId) -> None:
        """Have the model make one token; a model that cannot chat says so, which is proof enough."""
        path, body = _SMALLEST[Work.CHAT]
        await self._control("POST", path, {"model": str(model), **body}, refused_from=500)

    def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: RequestBody | None,
        *,
        once: bool = False,
    ) -> Upstream:
        """What sends the request, once it is entered.

        Args:
            method: Of the request, as the next three.
            path: Without the endpoint.
            headers: Besides those of every request.
            body: None = there is none.
            once: Open a connection for it, on which nothing is sent twice.

        Raises:
            ValueError: A header has a line break in it.
        """
        lines = [
            f"{name}: {value}\r\n"
            for name, value in headers.items()
            if not (self._keyed and name.lower() == "authorization")
        ]
        text = "".join(lines)
        if text.count("\n") != len(lines) or "\0" in text:
            raise ValueError("a line break in a header")
        length = "" if body is None else f"Content-Length: {body.size}\r\n"
        target = f"{method} {self._prefix}{_quoted(path)} HTTP/1.1\r\n"
        head = f"{target}{self._fixed}{text}{length}\r\n".encode()
        return Upstream(self.name, self._pool, method, head, body, once=once)

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
        status, text = await self._ask(method, path, body)
        if status >= refused_from:
            raise NodeProtocolError(f"{self.name}: {path} answered HTTP {status}")
        return text

    async def _ask(
        self, method: str, path: str, body: Mapping[str, object] | None
    ) -> tuple[int, bytes]:
        """Status and body of the answer to a control call."""
        headers = {"Content-Type": "application/json"}
        payload = None if body is None else _Json(json.dumps(body).encode())
        # A second `reload` would poison the model (contract §2.4).
        once = path in _CHANGES
        async with self.send(method, path, headers, payload, once=once) as answer:
            text = await answer.read_at_most(CONTROL_LIMIT_BYTES + 1)
        if len(text) > CONTROL_LIMIT_BYTES:
            raise NodeProtocolError(f"{self.name}: {path} answered without end")
        return answer.status, text


class _Json:
    """The body of a control call."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self.size = len(text)

    def payload(self) -> bytes:
        return self._text


_PATH = "/:@!$&'()*+,;=~"
"""What stays as it is in the path of a request."""


@lru_cache(maxsize=256)
def _quoted(path: str) -> str:
    return quote(path, safe=_PATH)


def _why(exc: OSError) -> str:
    """A short cause without the address, which is nobody's business outside the log."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {exc.verify_message}"
    if isinstance(exc, ssl.SSLError):
        return "does not speak TLS there"
    if isinstance(exc, socket.gaierror):
        return exc.strerror or "its name is not known"
    if exc.errno is not None and exc.errno > 0:
        return os.strerror(exc.errno)
    # What was tried for several addresses names them.
    return str(exc) if isinstance(exc, LostConnectionError) else "cannot connect"
