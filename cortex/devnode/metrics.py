"""`GET /metrics`: HTTP figures by model, and engine gauges that go stale (contract §6)."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from cortex.devnode.residency import DEFAULT

if TYPE_CHECKING:
    from cortex.devnode.node import Node

NO_MODEL: Final = "none"
"""The label of requests that name no model."""
METRICS: Final = web.AppKey["Metrics"]("METRICS")


def _labels(request: web.Request) -> tuple[str, str, str]:
    return request.method, request.path, request.get("model", NO_MODEL)


class Metrics:
    """What one process counts of its requests and of its engines. Owns its registry."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._registry = CollectorRegistry()
        labels = ("method", "path", "model")
        self._requests = Counter(
            "http_requests", "Requests.", (*labels, "status"), registry=self._registry
        )
        self._durations = Histogram(
            "http_request_duration_seconds",
            "From head to end.",
            (*labels, "status"),
            registry=self._registry,
        )
        self._in_flight = Gauge(
            "http_requests_in_flight", "Requests now.", labels, registry=self._registry
        )
        self._first_token = Histogram(
            "mistralrs_time_to_first_token_seconds",
            "Of streams.",
            labels,
            registry=self._registry,
        )
        self._between_tokens = Histogram(
            "mistralrs_inter_token_latency_seconds",
            "Of streams.",
            labels,
            registry=self._registry,
        )
        # They carry no model: the engine that spoke last has set them.
        self._running = Gauge(
            "mistralrs_sequences_running", "Being generated.", registry=self._registry
        )
        Gauge("mistralrs_sequences_waiting", "Queued.", registry=self._registry)
        self._tokens = Gauge(
            "mistralrs_tokens_processed_total", "Since the start.", registry=self._registry
        )
        self._capacity = (
            Gauge("mistralrs_sequences_capacity", "Slots.", registry=self._registry)
            if node.profile.has_capacity_gauge and not node.knobs.cpu_only
            else None
        )

    def began(self, request: web.Request, model: str | None = None) -> None:
        """A request whose model is known by now, or that names none."""
        request["model"] = NO_MODEL if model is None else self._known(model)
        self._in_flight.labels(*_labels(request)).inc()

    def ended(self, request: web.Request, status: int, *, duration_s: float) -> None:
        """Its answer is complete, or its client has left."""
        if "model" not in request:
            self.began(request)
        labels = _labels(request)
        self._in_flight.labels(*labels).dec()
        self._requests.labels(*labels, str(status)).inc()
        self._durations.labels(*labels, str(status)).observe(duration_s)

    def tokens(self, request: web.Request) -> Callable[[], None]:
        """To be called at every token of the stream that answers this."""
        first = self._first_token.labels(*_labels(request))
        between = self._between_tokens.labels(*_labels(request))
        last_s, of = time.perf_counter(), first

        def token() -> None:
            nonlocal last_s, of
            now_s = time.perf_counter()
            of.observe(now_s - last_s)
            last_s, of = now_s, between

        return token

    def _known(self, model: str) -> str:
        residency = self._node.residency
        if model == DEFAULT:
            model = residency.default or model
        return model if residency.status(model).status != "not_found" else "unknown"

    async def metrics(self, _request: web.Request) -> web.Response:
        """Prometheus text."""
        node, stats = self._node, self._node.stats
        # Read only while an engine lives: after an unload the last value stays.
        if node.residency.loaded:
            last = next(reversed(node.residency.loaded))
            self._running.set(stats.in_flight[last])
        self._tokens.set(stats.generated)
        if self._capacity is not None:
            self._capacity.set(node.knobs.max_seqs)
        return web.Response(body=generate_latest(self._registry), content_type="text/plain")
