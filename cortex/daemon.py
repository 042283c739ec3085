"""Composition root: builds everything, owns the TaskGroup, signals and the drain."""

import asyncio
import contextlib
import faulthandler
import gc
import logging
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from cortex import __version__, process
from cortex.config.load import find, load, state_path
from cortex.config.schema import Config
from cortex.core.errors import CapacityError, ConfigError, StoreError
from cortex.core.health import NodeHealth
from cortex.core.ids import NodeName
from cortex.core.quota import Day
from cortex.core.records import EventKind, FleetEvent
from cortex.fleet.fleet import Fleet
from cortex.fleet.ports import Ports
from cortex.fleet.waits import WAITS, Waits
from cortex.gateway.app import make_app, make_metrics_app
from cortex.gateway.exposure import public_among, warnings_of
from cortex.gateway.listen import Listener, ListenError, listen
from cortex.gateway.quotas import Quotas
from cortex.gateway.recent import Recent
from cortex.gateway.services import Services
from cortex.gateway.tls import Certificate
from cortex.gateway.tokens import TokenCounts
from cortex.node.client import NodeClient
from cortex.policies import anthropic_nodes, fleet_policy, needs_restart
from cortex.prepared import Prepared, prepare, tracing_of
from cortex.store.store import Store
from cortex.telemetry import logs, sdnotify
from cortex.telemetry.access import KeyMetrics, show_expiry
from cortex.telemetry.build import show_build
from cortex.telemetry.clock import SystemClock
from cortex.telemetry.loop import LoopCollector
from cortex.telemetry.metrics import FleetCollector, Metrics
from cortex.telemetry.requests import RequestLines

log = logging.getLogger("cortex.daemon")

EX_CONFIG = 78
EX_OSERR = 71
STDERR = 2
CUT_TIMEOUT_S = 2.0
"""What streams that outlast the drain get to tell their clients that they are cut."""
KEEP_TIMEOUT_S = 3.0
"""What the store gets for the last state of the fleet."""
END_S = 10.0
"""What there is to do after the drain takes no longer."""
GC_THRESHOLDS = 10_000, 20, 20
"""New objects until a collection of the youngest, and of the older ones every so many of those."""
STATUS_EVERY_S = 2.0
"""How old the line in `systemctl status` may be."""


def run(path: Path | None, environ: Mapping[str, str]) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    # The watchdog ends a stuck process by SIGABRT: the log then has the line it was stuck at.
    faulthandler.enable(STDERR)
    try:
        logs.configure(environ)
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
        logs.complain([f"cannot serve: {group.exceptions[0]}"])
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
        # What is long is for the database: a line of the log is to be read.
        short = {key: value for key, value in event.detail.items() if not _is_long(value)}
        fields = {"node": event.node, "model": event.model, "reason": event.reason, **short}
        quiet = {EventKind.NODE_DOWN, EventKind.LOAD_FAILED, EventKind.WEDGED}
        level = logging.WARNING if event.kind in quiet else logging.INFO
        log.log(level, event.kind.value, extra={"fields": fields})


