"""Metrics of who may ask: usage per key, and the end of the certificate. The label is the name of a configured key, never what a client says of itself."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge

from cortex.core.records import RequestRecord
from cortex.telemetry.families import Counters, Series

LIMITS = {
    "rate_limit_concurrency": "concurrency",
    "rate_limit_requests": "requests",
    "rate_limit_tokens": "tokens",
    "rate_limit_tokens_day": "tokens_day",
}
"""The value of `limit` by the code of the refusal."""
MAX_KEYS = 1000
"""With series of their own since the start; a key beyond that counts as `other`, for counters of keys
that went with a reload stay."""
OTHER = "other"


class KeyMetrics:
    """Counters by key; the keyring's owner says which names are keys."""

    def __init__(self, registry: CollectorRegistry) -> None:
        reported = "As nodes report them."
        self.requests = Counters(
            "cortex_key_requests", "Finished requests of one API key.", ("key", "outcome")
        )
        self.prompt = Counters("cortex_key_prompt_tokens", reported, ("key",))
        self.completion = Counters("cortex_key_completion_tokens", reported, ("key",))
        self.refusals = Counters(
            "cortex_key_refusals", "Requests beyond a limit of the key.", ("key", "limit")
        )
        for family in (self.requests, self.prompt, self.completion, self.refusals):
            registry.register(family)
        self._keys: dict[str, KeyCounters] = {}

    def of(self, key: str) -> "KeyCounters":
        """Those of one key; keep them where they are used often."""
        found = self._keys.get(key)
        if found is None:
            key = key if len(self._keys) < MAX_KEYS else OTHER
            found = self._keys.setdefault(key, KeyCounters(self, key))
        return found


class KeyCounters:
    """What is counted of one key."""

    __slots__ = ("_completion", "_metrics", "_name", "_outcomes", "_prompt")

    def __init__(self, metrics: KeyMetrics, name: str) -> None:
        self._metrics = metrics
        self._name = name
        self._outcomes: dict[str, Series] = {}
        # A series that exists shows as 0, and unreported is not 0: made when there is something.
        self._prompt: Series | None = None
        self._completion: Series | None = None

    def request_done(self, record: RequestRecord) -> None:
        """Count one finished request."""
        metrics, name, outcome = self._metrics, self._name, record.outcome
        series = self._outcomes.get(outcome)
        if series is None:
            series = self._outcomes[outcome] = metrics.requests.series(name, outcome.value)
        series.value += 1
        if record.prompt_tokens is not None:
            self._prompt = self._prompt or metrics.prompt.series(name)
            self._prompt.value += record.prompt_tokens
        if record.completion_tokens is not None:
            self._completion = self._completion or metrics.completion.series(name)
            self._completion.value += record.completion_tokens
        if record.error_code in LIMITS:
            metrics.refusals.series(name, LIMITS[record.error_code]).value += 1


def show_expiry(registry: CollectorRegistry, expires_at_s: Callable[[], float]) -> None:
    """The end of the TLS certificate, read at each scrape."""
    gauge = Gauge(
        "cortex_tls_certificate_expires_timestamp_seconds",
        "Unix time at which the certificate of the public address ends.",
        registry=registry,
    )
    gauge.set_function(expires_at_s)
