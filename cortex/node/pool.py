"""Connections to one node, kept from one exchange to the next."""

import asyncio
import ssl
from urllib.parse import urlsplit

from cortex.node.connection import Connection

MAX_IDLE_S = 60.0
PORTS = {"http": 80, "https": 443}


class Pool:
    """Connections to one address, kept while they are young enough to be believed alive."""

    def __init__(self, endpoint: str, *, connect_timeout_s: float) -> None:
        parts = urlsplit(endpoint)
        #: Of a Unix socket; None = there are host and port.
        self._path = parts.path if parts.scheme == "unix" else None
        self._host = parts.hostname or ""
        self._port = parts.port or PORTS.get(parts.scheme, 0)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._connect_timeout_s = connect_timeout_s
        #: Of the connections, once there is one.
        self._loop: asyncio.AbstractEventLoop
        #: Longest idle first.
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()

    def kept(self) -> Connection | None:
        """A connection that had an exchange before, for one more."""
        while self._idle:
            connection = self._idle.pop()
            young = self._loop.time() - connection.idle_since_s < MAX_IDLE_S
            if young and connection.fit():
                connection.reused = True
                self._busy.add(connection)
                return connection
            connection.abort()
        return None

    async def open(self) -> Connection:
        """A connection of its own for one exchange.

        Raises:
            OSError: Refused, unresolvable, not trusted.
            TimeoutError: Not in time.
        """
        self._loop = loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_timeout_s):
            connection = await self._connect(loop)
        self._busy.add(connection)
        return connection

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> Connection:
        if self._path is not None:
            _, made = await loop.create_unix_connection(lambda: Connection(loop), self._path)
            return made
        _, connection = await loop.create_connection(
            lambda: Connection(loop),
            self._host,
            self._port,
            ssl=self._tls,
            server_hostname=self._host if self._tls else None,
        )
        return connection

    def put(self, connection: Connection) -> None:
        """Take it back; what is not finished is cut."""
        now_s = self._loop.time()
        if connection.finished:
            connection.idle_since_s = now_s
            self._idle.append(connection)
        elif connection.lags:
            connection.when_ended(self.put)
            return
        else:
            connection.abort()
        self._busy.discard(connection)
        while self._idle and now_s - self._idle[0].idle_since_s > MAX_IDLE_S:
            self._idle.pop(0).abort()

    def close(self) -> None:
        """Cut every connection."""
        for connection in (*self._idle, *self._busy):
            connection.abort()
        self._idle.clear()
