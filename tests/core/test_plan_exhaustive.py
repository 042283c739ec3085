"""Every small fleet, planned, and compared with an oracle that tries every set of victims.

The oracle is written from the rules, not from the code: it looks at all subsets of all residents
and takes the best that is allowed.
"""

import itertools
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.decisions import Load, Reject, Serve, Wait
from cortex.core.plan import plan
from cortex.core.rules import EvictionRules, Strategy
from cortex.core.snapshot import FleetSnapshot, ModelStatus, ModelView, NodeView
from tests.core.fleets import WANTED, absent, fleet, model, node, want

NOW_S = 1000.0
GIB = 1024
SIZES = (2 * GIB, 4 * GIB)


RANKED = (Strategy.LRU, Strategy.PRIORITY)
"""Forecasts are compared in `test_plan_fast`; without one the least recently used go, as under the first."""


def _least(size: int) -> int:
    """The free memory that is enough for a try."""
    return size - min(max(round(size * 0.03), 512), size // 2)


def _rank(view: ModelView, strategy: Strategy) -> tuple[int, int, str]:
    return (
        (view.priority if strategy is Strategy.PRIORITY else 0),
        view.last_used_at_ms,
        view.id,
    )


def _allowed(view: ModelView, wanted: ModelView, strategy: Strategy) -> bool:
    outranked = strategy is Strategy.PRIORITY and view.priority > wanted.priority
    return view.status is ModelStatus.LOADED and not view.pinned and not outranked


def _subsets(views: Iterable[ModelView]) -> Iterator[tuple[ModelView, ...]]:
    views = list(views)
    for count in range(len(views) + 1):
        yield from itertools.combinations(views, count)


def _best(snapshot: FleetSnapshot, *, with_busy: bool) -> tuple[str, frozenset[str]] | None:
    """The node and the victims with which the wanted model fits at the least loss."""
    strategy = snapshot.eviction.strategy
    found = []
    for n in snapshot.nodes.values():
        wanted = n.models[WANTED]
        assert wanted.size_mib is not None
        assert n.vram_total_mib is not None
        held = sum(
            m.size_mib or 0 for m in n.models.values() if m.status is not ModelStatus.UNLOADED
        )
        free = n.vram_total_mib - held
        if n.free_mib is not None:
            free = min(free, n.free_mib)
        movable = [m for m in n.models.values() if _allowed(m, wanted, strategy)]
        if not with_busy:
            movable = [m for m in movable if not m.in_flight]
        for victims in _subsets(movable):
            freed = sum(m.size_mib or 0 for m in victims)
            there = [m for m in n.models.values() if m.status is not ModelStatus.UNLOADED]
            if len(there) == 1 and victims and n.free_mib is not None:
                freed = max(freed, n.vram_total_mib - n.free_mib)
            emptied = len(victims) == len(there) > 0
            if wanted.size_mib > n.vram_total_mib or not (
                emptied or _least(wanted.size_mib) <= free + freed
            ):
                continue
            ranks = sorted(_rank(m, strategy) for m in victims)
            cost: tuple[object, ...]
            if not victims:
                cost = (0, -(free - wanted.size_mib), n.name)
            else:
                cost = (1, ranks[-1], len(victims), freed, n.name, ranks)
            found.append((cost, n.name, frozenset(m.id for m in victims)))
    if not found:
        return None
    _, name, gone = min(found, key=lambda entry: entry[0])
    return name, gone


def _check(snapshot: FleetSnapshot) -> str:
    """Compare one plan with the oracle; returns what kind of answer it was."""
    answer = plan(snapshot, want(), now_s=NOW_S)
    idle = _best(snapshot, with_busy=False)
    if idle is not None:
        assert isinstance(answer, Load), answer
        assert (answer.node, frozenset(answer.evict)) == idle
        return "evict" if idle[1] else "fits"
    later = _best(snapshot, with_busy=True)
    if later is None:
        assert isinstance(answer, Reject), answer
        sizes = [(n.models[WANTED].size_mib, n.vram_total_mib) for n in snapshot.nodes.values()]
        small = all(size > total for size, total in sizes if size and total)
        assert answer.code == ("model_never_fits" if small else "no_room")
        return answer.code
    assert isinstance(answer, Wait), answer
    assert answer.recheck_s is not None
    patient = plan(snapshot, want(since_s=NOW_S - 60), now_s=NOW_S)
    assert isinstance(patient, Load), patient
    assert (patient.node, frozenset(patient.evict)) == later
    return "drain"


def _residents(
    name: str, sizes: tuple[int, ...], priorities: tuple[int, ...]
) -> list[tuple[int, bool, int, int] | None]:
    return [None, *itertools.product(sizes, (False, True), (0, 1), priorities)]


def _made(name: str, at: int, kind: tuple[int, bool, int, int] | None) -> list[ModelView]:
    if kind is None:
        return []
    size, pinned, in_flight, priority = kind
    return [
        model(
            name,
            size_mib=size,
            pinned=pinned,
            in_flight=in_flight,
            priority=priority,
            last_used_at_ms=at,
        )
    ]


@pytest.mark.parametrize("strategy", RANKED)
@pytest.mark.parametrize("size_gib", [3, 5, 8, 9])
def test_one_node_with_up_to_three_residents(strategy: Strategy, size_gib: int) -> None:
    """Sizes, pins, use, priorities and outside use in every combination: 14,739 fleets each."""
    priorities = (100,) if strategy is Strategy.LRU else (100, 200)
    kinds = [_residents(n, SIZES, priorities) for n in "abc"]
    seen = set()
    for chosen in itertools.product(*kinds):
        views = [
            view
            for at, (name, kind) in enumerate(zip("abc", chosen, strict=True))
            for view in _made(name, at, kind)
        ]
        held = sum(view.size_mib or 0 for view in views)
        if held > 8 * GIB:
            continue
        for outside in (None, 0, 2 * GIB):
            free = None if outside is None else max(0, 8 * GIB - held - outside)
            wanted = absent(size_gib * GIB, priority=100)
            n = node("n", wanted, *views, total_mib=8 * GIB, free_mib=free)
            seen.add(_check(fleet(n, eviction=EvictionRules(strategy=strategy))))
    assert seen == (
        {"model_never_fits"} if size_gib == 9 else {"fits", "evict", "drain", "no_room"}
    )


@pytest.mark.parametrize("ages", [(0, 1, 2, 3), (3, 1, 2, 0), (1, 3, 0, 2)])
@pytest.mark.parametrize("totals", [(8, 8), (8, 5)])
def test_two_nodes_with_two_residents_each(
    totals: tuple[int, int], ages: tuple[int, ...]
) -> None:
    """Each kind of resident in each place, for each order of use: 6,561 fleets each."""
    _check_all_of_two_nodes(totals, ages, (100, 100, 100, 100), Strategy.LRU)


@pytest.mark.parametrize("priorities", [(50, 100, 100, 200), (150, 50, 50, 100)])
def test_two_nodes_with_residents_of_several_priorities(priorities: tuple[int, ...]) -> None:
    _check_all_of_two_nodes((8, 5), (3, 1, 2, 0), priorities, Strategy.PRIORITY)


def _check_all_of_two_nodes(
    totals: tuple[int, int],
    ages: tuple[int, ...],
    priorities: tuple[int, ...],
    strategy: Strategy,
) -> None:
    kinds = [
        _residents(name, SIZES, (of,)) for name, of in zip("abcd", priorities, strict=True)
    ]
    for chosen in itertools.product(*kinds):
        a, b, c, d = (_made(*made) for made in zip("abcd", ages, chosen, strict=True))
        snapshot = fleet(
            _full("n0", a + b, totals[0]),
            _full("n1", c + d, totals[1]),
            eviction=EvictionRules(strategy=strategy),
        )
        _check(snapshot)


def _full(name: str, views: list[ModelView], total: int) -> NodeView:
    return node(name, absent(5 * GIB), *views, total_mib=total * GIB)


_view = st.tuples(
    st.integers(1, 40).map(GIB.__mul__),
    st.booleans(),
    st.integers(0, 1),
    st.sampled_from([50, 100, 150]),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(_view, max_size=9), min_size=1, max_size=4),
    st.integers(1, 200).map(GIB.__mul__),
    st.sampled_from(RANKED),
    st.randoms(use_true_random=False),
)
def test_large_fleets(
    nodes: list[list[tuple[int, bool, int, int]]], size: int, strategy: Strategy, random: object
) -> None:
    made = []
    for number, kinds in enumerate(nodes):
        views = []
        for index, kind in enumerate(kinds):
            at = random.randrange(5)  # type: ignore[attr-defined]
            views += _made(f"m{number}-{index}", at, kind)
        total = max(60 * GIB, sum(v.size_mib or 0 for v in views))
        made.append(node(f"n{number}", absent(size), *views, total_mib=total))
    _check(fleet(*made, eviction=EvictionRules(strategy=strategy)))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 30).map(GIB.__mul__), min_size=13, max_size=40),
    st.integers(1, 400).map(GIB.__mul__),
)
def test_beyond_twelve_candidates_the_set_is_still_sufficient_and_lean(
    sizes: list[int], size: int
) -> None:
    views = [model(f"m{n:02}", size_mib=mib, last_used_at_ms=n) for n, mib in enumerate(sizes)]
    total = sum(sizes)
    answer = plan(fleet(node("n", absent(size), *views, total_mib=total)), want(), now_s=NOW_S)
    if size > total:
        assert isinstance(answer, Reject)
        return
    assert isinstance(answer, Load)
    by_id = {view.id: view.size_mib or 0 for view in views}
    freed = [by_id[victim] for victim in answer.evict]
    assert sum(freed) >= _least(size)
    # None of them could have stayed, and nothing more valuable than needed went.
    assert all(sum(freed) - mib < _least(size) for mib in freed)
    worst = max(int(victim[1:]) for victim in answer.evict)
    assert sum(sizes[:worst]) < _least(size)


def test_serve_wins_over_everything() -> None:
    snapshot = fleet(
        node("n0", absent(1), total_mib=100),
        node("n1", model("wanted", size_mib=1), total_mib=100),
    )
    assert isinstance(plan(snapshot, want(), now_s=NOW_S), Serve)
