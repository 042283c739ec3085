"""Percentiles by the nearest rank: pure."""

from collections.abc import Sequence


def nearest_rank(ordered: Sequence[float], percent: int) -> float | None:
    """The least of these, smallest first, that so many percent of them do not exceed; None = there are none."""
    return ordered[(len(ordered) * percent + 99) // 100 - 1] if ordered else None
