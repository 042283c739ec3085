"""Metrics of who may ask: usage per key, and the end of the certificate. The label is the name of a configured key, never what a client says of itself."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from cortex.core.records import RequestRecord

LIMITS = {
    "rate_limit_concurrency": "concurrency",
    "rate_limit_requests": "requests",
    "rate_limit_tokens": "tokens",
}
"""The value of `limit` by the code of the refusal."""


class KeyMetrics:
    """Counters by key; the keyring's owner says which names are keys."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "cortex_key_requests",
            "Finished requests of one API key.",
            ("key", "outcome"),
            registry=registry,
        )
        self._prompt = Counter(
            "cortex_key_prompt_tokens", "As nodes report them.", ("key",), registry=registry
        )
        self._completion = Counter(
            "cortex_key_completion_tokens", "As nodes report them.", ("key",), registry=registry
        )
        self._refusals = Counter(
            "cortex_key_refusals",
            "Requests beyond a limit of the key.",
            ("key", "limit"),
            registry=registry,
        )
        # `labels()` takes a lock and builds a tuple; most requests are of the same few keys.
        self._children: dict[tuple[Counter, tuple[str, ...]], Counter] = {}

    def request_done(self, key: str, record: RequestRecord) -> None:
        """Count one finished request."""
        self._child(self._requests, key, record.outcome.value).inc()
        # Looked up only now: a child that exists shows as 0, and unreported is not 0.
        if record.prompt_tokens is not None:
            self._child(self._prompt, key).inc(record.prompt_tokens)
        if record.completion_tokens is not None:
            self._child(self._completion, key).inc(record.completion_tokens)
        if record.error_code in LIMITS:
            self._child(self._refusals, key, LIMITS[record.error_code]).inc()

    def _child(self, counter: Counter, *labels: str) -> Counter:
        place = (counter, labels)
        child = self._children.get(place)
        if child is None:
            child = self._children[place] = counter.labels(*labels)
        return child


def show_expiry(registry: CollectorRegistry, expires_at_s: Callable[[], float]) -> None:
    """The end of the TLS certificate, read at each scrape."""
    gauge = Gauge(
        "cortex_tls_certificate_expires_timestamp_seconds",
        "Unix time at which the certificate of the public address ends.",
        registry=registry,
    )
    gauge.set_function(expires_at_s)
