"""Durations and instants as people type them: `90s`, `1h30m`, `2026-07-01T12:00`."""

import re
import time
from datetime import datetime

UNITS_MS = {
    "w": 604_800_000,
    "d": 86_400_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1000,
    "ms": 1,
}
LONGEST_MS = 100 * 365 * UNITS_MS["d"]
"""Keeps every instant inside SQLite's integers, and typing mistakes out."""

_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[wdhms])", re.ASCII)
_WHOLE = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)


def duration_ms(text: str) -> float:
    """Milliseconds of `90s`, `15m`, `2h`, `3d`, `1h30m`, `250ms`.

    Raises:
        ValueError: Not a duration, or longer than a hundred years.
    """
    wanted = text.strip()
    if not _WHOLE.fullmatch(wanted):
        raise ValueError(f"{text!r} is not a duration; write 90s, 15m, 2h, 3d or 1h30m")
    total = sum(float(count) * UNITS_MS[unit] for count, unit in _PART.findall(wanted))
    if total > LONGEST_MS:
        raise ValueError(f"{text!r} is longer than a hundred years")
    return total


def instant_ms(text: str, *, now_ms: int | None = None) -> int:
    """Wall clock in ms: a duration counts back from now, a date without zone is local.

    Raises:
        ValueError: Neither a duration nor an ISO date or time.
    """
    if now_ms is None:
        now_ms = time.time_ns() // 1_000_000
    wanted = text.strip()
    if _WHOLE.fullmatch(wanted):
        return max(0, now_ms - round(duration_ms(wanted)))
    try:
        return max(0, round(datetime.fromisoformat(wanted).astimezone().timestamp() * 1000))
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"{text!r} is neither a duration such as 2h or 1h30m nor a date such as"
            " 2026-07-01 or 2026-07-01T12:00"
        ) from None


def interval_s(text: str) -> float:
    """Seconds between two redraws: `5`, `0.5` or a duration.

    Raises:
        ValueError: Something else, or shorter than 0.1 s.
    """
    wanted = text.strip()
    seconds = float(wanted) if _SECONDS.fullmatch(wanted) else duration_ms(wanted) / 1000
    if not 0.1 <= seconds <= LONGEST_MS / 1000:
        raise ValueError(f"{text!r} is too short; 0.1 is the least")
    return seconds
