"""Eviction: which resident models of one node give way to another, and when.

Nothing in use is ever cut: a victim is drained first. Three things keep the rest fair. A model
that an older request waits for is left to it, so the oldest waiter always gets its memory and two
models cannot displace each other for ever. A model in constant use gives way once a request has
waited for it twice as long as its answers take, so that a short one ends by itself. And a model
loaded a moment ago stays for as long as its load took, or `min_residency_s`, but not so long that a
request would miss its deadline.
"""

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import NamedTuple

from cortex.core import forecast
from cortex.core.copies import spares
from cortex.core.decisions import Want
from cortex.core.ids import ModelId
from cortex.core.rules import EvictionRules, Strategy
from cortex.core.snapshot import FleetSnapshot, ModelStatus, ModelView, NodeView
from cortex.core.tenure import drained_from_s, may_go_s, settled_s

LOAD_SHARE = 0.3
"""What a second of the load that is asked for counts beside one of a load that may never come: it is the
same load wherever it goes, but for the node's pace."""
EXACT_UP_TO = 12
"""Victims to choose among up to which the smallest sufficient set is found exactly."""

Rank = tuple[int, bool, int, str]
"""(priority, the only copy, last use, id): who gives way first; the priority counts under `priority` only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """A sufficient set of victims."""

    victims: tuple[ModelView, ...]
    """In the order in which they give way."""
    freed_mib: int
    """What is known of it."""
    rank: Rank
    """Of the most valuable victim: what the node loses."""
    losses: tuple[forecast.Loss, ...] = ()
    """What each is expected to cost, where that decides."""

    def loss(self, load_s: float) -> tuple[object, ...]:
        """What it comes to with a load that takes so long; less is better."""
        if self.losses:
            return sum(lost.cost_s for lost in self.losses) + LOAD_SHARE * load_s, self.rank
        return self.rank, len(self.victims), self.freed_mib

    def in_words(self) -> str:
        """Who goes, and what that is expected to cost where it was asked."""
        costs = [f" ({lost})" for lost in self.losses] or [""] * len(self.victims)
        return ", ".join(view.id + cost for view, cost in zip(self.victims, costs, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Postponed:
    """There is a sufficient set, but not yet."""

    reason: str
    recheck_s: float | None
    """When one of them may go even if nothing changes (monotonic); None = once it has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Impossible:
    """Not even everything that may ever go would make room."""

    reason: str


class _Candidate(NamedTuple):
    view: ModelView
    size_mib: int | None
    rank: Rank
    may_go_s: float
    """From when on it may be evicted (monotonic); infinity = not before an older request is served."""
    lost: forecast.Loss | None = None
    """What it is expected to cost; None = that was not asked."""


@dataclass(frozen=True, slots=True)
class Displaceable:
    """The models of one node that may ever give way, least valuable first; of its view alone.

    Under `priority` those that a model may displace are the first ones, for the priority
    comes first in a rank.
    """

    rules: EvictionRules
    spares: frozenset[ModelId]
    """Those of which there is another copy."""
    views: tuple[ModelView, ...]
    sizes: tuple[int | None, ...]
    ranks: tuple[Rank, ...]
    sums: tuple[float, ...]
    """Of the first n + 1 together; infinite from the first unknown size on, which may free anything."""
    idle_mib: float
    """Of all that nobody uses, likewise; negative = everything is in use."""
    ids: frozenset[ModelId]
    undrainable_until_s: float
    """The latest of theirs."""
    settled_s: float
    """When the last of them is no longer protected by its load (monotonic)."""
    answer_s: float
    """Of those in use, the one whose answers are shortest."""

    def below(self, wanted: ModelView) -> int:
        """How many of them rank no higher than `wanted`, where priorities count."""
        return bisect_right(self.ranks, wanted.priority, key=lambda rank: rank[0])

    def least_loss(
        self, wanted: ModelView, load_s: float, deficit_mib: int | None
    ) -> tuple[object, ...] | None:
        """`Eviction.loss` at the very least, as far as it is told easily; None = all are too few."""
        at = bisect_left(self.sums, deficit_mib or 0)
        veto = self.rules.strategy is Strategy.PRIORITY
        if at == len(self.sums) or (veto and at >= self.below(wanted)):
            return None
        return (LOAD_SHARE * load_s,) if self.rules.forecasts else (self.ranks[at],)


