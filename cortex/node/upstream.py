"""One request to a node and its answer, on a connection of the pool.

Every failure of a connection is mapped to a `NodeError` here and nowhere else.
"""

import errno
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, Self

from multidict import CIMultiDictProxy

from cortex.core.errors import (
    NodeError,
    NodeProtocolError,
    NodeTimeoutError,
    NodeUnreachableError,
    NodeUntriedError,
)
from cortex.core.ids import NodeName
from cortex.node.connection import Connection, LostConnectionError
from cortex.node.http1 import BODILESS, BadAnswerError, Head
from cortex.node.pool import Pool

RETRY_S = 2.0
STALE_S = 5.0
"""A kept connection that ends without a byte within this time of a request was closed by the node at
its own end of patience: the request was never read. Later, it may have been."""
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""Failures to connect that say nothing about the node."""


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
        "derived",
        "head",
        "headers",
        "node",
        "ready",
        "status",
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
        #: Why it was given up before there was a connection.
        self._failure: Exception | None = None
        #: Of the answer, as the next three.
        self.head: Head
        self.status: int
        self.headers: CIMultiDictProxy[str]
        #: What was computed from status and headers; `Head.derived`.
        self.derived: dict[str, Any]
        #: Gives the bytes that are here and were not read yet.
        self.ready: Callable[[], bytes]

    async def __aenter__(self) -> Self:
        """Send the request; returns as soon as the head of the answer is in.

        A kept connection that the node closes just as the request comes says nothing of the node: the
        request is sent once more, on a new one (RFC 9112, 9.3.1).

        Raises:
            NodeUnreachableError: Refused, unresolvable, or broken before the head came.
        """
        pool = self._pool
        connection = None if self._once else pool.kept()
        while True:
            if connection is None:
                connection = await self._opened()
            self._connection = connection
            sent_s = time.monotonic()
            try:
                payload = None if self._body is None else self._body.payload()
                if payload is None or isinstance(payload, bytes):
                    connection.send(self._method, self._head, payload)
                else:
                    await connection.send_in_parts(self._method, self._head, payload)
                while (head := connection.answered) is None:
                    await connection.wait()
            except (OSError, BadAnswerError) as exc:
                pool.put(connection)
                self._require_stale(connection, sent_s, exc)
                connection = None
            except BaseException:
                pool.put(connection)
                raise
            else:
                self.head, self.status = head, head.status
                self.headers, self.derived = head.headers, head.derived
                self.ready = connection.ready
                return self

    def _require_stale(
        self, connection: Connection, sent_s: float, failure: OSError | BadAnswerError
    ) -> None:
        """Raise, unless it failed as a kept connection does that the node had closed before."""
        closed = isinstance(failure, OSError) and connection.unheard and connection.reused
        if not closed or time.monotonic() - sent_s >= STALE_S:
            raise self._unanswered(failure) from failure
        del self._connection

    async def _opened(self) -> Connection:
        try:
            connection = await self._pool.open()
        except OSError as exc:
            raise self._unanswered(exc) from exc
        if self._failure is not None:
            # It was given up meanwhile.
            connection.fail(self._failure)
            self._failure = None
        return connection

    async def __aexit__(self, *_: object) -> None:
        # A body read to its end gives its connection back, as one does whose answer is complete and
        # whose end is a moment late; anything else is cut here.
        self._pool.put(self._connection)

    @property
    def length(self) -> int | None:
        """Of the body, where there is one and the node says so."""
        head = self.head
        if head.status in BODILESS:
            return None
        if head.length is None and not head.plain and "Content-Length" in head.headers:
            return int(head.headers["Content-Length"])
        return head.length

    def fail(self, error: Exception) -> None:
        """Have `error` raised wherever this is waited for, now or later; cuts the connection."""
        connection: Connection | None = getattr(self, "_connection", None)
        if connection is None:
            self._failure = error
        else:
            # Not here as well: what was raised keeps all that it went through, this with it.
            connection.fail(error)

    @property
    def ended(self) -> bool:
        """The body has come to its end, and all of it was read."""
        return self._connection.ended

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
