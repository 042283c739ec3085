"""Composition root: builds everything, owns the TaskGroup, signals and the drain."""

import asyncio
import contextlib
import faulthandler
import gc
import logging
import signal
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path

from cortex import __version__, process
from cortex.config.certificates import read_pair
from cortex.config.load import find, load, state_path
from cortex.config.schema import Config
from cortex.core.errors import CapacityError, ConfigError
from cortex.core.health import NodeHealth
from cortex.core.ids import NodeName
from cortex.core.records import EventKind, FleetEvent
from cortex.fleet.admission import Admission
from cortex.fleet.affinity import Affinity
from cortex.fleet.agents import Agents
from cortex.fleet.defrag import Defrag
from cortex.fleet.keeper import Keeper
from cortex.fleet.lifecycle import Lifecycle
from cortex.fleet.observations import Observations
from cortex.fleet.operations import Operations
from cortex.fleet.poller import Poller
from cortex.fleet.state import FleetState
from cortex.gateway.app import make_app, make_metrics_app
from cortex.gateway.auth import Keyring
from cortex.gateway.exposure import public_among, warnings_of
from cortex.gateway.listen import Listener, ListenError, listen
from cortex.gateway.quotas import Quotas
from cortex.gateway.recent import Recent
from cortex.gateway.services import Services
from cortex.gateway.tls import Certificate
from cortex.gateway.tokens import TokenCounts
from cortex.node.client import NodeClient
from cortex.policies import (
    agent_token,
    anthropic_nodes,
    fleet_policy,
    lifecycle_policy,
    needs_restart,
    poll_policy,
    queue_policy,
)
from cortex.store.store import Store
from cortex.telemetry import logs, sdnotify
from cortex.telemetry.access import KeyMetrics, show_expiry
from cortex.telemetry.clock import SystemClock
from cortex.telemetry.loop import LoopCollector
from cortex.telemetry.metrics import FleetCollector, Metrics

log = logging.getLogger("cortex.daemon")

EX_CONFIG = 78
EX_OSERR = 71
STDERR = 2
CUT_TIMEOUT_S = 2.0
"""What streams that outlast the drain get to tell their clients that they are cut."""
END_S = 10.0
"""What there is to do after the drain takes no longer."""
STATUS_EVERY_S = 2.0
"""How old the line in `systemctl status` may be."""


def run(path: Path | None, environ: Mapping[str, str]) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    # The watchdog ends a stuck process by SIGABRT: the log then has the line it was stuck at.
    faulthandler.enable(STDERR)
    logs.configure(environ.get("CORTEX_LOG_LEVEL", "INFO"))
    try:
        source = find(path, environ)
        config = load(source, environ)
    except ConfigError as exc:
        return _refuse(exc)
    process.raise_file_limit()
    code = 0
    try:
        with asyncio.Runner(loop_factory=process.loop_factory()) as runner:
            runner.run(Daemon(source, config, environ).serve())
    except* ConfigError as group:
        code = _refuse(group.exceptions[0])
    except* ListenError as group:
        print(f"cortex: cannot serve: {group.exceptions[0]}", file=sys.stderr)  # noqa: T201
        code = EX_OSERR
    return code


class Journal:
    """Events go to the log, the metrics and the store at the moment they are committed."""

    def __init__(self, metrics: Metrics, store: Store) -> None:
        self._metrics = metrics
        self._store = store

    def record(self, event: FleetEvent) -> None:
        self._metrics.event(event)
        self._store.record(event)
        fields = {
            "node": event.node,
            "model": event.model,
            "reason": event.reason,
            **event.detail,
        }
        quiet = {EventKind.NODE_DOWN, EventKind.LOAD_FAILED, EventKind.WEDGED}
        level = logging.WARNING if event.kind in quiet else logging.INFO
        log.log(level, event.kind.value, extra={"fields": fields})


