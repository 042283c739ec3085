"""One node: its port, its tasks, and what a start and a stop do to everything it holds."""

import asyncio
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from aiohttp import web

from cortex.devnode import routes
from cortex.devnode.engine import Engine, Json
from cortex.devnode.knobs import Knobs
from cortex.devnode.profile import Profile
from cortex.devnode.residency import Declared, Residency, Seat
from cortex.devnode.stats import Stats

BACKLOG = 1024
T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """What a job raised, as its result: a raise in the group would end the whole node."""

    error: Exception


async def _guarded(work: Coroutine[Any, Any, T]) -> T | Failure:
    try:
        return await work
    except Exception as error:  # noqa: BLE001 (raised again where the job is awaited)
        return Failure(error)


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and isinstance(task.result(), Failure):
        _log.error("a job of the node failed", exc_info=task.result().error)


PAGE_KINDS = frozenset({"text", "multimodal", "speech"})
"""What mistral.rs's page can talk to."""


class Node:
    """Serves mistral.rs's HTTP API over any `Engine`.

    `start` and `stop` may alternate: each start is a new process as far as a client can tell,
    on the same port, with a later `created` and nothing remembered but the counters.
    """

    def __init__(
        self,
        engine: Engine,
        declared: Declared,
        *,
        profile: Profile,
        knobs: Knobs,
        port: int = 0,
    ) -> None:
        self.engine = engine
        self.profile = profile
        self.knobs = knobs
        self.stats = Stats()
        self.used_by: set[object] = set()
        """Peers whose connections were used, while that matters."""
        self.host = "127.0.0.1"
        self.port = port
        self.created_s = 0
        self.exit_on_crash = False
        """Set in a process of its own: a crash ends it instead of just the connections."""
        self.responses: dict[str, Json] = {}
        """`/v1/responses` resources by id; per process, so a start empties it."""
        self.histories: dict[str, list[Json]] = {}
        self.files: dict[str, Json] = {}
        self.page_models: list[Json] = []
        """What its page offers, as it was at the start."""
        self.residency: Residency
        self._declared = declared
        self._tasks: asyncio.TaskGroup | None = None
        self._running: set[asyncio.Task[Any]] = set()
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._backlog: socket.socket | None = None
        """The listening socket while the node is silent: what connects waits in it."""
        self._reloads = 0

    @property
    def url(self) -> str:
        """Base URL, without a slash at the end."""
        return f"http://{self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Boot, then open the port: the port of the last start, if there was one."""
        if self._tasks is not None:
            await self.stop()
        self.residency = Residency(
            self.engine,
            self._declared,
            profile=self.profile,
            knobs=self.knobs,
            stats=self.stats,
        )
        self.responses, self.histories, self.files = {}, {}, {}
        self.page_models = [
            {"name": model, "kind": kind}
            for model in self._declared.models
            if (kind := self.knobs.category_of(model)) in PAGE_KINDS
        ]
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        await self.engine.start(self._declared.resident)
        # Two starts within a second must still differ: `created` is how a restart is noticed.
        self.created_s = max(int(time.time()), self.created_s + 1)
        self._runner = web.AppRunner(
            routes.build(self),
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=0.05,
        )
        await self._runner.setup()
        await self.open_port()

    async def stop(self) -> None:
        """End at once, as a killed process does: nothing is drained."""
        self._sever()
        for task in tuple(self._running):
            task.cancel()
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            await tasks.__aexit__(None, None, None)
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        await self.engine.close()

    def crash(self) -> None:
        """Close the port and abort every connection, with no clean-up after."""
        if self.exit_on_crash:
            os._exit(1)
        self._sever()

    def _sever(self) -> None:
        self.close_port()
        server = None if self._runner is None else self._runner.server
        for connection in () if server is None else tuple(server.connections):
            if connection.transport is not None:
                connection.transport.abort()

    async def open_port(self) -> None:
        """Accept connections (again)."""
        if self._server is not None or self._backlog is not None or self._runner is None:
            return
        assert self._runner.server is not None
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._accepting(self._runner.server), self.host, self.port, backlog=BACKLOG
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def _accepting(
        self, protocol: Callable[[], asyncio.BaseProtocol]
    ) -> Callable[[], asyncio.BaseProtocol]:
        def accept() -> asyncio.BaseProtocol:
            self.stats.connections += 1
            return protocol()

        return accept

    def close_port(self) -> None:
        """Refuse new connections; open ones go on."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        backlog, self._backlog = self._backlog, None
        if backlog is not None:
            backlog.close()

    @contextmanager
    def perhaps_silent(self) -> Iterator[None]:
        """Be silent for a share of the reloads that come while nothing is generated.

        Nothing is read and nobody is accepted: new connections wait in the backlog.
        """
        before, self._reloads = self._reloads, self._reloads + 1
        share = self.knobs.silent_reload_share
        due = int(self._reloads * share) > int(before * share)
        quiet = not any(self.stats.in_flight.values())
        if not due or not quiet or self._server is None or self._runner is None:
            yield
            return
        self._backlog = self._server.sockets[0].dup()
        self._server.close()
        self._server = None
        assert self._runner.server is not None
        held = [c.transport for c in self._runner.server.connections if c.transport is not None]
        for transport in held:
            transport.pause_reading()
        try:
            yield
        finally:
            for transport in held:
                if not transport.is_closing():
                    transport.resume_reading()
            backlog, self._backlog = self._backlog, None
            if backlog is not None:
                self.leave(self._accept_from(backlog))

    async def _accept_from(self, backlog: socket.socket) -> None:
        assert self._runner is not None
        assert self._runner.server is not None
        self._server = await asyncio.get_running_loop().create_server(
            self._accepting(self._runner.server), sock=backlog, backlog=BACKLOG
        )

    async def set(self, **knobs: object) -> None:
        """Turn knobs by name; the one way that also opens or closes the port.

        Raises:
            ValueError: An unknown knob, or a value of the wrong type.
        """
        self.knobs.update(knobs)
        if self.knobs.refuse_s > 0:
            self.close_port()
            self.leave(self._reopen(self.knobs.refuse_s))
            self.knobs.refuse_s = 0.0
        elif "refuse" in knobs:
            if self.knobs.refuse:
                self.close_port()
            else:
                await self.open_port()

    async def _reopen(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self.open_port()

    def leave(self, work: Coroutine[Any, Any, object]) -> None:
        """Run `work` as the node's own, and ask no more about it."""
        self._spawn(work).add_done_callback(_log_failure)

    async def see_through(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`, which goes on even if the caller is cancelled; raises what it raises."""
        done = await asyncio.shield(self._spawn(work))
        if isinstance(done, Failure):
            raise done.error
        return done

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T | Failure]:
        if self._tasks is None:
            work.close()
            raise ConnectionResetError("the node has stopped")
        task = self._tasks.create_task(_guarded(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        # Cancelled before its first step, the task would never have begun `work`.
        task.add_done_callback(lambda _: work.close())
        return task

    async def seat_for(self, name: str) -> Seat:
        """The seat that serves requests for `name`, after loading the model if need be.

        Raises:
            RefusalError: See `Residency.named`, `ready` and `loaded_by_request`.
        """
        model = self.residency.named(name)
        self.stats.requests[model] += 1
        seat = self.residency.ready(model)
        if seat is None:
            answer = await self.see_through(self.residency.reload(model))
            seat = self.residency.loaded_by_request(model, answer)
        return seat

    def new_id(self, prefix: str) -> str:
        """A unique id such as `resp_<32 hex digits>`."""
        return f"{prefix}{uuid.uuid4().hex}"
