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

UNKNOWN = "unknown"
MIB = 1024 * 1024

_DURATION_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_TTFT_S = (0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30, 60, 120)
_TOKENS_PER_S = (1, 2, 5, 10, 15, 20, 30, 40, 60, 80, 100, 150, 200, 400, 800)
_LOAD_S = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
_POLL_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


# `_created` series double the scrape for nothing.
disable_created_metrics()  # type: ignore[no-untyped-call]


class _PerRequest:
    """The children of one (route, model, node), looked up once."""

    __slots__ = ("duration", "rate", "ttft")

    def __init__(self, metrics: "Metrics", route: str, model: str, node: str) -> None:
        self.duration = metrics.duration_s.labels(route, model, node)
        self.ttft = metrics.ttft_s.labels(route, model, node)
        self.rate = metrics.tokens_per_s.labels(model, node)


class Metrics:
    """Counters and histograms that requests and events feed; gauges are read at scrape time."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        place = ("route", "model", "node")
        self.requests = Counter(
            "cortex_requests", "Finished requests.", (*place, "outcome"), registry=registry
        )
        self.duration_s = Histogram(
            "cortex_request_duration_seconds",
            "From arrival to the last byte.",
            place,
            buckets=_DURATION_S,
            registry=registry,
        )
        self.ttft_s = Histogram(
            "cortex_time_to_first_token_seconds",
            "From arrival to the first real byte.",
            place,
            buckets=_TTFT_S,
            registry=registry,
        )
        self.tokens_per_s = Histogram(
            "cortex_tokens_per_second",
            "Completion tokens over the time they streamed.",
            ("model", "node"),
            buckets=_TOKENS_PER_S,
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "cortex_prompt_tokens",
            "As nodes report them.",
            ("model", "node"),
            registry=registry,
        )
        self.completion_tokens = Counter(
            "cortex_completion_tokens",
            "As nodes report them.",
            ("model", "node"),
            registry=registry,
        )
        self.cached_tokens = Counter(
            "cortex_cached_prompt_tokens",
            "As nodes report them.",
            ("model", "node"),
            registry=registry,
        )
        self.errors = Counter(
            "cortex_request_errors", "Failed requests by code.", ("code",), registry=registry
        )
        self.cold_starts = Counter(
            "cortex_cold_starts",
            "Requests that waited for a load.",
            ("model", "node"),
            registry=registry,
        )
        self.retries = Counter(
            "cortex_retries", "Tries beyond the first.", ("node",), registry=registry
        )
        self.evictions = Counter(
            "cortex_evictions", "Models unloaded to make room.", ("reason",), registry=registry
        )
        self.load_s = Histogram(
            "cortex_model_load_seconds",
            "Loads that cortex began.",
            ("model", "node"),
            buckets=_LOAD_S,
            registry=registry,
        )
        self.load_failures = Counter(
            "cortex_model_load_failures", "Failed loads.", ("model", "node"), registry=registry
        )
        self.events = Counter(
            "cortex_events", "Changes of the fleet.", ("kind",), registry=registry
        )
        self.polls = Histogram(
            "cortex_poll_duration_seconds",
            "Polls of nodes.",
            ("node", "outcome"),
            buckets=_POLL_S,
            registry=registry,
        )
        self._children: dict[tuple[str, str, str], _PerRequest] = {}
        self._outcomes: dict[tuple[str, str, str, str], Counter] = {}

    def request_done(self, record: RequestRecord) -> None:
        """Count one finished request."""
        key = (record.route, record.model or UNKNOWN, record.node or UNKNOWN)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = _PerRequest(self, *key)
        outcome_key = (*key, record.outcome.value)
        counter = self._outcomes.get(outcome_key)
        if counter is None:
            counter = self._outcomes[outcome_key] = self.requests.labels(*outcome_key)
        counter.inc()
        child.duration.observe(record.duration_ms / 1000)
        if record.ttft_ms is not None:
            child.ttft.observe(record.ttft_ms / 1000)
        if record.tokens_per_s is not None:
            child.rate.observe(record.tokens_per_s)
        for counted, tokens in (
            (self.prompt_tokens, record.prompt_tokens),
            (self.completion_tokens, record.completion_tokens),
            (self.cached_tokens, record.cached_tokens),
        ):
            # Looked up only now: a child that exists shows as 0, and unreported is not 0.
            if tokens is not None:
                counted.labels(*key[1:]).inc(tokens)
        self._rarer(record)

    def _rarer(self, record: RequestRecord) -> None:
        if record.error_code is not None:
            self.errors.labels(record.error_code).inc()
        if record.cold_start:
            self.cold_starts.labels(record.model or UNKNOWN, record.node or UNKNOWN).inc()
        if record.attempts > 1:
            self.retries.labels(record.node or UNKNOWN).inc(record.attempts - 1)

    def event(self, event: FleetEvent) -> None:
        self.events.labels(event.kind.value).inc()
        if event.kind is EventKind.EVICT:
            self.evictions.labels(str(event.detail.get("cause", "room"))).inc()
        elif event.kind is EventKind.LOAD_FAILED and event.model and event.node:
            self.load_failures.labels(event.model, event.node).inc()

    def loaded(self, node: NodeName, model: ModelId, load_s: float) -> None:
        self.load_s.labels(model, node).observe(load_s)

    def polled(self, name: NodeName, *, ok: bool, duration_s: float) -> None:
        self.polls.labels(name, "ok" if ok else "failed").observe(duration_s)


class FleetCollector(Collector):
    """Gauges computed from a snapshot when they are scraped, so that none can go stale."""

    def __init__(
        self,
        snapshot: Callable[[], FleetSnapshot],
        *,
        queue_depths: Callable[[], dict[ModelId, int]],
        why_due: Callable[[NodeView], str],
        store_ok: Callable[[], tuple[bool, int, int]],
    ) -> None:
        self._snapshot = snapshot
        self._queue_depths = queue_depths
        self._why_due = why_due
        self._store_ok = store_ok

    def collect(self) -> Iterator[Metric]:
        yield from self._nodes()
        yield from self._models()
        depth = GaugeMetricFamily("cortex_queue_depth", "Requests waiting.", labels=["model"])
        for model, waiting in self._queue_depths().items():
            depth.add_metric([model], waiting)
        yield depth
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
            due.add_metric([node.name], bool(self._why_due(node)))
            if node.free_mib is not None:
                free.add_metric([node.name], node.free_mib * MIB)
                if node.vram_total_mib is not None:
                    used.add_metric([node.name], (node.vram_total_mib - node.free_mib) * MIB)
        yield from (up, draining, cycles, due, used, free)

    def _models(self) -> Iterator[Metric]:
        labels = ["node", "model"]
        resident = GaugeMetricFamily("cortex_model_resident", "1 while loaded.", labels=labels)
        pinned = GaugeMetricFamily("cortex_model_pinned", "1 while pinned.", labels=labels)
        in_flight = GaugeMetricFamily("cortex_in_flight", "Leases held.", labels=labels)
        for node in self._snapshot().nodes.values():
            for model in node.models.values():
                resident.add_metric([node.name, model.id], model.resident)
                pinned.add_metric([node.name, model.id], model.pinned)
                in_flight.add_metric([node.name, model.id], model.in_flight)
        yield from (resident, pinned, in_flight)
