"""Every metric, in one place. Label values come from the configuration and discovered models only."""

from collections.abc import Callable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cortex.core.health import NodeHealth
from cortex.core.ids import ModelId, NodeName
from cortex.core.records import EventKind, FleetEvent, RequestRecord
from cortex.core.snapshot import FleetSnapshot, NodeView
from cortex.telemetry.families import Counters, Histograms, Series

UNKNOWN = "unknown"
OTHER = "other"
MAX_PAIRS = 1000
"""Of (model, node) with series of their own; a model beyond that counts as `other`. A node that
lists other models at every poll could make them without end, for counters are never forgotten.
"""
ROOM = "room"
LOOPS = ("defrag", "job", "keeper", "poll", "reload", "store", "watchdog")
"""What may meet a bug and go on."""
MIB = 1024 * 1024

_DURATION_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_TTFT_S = (
    0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5,
    5, 10, 20, 30, 60, 120, 180, 300, 600, 900,
)  # fmt: skip
_QUEUE_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKENS_PER_S = (1, 2, 5, 10, 15, 20, 30, 40, 60, 80, 100, 150, 200, 300, 500)
_LOAD_S = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 180, 300, 600, 1200, 1800)
_GUESS_ERROR = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 1, 2, 5)
_POLL_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

_LOADING = {EventKind.LOAD, EventKind.LOAD_FAILED}
"""A load that has begun shows how many have failed so far: none, the first time."""

# `_created` series double the scrape for nothing.
disable_created_metrics()  # type: ignore[no-untyped-call]


class _Place:
    """What is counted at one (route, model, node), looked up once."""

    __slots__ = ("_at", "_metrics", "cached", "completion", "duration", "outcomes", "prompt",
                 "queue", "rate", "ttft")  # fmt: skip

    def __init__(self, metrics: "Metrics", route: str, model: str, node: str) -> None:
        self._metrics = metrics
        self._at = (route, model, node)
        self.duration = metrics.duration_s.distribution(route, model, node)
        self.ttft = metrics.ttft_s.distribution(route, model, node)
        self.rate = metrics.tokens_per_s.distribution(model, node)
        self.queue = metrics.queue_s.distribution(model)
        self.outcomes: dict[str, Series] = {}
        # A series that exists shows as 0, and unreported is not 0: made when there is something.
        self.prompt: Series | None = None
        self.cached: Series | None = None
        self.completion: Series | None = None

    def count(self, record: RequestRecord) -> None:
        outcome = record.outcome
        series = self.outcomes.get(outcome)
        if series is None:
            series = self.outcomes[outcome] = self._metrics.requests.series(
                *self._at, outcome.value
            )
        series.value += 1
        self.duration.observe(record.duration_ms / 1000)
        if record.ttft_ms is not None:
            self.ttft.observe(record.ttft_ms / 1000)
        if record.tokens_per_s is not None:
            self.rate.observe(record.tokens_per_s)
        # What was refused before it asked for a slot did not wait for one.
        if record.attempts or record.queue_ms:
            self.queue.observe(record.queue_ms / 1000)
        if record.prompt_tokens is not None:
            self.prompt = self.prompt or self._metrics.prompt_tokens.series(*self._at[1:])
            self.prompt.value += record.prompt_tokens
        if record.completion_tokens is not None:
            self.completion = self.completion or self._metrics.completion_tokens.series(
                *self._at[1:]
            )
            self.completion.value += record.completion_tokens
        if record.cached_tokens is not None:
            self.cached = self.cached or self._metrics.cached_tokens.series(*self._at[1:])
            self.cached.value += record.cached_tokens


