"""By forecast those go whose loss is expected to cost the fewest seconds."""

import itertools
import random
from math import inf

import pytest

from cortex.core.decisions import Load
from cortex.core.demand import Demand, Outlook
from cortex.core.forecast import EXACT_UP_TO, cheapest
from cortex.core.ids import ModelId
from cortex.core.plan import plan
from cortex.core.rules import EvictionRules, Strategy
from cortex.core.snapshot import ModelView, NodeView
from tests.core.fleets import absent, fleet, model, node, want

NOW_S = 1_000_000.0


def outlook(**every_s: float) -> Outlook:
    """Each was asked for so often, the last time just as long ago."""
    demand = Demand()
    for name, gap_s in every_s.items():
        for number in range(60, 0, -1):
            demand.asked(ModelId(name), NOW_S - number * gap_s)
    return Outlook(demand)


def loaded(*nodes: NodeView, by: Outlook | None) -> Load:
    rules = EvictionRules(strategy=Strategy.FORECAST, outlook=by)
    decision = plan(fleet(*nodes, eviction=rules), want(), now_s=NOW_S)
    assert isinstance(decision, Load)
    return decision


def resident(name: str, used_at_ms: int, load_s: float = 30.0, **more: object) -> ModelView:
    fields = {"size_mib": 6000, "last_used_at_ms": used_at_ms, "load_s": load_s}
    return model(name, **(fields | more))


def test_what_is_hardly_ever_asked_for_goes_though_it_was_used_last() -> None:
    there = node("n", absent(6000), resident("a", 1), resident("b", 2), total_mib=12_500)
    by = outlook(a=600.0, b=200_000.0)
    assert loaded(there, by=by).evict == ("b",)
    by.overruled = "it does harm"
    assert loaded(there, by=by).evict == ("a",)
    assert loaded(there, by=Outlook(Demand())).evict == ("a",)
    assert loaded(there, by=None).evict == ("a",)


@pytest.mark.parametrize(("load_s", "goes"), [(5.0, "a"), (90.0, "b")])
def test_of_two_that_are_asked_for_alike_the_one_goes_that_is_back_soonest(
    load_s: float, goes: str
) -> None:
    there = [resident("a", 2, load_s), resident("b", 1, 30.0)]
    by = outlook(a=3000.0, b=3000.0)
    assert loaded(node("n", absent(6000), *there, total_mib=12_500), by=by).evict == (goes,)


def test_one_that_is_back_at_once_but_always_wanted_stays() -> None:
    there = [resident("a", 1, 0.5), resident("b", 2, 30.0)]
    by = outlook(a=600.0, b=20_000.0)
    assert loaded(node("n", absent(6000), *there, total_mib=12_500), by=by).evict == ("b",)


@pytest.mark.parametrize(
    ("priority", "goes"), [(100, "a"), (300, "b"), (40, "a"), (0, "a"), (-200, "a")]
)
def test_a_priority_is_a_weight(priority: int, goes: str) -> None:
    there = [resident("a", 1, 20.0, priority=priority), resident("b", 2, 30.0)]
    by = outlook(a=3000.0, b=3000.0)
    assert loaded(node("n", absent(6000), *there, total_mib=12_500), by=by).evict == (goes,)


def test_of_equals_those_go_that_were_used_least_recently_and_no_more_than_needed() -> None:
    there = [resident(name, at) for at, name in enumerate("cab")]
    by = outlook(other=5.0)
    assert loaded(node("n", absent(6000), *there, total_mib=18_500), by=by).evict == ("c",)


def test_two_small_ones_go_for_less_than_a_large_one() -> None:
    small = [resident(name, 9, 2.0, size_mib=3000) for name in "ab"]
    there = node("n", absent(6000), *small, resident("c", 1, 40.0), total_mib=12_500)
    assert loaded(there, by=outlook(a=600.0, b=600.0, c=600.0)).evict == ("a", "b")


def test_the_node_is_chosen_by_what_is_lost_and_a_share_of_the_load() -> None:
    def on(name: str, load_s: float, victim: str) -> NodeView:
        return node(name, absent(6000, load_s=load_s), resident(victim, 1), total_mib=6500)

    by = outlook(a=600.0, b=200_000.0, c=200_000.0)
    assert loaded(on("m", 10.0, "a"), on("n", 10.0, "b"), by=by).node == "n"
    # A second of a load that is asked for counts 0.3: 100 s of it more than 30 s that are certain.
    assert loaded(on("m", 10.0, "a"), on("n", 120.0, "b"), by=by).node == "m"
    assert loaded(on("m", 10.0, "c"), on("n", 40.0, "b"), by=by).node == "m"


def test_the_product_is_told() -> None:
    there = node("n", absent(6000), resident("a", 1, 31.0), total_mib=6500)
    by = outlook(a=100.0)
    decision = loaded(there, by=by)
    product = "a (100 % within 15 min × (31 + 5) s = 36 s)"
    assert decision.reason == f"needs 6000 MiB, free 500 MiB: {product} must go"
    assert f"after unloading {product}" in str(decision.considered[0])


def _brute(costs: list[float], sizes: list[float], wanted: float) -> float | None:
    sums = [
        sum(costs[place] + 1e-6 * (1 + place) for place in chosen)
        for count in range(1, len(costs) + 1)
        for chosen in itertools.combinations(range(len(costs)), count)
        if sum(sizes[place] for place in chosen) >= wanted
    ]
    return min(sums, default=None)


@pytest.mark.parametrize("seed", range(5))
def test_no_set_that_suffices_is_cheaper(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        count = rng.randrange(1, 10)
        sizes = [rng.choice([0.0, 5.0, 7.0, inf, rng.randrange(1, 30)]) for _ in range(count)]
        costs = [rng.choice([0.0, 3.0, rng.random(), 10 * rng.random()]) for _ in range(count)]
        wanted = rng.choice([1, rng.randrange(1, 60)])
        chosen, least = cheapest(costs, sizes, wanted), _brute(costs, sizes, wanted)
        assert (chosen is None) is (least is None)
        if chosen is not None:
            assert sum(sizes[place] for place in chosen) >= wanted
            spent = sum(costs[place] + 1e-6 * (1 + place) for place in chosen)
            assert spent == pytest.approx(least, abs=1e-9)


def test_of_many_it_takes_the_cheapest_for_each_mib_and_none_too_many() -> None:
    rng = random.Random(9)
    for _ in range(100):
        count = EXACT_UP_TO + rng.randrange(1, 30)
        sizes = [float(rng.randrange(1000, 20_000)) for _ in range(count)]
        costs = [rng.random() * 60 for _ in range(count)]
        wanted = rng.uniform(0.05, 1.0) * sum(sizes)
        chosen = cheapest(costs, sizes, wanted)
        assert chosen is not None
        freed = sum(sizes[place] for place in chosen)
        assert freed >= wanted
        assert all(freed - sizes[place] < wanted for place in chosen)


def test_where_nobody_knows_how_much_is_missing_one_goes() -> None:
    assert cheapest([5.0, 2.0, 3.0], [6.0, 0.0, 6.0], 0) == (2,)
    assert cheapest([5.0, 2.0, 9.0], [6.0, inf, 6.0], 12) == (1,)
    assert cheapest([1.0, 1.0], [0.0, 0.0], 0) is None
    assert cheapest([], [], 5) is None