def displaceable(snapshot: FleetSnapshot, node: NodeView) -> Displaceable:
    """Computed once a view, as long as it has the same models to spare."""
    rules, spared = snapshot.eviction, spares(snapshot, node)
    known: Displaceable | None = node.derived.get("displaceable")
    if known is None or known.rules is not rules or known.spares != spared:
        known = node.derived["displaceable"] = _displaceable(node, rules, spared)
    return known


def _displaceable(
    node: NodeView, rules: EvictionRules, spared: frozenset[ModelId]
) -> Displaceable:
    ranked = sorted(
        (rank_of(view, rules.strategy, spare=view.id in spared), view)
        for view in node.models.values()
        if view.status is ModelStatus.LOADED and not view.pinned and not view.wedged
    )
    views = tuple(view for _, view in ranked)
    sizes = tuple(node.size_of(view) for view in views)
    counted = [float("inf") if size is None else size for size in sizes]
    idle = [mib for view, mib in zip(views, counted, strict=True) if not view.in_flight]
    return Displaceable(
        rules=rules,
        spares=spared,
        views=views,
        sizes=sizes,
        ranks=tuple(rank for rank, _ in ranked),
        sums=tuple(itertools.accumulate(counted)),
        idle_mib=sum(idle) if idle else -1.0,
        ids=frozenset(view.id for view in views),
        undrainable_until_s=max((view.undrainable_until_s for view in views), default=0.0),
        settled_s=max((settled_s(rules, view) for view in views), default=0.0),
        answer_s=min((view.answer_s for view in views if view.in_flight), default=0.0),
    )


def within_reach(there: Displaceable, wanted: ModelView, strategy: Strategy) -> int:
    """How many of them, the first ones, `wanted` may displace."""
    return there.below(wanted) if strategy is Strategy.PRIORITY else len(there.views)


def surely_later_s(
    there: Displaceable,
    wanted: ModelView,
    want: Want,
    rules: EvictionRules,
    *,
    deficit_mib: int | None,
    now_s: float,
) -> float | None:
    """When those in use may be drained, where without them there is no room: `evict` would postpone.

    None = not told so easily. Spares looking at each model of a fleet that is in use everywhere.
    """
    drain_s = drained_from_s(there.answer_s, want, rules, now_s=now_s)
    plain = (
        there.settled_s <= now_s
        and within_reach(there, wanted, rules.strategy) == len(there.views)
        and there.undrainable_until_s <= now_s < drain_s
        and there.idle_mib < (deficit_mib or 0)
        and want.seniors.isdisjoint(there.ids)
    )
    return drain_s if plain else None


def evict(
    node: NodeView,
    wanted: ModelView,
    want: Want,
    snapshot: FleetSnapshot,
    *,
    deficit_mib: int | None,
    now_s: float,
) -> Eviction | Postponed | Impossible:
    """Choose what `node` unloads so that `wanted` gets `deficit_mib` more (None: one model's worth).

    Among the sets that suffice, in this order: the most valuable victim is the least valuable
    possible (by `rules.strategy`); fewest victims; least memory. Where forecasts decide: the one
    that is expected to cost least. Idle models are preferred to such as must be drained.
    """
    if node.no_unload_reason is not None:
        return Impossible(reason=node.no_unload_reason)
    there, rules = displaceable(snapshot, node), snapshot.eviction
    candidates = [
        _Candidate(view, size, rank, may_go_s(view, want, rules, now_s=now_s))
        for view, size, rank in zip(
            there.views[: within_reach(there, wanted, rules.strategy)],
            there.sizes,
            there.ranks,
            strict=False,
        )
    ]
    ready = [c for c in candidates if c.may_go_s <= now_s]
    idle = [c for c in ready if not c.view.in_flight]
    weigh = partial(_cheapest, node, there, now_s) if rules.forecasts else _smallest
    chosen = weigh(idle, deficit_mib) or weigh(ready, deficit_mib)
    if chosen is not None:
        return Eviction(
            victims=tuple(c.view for c in chosen),
            freed_mib=sum(c.size_mib or 0 for c in chosen),
            rank=max(c.rank for c in chosen),
            losses=tuple(c.lost for c in chosen if c.lost is not None),
        )
    if _smallest(candidates, deficit_mib) is None:
        return Impossible(reason="; ".join(_obstacles(node, wanted, rules.strategy)))
    later = [c for c in candidates if c.may_go_s > now_s]
    return Postponed(
        reason="waiting for " + ", ".join(_why_later(c, want) for c in later),
        recheck_s=min((c.may_go_s for c in later if c.may_go_s < float("inf")), default=None),
    )


