"""Eviction: which resident models of one node give way to another, and when.

Nothing in use is ever cut: a victim is drained first. Three things keep the rest fair. A model
that an older request waits for is left to it, so the oldest waiter always gets its memory and two
models cannot displace each other for ever. A model in constant use gives way once a request has
waited twice as long as its answers take, five seconds at least and a quarter of its patience at most.
And a model loaded a moment ago stays for as long as its load took, or `min_residency_s`, but not so
long that a request would miss its deadline.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cortex.core.decisions import Want
from cortex.core.rules import EvictionRules, Strategy
from cortex.core.snapshot import FleetSnapshot, ModelStatus, ModelView, NodeView
from tests.core.plain import forecast
from tests.core.plain.memory import size_of

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


@dataclass(frozen=True, slots=True)
class _Candidate:
    view: ModelView
    size_mib: int | None
    rank: Rank
    may_go_s: float
    """From when on it may be evicted (monotonic); infinity = not before an older request is served."""


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
    possible (by `rules.strategy`); fewest victims; least memory. Idle models are preferred to
    such as must be drained.
    """
    if node.no_unload_reason is not None:
        return Impossible(reason=node.no_unload_reason)
    rules = snapshot.eviction
    candidates = sorted(
        (
            _Candidate(
                view,
                size_of(node, view),
                rank_of(snapshot, node, view),
                _may_go_s(view, want, rules, now_s=now_s),
            )
            for view in node.models.values()
            if why_never(view, wanted, rules.strategy) is None
        ),
        key=lambda candidate: candidate.rank,
    )
    ready = [c for c in candidates if c.may_go_s <= now_s]
    idle = [c for c in ready if not c.view.in_flight]
    if forecast.decides(rules):
        chosen = _cheapest(snapshot, node, idle, deficit_mib, now_s) or _cheapest(
            snapshot, node, ready, deficit_mib, now_s
        )
    else:
        chosen = _smallest(idle, deficit_mib) or _smallest(ready, deficit_mib)
    if chosen is not None:
        return Eviction(
            victims=tuple(c.view for c in chosen),
            freed_mib=sum(c.size_mib or 0 for c in chosen),
            rank=max(c.rank for c in chosen),
        )
    if _smallest(candidates, deficit_mib) is None:
        return Impossible(reason="; ".join(_obstacles(node, wanted, rules.strategy)))
    later = [c for c in candidates if c.may_go_s > now_s]
    return Postponed(
        reason="waiting for " + ", ".join(_why_later(c, want) for c in later),
        recheck_s=min((c.may_go_s for c in later if c.may_go_s < float("inf")), default=None),
    )


def rank_of(snapshot: FleetSnapshot, node: NodeView, view: ModelView) -> Rank:
    """Who gives way first: the smallest."""
    priority = view.priority if snapshot.eviction.strategy is Strategy.PRIORITY else 0
    return priority, not is_spare(snapshot, node, view), view.last_used_at_ms, view.id


def is_spare(snapshot: FleetSnapshot, node: NodeView, view: ModelView) -> bool:
    """Both it and another copy are in memory, on nodes where that counts, and its size is known."""
    # Counted once a fleet: to look at all nodes for each of its models takes minutes.
    if "plain copies" not in snapshot.derived:
        snapshot.derived["plain copies"] = Counter(
            model.id
            for there in snapshot.nodes.values()
            for model in there.models.values()
            if there.keeps and model.status is ModelStatus.LOADED
        )
    sized = view.size_mib is not None
    return node.keeps and sized and snapshot.derived["plain copies"][view.id] > 1


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


def _may_go_s(view: ModelView, want: Want, rules: EvictionRules, *, now_s: float) -> float:
    if view.id in want.seniors:
        return float("inf")
    since_s = now_s if want.since_s is None else want.since_s
    patience_s = float("inf") if want.deadline_s is None else want.deadline_s - since_s
    bounds = [view.undrainable_until_s]
    if view.in_flight:
        waits_s = max(rules.drain_after_s, 2 * view.answer_s)
        bounds.append(since_s + min(waits_s, patience_s / 4))
    if view.resident_since_s is not None:
        settled_s = view.resident_since_s + (rules.min_residency_s or 0.0)
        if rules.min_residency_s is None:
            once_s = view.resident_since_s + (view.load_s or 0.0)
            thrice_s = once_s + 2 * (view.load_s or 0.0)
            wanted_s = thrice_s if view.in_flight else view.used_s + 2 * view.answer_s
            settled_s = max(once_s, min(thrice_s, wanted_s))
        if settled_s > now_s:
            bounds.append(min(settled_s, since_s + 9 * patience_s / 10))
    return max(bounds)


def _cheapest(
    snapshot: FleetSnapshot,
    node: NodeView,
    candidates: Sequence[_Candidate],
    deficit_mib: int | None,
    now_s: float,
) -> tuple[_Candidate, ...] | None:
    places = forecast.cheapest(
        [
            0.0
            if is_spare(snapshot, node, c.view)
            else forecast.cost_s(node, c.view, snapshot.eviction, now_s)
            for c in candidates
        ],
        [c.size_mib for c in candidates],
        deficit_mib or 0,
    )
    return None if places is None else tuple(candidates[place] for place in places)


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
