"""What a model takes on one node, learned from the memory that was free before and after: pure."""

import re

GROWTH_WEIGHT = 0.3
"""Share of the newest sample in the average that a smaller sample can lower the estimate to."""
TOLERANCE_SHARE, TOLERANCE_MIB = 0.03, 512
"""What an estimated size and a measured free memory may differ by; a model is never smaller by more
than half for it."""
NOISE_MIB = 32
"""Two readings of a device's memory differ by as much without anybody having done anything."""
RETURNED_SHARE = 0.75
"""An unload counts as verified when this share of the model's size is free again (contract §2.3)."""

_OUT_OF_MEMORY = re.compile(
    r"out[ _]of[ _]memory|outofmemory|MemoryAllocation|memory allocation .*failed"
    r"|cannot allocate memory|GPU blocks is 0",
    re.IGNORECASE,
)


def is_out_of_memory(message: str) -> bool:
    """Whether a node's complaint about a load means that the memory did not suffice."""
    return _OUT_OF_MEMORY.search(message) is not None


def least_mib(size_mib: int) -> int:
    """The least free memory in which a model of an estimated size is worth a try."""
    tolerance_mib = max(round(TOLERANCE_SHARE * size_mib), TOLERANCE_MIB)
    return size_mib - min(tolerance_mib, size_mib // 2)


def taken_mib(before_mib: int | None, after_mib: int | None) -> int | None:
    """What a load took; None where a reading is missing or others freed more meanwhile."""
    if before_mib is None or after_mib is None or after_mib >= before_mib:
        return None
    return before_mib - after_mib


def learned_mib(known_mib: int | None, sample_mib: int | None, *, floor: bool) -> int | None:
    """The estimate after one more measurement.

    It follows a larger sample at once and a smaller one slowly: too small an estimate ends in an
    out-of-memory load, too large a one only in an eviction too many. An estimate that was but a
    `floor` is replaced.
    """
    if sample_mib is None or known_mib is None or floor:
        return known_mib if sample_mib is None else sample_mib
    averaged = GROWTH_WEIGHT * sample_mib + (1 - GROWTH_WEIGHT) * known_mib
    return max(sample_mib, round(averaged))


def floor_mib(known_mib: int | None, free_mib: int | None, total_mib: int | None) -> int | None:
    """The least that a model must take which ran out of memory with `free_mib` free.

    Never above the device's total: an unlucky load must not make a model one that never fits.
    """
    if free_mib is None:
        return known_mib
    least = max(known_mib or 0, free_mib + 1)
    return least if total_mib is None else min(least, total_mib)


def is_returned(
    size_mib: int | None, before_mib: int | None, after_mib: int | None
) -> bool | None:
    """Whether an unload gave the memory back; None where that cannot be known."""
    if size_mib is None or before_mib is None or after_mib is None:
        return None
    return after_mib - before_mib >= RETURNED_SHARE * size_mib


def residue_mib(held_mib: int, before_mib: int, after_mib: int) -> int:
    """What an unload of a model that held `held_mib` did not give back, noise apart.

    Negative where a little more came back: others on the device grow and shrink, and that must not
    add up over many unloads. Much more is what the model has grown by.
    """
    left_mib = held_mib - (after_mib - before_mib)
    return 0 if abs(left_mib) <= NOISE_MIB or left_mib < -TOLERANCE_MIB else left_mib
