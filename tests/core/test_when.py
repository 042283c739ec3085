"""When what is in use, or was just loaded, gives way."""

import pytest

from cortex.core.decisions import Load, Wait
from cortex.core.plan import plan
from cortex.core.rules import EvictionRules
from cortex.core.snapshot import ModelView
from tests.core.fleets import absent, fleet, model, node, want

SINCE_S = 1000.0


def decided(
    resident: ModelView, after_s: float, *, patience_s: float | None = None, **rules: object
) -> Load | Wait:
    """The plan for a request that has waited for `after_s`."""
    decision = plan(
        fleet(
            node("n", absent(6000), resident, total_mib=8000),
            eviction=EvictionRules(**rules),  # type: ignore[arg-type]
        ),
        want(
            since_s=SINCE_S,
            deadline_s=None if patience_s is None else SINCE_S + patience_s,
        ),
        now_s=SINCE_S + after_s,
    )
    assert isinstance(decision, Load | Wait)
    return decision


@pytest.mark.parametrize(
    ("answer_s", "patience_s", "drained_after_s"),
    [
        (0.0, 300.0, 5.0),
        (1.0, 300.0, 5.0),
        (10.0, 300.0, 20.0),
        (60.0, 300.0, 75.0),
        (60.0, None, 120.0),
        (0.0, 12.0, 3.0),
    ],
)
def test_a_model_in_use_gets_the_time_of_two_answers(
    answer_s: float, patience_s: float | None, drained_after_s: float
) -> None:
    """At least 5 s, at most a quarter of the patience of whoever waits."""
    busy = model("a", size_mib=6000, in_flight=1, answer_s=answer_s)
    early = decided(busy, drained_after_s - 0.1, patience_s=patience_s)
    assert isinstance(early, Wait)
    assert early.recheck_s == SINCE_S + drained_after_s
    assert isinstance(decided(busy, drained_after_s, patience_s=patience_s), Load)


@pytest.mark.parametrize(
    ("load_s", "rule_s", "stays_s"),
    [(60.0, None, 60.0), (None, None, 0.0), (60.0, 10.0, 10.0), (60.0, 0.0, 0.0)],
)
def test_what_was_loaded_stays_as_long_as_its_load_took(
    load_s: float | None, rule_s: float | None, stays_s: float
) -> None:
    fresh = model("a", size_mib=6000, load_s=load_s, resident_since_s=SINCE_S)
    if stays_s:
        early = decided(fresh, stays_s - 1, min_residency_s=rule_s)
        assert isinstance(early, Wait)
        assert early.recheck_s == SINCE_S + stays_s
    assert isinstance(decided(fresh, stays_s, min_residency_s=rule_s), Load)


@pytest.mark.parametrize(
    ("used_after_s", "stays_s"),
    [
        # Idle since; used a moment ago, and then left alone; used again and again.
        (10.0, 60.0),
        (45.0, 65.0),
        (55.0, 75.0),
        (119.0, 139.0),
        (179.0, 180.0),
    ],
)
def test_what_is_in_demand_stays_up_to_three_times_as_long(
    used_after_s: float, stays_s: float
) -> None:
    """In demand: not idle for longer than two of its answers take, which are 10 s here."""
    used = model(
        "a",
        size_mib=6000,
        load_s=60.0,
        resident_since_s=SINCE_S,
        used_s=SINCE_S + used_after_s,
        answer_s=10.0,
    )
    early = decided(used, stays_s - 0.5)
    assert isinstance(early, Wait)
    assert early.recheck_s == SINCE_S + stays_s
    assert isinstance(decided(used, stays_s), Load)


def test_what_is_in_use_stays_three_times_as_long() -> None:
    used = model(
        "a", size_mib=6000, load_s=60.0, resident_since_s=SINCE_S, in_flight=1, answer_s=1.0
    )
    early = decided(used, 179)
    assert isinstance(early, Wait)
    assert early.recheck_s == SINCE_S + 180
    assert isinstance(decided(used, 180), Load)


def test_no_residency_lets_a_request_miss_its_deadline() -> None:
    """A load takes nothing off the patience, so nine tenths of it may pass."""
    fresh = model("a", size_mib=6000, load_s=600.0, resident_since_s=SINCE_S)
    early = decided(fresh, 269, patience_s=300)
    assert isinstance(early, Wait)
    assert early.recheck_s == SINCE_S + 270
    assert isinstance(decided(fresh, 270, patience_s=300), Load)
