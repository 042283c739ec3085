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
        assert parts.hostname
        self._host = parts.hostname
        self._port = parts.port or PORTS[parts.scheme]
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._connect_timeout_s = connect_timeout_s
        #: Longest idle first.
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()

    async def take(self, *, fresh: bool = False) -> Connection:
        """A connection for one exchange.

        Args:
            fresh: Open one, whatever is kept.

        Raises:
            OSError: Refused, unresolvable, not trusted.
            TimeoutError: Not in time.
        """
        loop = asyncio.get_running_loop()
        while self._idle and not fresh:
            connection = self._idle.pop()
            young = loop.time() - connection.idle_since_s < MAX_IDLE_S
            if young and connection.usable and connection.quiet:
                connection.reused = True
                self._busy.add(connection)
                return connection
            connection.abort()
        async with asyncio.timeout(self._connect_timeout_s):
            _, connection = await loop.create_connection(
                lambda: Connection(loop),
                self._host,
                self._port,
                ssl=self._tls,
                server_hostname=self._host if self._tls else None,
            )
        self._busy.add(connection)
        return connection

    def put(self, connection: Connection) -> None:
        """Take it back; what is not finished is cut."""
        if connection.lags:
            connection.when_ended(self.put)
            return
        self._busy.discard(connection)
        if connection.finished:
            connection.idle_since_s = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            connection.abort()
        now_s = asyncio.get_running_loop().time()
        while self._idle and now_s - self._idle[0].idle_since_s > MAX_IDLE_S:
            self._idle.pop(0).abort()

    def close(self) -> None:
        """Cut every connection."""
        for connection in (*self._idle, *self._busy):
            connection.abort()
        self._idle.clear()
