"""A whole gateway in the test's own loop: the daemon as it ships, over real sockets and a real file."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from pathlib import Path
from random import SystemRandom
from typing import Any, Protocol

import aiohttp
from multidict import CIMultiDictProxy

from cortex.config.load import load
from cortex.daemon import Daemon
from cortex.fleet.waits import WAITS, Waits
from cortex.gateway.inference import PATHS

START_S = 10.0
STOP_S = 15.0
_any = SystemRandom()
PORTS = range(10_000, 32_768)
"""Below those that Linux gives to outgoing connections, which would take one before it is used."""
PORTS_OF_ONE = 512
"""Enough that none comes round while the kernel still remembers its last connections."""


class Node(Protocol):
    """All that a gateway needs of a node: an address."""

    @property
    def url(self) -> str: ...


@dataclass(frozen=True)
class Reply:
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an OpenAI error envelope."""
        return str(self.json["error"]["code"])


class Running:
    """A gateway that listens; `http` is a plain client of it.

    Connections that carry inference only are read by the gateway itself, all others by aiohttp. So
    `send` keeps them apart, by having a second client for the others.
    """

    def __init__(self, daemon: Daemon, source: Path, url: str, metrics_url: str) -> None:
        self.daemon = daemon
        self.source = source
        self.url = url
        self.metrics_url = metrics_url
        self.http: aiohttp.ClientSession
        self._others: aiohttp.ClientSession

    @property
    def services(self) -> Any:
        return self.daemon._services

    async def send(self, method: str, path: str, **kwargs: Any) -> Reply:
        http = self.http if path in PATHS else self._others
        async with http.request(method, self.url + path, **kwargs) as response:
            return Reply(response.status, response.headers, await response.read())

    async def get(self, path: str, **kwargs: Any) -> Reply:
        return await self.send("GET", path, **kwargs)

    async def post(self, path: str, body: Any = None, **kwargs: Any) -> Reply:
        return await self.send("POST", path, **({"json": body} | kwargs))

    async def chat(self, model: str, /, **more: Any) -> Reply:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]} | more
        return await self.post("/v1/chat/completions", body)

    async def status(self) -> Any:
        return (await self.get("/cortex/v1/status")).json

    async def metrics(self) -> str:
        async with self.http.get(f"{self.metrics_url}/metrics") as response:
            return await response.text()

    async def events(self, **query: str) -> list[Any]:
        """Oldest first; flushed, since the store writes every 250 ms."""
        await self.flushed()
        rows = (await self.get("/cortex/v1/events", params={"limit": "1000"} | query)).json
        return sorted(rows["rows"], key=lambda row: row["id"])

    async def history(self, **query: str) -> list[Any]:
        """Newest first; flushed."""
        await self.flushed()
        return list((await self.get("/cortex/v1/history", params=query)).json["rows"])

    async def flushed(self) -> None:
        await self.daemon._store._flush()  # now, instead of at the next quarter of a second
        await until(lambda: self.daemon._store.status().queued_rows == 0, "rows to be written")


async def until(
    holds: Callable[[], bool | Awaitable[bool]], what: str, timeout_s: float = 10.0
) -> None:
    """Wait until `holds`, which is asked often; fails naming `what` at the deadline."""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                held = holds()
                if await held if isinstance(held, Awaitable) else held:
                    return
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited {timeout_s:g} s in vain for {what}") from None


async def give_up(
    asking: Coroutine[Any, Any, Any], heard: Callable[[], bool | Awaitable[bool]]
) -> None:
    """Hang up on a request, once the other side is known to have `heard` it."""
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(asking)
        await until(heard, "the request to be heard")
        assert not asked.done()
        asked.cancel()


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> tuple[int, ...]:
    """Ports nobody uses just now, nor will before they are used here."""
    found: list[int] = []
    while len(found) < count:
        port = next(_own_ports())
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return tuple(found)


@cache
def _own_ports() -> Iterator[int]:
    """Endlessly the ports of one part of `PORTS`, which no other process of these tests takes from."""
    parts = list(range(len(PORTS) // PORTS_OF_ONE))
    _any.shuffle(parts)
    for part in parts:
        claim = socket.socket(socket.AF_UNIX)
        try:
            # A name that ends with this process, however that ends.
            claim.bind(f"\0cortex-tests-ports-{part}")
        except OSError:
            claim.close()
            continue
        claim.detach()
        return cycle(PORTS[part * PORTS_OF_ONE :][:PORTS_OF_ONE])
    raise RuntimeError("every port is taken by some process of tests")


def configuration(
    folder: Path,
    nodes: Sequence[Node],
    *,
    toml: str = "",
    node_toml: Sequence[str] = (),
    ports: tuple[int, ...],
) -> str:
    """The text of a `cortex.toml`: `nodes` are named n0, n1…, `toml` adds or replaces tables."""
    tables = {
        "gateway": f'listen = "127.0.0.1:{ports[0]}"\nmetrics_listen = "127.0.0.1:{ports[1]}"',
        "state": f'path = "{folder / "cortex.db"}"',
        "polling": "interval_s = 0.2\ntimeout_s = 1.0",
    }
    text = "".join(
        f"[{name}]\n{body}\n" for name, body in tables.items() if f"[{name}]" not in toml
    )
    text += toml + "\n"
    for index, node in enumerate(nodes):
        more = node_toml[index] if index < len(node_toml) else ""
        text += f'[[nodes]]\nname = "n{index}"\nendpoint = "{node.url}"\n{more}\n'
    return text


@asynccontextmanager
async def running(
    folder: Path,
    nodes: Sequence[Node],
    *,
    toml: str = "",
    node_toml: Sequence[str] = (),
    environ: dict[str, str] | None = None,
    settled: bool = True,
    trusting: ssl.SSLContext | None = None,
    waits: Waits = WAITS,
) -> AsyncIterator[Running]:
    """Serve `nodes` until the block ends, then drain, and check that nothing is left held.

    `settled` waits until every node has been polled once; `trusting` is of a client of `[tls]`.
    """
    ports = free_ports(2)
    source = folder / "cortex.toml"
    source.write_text(configuration(folder, nodes, toml=toml, node_toml=node_toml, ports=ports))
    daemon = Daemon(source, load(source, environ or {}), environ or {}, waits)
    scheme = "http" if trusting is None else "https"
    gateway = Running(
        daemon, source, f"{scheme}://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
    )
    serving = asyncio.create_task(daemon.serve())  # noqa: TID251 (ended below)
    try:
        trust = trusting or True
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as gateway.http,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as others,
        ):
            gateway._others = others
            await until(lambda: serving.done() or _ready(gateway, settled), "a start", START_S)
            if serving.done():
                await serving
            yield gateway
            gateway.services.fleet._state.check_invariants()
    finally:
        daemon.stop()
        async with asyncio.timeout(STOP_S):
            await serving
    held = {
        name: node.in_flight for name, node in gateway.services.fleet.snapshot().nodes.items()
    }
    assert not any(held.values()), f"leases left: {held}"


async def _ready(gateway: Running, settled: bool) -> bool:
    try:
        reply = await gateway.get("/ready")
    except aiohttp.ClientConnectionError:
        return False
    return reply.status == 200 or not settled
