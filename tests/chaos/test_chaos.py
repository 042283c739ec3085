"""The short form; `python -m tests.chaos` runs as many seeds as wanted."""

from pathlib import Path

import pytest

from tests.chaos.world import run_seed


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_seed_has_no_violation(seed: int, tmp_path: Path) -> None:
    result = await run_seed(seed, tmp_path, seconds=4.0)
    assert result.violations == []
    # The run was one: it moved models, and things went wrong meanwhile.
    assert result.lifecycle_events >= 10, result  # a busy machine gets round to fewer
    assert sum(result.faults.values()) > 5
    assert result.requests["ok"] > 20
