"""A node's own word on a model meets what cortex believed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.health import CLOSED, Breaker
from cortex.core.listing import ReportedStatus
from cortex.core.reconcile import agrees, averaged, reconcile
from cortex.core.snapshot import ModelStatus, ModelView
from tests.core.fleets import model

NOW_S = 1000.0
LONGEST_S = 600.0
OPEN = Breaker(failures=3, open_until_s=NOW_S + 60, reason="no such tensor")


def seen(
    view: ModelView,
    said: str,
    *,
    duplicated: bool = False,
    restarted: bool = False,
    now_s: float = NOW_S,
) -> ModelView:
    return reconcile(
        view,
        ReportedStatus(said),
        duplicated=duplicated,
        restarted=restarted,
        now_s=now_s,
        load_timeout_s=LONGEST_S,
    )


@pytest.mark.parametrize(
    ("before", "said", "after"),
    [
        ("unloaded", "loaded", "loaded"),
        ("loaded", "unloaded", "unloaded"),
        ("loaded", "reloading", "loading"),
        ("unloaded", "reloading", "loading"),
        ("loaded", "not_found", "unloaded"),
    ],
)
def test_the_node_is_right(before: str, said: str, after: str) -> None:
    view = seen(model("a", before), said)
    assert view.status.value == after
    assert view.reported_loading is (after == "loading")
    assert (view.resident_since_s == NOW_S) is (after == "loaded")


def test_what_says_nothing_new_is_the_same_view() -> None:
    view = model("a", "loaded", resident_since_s=5.0, took_mib=8000)
    assert seen(view, "loaded") is view


@pytest.mark.parametrize("status", ["loading", "draining", "unloading"])
@pytest.mark.parametrize("said", ["loaded", "unloaded", "reloading"])
def test_what_cortex_moves_is_not_the_polls_business(status: str, said: str) -> None:
    assert seen(model("a", status), said).status.value == status


def test_a_load_that_somebody_else_began_ends_by_a_poll() -> None:
    view = seen(model("a", "unloaded"), "reloading")
    assert (view.moved_by_us, view.reloading_since_s) == (False, NOW_S)
    view = seen(view, "loaded", now_s=NOW_S + 30)
    assert (view.status, view.reloading_since_s) == (ModelStatus.LOADED, None)
    assert view.resident_since_s == NOW_S + 30


def test_one_that_never_ends_is_wedged_until_the_node_says_otherwise() -> None:
    view = seen(model("a", "unloaded"), "reloading")
    view = seen(view, "reloading", now_s=NOW_S + LONGEST_S - 1)
    assert (view.status, view.wedged) == (ModelStatus.LOADING, False)
    view = seen(view, "reloading", now_s=NOW_S + LONGEST_S)
    assert (view.status, view.wedged, view.stuck) == (ModelStatus.UNLOADED, True, True)
    view = seen(view, "loaded", now_s=NOW_S + 700)
    assert (view.status, view.wedged, view.stuck) == (ModelStatus.LOADED, False, False)


def test_one_that_is_listed_twice_is_wedged_until_a_restart() -> None:
    view = seen(model("a", "loaded"), "loaded", duplicated=True)
    assert (view.status, view.wedged) == (ModelStatus.LOADED, True)
    assert seen(view, "loaded").wedged
    # What it is said to be loading, it is not.
    assert seen(view, "reloading").status is ModelStatus.UNLOADED
    assert not seen(view, "loaded", restarted=True).wedged


@pytest.mark.parametrize("status", ["loaded", "loading", "draining", "unloading"])
def test_a_restart_ends_whatever_was_under_way(status: str) -> None:
    view = model("a", status, generation=4, breaker=OPEN, took_mib=8000)
    fresh = seen(view, "unloaded", restarted=True)
    assert (fresh.status, fresh.generation) == (ModelStatus.UNLOADED, 5)
    assert fresh.breaker == CLOSED
    assert fresh.took_mib is None


def test_a_load_that_was_given_up_and_came_about_may_be_tried() -> None:
    view = seen(model("a", "unloaded", breaker=OPEN), "loaded")
    assert view.breaker == replace(OPEN, open_until_s=0.0)
    # One that was there all the time still fails for the same reason.
    assert seen(model("a", "loaded", breaker=OPEN), "loaded").breaker == OPEN


def test_an_average_follows_the_newest_by_three_tenths() -> None:
    assert averaged(None, 10.0) == 10.0
    assert averaged(10.0, None) == 10.0
    assert averaged(None, None) is None
    assert averaged(10.0, 20.0) == pytest.approx(13.0)


@given(
    st.builds(
        model,
        st.just("m"),
        st.sampled_from([status.value for status in ModelStatus]),
        wedged=st.booleans(),
        stuck=st.booleans(),
        phantom=st.booleans(),
        reported_loading=st.booleans(),
        reloading_since_s=st.sampled_from([None, NOW_S - 1, NOW_S - LONGEST_S]),
        resident_since_s=st.sampled_from([None, NOW_S - 1]),
        took_mib=st.sampled_from([None, 7]),
        in_flight=st.integers(0, 2),
        breaker=st.sampled_from([CLOSED, OPEN]),
    ),
    st.sampled_from([status.value for status in ReportedStatus]),
)
def test_what_agrees_is_left_as_it_is(view: ModelView, said: str) -> None:
    if agrees(view, ReportedStatus(said)):
        assert seen(view, said) is view


@pytest.mark.parametrize("status", ["loaded", "unloaded"])
def test_what_most_polls_say_agrees(status: str) -> None:
    assert agrees(model("m", status, in_flight=1, size_mib=5), ReportedStatus(status))
