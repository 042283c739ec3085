"""Owner of what each key has used: its requests under way, its two buckets and its day.

An account lives as long as the process, so neither a reload nor a changed limit gives anything back.
The day outlives it: a start reads from the request log what was used of it.
"""

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cortex.core.clock import Clock
from cortex.core.errors import CapacityError
from cortex.core.quota import Bucket, Day, KeyLimits, tokens_charged
from cortex.core.records import RequestRecord
from cortex.gateway.auth import Caller
from cortex.telemetry.access import KeyCounters, KeyMetrics

CONCURRENCY_RETRY_S = 1.0
"""Nobody knows when a request under way will end."""


class _Left(NamedTuple):
    """What there is of one limit."""

    kind: str
    limit: int
    remaining: int
    reset_s: float


class _Account:
    """One key's use."""

    __slots__ = ("counters", "day", "limits", "requests", "running", "tokens")

    def __init__(self, counters: KeyCounters) -> None:
        self.counters = counters
        self.limits = KeyLimits()
        self.running = 0
        #: None until there is a limit; then it begins full.
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.day = Day()

    def refill(self, clock: Clock) -> None:
        limits, now_s = self.limits, clock.now_s()
        self.requests = _refilled(self.requests, limits.requests_per_minute, now_s)
        self.tokens = _refilled(self.tokens, limits.tokens_per_minute, now_s)
        self.day = self.day.at(clock.now_ms())

    def charge(self, tokens: int, clock: Clock) -> None:
        self.day = self.day.more(tokens, clock.now_ms())
        if self.tokens is not None:
            self.refill(clock)
        if self.tokens is not None:
            self.tokens = self.tokens.less(tokens)

    def refusal(self, now_ms: int) -> CapacityError | None:
        """Why there is no further request now, with the time after which another try may succeed."""
        limits = self.limits
        if limits.concurrent is not None and self.running >= limits.concurrent:
            return CapacityError(
                f"this key may have {limits.concurrent} requests at once, and has them",
                code="rate_limit_concurrency",
                retry_after_s=CONCURRENCY_RETRY_S,
            )
        if limits.tokens_per_day is not None and self.day.used >= limits.tokens_per_day:
            return CapacityError(
                f"this key may use {limits.tokens_per_day} tokens per day; next at 00:00 UTC",
                code="rate_limit_tokens_day",
                retry_after_s=self.day.ends_in_s(now_ms),
            )
        for code, what, bucket, per_minute in (
            ("rate_limit_tokens", "tokens", self.tokens, limits.tokens_per_minute),
            ("rate_limit_requests", "requests", self.requests, limits.requests_per_minute),
        ):
            if bucket is not None and per_minute is not None and bucket.level < 1:
                return _used_up(what, per_minute, bucket, code=code)
        return None

    def left(self, now_ms: int) -> Iterator[_Left]:
        limits, day = self.limits, self.day
        for kind, bucket, per_minute in (
            ("requests", self.requests, limits.requests_per_minute),
            ("tokens", self.tokens, limits.tokens_per_minute),
        ):
            if bucket is not None and per_minute is not None:
                full_s = bucket.full_in_s(per_minute)
                yield _Left(kind, per_minute, bucket.remaining, full_s)
        if (per_day := limits.tokens_per_day) is not None:
            left = max(0, per_day - day.used)
            yield _Left("tokens-day", per_day, left, day.ends_in_s(now_ms))


class Quotas:
    """What keys have used, in the limits' terms and in the metrics'."""

    def __init__(self, clock: Clock, metrics: KeyMetrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self._accounts: dict[str, _Account] = {}

    def remember(self, day: Day, used: Mapping[str, int]) -> None:
        """Begin with the tokens that keys have used of this day before the process started."""
        for name, tokens in used.items():
            self._account(name).day = Day(day.began_ms, tokens)

    def enter(self, caller: Caller, limits: KeyLimits) -> None:
        """Take what one inference request takes, or nothing; `leave` gives back what was lent.

        Raises:
            CapacityError: 429, with the time after which another try may succeed.
        """
        account = self._account_of(caller, limits)
        account.refill(self._clock)
        refusal = account.refusal(self._clock.now_ms())
        if refusal is not None:
            raise refusal
        if account.requests is not None:
            account.requests = account.requests.less(1)
        account.running += 1

    def leave(self, caller: Caller) -> None:
        """A request that was let in has ended."""
        self._account(caller.share).running -= 1

    def request_done(self, record: RequestRecord) -> None:
        """Charge the tokens of a finished request of a configured key; a debt delays the next."""
        assert record.client is not None
        account = self._account(record.client)
        account.counters.request_done(record)
        account.charge(tokens_charged(record), self._clock)

    def headers(self, caller: Caller, *, anthropic: bool) -> dict[str, str]:
        """What is left, in the words that the client's SDK knows; {} without limits by time.

        Of a day's worth, which neither of them knows, in the same form.
        """
        if caller.limits is None:
            return {}
        account = self._account_of(caller, caller.limits)
        account.refill(self._clock)
        now_ms = self._clock.now_ms()
        now = datetime.fromtimestamp(now_ms / 1000, UTC)
        headers: dict[str, str] = {}
        for left in account.left(now_ms):
            values = (str(left.limit), str(left.remaining))
            words = ("limit", "remaining", "reset")
            if anthropic:
                names = [f"anthropic-ratelimit-{left.kind}-{word}" for word in words]
                reset = _instant(now + timedelta(seconds=left.reset_s))
            else:
                names = [f"x-ratelimit-{word}-{left.kind}" for word in words]
                reset = _span(left.reset_s)
            headers.update(zip(names, (*values, reset), strict=True))
        return headers

    def _account_of(self, caller: Caller, limits: KeyLimits) -> _Account:
        account = self._account(caller.share)
        account.limits = limits
        return account

    def _account(self, key: str) -> _Account:
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _Account(self._metrics.of(key))
        return account


def _refilled(bucket: Bucket | None, per_minute: int | None, now_s: float) -> Bucket | None:
    if per_minute is None:
        return None
    if bucket is None:
        return Bucket(per_minute, now_s)
    return bucket.refilled(per_minute, now_s)


def _used_up(what: str, per_minute: int, bucket: Bucket, *, code: str) -> CapacityError:
    wait_s = bucket.wait_s(per_minute)
    return CapacityError(
        f"this key may use {per_minute} {what} per minute; next in {math.ceil(wait_s)} s",
        code=code,
        retry_after_s=wait_s,
    )


def _instant(at: datetime) -> str:
    return (at + timedelta(milliseconds=999)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _span(span_s: float) -> str:
    """As OpenAI writes it: `120ms`, `8s`, `6m0s`, `1h0m3s`."""
    if span_s < 1:
        return f"{math.ceil(span_s * 1000)}ms"
    minutes, seconds = divmod(math.ceil(span_s), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