class Daemon:
    """One running gateway."""

    def __init__(self, source: Path, config: Config, environ: Mapping[str, str]) -> None:
        self._source = source
        self._environ = environ
        self._config = config
        self._clock = SystemClock()
        self._metrics = Metrics()
        self._clients: dict[NodeName, NodeClient] = {}
        self._retired: list[NodeClient] = []
        self._stop = asyncio.Event()
        self._group: asyncio.TaskGroup
        self._loops: list[asyncio.Task[None]] = []
        self._listeners: list[Listener] = []

    async def serve(self) -> None:
        """Start, serve until told to stop, drain, and put everything away."""
        store = await Store.open(
            state_path(self._config, self._environ),
            retention_days=self._config.state.request_retention_days,
            clock=self._clock,
        )
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(store.close)
            stack.push_async_callback(self._close_clients)
            await self._build(store)
            async with asyncio.TaskGroup() as self._group:
                self._services.lifecycle.start(self._group)
                self._loop("store", store.run())
                self._loop("keeper", self._keeper.run())
                self._loop("defrag", self._services.defrag.run())
                self._follow_nodes()
                # First of all: whoever is answered may also end this process at once.
                self._hear_signals()
                await self._listen(stack)
                self._journal.record(self._event(EventKind.START, f"cortex {__version__}"))
                self._loop("watchdog", self._feed_watchdog())
                sdnotify.notify("READY=1", self._status())
                # What a start makes lives as long as the process: no collection looks at it again.
                gc.freeze()
                gc.enable()
                await self._stop.wait()
                await self._drain()

    def stop(self) -> None:
        """Begin the drain, after which `serve` returns."""
        self._stop.set()

    def _loop(self, name: str, work: Coroutine[object, object, None]) -> None:
        """Run for as long as the process serves."""
        self._loops.append(self._group.create_task(work, name=name))

    async def _build(self, store: Store) -> None:
        self._store = store
        self._journal = Journal(self._metrics, store)
        state = FleetState(
            fleet_policy(self._config),
            clock=self._clock,
            journal=self._journal,
            memory=await store.recall(),
        )
        lifecycle = Lifecycle(
            state,
            memory=store,
            policy=lifecycle_policy(self._config),
            client_of=lambda name: self._clients[name],
            loaded=self._metrics.loaded,
        )
        admission = Admission(
            state,
            policy=queue_policy(self._config),
            begin_load=lifecycle.load,
            nobody_waits=lifecycle.withdraw,
        )
        poller = Poller(
            state,
            memory=store,
            clock=self._clock,
            policy=poll_policy(self._config),
            observed=self._metrics.polled,
        )
        agents = Agents(state)
        self._keeper = Keeper(state, admission, lifecycle)
        self._services = Services(
            config=self._config,
            keyring=Keyring(self._config.auth.keys),
            agent_token=agent_token(self._config),
            state=state,
            observations=Observations(state),
            lifecycle=lifecycle,
            admission=admission,
            operations=Operations(state, admission, lifecycle),
            agents=agents,
            defrag=Defrag(
                state,
                admission=admission,
                lifecycle=lifecycle,
                agents=agents,
                client_of=lambda name: self._clients[name],
                kick=poller.kick,
            ),
            affinity=Affinity(),
            poller=poller,
            nodes=self._clients,
            ledger=store,
            metrics=self._metrics,
            recent=Recent(),
            tokens=TokenCounts(),
            quotas=Quotas(self._clock, KeyMetrics(self._metrics.registry)),
            anthropic_nodes=anthropic_nodes(self._config),
            started_at_ms=self._clock.now_ms(),
            started_s=self._clock.now_s(),
        )
        state.when_down.append(self._services.recent.leave)
        self._metrics.registry.register(
            FleetCollector(
                state.snapshot,
                queue_depths=admission.depths,
                why_due=self._services.defrag.why_due,
                store_ok=self._store_figures,
            )
        )
        self._metrics.registry.register(LoopCollector())

    def _store_figures(self) -> tuple[bool, int, int]:
        status = self._store.status()
        return status.ok, status.queued_rows, status.dropped_rows

    def _follow_nodes(self) -> None:
        """Have a client and a polling loop for exactly the configured nodes."""
        configured = {NodeName(node.name): node for node in self._config.nodes}
        for name, node in configured.items():
            client = self._clients.get(name)
            if client is not None and client.endpoint == node.endpoint:
                continue
            if client is not None:
                # Streams may still run on it, so it stays open until the end.
                self._retired.append(client)
            key = node.api_key_file.read_text().strip() if node.api_key_file else None
            self._clients[name] = NodeClient(
                name,
                node.endpoint,
                connect_timeout_s=self._config.limits.connect_timeout_s,
                api_key=key,
            )
        followed = {name: self._clients[name] for name in configured}
        self._services.poller.follow(self._group, followed)

    async def _listen(self, stack: contextlib.AsyncExitStack) -> None:
        given = sdnotify.listen_sockets()
        metrics_socket = given.pop("metrics", None)
        api_socket = next(iter(given.values()), None)
        services = self._services
        pair = read_pair(self._config.tls)
        if pair is not None:
            services.certificate = shown = Certificate(pair)
            show_expiry(self._metrics.registry, lambda: shown.expires_at_s)
        public = make_app(services)
        address = self._config.gateway.listen
        listener = await listen(public, address, api_socket, services)
        stack.push_async_callback(listener.close)
        self._listeners.append(listener)
        services.public_address = public_among(listener.addresses)
        if self._config.gateway.metrics_listen is not None:
            metrics = make_metrics_app(self._metrics)
            address = self._config.gateway.metrics_listen
            listener = await listen(metrics, address, metrics_socket)
            stack.push_async_callback(listener.close)
            self._listeners.append(listener)
        process.warn_of_few_files(self._config)
        self._warn()

    def _warn(self) -> None:
        for warning in warnings_of(self._services):
            log.warning(warning)

    def _hear_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _reload(self) -> None:
        """Apply the file as a diff; a bad one changes nothing."""
        sdnotify.reloading()
        try:
            fresh = load(self._source, self._environ)
            pair, token = read_pair(fresh.tls), agent_token(fresh)
        except ConfigError as exc:
            log.warning("reload refused", extra={"fields": {"mistakes": exc.lines}})
            self._journal.record(
                self._event(EventKind.CONFIG, "reload refused: " + exc.lines[0])
            )
            sdnotify.notify("READY=1", f"STATUS=Reload refused: {exc.lines[0]}")
            return
        fixed = needs_restart(self._config, fresh)
        self._config = fresh
        services = self._services
        services.config = fresh
        services.keyring = Keyring(fresh.auth.keys)
        services.agent_token = token
        if services.certificate is not None and pair is not None:
            services.certificate.renew(pair)
        services.anthropic_nodes = anthropic_nodes(fresh)
        services.admission.policy = queue_policy(fresh)
        services.poller.policy = poll_policy(fresh)
        services.lifecycle.policy = lifecycle_policy(fresh)
        services.state.apply(fleet_policy(fresh))
        self._follow_nodes()
        self._journal.record(self._event(EventKind.CONFIG, "reloaded", needs_restart=fixed))
        self._warn()
        sdnotify.notify("READY=1", self._status())

    async def _drain(self) -> None:
        """Finish what runs, refuse the rest, then end every loop."""
        services, limits = self._services, self._config.limits
        running = services.recent.in_flight
        sdnotify.notify(
            "STOPPING=1",
            sdnotify.patience(limits.drain_timeout_s + END_S),
            f"STATUS=Finishing {running} running requests",
        )
        services.draining = True
        services.admission.close("this gateway is shutting down")
        self._journal.record(self._event(EventKind.STOP, "told to stop", in_flight=running))
        if not await services.recent.idle_within(limits.drain_timeout_s):
            log.warning("cut", extra={"fields": {"in_flight": services.recent.in_flight}})
            services.recent.cut(CapacityError("this gateway is shutting down", code="draining"))
            await services.recent.idle_within(CUT_TIMEOUT_S)
        for listener in self._listeners:
            await listener.close()
        services.lifecycle.stop()
        services.poller.stop()
        for task in self._loops:
            task.cancel()

    async def _feed_watchdog(self) -> None:
        """Tell systemd that the loop turns and polls; a stuck one cannot, and is restarted."""
        interval_s = sdnotify.watchdog_interval_s()
        while interval_s is not None:
            if stuck := self._services.poller.overdue():
                log.error("polling stands still", extra={"fields": {"nodes": stuck}})
                sdnotify.notify(f"STATUS=Polling stands still: {', '.join(stuck)}")
            else:
                sdnotify.notify("WATCHDOG=1", self._status())
            await asyncio.sleep(min(interval_s, STATUS_EVERY_S))

    def _status(self) -> str:
        """One line for `systemctl status`."""
        nodes = self._services.state.snapshot().nodes.values()
        up = sum(node.liveness.health is NodeHealth.UP for node in nodes)
        running = self._services.recent.in_flight
        return f"STATUS={up} of {len(nodes)} nodes up, {running} requests in flight"

    async def _close_clients(self) -> None:
        for client in (*self._clients.values(), *self._retired):
            await client.close()

    def _event(self, kind: EventKind, reason: str, **detail: object) -> FleetEvent:
        return FleetEvent(at_ms=self._clock.now_ms(), kind=kind, reason=reason, detail=detail)


def _refuse(error: Exception) -> int:
    for line in str(error).splitlines():
        print(f"cortex: {line}", file=sys.stderr)  # noqa: T201
    return EX_CONFIG
