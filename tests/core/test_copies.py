"""A second copy goes into free memory once all are full for long, and is the first to go."""

import pytest

from cortex.core.copies import SPARE_AFTER_S
from cortex.core.decisions import Decision, Load, Serve, Wait
from cortex.core.health import Liveness, NodeHealth
from cortex.core.ids import ModelId
from cortex.core.plan import plan
from cortex.core.rules import EvictionRules, Strategy
from cortex.core.snapshot import FleetSnapshot, ModelView, NodeView
from tests.core.fleets import WANTED, absent, fleet, model, node, want

NOW_S = 1000.0
LONG_S = NOW_S - SPARE_AFTER_S
DOWN = Liveness(NodeHealth.DOWN)


def held(**more: object) -> ModelView:
    fields = {"size_mib": 6000, "in_flight": 2, "max_in_flight": 2}
    return model("wanted", **(fields | more))


def beside(*there: NodeView) -> FleetSnapshot:
    """The full copy, and other nodes."""
    return fleet(node("full", held(), total_mib=8000), *there)


def decided(snapshot: FleetSnapshot, **more: object) -> Decision:
    return plan(snapshot, want(**({"since_s": LONG_S} | more)), now_s=NOW_S)


FREE = node("free", absent(6000), total_mib=24_000)


def test_a_slot_is_waited_for_a_while_then_another_copy_is_loaded() -> None:
    early = decided(beside(FREE), since_s=NOW_S - 1)
    assert isinstance(early, Wait)
    assert not early.loading
    assert early.recheck_s == NOW_S - 1 + SPARE_AFTER_S
    late = decided(beside(FREE))
    assert isinstance(late, Load)
    assert (late.node, late.evict, late.another) == ("free", (), True)
    assert late.reason == "every copy is full, another fits: needs 6000 MiB of 24000 MiB free"
    assert {entry.node for entry in late.considered} == {"full", "free"}


def test_a_slot_that_is_free_again_serves() -> None:
    snapshot = fleet(node("n", held(in_flight=1), total_mib=8000), FREE)
    assert isinstance(decided(snapshot), Serve)


@pytest.mark.parametrize(
    "other",
    [
        node("n", absent(6000), model("b", size_mib=6000), total_mib=8000),
        node("n", absent(6000)),
        node(
            "n", absent(6000), total_mib=24_000, no_unload_reason="it would destroy the model"
        ),
        node("n", absent(6000), total_mib=24_000, liveness=DOWN),
        node("n", absent(6000), model("b", "loading", size_mib=1000), total_mib=24_000),
        node("n", model("wanted", "loading", size_mib=6000), total_mib=24_000),
    ],
    ids=["taken", "unmeasured", "for-ever", "down", "moving", "on-its-way"],
)
def test_only_free_memory_will_do_and_only_one_comes_at_a_time(other: NodeView) -> None:
    decision = decided(beside(other))
    assert isinstance(decision, Wait)
    assert not decision.loading
    assert decision.recheck_s is None


def test_its_size_is_that_of_the_copy_there_is_or_it_is_not_tried() -> None:
    other = node("n", absent(None), total_mib=24_000)
    decision = decided(beside(other))
    assert isinstance(decision, Load)
    assert decision.guess == "its size on full"
    assert decision.reason.startswith(
        "every copy is full, another tried: perhaps 6000 MiB wanted"
    )
    nobody_knows = fleet(node("full", held(size_mib=None), total_mib=8000), other)
    assert isinstance(decided(nobody_knows), Wait)
    small = node("n", absent(None), total_mib=5000)
    assert isinstance(decided(beside(small)), Wait)


def test_a_copy_on_its_way_keeps_another_from_coming() -> None:
    coming = node("m", model("wanted", "loading", size_mib=6000), total_mib=8000)
    going = node("m", held(status="draining"), total_mib=8000)
    for other in (coming, going):
        assert isinstance(decided(beside(other, FREE)), Wait)


def test_neither_for_one_that_wants_that_node_nor_past_older_requests() -> None:
    assert isinstance(decided(beside(FREE), only="full"), Wait)
    assert isinstance(decided(beside(FREE), seniors=frozenset({ModelId("b")})), Wait)
    assert isinstance(decided(beside(FREE), since_s=None), Wait)


@pytest.mark.parametrize(("most", "loads"), [(1, False), (2, False), (3, True)])
def test_no_more_than_are_allowed(most: int, loads: bool) -> None:
    two = beside(node("too", held(), total_mib=8000), FREE)
    limited = FleetSnapshot(nodes=two.nodes, locations=two.locations, max_copies={WANTED: most})
    assert isinstance(decided(limited), Load) is loads


@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_copy_to_spare_goes_before_what_was_used_long_ago(strategy: Strategy) -> None:
    twice = model("a", size_mib=6000, last_used_at_ms=99)
    once = model("b", size_mib=6000, last_used_at_ms=1)
    tight = node("n", absent(6000), twice, once, total_mib=12_500)
    for health, goes in ((None, "a"), (DOWN, "b")):
        liveness = {} if health is None else {"liveness": health}
        other = node("m", model("a", size_mib=6000), total_mib=6500, **liveness)
        rules = EvictionRules(strategy=strategy)
        decision = plan(fleet(tight, other, eviction=rules), want(), now_s=NOW_S)
        assert isinstance(decision, Load)
        assert decision.evict == (goes,)


def test_one_whose_size_nobody_knows_may_be_lost_for_nothing_and_has_its_turn() -> None:
    twice = model("a", last_used_at_ms=99)
    once = model("b", size_mib=6000, last_used_at_ms=1)
    tight = node("n", absent(6000), twice, once, total_mib=12_500, free_mib=500)
    other = node("m", model("a", size_mib=6000), total_mib=6500)
    decision = plan(fleet(tight, other), want(), now_s=NOW_S)
    assert isinstance(decision, Load)
    assert decision.evict == ("b",)


def test_under_priority_it_still_does_not_go_for_one_of_lower_priority() -> None:
    rules = EvictionRules(strategy=Strategy.PRIORITY)
    twice = model("a", size_mib=6000, priority=200)
    tight = node("n", absent(6000), twice, total_mib=6500)
    other = node("m", model("a", size_mib=6000, priority=200), total_mib=6500)
    assert not isinstance(plan(fleet(tight, other, eviction=rules), want(), now_s=NOW_S), Load)


def test_which_copies_are_to_spare_is_seen_anew_when_one_goes() -> None:
    """What is kept of a node's view must not outlive a change of another node."""
    tight = node(
        "n",
        absent(6000),
        model("a", size_mib=6000, last_used_at_ms=99),
        model("b", size_mib=6000, last_used_at_ms=1),
        total_mib=12_500,
    )
    before = node("m", model("a", size_mib=6000), total_mib=6500)
    after = node("m", model("a", "unloaded", size_mib=6000), total_mib=6500)
    for other, goes in ((before, "a"), (after, "b"), (before, "a")):
        decision = plan(fleet(tight, other), want(), now_s=NOW_S)
        assert isinstance(decision, Load)
        assert decision.evict == (goes,)
