"""What two rules would have loaded, side by side."""

import pytest

from cortex.core.demand import Demand, Outlook
from cortex.core.ghosts import EVIDENCE_S, HALF_LIFE_S, Ghost, Trial
from cortex.core.health import Liveness, NodeHealth
from cortex.core.ids import ModelId, NodeName
from cortex.core.rules import EvictionRules
from cortex.core.snapshot import FleetSnapshot, ModelStatus
from tests.core.fleets import fleet, model, node

A, B, C = map(ModelId, "abc")
LOAD_S = 300.0


def card(*loaded: str, **more: object) -> FleetSnapshot:
    """One that holds two of three."""
    models = [
        model(name, "loaded" if name in loaded else "unloaded", size_mib=6000, load_s=LOAD_S)
        for name in "abc"
    ]
    return fleet(node("n", *models, total_mib=13_000, **more))


def costs(ghost: Ghost, snapshot: FleetSnapshot, models: str) -> list[float]:
    return [
        ghost.asked(snapshot, ModelId(name), now_s=float(at), now_ms=1000 * at)
        for at, name in enumerate(models, start=1)
    ]


def test_it_begins_with_what_is_there_and_goes_its_own_way() -> None:
    ghost, there = Ghost(EvictionRules()), card("a", "b")
    assert costs(ghost, there, "abab") == [0.0] * 4
    # Whatever becomes of the fleet: c takes the place of a, then a that of b.
    assert costs(ghost, card("a", "b"), "cbcac") == [LOAD_S, 0.0, 0.0, LOAD_S, 0.0]


def test_what_is_in_use_or_was_just_loaded_gives_way_at_once() -> None:
    busy = fleet(
        node(
            "n",
            model("a", size_mib=6000, in_flight=3, resident_since_s=0.5, load_s=LOAD_S),
            model("b", "unloaded", size_mib=6000, load_s=LOAD_S),
            total_mib=6500,
        )
    )
    assert costs(Ghost(EvictionRules()), busy, "bab") == [LOAD_S] * 3


@pytest.mark.parametrize(
    "snapshot",
    [
        card("a", liveness=Liveness(NodeHealth.DOWN)),
        card("a", no_load_reason='lifecycle = "off"'),
        fleet(),
    ],
)
def test_what_nobody_can_load_costs_nothing(snapshot: FleetSnapshot) -> None:
    assert costs(Ghost(EvictionRules()), snapshot, "bbb") == [0.0] * 3


def test_a_node_that_is_gone_holds_nothing() -> None:
    ghost = Ghost(EvictionRules())
    assert costs(ghost, card("a"), "a") == [0.0]
    other = card()
    moved = fleet(
        *(node("m", *n.models.values(), total_mib=13_000) for n in other.nodes.values())
    )
    assert costs(ghost, moved, "aa") == [LOAD_S, 0.0]
    assert set(moved.nodes) == {NodeName("m")}
    assert all(
        m.status is ModelStatus.UNLOADED for m in moved.nodes[NodeName("m")].models.values()
    )


def misled() -> Demand:
    """c is expected at any time, a and b but twice a day; from here on it is the other way round."""
    demand = Demand()
    for name, gaps_s in (
        (A, [43_000.0] * 60),
        (B, [43_000.0] * 60),
        (C, [40.0, 900.0, 15_000.0] * 20),
    ):
        at_s = -sum(gaps_s)
        demand.asked(name, at_s)
        for gap_s in gaps_s:
            at_s += gap_s
            demand.asked(name, at_s)
    return demand


def test_a_forecast_that_loads_more_is_gone_by_no_more_until_that_is_long_ago() -> None:
    demand, there = misled(), card("c", "a")
    outlook = Outlook(demand)
    trial, at_s, verdicts = Trial(outlook), 0.0, list[str]()

    def asked(name: str, after_s: float) -> None:
        nonlocal at_s
        at_s += after_s
        demand.asked(ModelId(name), at_s)
        trial.asked(there, ModelId(name), now_s=at_s, now_ms=round(1000 * at_s))
        verdicts.append(outlook.overruled)

    for name in "ababababab":
        asked(name, 100.0)
    # What is a while ago counts a little less: it takes one load more.
    enough = round(EVIDENCE_S / LOAD_S) + 1
    assert verdicts[:enough] == [""] * enough
    assert verdicts[enough] == (
        "of late it would have loaded for 25 min where the least recently used would have for 5 min"
    )
    assert all(verdicts[enough:])
    # Ten days later what either did wrong then counts for nothing.
    asked("c", 10 * HALF_LIFE_S)
    assert verdicts[-1] == ""
