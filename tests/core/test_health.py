"""When a node counts as gone, and when a failing pair is left alone."""

import pytest

from cortex.core.health import CLOSED, EVICTING_TRIAL_S, UNSEEN, Breaker, NodeHealth


def test_one_missed_poll_is_not_death() -> None:
    up = UNSEEN.answered()
    once = up.missed(reason="late", failures_before_down=3)
    assert (once.health, once.missed_polls) == (NodeHealth.UP, 1)
    twice = once.missed(reason="late", failures_before_down=3)
    gone = twice.missed(reason="late", failures_before_down=3)
    assert (twice.health, gone.health, gone.reason) == (NodeHealth.UP, NodeHealth.DOWN, "late")
    assert gone.answered() == up


def test_a_refused_connection_is_believed_at_once() -> None:
    suspect = UNSEEN.answered().refused(reason="refused")
    assert suspect.health is NodeHealth.SUSPECT
    assert suspect.missed(reason="x", failures_before_down=2).health is NodeHealth.SUSPECT
    assert suspect.answered().health is NodeHealth.UP
    assert UNSEEN.refused(reason="refused") is UNSEEN


def failed(times: int, *, now_s: float = 100.0) -> Breaker:
    breaker = CLOSED
    for _ in range(times):
        breaker = breaker.failed(now_s=now_s, reason="boom")
    return breaker


@pytest.mark.parametrize(
    ("times", "open_s"), [(3, 5), (4, 10), (5, 20), (7, 80), (8, 120), (99, 120)]
)
def test_a_breaker_opens_at_the_third_failure_and_doubles(times: int, open_s: float) -> None:
    breaker = failed(times)
    assert breaker.open_until_s == 100 + open_s
    assert not breaker.allows(now_s=100 + open_s - 0.1, in_flight=0)
    # One trial at a time afterwards.
    assert breaker.allows(now_s=100 + open_s, in_flight=0)
    assert not breaker.allows(now_s=100 + open_s, in_flight=1)


def test_what_was_under_way_when_it_opened_tells_nothing_new() -> None:
    """One hang of a node with ten streams is one failure of it, not ten in a row."""
    breaker = CLOSED
    for late_s in range(10):
        breaker = breaker.failed(now_s=100 + late_s * 0.01, reason="silent", began_s=50)
    assert (breaker.failures, breaker.open_until_s) == (3, 105.02)
    trial = breaker.failed(now_s=106, reason="silent", began_s=105.5)
    assert (trial.failures, trial.open_until_s) == (4, 116)
    assert trial.failed(now_s=107, reason="silent", began_s=105.6) is trial


def test_two_failures_leave_it_closed() -> None:
    assert failed(2).allows(now_s=100, in_flight=9)


def test_a_failed_load_opens_it_at_once() -> None:
    breaker = CLOSED.failed(now_s=100, reason="no such file", at_once=True)
    assert breaker.open_until_s == 105
    assert breaker.failed(now_s=200, reason="again", at_once=True).open_until_s == 210


def test_after_two_failed_loads_another_trial_takes_nobodys_place_for_a_while() -> None:
    once = CLOSED.failed(now_s=100, reason="no such file", at_once=True)
    assert once.evicts_from_s == 0
    twice = once.failed(now_s=200, reason="no such file", at_once=True)
    assert twice.evicts_from_s == 200 + EVICTING_TRIAL_S
    # What fails while it serves says nothing of its loads.
    assert failed(9).evicts_from_s == 0
    assert twice.failed(now_s=300, reason="boom").evicts_from_s == twice.evicts_from_s


def test_a_node_that_was_down_gets_one_trial_at_once() -> None:
    breaker = failed(4).tried_again()
    assert breaker.allows(now_s=100, in_flight=0)
    assert not breaker.allows(now_s=100, in_flight=1)
    assert breaker.failed(now_s=100, reason="again").open_until_s == 120
    assert failed(2).tried_again() == failed(2)
    assert CLOSED.tried_again() is CLOSED
