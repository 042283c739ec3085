"""How much one key may use in a minute and in a day: pure, the clock is passed in."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from cortex.core.records import RequestRecord

MINUTE_S = 60.0
DAY_MS = 86_400_000
PROMPT_BYTES_PER_TOKEN = 4
STREAM_BYTES_PER_TOKEN = 200
"""What one event of a stream weighs, which carries one token."""
MOST_UNREPORTED_PROMPT_TOKENS = 32_768
"""Images are no text: without a bound a photograph would be a debt of hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """What the configuration grants to one key; None = as much as there is."""

    concurrent: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Bucket:
    """What was left at an instant; below zero it is a debt.

    It holds a minute's worth at most and refills evenly. The rate is given with every question,
    so a changed one applies to what is left and gives nothing back.
    """

    level: float
    at_s: float

    def refilled(self, per_minute: int, now_s: float) -> "Bucket":
        gained = max(0.0, now_s - self.at_s) * per_minute / MINUTE_S
        return Bucket(min(per_minute, self.level + gained), now_s)

    def less(self, amount: float) -> "Bucket":
        return Bucket(self.level - amount, self.at_s)

    def wait_s(self, per_minute: int) -> float:
        """Until one more may be taken; 0 = now."""
        return max(0.0, (1 - self.level) * MINUTE_S / per_minute)

    def full_in_s(self, per_minute: int) -> float:
        """Until it holds a whole minute's worth again."""
        return max(0.0, (per_minute - self.level) * MINUTE_S / per_minute)

    @property
    def remaining(self) -> int:
        return max(0, math.floor(self.level))


class Day(NamedTuple):
    """What was used of a day's worth; a day ends at midnight, UTC."""

    began_ms: int = 0
    used: int = 0

    def at(self, now_ms: int) -> "Day":
        """This day, or a new one, also where a clock was put back: no debt waits for a future."""
        began_ms = now_ms - now_ms % DAY_MS
        return self if began_ms == self.began_ms else Day(began_ms)

    def more(self, amount: int, now_ms: int) -> "Day":
        """With so much used now."""
        began_ms = now_ms - now_ms % DAY_MS
        return Day(began_ms, self.used + amount if began_ms == self.began_ms else amount)

    def ends_in_s(self, now_ms: int) -> float:
        return max(0, self.began_ms + DAY_MS - now_ms) / 1000


def tokens_charged(record: RequestRecord) -> int:
    """What a finished request costs of `tokens_per_minute`.

    As the node reported it. A stream that ended before its report, because the client hung up or
    the node did, is charged by its bytes: else hanging up in time would be free.
    """
    prompt, completion = record.prompt_tokens, record.completion_tokens
    if prompt is not None or completion is not None:
        return (prompt or 0) + (completion or 0)
    if not record.stream or not record.response_bytes:
        return 0
    prompt = min(record.request_bytes // PROMPT_BYTES_PER_TOKEN, MOST_UNREPORTED_PROMPT_TOKENS)
    return prompt + record.response_bytes // STREAM_BYTES_PER_TOKEN
