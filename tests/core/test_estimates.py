"""Sizes are estimates, free memory is measured: where the two disagree, and where there is no size."""

import pytest

from cortex.core.decisions import Load, Reject
from cortex.core.defrag import why_due
from cortex.core.footprint import least_mib
from cortex.core.plan import plan
from cortex.core.snapshot import ModelView, NodeView
from tests.core.fleets import absent, fleet, model, node, want

NOW_S = 1000.0
TOTAL_MIB = 24_576


def card(*views: ModelView, free_mib: int | None = None, **more: object) -> NodeView:
    return node("n", *views, total_mib=TOTAL_MIB, free_mib=free_mib, **more)


def decided(*nodes: NodeView) -> Load | Reject:
    decision = plan(fleet(*nodes), want(since_s=NOW_S - 600), now_s=NOW_S)
    assert isinstance(decision, Load | Reject), decision
    return decision


@pytest.mark.parametrize(
    ("size_mib", "least"),
    [(40_000, 38_800), (20_000, 19_400), (10_000, 9_488), (1000, 500), (300, 150), (1, 1)],
)
def test_the_tolerance(size_mib: int, least: int) -> None:
    """3 %, at least 512 MiB, at most half of a small model."""
    assert least_mib(size_mib) == least


def test_what_outgrew_its_size_still_makes_room() -> None:
    """Learned at 20,000 MiB, it holds 22,000 by now; without it there is room."""
    grown = model("a", size_mib=20_000)
    decision = decided(card(absent(23_000), grown, free_mib=2576))
    assert isinstance(decision, Load)
    assert decision.evict == ("a",)


def test_a_small_leak_keeps_no_model_out() -> None:
    assert isinstance(decided(card(absent(24_000), free_mib=23_776)), Load)
    # More than the tolerance is too much, with nothing there that could go.
    refused = decided(card(absent(24_000), free_mib=23_000))
    assert isinstance(refused, Reject)
    assert refused.code == "no_room"


def test_where_all_that_is_there_can_go_the_model_is_tried() -> None:
    """Two residents, sized too small: nobody can tell which of them has grown."""
    residents = [model("a", size_mib=8000), model("b", size_mib=8000)]
    decision = decided(card(absent(22_000), *residents, free_mib=1000))
    assert isinstance(decision, Load)
    assert sorted(decision.evict) == ["a", "b"]
    # Not where one stays, for then its size counts.
    residents[1] = model("b", size_mib=8000, pinned=True)
    refused = decided(card(absent(22_000), *residents, free_mib=1000))
    assert isinstance(refused, Reject)
    assert refused.code == "no_room"


def test_the_tolerance_does_not_forget_a_load_that_ran_out_of_memory() -> None:
    refused = decided(card(absent(4001, out_of_memory=True), free_mib=4000))
    assert isinstance(refused, Reject)
    assert isinstance(decided(card(absent(4001, out_of_memory=True), free_mib=4001)), Load)


def test_nothing_goes_for_what_ran_out_of_memory_on_the_empty_card() -> None:
    """Leaks left 23,776 MiB of it: only a restart helps, and is due for it."""
    starved, resident = absent(24_000, out_of_memory=True), model("a", size_mib=20_000)
    there = card(starved, resident, free_mib=3776, residue_mib=800)
    refused = decided(there)
    assert isinstance(refused, Reject)
    assert refused.code == "no_room"
    assert why_due(there, after_cycles=50) == (
        "unloads left 800 MiB behind, which wanted lacks"
    )
    assert why_due(card(absent(24_000), resident, residue_mib=800), after_cycles=50) is None


def test_a_size_is_guessed_by_what_it_is_elsewhere() -> None:
    decision = decided(
        card(absent(), model("a", size_mib=10_000), free_mib=14_000),
        node("other", absent(20_000), total_mib=48_000, no_load_reason="off"),
    )
    assert isinstance(decision, Load)
    assert (decision.node, decision.evict, decision.need_mib) == ("n", ("a",), 20_000)
    chosen = next(seen for seen in decision.considered if seen.node == "n")
    assert "its need is a guess: its size on other" in chosen.detail


def test_else_by_the_largest_model_of_the_node() -> None:
    decision = decided(
        card(absent(), model("a", size_mib=9000), model("b", size_mib=12_000), free_mib=3576)
    )
    assert isinstance(decision, Load)
    assert (decision.evict, decision.need_mib) == (("a",), 12_000)
    # Known, though it is not in memory now.
    gone = model("c", "unloaded", size_mib=20_000)
    decision = decided(card(absent(), model("a", size_mib=9000), gone, free_mib=15_576))
    assert isinstance(decision, Load)
    assert (decision.evict, decision.need_mib) == (("a",), 20_000)


def test_a_guess_makes_no_model_one_that_can_never_fit() -> None:
    decision = decided(
        card(absent(), model("a", size_mib=10_000), free_mib=14_000),
        node("other", absent(80_000), total_mib=96_000, no_load_reason="off"),
    )
    assert isinstance(decision, Load)
    assert (decision.evict, decision.need_mib) == (("a",), TOTAL_MIB)


def test_a_guess_does_not_keep_a_model_out_beside_what_is_pinned() -> None:
    pinned = model("a", size_mib=20_000, pinned=True)
    decision = decided(card(absent(), pinned, free_mib=4500))
    assert isinstance(decision, Load)
    assert decision.evict == ()
    # But not on a card that is nearly full.
    refused = decided(card(absent(), pinned, free_mib=2000))
    assert isinstance(refused, Reject)
    assert refused.code == "no_room"


def test_where_nothing_is_known_it_is_tried() -> None:
    assert isinstance(decided(card(absent(), free_mib=100)), Load)
