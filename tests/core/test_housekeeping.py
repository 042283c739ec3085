"""What is done on a quiet node without anybody asking."""

import pytest

from cortex.core.decisions import Want
from cortex.core.health import Liveness, NodeHealth
from cortex.core.housekeeping import absent_pins, idle_for_too_long
from cortex.core.ids import ModelId, NodeName
from cortex.core.snapshot import Drain, ModelView, NodeView
from tests.core.fleets import fleet, model, node

NOW_S, NOW_MS = 1000.0, 1_800_000_000_000
DOWN = Liveness(NodeHealth.DOWN, 3, "no answer")
A = ModelId("a")


def idle(*nodes: NodeView) -> list[tuple[NodeName, ModelId, float]]:
    return list(idle_for_too_long(fleet(*nodes), now_s=NOW_S, now_ms=NOW_MS))


def resident(**more: object) -> ModelView:
    """Loaded 500 s ago, used 100 s ago, to go after 60 s."""
    return model(
        "a",
        **(
            {
                "resident_since_s": NOW_S - 500,
                "last_used_at_ms": NOW_MS - 100_000,
                "idle_unload_s": 60.0,
            }
            | more
        ),
    )


def test_what_nobody_used_for_long_goes() -> None:
    assert idle(node("n", resident())) == [("n", "a", 100.0)]


@pytest.mark.parametrize(
    "kept",
    [
        {"idle_unload_s": None},
        {"idle_unload_s": 101.0},
        {"in_flight": 1},
        {"pinned": True},
        {"wedged": True},
        # Loaded for a reason a moment ago, whenever it was used last.
        {"resident_since_s": NOW_S - 59},
        # For longer than this process knows: not before its own time.
        {"resident_since_s": None},
        # A clock that was ahead makes no model idle.
        {"last_used_at_ms": NOW_MS + 10_000},
    ],
)
def test_what_stays(kept: dict[str, object]) -> None:
    assert idle(node("n", resident(**kept))) == []


@pytest.mark.parametrize(
    "where",
    [
        {"no_unload_reason": "off"},
        {"liveness": DOWN},
        {"drains": frozenset({Drain.REQUEST})},
    ],
)
def test_where_nothing_is_unloaded(where: dict[str, object]) -> None:
    assert idle(node("n", resident(), **where)) == []


def test_one_at_a_time_a_node() -> None:
    assert idle(node("n", resident(), model("b", "loading"))) == []


def test_absent_pins_are_wanted_where_they_were_pinned() -> None:
    pinned = model("a", "unloaded", pinned=True)
    wanted = absent_pins(fleet(node("m", model("a", pinned=True)), node("n", pinned)))
    assert wanted == [Want(model=A, only=NodeName("n"))]
    assert absent_pins(fleet(node("n", model("a", "loading", pinned=True)))) == []
    assert absent_pins(fleet(node("n", model("a", "unloaded")))) == []


FLOATING = model("a", "unloaded", pinned=True, pin_floats=True)
HELD = model("a", pinned=True, pin_floats=True)


def test_a_pin_without_a_node_is_wanted_once() -> None:
    assert absent_pins(fleet(node("m", FLOATING), node("n", FLOATING))) == [Want(model=A)]


@pytest.mark.parametrize(
    ("state", "counts"),
    [
        ({}, True),
        ({"liveness": Liveness(NodeHealth.SUSPECT, 1, "refused")}, True),
        ({"drains": frozenset({Drain.DEFRAG})}, True),
        ({"liveness": DOWN}, False),
        ({"drains": frozenset({Drain.REQUEST})}, False),
        ({"drains": frozenset({Drain.REMOVED, Drain.DEFRAG})}, False),
    ],
)
def test_a_copy_counts_while_its_node_is_there_to_stay(
    state: dict[str, object], counts: bool
) -> None:
    snapshot = fleet(node("m", HELD, **state), node("n", FLOATING))
    assert (absent_pins(snapshot) == []) is counts
    assert snapshot.pin_absent(FLOATING) is not counts
    assert snapshot.pin_absent(HELD) is not counts
