"""Puts an app on its address."""

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

from aiohttp import web

from cortex.gateway import inference
from cortex.gateway.front import Fronts
from cortex.gateway.services import Services
from cortex.gateway.strict import HTTP_LOG, Connection

log = logging.getLogger("cortex.listen")

SHUTDOWN_TIMEOUT_S = 0.25
"""What aiohttp adds of its own after the daemon's drain; connections still open then are cut."""
BACKLOG = 1024
HANDSHAKE_TIMEOUT_S = 10.0
"""Time a client has for TLS's handshake."""


class ListenError(Exception):
    """An address is in use, or not ours."""


class Listener:
    """An address that is answered, by aiohttp alone or with `Fronts` before it."""

    def __init__(
        self, server: asyncio.Server, runner: web.AppRunner, fronts: Fronts | None
    ) -> None:
        self._server = server
        self._runner = runner
        self._fronts = fronts

    @property
    def addresses(self) -> list[Any]:
        """What is listened on, as sockets name it."""
        return [opened.getsockname() for opened in self._server.sockets]

    def stop(self) -> None:
        """Take no further connection, and no further request on those there are."""
        self._server.close()
        if self._fronts is not None:
            self._fronts.close_idle()

    async def close(self) -> None:
        """Cut what is left."""
        self.stop()
        if self._fronts is not None:
            await self._fronts.close()
        await self._runner.cleanup()


async def listen(
    app: web.Application,
    address: str,
    opened: socket.socket | None,
    svc: Services | None = None,
) -> Listener:
    """Serve the app on a socket that systemd opened, else on one of our own.

    Args:
        app: What aiohttp serves.
        address: "host:port".
        opened: The socket, if there is one already.
        svc: Given for the public API: inference then goes the short way, over TLS where there is a
            certificate.

    Raises:
        ListenError: The address cannot be had.
    """
    # handler_cancellation: a client that hangs up cancels its handler, which closes the upstream,
    # which stops the engine.
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
    )
    await runner.setup()
    assert runner.server is not None
    protocol: Callable[[], asyncio.Protocol] = partial(
        Connection,
        runner.server,
        loop=asyncio.get_running_loop(),
        access_log=None,  # type: ignore[arg-type] # none is kept
        logger=HTTP_LOG,
        read_bufsize=256 * 1024,
        keepalive_timeout=75.0,
    )
    fronts = tls = None
    if svc is not None:
        tls = None if svc.certificate is None else svc.certificate.context
        protocol = fronts = Fronts(
            handler=partial(inference.serve, svc=svc),
            paths=inference.PATHS,
            aiohttp_protocol=protocol,
            head_timeout_s=svc.config.limits.head_timeout_s,
        )
    try:
        server = await _server(protocol, address, opened, tls)
    except OSError as exc:
        if fronts is not None:
            await fronts.close()
        await runner.cleanup()
        raise ListenError(f"{address}: {exc.strerror}{_hint(exc)}") from exc
    listener = Listener(server, runner, fronts)
    log.info(
        "listening",
        extra={"fields": {"address": listener.addresses[0], "tls": tls is not None}},
    )
    return listener


def _hint(exc: OSError) -> str:
    below = "; a port below 1024 is systemd's to open: cortex.socket"
    return below if exc.errno == errno.EACCES else ""


async def _server(
    protocol: Callable[[], asyncio.Protocol],
    address: str,
    opened: socket.socket | None,
    tls: ssl.SSLContext | None,
) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    handshake_s = None if tls is None else HANDSHAKE_TIMEOUT_S
    if opened is not None:
        return await loop.create_server(
            protocol,
            sock=opened,
            backlog=BACKLOG,
            ssl=tls,
            ssl_handshake_timeout=handshake_s,
        )
    host, _, port = address.rpartition(":")
    server = await loop.create_server(
        protocol,
        host.strip("[]"),
        int(port),
        backlog=BACKLOG,
        reuse_address=True,
        ssl=tls,
        ssl_handshake_timeout=handshake_s,
    )
    if not server.sockets:
        # Event loops skip an address whose socket cannot be made (no IPv6, no descriptor left) without
        # a word. Making one here raises the reason.
        socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET).close()
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    return server