def rank_of(view: ModelView, strategy: Strategy, *, spare: bool) -> Rank:
    """Who gives way first: the smallest."""
    priority = view.priority if strategy is Strategy.PRIORITY else 0
    return priority, not spare, view.last_used_at_ms, view.id


def why_never(view: ModelView, wanted: ModelView, strategy: Strategy) -> str | None:
    """Why `view` is not displaced by `wanted`, now or later; None = it may be.

    Equal priorities displace each other both ways: otherwise a swap would be one-way, and the
    model that left would never come back.
    """
    if view.status is not ModelStatus.LOADED:
        return f"{view.id} is {view.status}"
    if view.pinned:
        return f"{view.id} is pinned"
    if view.wedged:
        return f"{view.id} is wedged: unloaded, it could not come back"
    if strategy is Strategy.PRIORITY and view.priority > wanted.priority:
        return f"{view.id} has priority {view.priority}, {wanted.id} {wanted.priority}"
    return None


def _cheapest(
    node: NodeView,
    there: Displaceable,
    now_s: float,
    candidates: Sequence[_Candidate],
    deficit_mib: int | None,
) -> tuple[_Candidate, ...] | None:
    """The sufficient set of `candidates` that is expected to cost least; None = all are too few."""
    outlook = there.rules.outlook
    assert outlook is not None
    losses = [
        forecast.SPARE
        if c.view.id in there.spares
        else forecast.loss(node, c.view, outlook, now_s)
        for c in candidates
    ]
    places = forecast.cheapest(
        [lost.cost_s for lost in losses],
        [inf if c.size_mib is None else c.size_mib for c in candidates],
        deficit_mib or 0,
    )
    if places is None:
        return None
    return tuple(candidates[place]._replace(lost=losses[place]) for place in places)


def _smallest(
    candidates: Sequence[_Candidate], deficit_mib: int | None
) -> tuple[_Candidate, ...] | None:
    """The smallest sufficient set of `candidates`, which are in rank order; None = all are too few.

    The shortest sufficient prefix fixes the most valuable victim. Within it, fewest victims are
    found by taking the largest; least memory by trying every set of that number, up to
    `EXACT_UP_TO` candidates.
    """
    prefix = _shortest_sufficient_prefix(candidates, deficit_mib)
    if prefix is None:
        return None
    *others, last = prefix
    largest_first = sorted(others, key=lambda c: (-_mib(c), c.rank))
    count = next(
        n for n in range(len(prefix)) if _suffices([last, *largest_first[:n]], deficit_mib)
    )
    if len(prefix) > EXACT_UP_TO:
        chosen = largest_first[:count]
    else:
        chosen = min(_sufficient(others, count, last, deficit_mib), key=_memory_then_ranks)
    return (*sorted(chosen, key=lambda c: c.rank), last)


def _shortest_sufficient_prefix(
    candidates: Sequence[_Candidate], deficit_mib: int | None
) -> Sequence[_Candidate] | None:
    for length in range(1, len(candidates) + 1):
        if _suffices(candidates[:length], deficit_mib):
            return candidates[:length]
    return None


def _sufficient(
    others: Sequence[_Candidate], count: int, last: _Candidate, deficit_mib: int | None
) -> Iterator[list[_Candidate]]:
    for chosen in itertools.combinations(others, count):
        if _suffices([*chosen, last], deficit_mib):
            yield list(chosen)


def _memory_then_ranks(chosen: Sequence[_Candidate]) -> tuple[int, list[Rank]]:
    return sum(map(_mib, chosen)), [c.rank for c in chosen]


def _suffices(chosen: Sequence[_Candidate], deficit_mib: int | None) -> bool:
    """A victim of unknown size may free anything: it is tried, and what it freed is measured."""
    if any(c.size_mib is None for c in chosen):
        return True
    return bool(chosen) and sum(map(_mib, chosen)) >= (deficit_mib or 0)


def _mib(candidate: _Candidate) -> int:
    return candidate.size_mib or 0


def _obstacles(node: NodeView, wanted: ModelView, strategy: Strategy) -> list[str]:
    whys = [why_never(view, wanted, strategy) for view in node.models.values() if view.occupies]
    return [why for why in whys if why is not None] or ["nothing there could be unloaded"]


def _why_later(candidate: _Candidate, want: Want) -> str:
    view = candidate.view
    if view.id in want.seniors:
        return f"{view.id}, which an older request waits for"
    if view.in_flight:
        return f"{view.id} to finish {view.in_flight} in flight"
    return f"{view.id}, loaded or used too recently"
