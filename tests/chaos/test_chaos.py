"""The short form; `python -m tests.chaos` runs as many seeds as wanted."""

from pathlib import Path

import pytest

from tests.chaos.world import Result, run_seed

LONGEST_S = 90.0
"""For a machine that is busy with something else; a few seconds otherwise."""


def enough(result: Result) -> bool:
    """The run was one: it moved models, and things went wrong meanwhile."""
    return (
        result.lifecycle_events >= 60
        and sum(result.faults.values()) >= 10
        and result.requests["ok"] >= 100
    )


@pytest.mark.timeout(LONGEST_S + 60)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_seed_has_no_violation(seed: int, tmp_path: Path) -> None:
    result = await run_seed(seed, tmp_path, seconds=LONGEST_S, enough=enough)
    assert result.violations == []
    assert enough(result), result
