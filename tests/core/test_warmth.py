"""A file that was read a moment ago is still in the machine's memory, and its model loads faster."""

from dataclasses import replace

import pytest

from cortex.core.decisions import Load
from cortex.core.plan import plan
from cortex.core.snapshot import ModelView, NodeView
from cortex.core.warmth import expected_load_s, is_warm, learned
from tests.core.fleets import absent, fleet, node, want

RAM_MIB = 100_000


def read(
    since_mib: int, size_mib: int | None = 10_000, **more: object
) -> tuple[NodeView, ModelView]:
    """A node of so much memory that has read so much since the model's file."""
    view = absent(size_mib, read_at_mib=50_000, **more)
    return node("n", view, ram_total_mib=RAM_MIB, read_mib=50_000 + since_mib), view


@pytest.mark.parametrize(
    ("since_mib", "warm"), [(0, True), (70_000, True), (70_001, False), (500_000, False)]
)
def test_it_is_warm_while_all_that_was_read_since_fits_beside_it(
    since_mib: int, warm: bool
) -> None:
    assert is_warm(*read(since_mib)) is warm


def test_nobody_knows_of_a_file_that_was_never_read_or_of_a_machine_that_says_nothing() -> None:
    there, view = read(0)
    assert is_warm(there, replace(view, read_at_mib=None)) is None
    assert is_warm(replace(there, ram_total_mib=None), view) is None


def test_loads_of_both_kinds_are_learned_apart() -> None:
    view = absent(10_000)
    for load_s, warm in ((60.0, None), (40.0, False), (8.0, True), (10.0, True)):
        view = learned(view, load_s, warm=warm)
    assert view.cold_load_s == pytest.approx(0.7 * 60 + 0.3 * 40)
    assert view.warm_load_s == pytest.approx(0.7 * 8 + 0.3 * 10)
    assert 8 < (view.load_s or 0) < 60
    # Somebody else's load took nobody knows how long.
    assert learned(view, None, warm=True) == view


@pytest.mark.parametrize(
    ("since_mib", "known", "expected"),
    [
        (0, {"load_s": 30.0, "cold_load_s": 60.0, "warm_load_s": 8.0}, 8.0),
        (99_000, {"load_s": 30.0, "cold_load_s": 60.0, "warm_load_s": 8.0}, 60.0),
        (0, {"load_s": 60.0, "cold_load_s": 60.0}, 60.0),
        (99_000, {"load_s": 8.0, "warm_load_s": 8.0}, 8.0),
        (0, {}, None),
    ],
)
def test_what_a_load_takes_now(
    since_mib: int, known: dict[str, float], expected: float | None
) -> None:
    assert expected_load_s(*read(since_mib, **known)) == expected


def test_of_several_nodes_with_room_the_one_with_the_shortest_load_has_it() -> None:
    slow = node("a-large", absent(10_000, load_s=60.0), total_mib=90_000)
    fast = node("b-small", absent(10_000, load_s=12.0), total_mib=20_000)
    decision = plan(fleet(slow, fast), want(), now_s=0.0)
    assert isinstance(decision, Load)
    assert (decision.node, decision.reason) == (
        "b-small",
        "fits: needs 10000 MiB of 20000 MiB free, loads in about 12 s",
    )
    (other,) = decision.alternatives()
    assert (other.node, other.cost_s) == ("a-large", 60.0)


def test_the_node_that_still_has_the_file_in_memory_is_such_a_one() -> None:
    times = {"cold_load_s": 60.0, "warm_load_s": 10.0, "load_s": 40.0, "read_at_mib": 0}
    cold = node(
        "a", absent(10_000, **times), total_mib=90_000, ram_total_mib=RAM_MIB, read_mib=200_000
    )
    warm = node(
        "b", absent(10_000, **times), total_mib=20_000, ram_total_mib=RAM_MIB, read_mib=30_000
    )
    decision = plan(fleet(cold, warm), want(), now_s=0.0)
    assert isinstance(decision, Load)
    assert (decision.node, decision.cost_s) == ("b", 10.0)


@pytest.mark.parametrize("load_s", [12.0, 15.0, None])
def test_loads_that_are_about_as_long_leave_it_to_the_room_and_so_does_one_that_nobody_knows(
    load_s: float | None,
) -> None:
    large = node("a", absent(10_000, load_s=load_s), total_mib=90_000)
    small = node("b", absent(10_000, load_s=12.0), total_mib=20_000)
    decision = plan(fleet(large, small), want(), now_s=0.0)
    assert isinstance(decision, Load)
    assert decision.node == "a"
