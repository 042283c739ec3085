"""The chance of a request, by the gaps between those before."""

import random

import pytest

from cortex.core.demand import (
    BORROWED,
    ENOUGH_GAPS,
    HALVED_AFTER,
    HORIZON_AT_FIRST_S,
    LONGEST_HORIZON_S,
    SHORTEST_HORIZON_S,
    Demand,
    Outlook,
)
from cortex.core.ids import ModelId

A, B = ModelId("a"), ModelId("b")
HOUR_S = 3600.0


def asked(
    demand: Demand, model: ModelId, every_s: float, times: int, at_s: float = 0.0
) -> float:
    """Returns when the last one came."""
    for number in range(times):
        demand.asked(model, at_s + number * every_s)
    return at_s + (times - 1) * every_s


def test_what_is_asked_for_every_minute_comes_within_two_and_is_given_up_after_an_hour() -> (
    None
):
    demand = Demand()
    last_s = asked(demand, A, 60.0, 40)
    assert demand.chance(A, last_s, 120.0) > 0.99
    assert demand.chance(A, last_s, 20.0) < 0.01
    # 40 s are gone by: it ends within the next 24, as all gaps of 32 to 64 s did.
    assert demand.chance(A, last_s + 40.0, 24.0) > 0.99
    assert demand.chance(A, last_s + HOUR_S, 120.0) < 0.01


def test_what_comes_in_bursts_is_hardly_expected_once_it_has_paused() -> None:
    demand, at_s = Demand(), 0.0
    for _ in range(5):
        at_s = asked(demand, A, 5.0, 10, at_s) + 4 * HOUR_S
    last_s = at_s - 4 * HOUR_S
    during, paused = (demand.chance(A, last_s + idle_s, 60.0) for idle_s in (0.0, 60.0))
    assert during > 0.85
    assert paused < 0.05
    assert demand.chance(A, last_s + 60.0, 5 * HOUR_S) > 0.95


def test_it_is_the_share_of_the_longer_gaps_that_end_in_time() -> None:
    """Counted by hand over gaps that are spread evenly within their power of two."""
    rng, demand, at_s, gaps = random.Random(3), Demand(), 0.0, []
    demand.asked(A, at_s)
    for _ in range(HALVED_AFTER - 1):
        low_s = 2.0 ** rng.randrange(3, 12)
        gaps.append(low_s * (1 + rng.random()))
        at_s += gaps[-1]
        demand.asked(A, at_s)
    for idle_s, within_s in ((0.0, 64.0), (8.0, 56.0), (64.0, 448.0), (512.0, 3584.0)):
        longer = [gap_s for gap_s in gaps if gap_s >= idle_s]
        ended = [gap_s for gap_s in longer if gap_s < idle_s + within_s]
        chance = demand.chance(A, at_s + idle_s, within_s)
        assert chance == pytest.approx(len(ended) / len(longer), abs=1e-6)


def test_of_a_model_that_is_new_the_others_tell() -> None:
    demand = Demand()
    last_s = asked(demand, A, 100.0, 60)
    assert demand.chance(B, last_s, 200.0) == pytest.approx(1.0, abs=0.01)
    # Its own gaps soon count for more than the borrowed ones.
    last_s = asked(demand, B, 5000.0, 9, last_s)
    share = demand.chance(B, last_s, 200.0)
    assert share == pytest.approx(BORROWED / (BORROWED + 8), abs=0.06)


def test_what_is_asked_for_all_the_time_does_not_hide_that_others_have_long_gaps() -> None:
    demand = Demand()
    at_s = 0.0
    for _ in range(30):
        demand.asked(A, at_s)
        at_s = asked(demand, B, 10.0, 20, at_s + 10.0) + 5000.0
    demand.asked(ModelId("new"), at_s)
    assert demand.chance(ModelId("new"), at_s + 1000.0, 10_000.0) > 0.5


def test_what_was_lately_counts_for_more() -> None:
    demand = Demand()
    at_s = asked(demand, A, 5.0, 300)
    at_s = asked(demand, A, 1000.0, 2 * HALVED_AFTER, at_s + 1000.0)
    assert demand.chance(A, at_s, 100.0) < 0.35


def test_nothing_is_told_before_enough_gaps_are_known() -> None:
    demand = Demand()
    outlook = Outlook(demand)
    assert demand.chance(A, 5.0, 100.0) == 0.0
    asked(demand, A, 5.0, ENOUGH_GAPS)
    assert not outlook.decides
    demand.asked(A, 1e6)
    assert outlook.decides
    outlook.overruled = "it does harm"
    assert not outlook.decides


def test_a_clock_that_goes_back_is_a_gap_of_nothing() -> None:
    demand = Demand()
    demand.asked(A, 100.0)
    demand.asked(A, 40.0)
    assert demand.known == 1
    assert 0.0 <= demand.chance(A, 10.0, 5.0) <= 1.0


def test_it_looks_as_far_ahead_as_idle_models_lately_stayed() -> None:
    outlook = Outlook(Demand())
    assert outlook.horizon_s == HORIZON_AT_FIRST_S
    outlook.demand.asked(A, 0.0)
    outlook.gone(A, HORIZON_AT_FIRST_S + 2000.0)
    assert outlook.horizon_s == pytest.approx(HORIZON_AT_FIRST_S + 100.0)
    outlook.gone(B, 10.0)  # nobody knows how long it stayed
    assert outlook.horizon_s == pytest.approx(HORIZON_AT_FIRST_S + 100.0)
    for _ in range(500):
        outlook.stayed(1.0)
    assert outlook.horizon_s == SHORTEST_HORIZON_S
    for _ in range(500):
        outlook.stayed(1e9)
    assert outlook.horizon_s == LONGEST_HORIZON_S