class Metrics:
    """Counters and histograms that requests and events feed; gauges are read at scrape time."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        place = ("route", "model", "node")
        self.requests = Counters("cortex_requests", "Finished requests.", (*place, "outcome"))
        self.duration_s = Histograms(
            "cortex_request_duration_seconds",
            "From arrival to the last byte.",
            place,
            _DURATION_S,
        )
        self.ttft_s = Histograms(
            "cortex_time_to_first_token_seconds",
            "From arrival to the first real byte.",
            place,
            _TTFT_S,
        )
        self.queue_s = Histograms(
            "cortex_queue_wait_seconds",
            "Wait for a slot; waits for loads are not in it where the request was served.",
            ("model",),
            _QUEUE_S,
        )
        self.tokens_per_s = Histograms(
            "cortex_tokens_per_second",
            "Completion tokens over the time they streamed.",
            ("model", "node"),
            _TOKENS_PER_S,
        )
        reported, at = "As nodes report them.", ("model", "node")
        self.prompt_tokens = Counters("cortex_prompt_tokens", reported, at)
        self.completion_tokens = Counters("cortex_completion_tokens", reported, at)
        self.cached_tokens = Counters("cortex_cached_prompt_tokens", reported, at)
        for family in (
            self.requests,
            self.duration_s,
            self.ttft_s,
            self.queue_s,
            self.tokens_per_s,
            self.prompt_tokens,
            self.completion_tokens,
            self.cached_tokens,
        ):
            registry.register(family)
        self.errors = Counter(
            "cortex_request_errors", "Failed requests by code.", ("code",), registry=registry
        )
        self.cold_starts = Counter(
            "cortex_cold_starts",
            "Requests that waited for a load.",
            ("model", "node"),
            registry=registry,
        )
        self.cold_wait_s = Histogram(
            "cortex_cold_wait_seconds",
            "What those requests waited for loads.",
            ("model",),
            buckets=_LOAD_S,
            registry=registry,
        )
        self.retries = Counter(
            "cortex_retries", "Tries beyond the first.", ("node",), registry=registry
        )
        self.evictions = Counter(
            "cortex_evictions", "Models unloaded to make room.", ("reason",), registry=registry
        )
        # A counter that is first seen as 1 has not grown, as far as Prometheus can tell.
        self.evictions.labels(ROOM)
        self.load_s = Histogram(
            "cortex_model_load_seconds",
            "Loads that cortex began, and that ended with a model.",
            ("model", "node"),
            buckets=_LOAD_S,
            registry=registry,
        )
        self.load_spent_s = Counter(
            "cortex_load_seconds",
            "Time that nodes spent on loads that cortex began, failed ones included.",
            ("model", "node"),
            registry=registry,
        )
        self.guess_error = Histogram(
            "cortex_model_size_guess_error_ratio",
            "By how much what a model was guessed to take was off, as a share of what it took.",
            buckets=_GUESS_ERROR,
            registry=registry,
        )
        self.load_failures = Counter(
            "cortex_model_load_failures", "Failed loads.", ("model", "node"), registry=registry
        )
        self.events = Counter(
            "cortex_events", "Changes of the fleet.", ("kind",), registry=registry
        )
        self.internal_errors = Counter(
            "cortex_internal_errors",
            "Bugs that were met and survived.",
            ("loop",),
            registry=registry,
        )
        # As for evictions.
        for loop in LOOPS:
            self.internal_errors.labels(loop)
        self.polls = Histogram(
            "cortex_poll_duration_seconds",
            "Polls of nodes.",
            ("node", "outcome"),
            buckets=_POLL_S,
            registry=registry,
        )
        self._places: dict[tuple[str, str | None, str | None], _Place] = {}
        self._pairs: set[tuple[str, str]] = set()

    def request_done(self, record: RequestRecord) -> None:
        """Count one finished request."""
        key = (record.route, record.model, record.node)
        place = self._places.get(key) or self._place_of(record)
        place.count(record)
        if record.error_code is not None or record.cold_start or record.attempts > 1:
            self._rarer(record)

    def _place_of(self, record: RequestRecord) -> _Place:
        """That of the first request of its kind, or of one model too many."""
        model, node = self._pair(record.model, record.node)
        # Under the labels, so that models too many share one place.
        place = self._places.get((record.route, model, node))
        if place is None:
            place = _Place(self, record.route, model, node)
            self._places[record.route, model, node] = place
        if model != OTHER:
            self._places[record.route, record.model, record.node] = place
        return place

    def _pair(self, model: str | None, node: str | None) -> tuple[str, str]:
        """The labels of a model on a node."""
        pair = (model or UNKNOWN, node or UNKNOWN)
        if pair not in self._pairs:
            if len(self._pairs) >= MAX_PAIRS:
                return OTHER, pair[1]
            self._pairs.add(pair)
        return pair

    def _rarer(self, record: RequestRecord) -> None:
        if record.error_code is not None:
            self.errors.labels(record.error_code).inc()
        if record.cold_start:
            model, node = self._pair(record.model, record.node)
            self.cold_starts.labels(model, node).inc()
            self.cold_wait_s.labels(model).observe(record.load_wait_ms / 1000)
        if record.attempts > 1:
            self.retries.labels(record.node or UNKNOWN).inc(record.attempts - 1)

    def event(self, event: FleetEvent) -> None:
        self.events.labels(event.kind.value).inc()
        if event.kind is EventKind.EVICT:
            self.evictions.labels(str(event.detail.get("cause", ROOM))).inc()
        elif event.kind in _LOADING and event.model and event.node:
            failed = event.kind is EventKind.LOAD_FAILED
            self.load_failures.labels(*self._pair(event.model, event.node)).inc(failed)

        elif event.kind is EventKind.SIZED:
            guess_mib, taken_mib = event.detail.get("guess_mib"), event.detail.get("taken_mib")
            if isinstance(guess_mib, int) and isinstance(taken_mib, int) and taken_mib:
                self.guess_error.observe(abs(guess_mib - taken_mib) / taken_mib)

    def internal_error(self, loop: str) -> None:
        self.internal_errors.labels(loop).inc()

    def load_ended(self, node: NodeName, model: ModelId, spent_s: float, *, ok: bool) -> None:
        pair = self._pair(model, node)
        self.load_spent_s.labels(*pair).inc(spent_s)
        if ok:
            self.load_s.labels(*pair).observe(spent_s)

    def polled(self, name: NodeName, *, ok: bool, duration_s: float) -> None:
        self.polls.labels(name, "ok" if ok else "failed").observe(duration_s)


class FleetCollector(Collector):
    """Gauges computed from a snapshot when they are scraped, so that none can go stale."""

    def __init__(
        self,
        snapshot: Callable[[], FleetSnapshot],
        *,
        queue_depths: Callable[[], dict[ModelId, int]],
        queue_oldest_s: Callable[[], dict[ModelId, float]],
        why_due: Callable[[NodeView], str | None],
        store_ok: Callable[[], tuple[bool, int, int]],
    ) -> None:
        self._snapshot = snapshot
        self._queue_depths = queue_depths
        self._queue_oldest_s = queue_oldest_s
        self._why_due = why_due
        self._store_ok = store_ok

    def collect(self) -> Iterator[Metric]:
        yield from self._nodes()
        yield from self._models()
        depth = GaugeMetricFamily("cortex_queue_depth", "Requests waiting.", labels=["model"])
        for model, waiting in self._queue_depths().items():
            depth.add_metric([model], waiting)
        yield depth
        oldest = GaugeMetricFamily(
            "cortex_queue_oldest_seconds",
            "For how long the request has waited that has waited longest; 0 = none waits.",
            labels=["model"],
        )
        for model, waited_s in self._queue_oldest_s().items():
            oldest.add_metric([model], waited_s)
        yield oldest
        ok, queued, dropped = self._store_ok()
        yield GaugeMetricFamily(
            "cortex_store_ok", "1 while SQLite takes writes.", value=int(ok)
        )
        yield GaugeMetricFamily(
            "cortex_store_queued_rows", "Rows not yet written.", value=queued
        )
        yield GaugeMetricFamily("cortex_store_dropped_rows", "Rows given up.", value=dropped)

    def _nodes(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("cortex_node_up", "1 while it answers polls.", labels=["node"])
        draining = GaugeMetricFamily(
            "cortex_node_draining", "1 while draining.", labels=["node"]
        )
        cycles = GaugeMetricFamily(
            "cortex_defrag_cycles", "Unload cycles since the node's restart.", labels=["node"]
        )
        due = GaugeMetricFamily(
            "cortex_defrag_due", "1 when a restart is due.", labels=["node"]
        )
        used = GaugeMetricFamily(
            "cortex_device_vram_used_bytes", "Device memory.", labels=["node"]
        )
        free = GaugeMetricFamily(
            "cortex_device_vram_free_bytes", "Device memory.", labels=["node"]
        )
        for node in self._snapshot().nodes.values():
            up.add_metric([node.name], node.liveness.health is NodeHealth.UP)
            draining.add_metric([node.name], node.draining)
            cycles.add_metric([node.name], node.cycles)
            due.add_metric([node.name], self._why_due(node) is not None)
            if node.free_mib is not None:
                free.add_metric([node.name], node.free_mib * MIB)
                if node.vram_total_mib is not None:
                    used.add_metric([node.name], (node.vram_total_mib - node.free_mib) * MIB)
        yield from (up, draining, cycles, due, used, free)

    def _models(self) -> Iterator[Metric]:
        labels = ["node", "model"]
        resident = GaugeMetricFamily("cortex_model_resident", "1 while loaded.", labels=labels)
        pinned = GaugeMetricFamily("cortex_model_pinned", "1 while pinned.", labels=labels)
        absent = GaugeMetricFamily(
            "cortex_pin_absent",
            "1 while a pinned model is not where it is wanted.",
            labels=labels,
        )
        wedged = GaugeMetricFamily(
            "cortex_model_wedged",
            "1 while it cannot be loaded again before its node is restarted.",
            labels=labels,
        )
        in_flight = GaugeMetricFamily("cortex_in_flight", "Leases held.", labels=labels)
        snapshot = self._snapshot()
        for node in snapshot.nodes.values():
            for model in node.models.values():
                if model.pinned:
                    absent.add_metric([node.name, model.id], snapshot.pin_absent(model))
                resident.add_metric([node.name, model.id], model.resident)
                pinned.add_metric([node.name, model.id], model.pinned)
                wedged.add_metric([node.name, model.id], model.wedged and not model.phantom)
                in_flight.add_metric([node.name, model.id], model.in_flight)
        yield from (resident, pinned, absent, wedged, in_flight)
