"""The short form; `python -m tests.fleet.days` lives as many days as wanted."""

import pytest

from tests.fleet import days


@pytest.mark.parametrize("seed", range(1, 4))
def test_after_the_worst_day_all_is_well(seed: int) -> None:
    day = days.live(seed, for_s=900.0)
    assert day.violations == []
    assert day.events["loaded"]
