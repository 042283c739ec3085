"""Owner of what each key has used: its requests under way and its two buckets.

An account lives as long as the process, so neither a reload nor a changed limit gives anything back.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from types import TracebackType

from cortex.core.clock import Clock
from cortex.core.errors import CapacityError
from cortex.core.quota import Bucket, KeyLimits, tokens_charged
from cortex.core.records import RequestRecord
from cortex.gateway.auth import Caller
from cortex.telemetry.access import KeyMetrics

CONCURRENCY_RETRY_S = 1.0
"""Nobody knows when a request under way will end."""
_FREE: AbstractContextManager[None] = nullcontext()


class _Account:
    """One key's use."""

    __slots__ = ("limits", "requests", "running", "tokens")

    def __init__(self) -> None:
        self.limits = KeyLimits()
        self.running = 0
        #: None until there is a limit; then it begins full.
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None

    def refill(self, now_s: float) -> None:
        limits = self.limits
        self.requests = _refilled(self.requests, limits.requests_per_minute, now_s)
        self.tokens = _refilled(self.tokens, limits.tokens_per_minute, now_s)


class _Entry:
    """One request of a key with limits, while it runs."""

    __slots__ = ("_account", "_now_s")

    def __init__(self, account: _Account, now_s: float) -> None:
        self._account = account
        self._now_s = now_s

    def __enter__(self) -> None:
        """Take what one request takes, or nothing.

        Raises:
            CapacityError: 429, with the time after which another try may succeed.
        """
        account, limits = self._account, self._account.limits
        account.refill(self._now_s)
        if limits.concurrent is not None and account.running >= limits.concurrent:
            raise CapacityError(
                f"this key may have {limits.concurrent} requests at once, and has them",
                code="rate_limit_concurrency",
                retry_after_s=CONCURRENCY_RETRY_S,
            )
        per_minute = limits.tokens_per_minute
        if account.tokens is not None and per_minute and account.tokens.level < 1:
            raise _used_up("tokens", per_minute, account.tokens, code="rate_limit_tokens")
        per_minute = limits.requests_per_minute
        if account.requests is not None and per_minute:
            if account.requests.level < 1:
                raise _used_up(
                    "requests", per_minute, account.requests, code="rate_limit_requests"
                )
            account.requests = account.requests.less(1)
        account.running += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._account.running -= 1


class Quotas:
    """What keys have used, in the limits' terms and in the metrics'."""

    def __init__(self, clock: Clock, metrics: KeyMetrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self._accounts: dict[str, _Account] = {}

    def entered(self, caller: Caller) -> AbstractContextManager[None]:
        """The context of one inference request; entering it may raise a 429."""
        if caller.limits is None:
            return _FREE
        return _Entry(self._account_of(caller, caller.limits), self._clock.now_s())

    def request_done(self, record: RequestRecord) -> None:
        """Charge the tokens of a finished request of a configured key; a debt delays the next."""
        assert record.client is not None
        self._metrics.request_done(record.client, record)
        account = self._accounts.get(record.client)
        if account is None or account.tokens is None:
            return
        account.refill(self._clock.now_s())
        if account.tokens is not None:
            account.tokens = account.tokens.less(tokens_charged(record))

    def headers(self, caller: Caller, *, anthropic: bool) -> dict[str, str]:
        """What is left, in the words that the client's SDK knows; {} without limits by the minute."""
        if caller.limits is None:
            return {}
        account = self._account_of(caller, caller.limits)
        account.refill(self._clock.now_s())
        now = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC)
        headers: dict[str, str] = {}
        for kind, bucket, per_minute in (
            ("requests", account.requests, caller.limits.requests_per_minute),
            ("tokens", account.tokens, caller.limits.tokens_per_minute),
        ):
            if bucket is None or per_minute is None:
                continue
            full_in_s = bucket.full_in_s(per_minute)
            values = (str(per_minute), str(bucket.remaining))
            if anthropic:
                names = [
                    f"anthropic-ratelimit-{kind}-{word}"
                    for word in ("limit", "remaining", "reset")
                ]
                reset = _instant(now + timedelta(seconds=full_in_s))
            else:
                names = [
                    f"x-ratelimit-{word}-{kind}" for word in ("limit", "remaining", "reset")
                ]
                reset = _span(full_in_s)
            headers.update(zip(names, (*values, reset), strict=True))
        return headers

    def _account_of(self, caller: Caller, limits: KeyLimits) -> _Account:
        account = self._accounts.get(caller.share)
        if account is None:
            account = self._accounts[caller.share] = _Account()
        account.limits = limits
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