class Daemon:
    """One running gateway."""

    def __init__(
        self,
        source: Path,
        config: Config,
        environ: Mapping[str, str],
        waits: Waits = WAITS,
    ) -> None:
        self._source = source
        self._environ = environ
        self._config = config
        self._waits = waits
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
            if (tracing := self._services.tracing) is not None:
                stack.push_async_callback(asyncio.to_thread, tracing.close)
            async with asyncio.TaskGroup() as self._group:
                self._loop("store", store.run)
                self._fleet.run(self._group)
                # First of all: whoever is answered may also end this process at once.
                self._hear_signals()
                await self._listen(stack)
                self._journal.record(self._configured(EventKind.START, f"cortex {__version__}"))
                self._loop("watchdog", self._feed_watchdog)
                sdnotify.notify("READY=1", self._status())
                # What a start makes lives as long as the process: no collection looks at it again.
                gc.freeze()
                # A request leaves no cycles behind, so that there is next to nothing to collect.
                gc.set_threshold(*GC_THRESHOLDS)
                gc.enable()
                await self._stop.wait()
                await self._drain()

    def stop(self) -> None:
        """Begin the drain, after which `serve` returns."""
        self._stop.set()

    def _loop(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run for as long as the process serves."""
        kept = self._fleet.guard.keep(name, work)
        self._loops.append(self._group.create_task(kept, name=name))

    async def _build(self, store: Store) -> None:
        self._store = store
        self._journal = Journal(self._metrics, store)
        start = prepare(self._config, {})
        self._clients.update(start.clients)
        self._fleet = fleet = Fleet(
            fleet_policy(self._config),
            self._clients,
            Ports(
                clock=self._clock,
                journal=self._journal,
                store=store,
                watcher=self._metrics,
                waits=self._waits,
            ),
            await store.recall(),
        )
        quotas = Quotas(self._clock, KeyMetrics(self._metrics.registry))
        await self._recall_usage(store, quotas)
        self._services = Services(
            config=self._config,
            keyring=start.keyring,
            agent_token=start.agent_token,
            fleet=fleet,
            nodes=self._clients,
            ledger=store,
            metrics=self._metrics,
            recent=Recent(),
            lines=RequestLines(self._clock),
            tokens=TokenCounts(),
            quotas=quotas,
            anthropic_nodes=anthropic_nodes(self._config),
            started_at_ms=self._clock.now_ms(),
            started_s=self._clock.now_s(),
            tracing=tracing_of(self._config),
        )
        fleet.when_down.append(self._services.recent.leave)
        fleet.when_renamed.append(self._services.recent.renamed)
        if start.pair is not None:
            self._services.certificate = shown = Certificate(start.pair)
            show_expiry(self._metrics.registry, lambda: shown.expires_at_s)
        self._metrics.registry.register(
            FleetCollector(
                fleet.snapshot,
                queue_depths=fleet.depths,
                queue_oldest_s=fleet.oldest_s,
                why_due=fleet.why_due,
                store_ok=self._store_figures,
            )
        )
        self._metrics.registry.register(LoopCollector())
        show_build(self._metrics.registry)

    async def _recall_usage(self, store: Store, quotas: Quotas) -> None:
        """What keys have used of this day, where it matters: a busy day takes a moment to read."""
        names = {key.name for key in self._config.auth.keys}
        if any(key.tokens_per_day is not None for key in self._config.auth.keys):
            today = Day().at(self._clock.now_ms())
            used = await store.tokens_since(today.began_ms)
            quotas.remember(today, {name: used[name] for name in used if name in names})

    def _store_figures(self) -> tuple[bool, int, int]:
        status = self._store.status()
        return status.ok, status.queued_rows, status.dropped_rows

    async def _listen(self, stack: contextlib.AsyncExitStack) -> None:
        """Open every address, the API's last: once it answers, nothing of the start can fail."""
        process.warn_of_few_files(self._config)
        given = sdnotify.listen_sockets()
        metrics_socket = given.pop("metrics", None)
        api_socket = next(iter(given.values()), None)
        addresses, services = self._config.gateway, self._services
        public = make_app(services)
        if addresses.metrics_listen is not None:
            metrics = make_metrics_app(self._metrics, services)
            self._opened(await listen(metrics, addresses.metrics_listen, metrics_socket), stack)
        listener = await listen(public, addresses.listen, api_socket, services)
        self._opened(listener, stack)
        services.public_address = public_among(listener.addresses)
        self._warn()

    def _opened(self, listener: Listener, stack: contextlib.AsyncExitStack) -> None:
        stack.push_async_callback(listener.close)
        self._listeners.append(listener)

    def _warn(self) -> None:
        for warning in warnings_of(self._services):
            log.warning(warning)

    def _hear_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        # Blocked until now, so that one that came early was kept.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    def _reload(self) -> None:
        """Read everything anew and take it over in one go; what cannot be read changes nothing."""
        sdnotify.reloading()
        status = ""
        try:
            self._take_over(prepare(load(self._source, self._environ), self._clients))
        except ConfigError as exc:
            log.warning("reload refused", extra={"fields": {"mistakes": exc.lines}})
            status = f"Reload refused: {exc.lines[0]}"
            self._journal.record(
                self._event(EventKind.CONFIG, "reload refused: " + exc.lines[0])
            )
        except Exception as exc:  # noqa: BLE001 - what serves goes on serving
            self._fleet.guard.met("reload", exc)
            status = "Reload failed, see the log"
        finally:
            # The manager waits for it, whatever came of the reload.
            sdnotify.notify("READY=1", f"STATUS={status}" if status else self._status())

    def _take_over(self, fresh: Prepared) -> None:
        """Swap everything, with no await in between."""
        fixed = needs_restart(self._config, fresh.config)
        services = self._services
        self._config = services.config = fresh.config
        services.keyring = fresh.keyring
        services.agent_token = fresh.agent_token
        services.anthropic_nodes = anthropic_nodes(fresh.config)
        if services.certificate is not None and fresh.pair is not None:
            services.certificate.renew(fresh.pair)
        for name, client in fresh.clients.items():
            old = self._clients.get(name)
            if old is not None and old is not client:
                # Streams may still run on it, so it stays open until the end.
                self._retired.append(old)
            self._clients[name] = client
        self._fleet.apply(fleet_policy(fresh.config))
        self._journal.record(
            self._configured(EventKind.CONFIG, "reloaded", needs_restart=fixed)
        )
        self._warn()

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
        self._fleet.close("this gateway is shutting down")
        self._journal.record(self._event(EventKind.STOP, "told to stop", in_flight=running))
        if not await services.recent.idle_within(limits.drain_timeout_s):
            log.warning("cut", extra={"fields": {"in_flight": services.recent.in_flight}})
            services.recent.cut(CapacityError("this gateway is shutting down", code="draining"))
            await services.recent.idle_within(CUT_TIMEOUT_S)
        for listener in self._listeners:
            await listener.close()
        self._fleet.stop()
        await self._keep()
        for task in self._loops:
            task.cancel()

    async def _keep(self) -> None:
        """Have the store keep the fleet as it is; one that takes nothing must not hold up the end."""
        try:
            async with asyncio.timeout(KEEP_TIMEOUT_S):
                await self._fleet.keep()
        except (StoreError, TimeoutError) as exc:
            log.warning("not saved", extra={"fields": {"reason": str(exc) or "not in time"}})

    async def _feed_watchdog(self) -> None:
        """Tell systemd that the loop turns and polls; a stuck one cannot, and is restarted."""
        interval_s = sdnotify.watchdog_interval_s()
        while interval_s is not None:
            if stuck := self._fleet.overdue():
                log.error("polling stands still", extra={"fields": {"nodes": stuck}})
                sdnotify.notify(f"STATUS=Polling stands still: {', '.join(stuck)}")
            else:
                sdnotify.notify("WATCHDOG=1", self._status())
            await asyncio.sleep(min(interval_s, STATUS_EVERY_S))

    def _status(self) -> str:
        """One line for `systemctl status`."""
        nodes = self._fleet.snapshot().nodes.values()
        up = sum(node.liveness.health is NodeHealth.UP for node in nodes)
        running = self._services.recent.in_flight
        return f"STATUS={up} of {len(nodes)} nodes up, {running} requests in flight"

    async def _close_clients(self) -> None:
        for client in (*self._clients.values(), *self._retired):
            await client.close()

    def _configured(self, kind: EventKind, reason: str, **detail: object) -> FleetEvent:
        """An event from which on the fleet is configured as it is now."""
        return self._event(kind, reason, **detail, **self._fleet.described())

    def _event(self, kind: EventKind, reason: str, **detail: object) -> FleetEvent:
        return FleetEvent(at_ms=self._clock.now_ms(), kind=kind, reason=reason, detail=detail)


def _is_long(value: object) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(entry, dict) for entry in value)
    )


def _refuse(error: Exception) -> int:
    logs.complain(str(error).splitlines())
    return EX_CONFIG
