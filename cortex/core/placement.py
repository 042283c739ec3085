"""Placement: which node loads a model that is resident nowhere it could be served from."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import inf
from operator import attrgetter
from typing import NamedTuple

from cortex.core.decisions import Account, Alternative, Considered, Load, Verdict, Want
from cortex.core.eviction import (
    Eviction,
    Impossible,
    Postponed,
    displaceable,
    evict,
    surely_later_s,
    within_reach,
)
from cortex.core.footprint import least_mib
from cortex.core.guesses import hints, sized
from cortex.core.health import CLOSED
from cortex.core.options import (
    Option,
    Room,
    alternative,
    reason_of,
    room,
    roomiest,
    seen_there,
    with_eviction,
)
from cortex.core.routing import Survey, candidates, refusal, unfit
from cortex.core.snapshot import FleetSnapshot, ModelStatus, ModelView, NodeView, needed_mib
from cortex.core.warmth import load_s_or_guess

ALTERNATIVES = 3
"""Other ways that are written down with a load."""
NEARLY_FULL_SHARE = 0.1
"""Share of a device that must be free for a try of what is only guessed to need more."""


class Looked(NamedTuple):
    """What became of one node; `recheck_s` is when that may change by itself (monotonic)."""

    node: NodeView
    model: ModelView
    verdict: Verdict
    recheck_s: float | None = None


class _Tight(NamedTuple):
    """A node where something would have to go; `loss` is the least that it can lose by it."""

    node: NodeView
    model: ModelView
    deficit_mib: int | None
    loss: tuple[object, ...]


@dataclass(slots=True)
class _Found:
    """The nodes that could load it, sorted by how; the rest in the order of their names."""

    roomy: list[Room] = field(default_factory=list)
    tight: list[_Tight] = field(default_factory=list)
    refused: list[Looked] = field(default_factory=list)


def place(
    snapshot: FleetSnapshot, want: Want, survey: Survey, *, now_s: float
) -> Load | list[Looked]:
    """Choose a node to load the model on, else say what each node is good for.

    1. Where it fits: the shortest load first, among equals the most memory left over. 2. Where nobody
    knows whether it fits (its size is a guess or unknown, or the node's memory is): likewise.
    3. Where evicting makes it fit: the least valuable victims first, then the fewest, then the least
    memory. Ties go by name.

    A node's victims are only worked out while it could still be the best: first where the least
    possible loss is smallest. `told` works out all of them.
    """
    found = _sift(snapshot, want, survey, now_s=now_s)
    if found.roomy:
        best: Option | None = roomiest(found.roomy, 1, now_s=now_s)[0]
    else:
        best = _cheapest(snapshot, want, found, now_s=now_s)
    if best is None:
        found.refused.sort(key=lambda looked: looked.node.name)
        return found.refused
    chosen = best
    return replace(
        _load(snapshot, want, chosen, now_s=now_s),
        alternatives=lambda: _others(snapshot, want, found, chosen, now_s=now_s),
    )


def _load(snapshot: FleetSnapshot, want: Want, chosen: Option, *, now_s: float) -> Load:
    return Load(
        node=chosen.seen.node,
        model=want.model,
        need_mib=chosen.seen.need_mib,
        evict=chosen.victims,
        guess=chosen.guess,
        cost_s=chosen.cost_s,
        reason=reason_of(chosen),
        considered=Account(lambda: told(snapshot, want, now_s=now_s, chosen=chosen)),
    )


def place_another(
    snapshot: FleetSnapshot, want: Want, survey: Survey, *, now_s: float
) -> Load | None:
    """A node that has free memory enough for one more copy, as far as is known; nobody goes for it.

    It has to be one that can give it up again. What the model takes on another node will do.
    """
    measured = hints(snapshot, want).elsewhere
    least = inf if measured is None else least_mib(measured[0].size_mib or 0)
    rooms = [
        way
        for way in _sift(snapshot, want, survey, now_s=now_s).roomy
        if way.node.may_unload
        and (not way.guess or (way.node.available_mib(now_s) or 0) >= least)
    ]
    if not rooms:
        return None
    load = _load(snapshot, want, roomiest(rooms, 1, now_s=now_s)[0], now_s=now_s)
    return replace(load, another=True, reason=f"every copy is full, another {load.reason}")


def _sift(snapshot: FleetSnapshot, want: Want, survey: Survey, *, now_s: float) -> _Found:
    """A quick look at each node: whether victims would suffice, not which they are."""
    found = _Found()
    by_others = hints(snapshot, want)
    for node, model, verdict in survey.refused:
        if model.status is not ModelStatus.LOADED:
            found.refused.append(Looked(node, model, _too_small(node, model) or verdict))
    for node, unsized in survey.absent:
        model = sized(snapshot, node, unsized, by_others)
        obstacle = _too_small(node, model) or _cannot_load(node, model, now_s=now_s)
        if obstacle is not None:
            found.refused.append(Looked(node, model, obstacle))
            continue
        deficit = _deficit(snapshot, node, model, now_s=now_s)
        if _fits(model, deficit):
            found.roomy.append(room(node, model, node.available_mib(now_s)))
            continue
        squeezed = _squeeze(snapshot, want, node, model, deficit, now_s=now_s)
        if isinstance(squeezed, _Tight):
            found.tight.append(squeezed)
        else:
            found.refused.append(squeezed)
    return found


def _squeeze(
    snapshot: FleetSnapshot,
    want: Want,
    node: NodeView,
    model: ModelView,
    deficit_mib: int | None,
    *,
    now_s: float,
) -> _Tight | Looked:
    rules = snapshot.eviction
    if _displaces_nobody(model, want, now_s=now_s):
        return Looked(node, model, Verdict.BREAKER_OPEN)
    there = displaceable(snapshot, node)
    load_s = load_s_or_guess(node, model)
    loss = there.least_loss(model, load_s, deficit_mib) if node.may_unload else None
    if loss is None:
        return Looked(node, model, Verdict.NO_ROOM)
    later_s = surely_later_s(there, model, want, rules, deficit_mib=deficit_mib, now_s=now_s)
    if later_s is not None:
        return Looked(node, model, Verdict.IN_USE, later_s)
    return _Tight(node, model, deficit_mib, loss)


def _displaces_nobody(model: ModelView, want: Want, *, now_s: float) -> bool:
    """Its loads keep failing: nobody loses a place for another trial, unless an operator says so."""
    return model.breaker is not CLOSED and (
        now_s < model.breaker.evicts_from_s and not want.insists
    )


def _cheapest(
    snapshot: FleetSnapshot, want: Want, found: _Found, *, now_s: float
) -> Option | None:
    """The node that loses least by it; those that can lose nothing yet are put to the refused."""
    best: Option | None = None
    bound: tuple[object, ...] | None = None
    heap = [(tight.loss, number) for number, tight in enumerate(found.tight)]
    heapq.heapify(heap)
    while heap:
        loss, number = heapq.heappop(heap)
        if bound is not None and loss > bound:
            break
        tight = found.tight[number]
        match evict(
            tight.node,
            tight.model,
            want,
            snapshot,
            deficit_mib=tight.deficit_mib,
            now_s=now_s,
        ):
            case Eviction() as eviction:
                option = with_eviction(tight.node, tight.model, eviction, now_s=now_s)
                if best is None or option.cost < best.cost:
                    best = option
                    busy, *cost = option.cost
                    # Idle victims go before any that are in use, whatever those are worth.
                    bound = None if busy else tuple(cost)
            case Postponed(recheck_s=recheck_s):
                looked = Looked(tight.node, tight.model, Verdict.IN_USE, recheck_s)
                found.refused.append(looked)
            case Impossible():
                found.refused.append(Looked(tight.node, tight.model, Verdict.NO_ROOM))
    return best


def _others(
    snapshot: FleetSnapshot, want: Want, found: _Found, chosen: Option, *, now_s: float
) -> tuple[Alternative, ...]:
    """The next best ways, best first; of many tight nodes those that can lose least."""
    name = chosen.seen.node
    roomy = [way for way in found.roomy if way.node.name != name]
    tight = [way for way in found.tight if way.node.name != name]
    evicting = []
    for node, model, deficit_mib, _ in heapq.nsmallest(
        2 * ALTERNATIVES, tight, key=attrgetter("loss")
    ):
        eviction = evict(node, model, want, snapshot, deficit_mib=deficit_mib, now_s=now_s)
        if isinstance(eviction, Eviction):
            evicting.append(with_eviction(node, model, eviction, now_s=now_s))
    evicting.sort(key=attrgetter("cost"))
    options = [*roomiest(roomy, ALTERNATIVES, now_s=now_s), *evicting]
    return tuple(map(alternative, options[:ALTERNATIVES]))


def never_fits(verdicts: Iterable[Verdict]) -> bool:
    """True when every node that lists the model is too small for it even when empty."""
    asked = set(verdicts) - {Verdict.NOT_ALLOWED}
    return asked == {Verdict.TOO_SMALL}


def told(
    snapshot: FleetSnapshot, want: Want, *, now_s: float, chosen: Option | None = None
) -> tuple[Considered, ...]:
    """What placement saw of each node that does not hold the model ready, in words."""
    allowed = snapshot.allowed_nodes.get(want.model)
    refused, options = [], []
    by_others = hints(snapshot, want)
    for node, unsized in candidates(snapshot, want):
        if unsized.status is ModelStatus.LOADED:
            continue
        model = sized(snapshot, node, unsized, by_others)
        verdict = _too_small(node, model) or unfit(node, want, allowed)
        seen = in_words(snapshot, want, node, model, verdict, now_s=now_s)
        if seen.verdict is not Verdict.LESS_ROOM:
            refused.append(seen)
        elif chosen is None or node.name != chosen.seen.node:
            options.append(seen)
    if chosen is None:
        return tuple(refused)
    return (*refused, replace(chosen.seen, verdict=Verdict.CHOSEN), *options)


def in_words(
    snapshot: FleetSnapshot,
    want: Want,
    node: NodeView,
    model: ModelView,
    verdict: Verdict | None,
    *,
    now_s: float,
) -> Considered:
    """What was seen there; `LESS_ROOM` stands for "could". `verdict` None = not looked at yet."""
    verdict = verdict or _cannot_load(node, model, now_s=now_s)
    match verdict:
        case None | Verdict.IN_USE | Verdict.NO_ROOM:
            return _room_in_words(snapshot, want, node, model, now_s=now_s)
        case Verdict.TOO_SMALL:
            return seen_there(node, model, now_s, verdict)
        case Verdict.WEDGED:
            detail = "only a restart of the node clears it"
        case Verdict.LIFECYCLE_OFF:
            detail = node.no_load_reason or ""
        case Verdict.MOVING:
            detail = moving_in_words(node)
        case _:
            return refusal(node, model, verdict)
    return Considered(node=node.name, verdict=verdict, detail=detail)


def moving_in_words(node: NodeView) -> str:
    return f"{node.moving.status} {node.moving.id}" if node.moving is not None else ""


def _room_in_words(
    snapshot: FleetSnapshot, want: Want, node: NodeView, model: ModelView, *, now_s: float
) -> Considered:
    deficit = _deficit(snapshot, node, model, now_s=now_s)
    if _fits(model, deficit):
        return seen_there(node, model, now_s)
    if _displaces_nobody(model, want, now_s=now_s):
        left_s = model.breaker.evicts_from_s - now_s
        detail = (
            f"{model.breaker.reason}; nothing is unloaded for another try in {left_s:.0f} s"
        )
        return Considered(node=node.name, verdict=Verdict.BREAKER_OPEN, detail=detail)
    match evict(node, model, want, snapshot, deficit_mib=deficit, now_s=now_s):
        case Eviction() as eviction:
            return with_eviction(node, model, eviction, now_s=now_s).seen
        case Postponed(reason=reason):
            return seen_there(node, model, now_s, Verdict.IN_USE, reason)
        case Impossible(reason=reason):
            return seen_there(node, model, now_s, Verdict.NO_ROOM, reason)


def _too_small(node: NodeView, model: ModelView) -> Verdict | None:
    """Asked first: a node that is down as well is still too small."""
    total = node.vram_total_mib
    too_small = total is not None and not model.size_guess and (model.size_mib or 0) > total
    return Verdict.TOO_SMALL if too_small else None


def _cannot_load(node: NodeView, model: ModelView, *, now_s: float) -> Verdict | None:
    """What keeps the model from being loaded there, memory apart."""
    if model.wedged:
        return Verdict.WEDGED
    if model.status is ModelStatus.LOADING:
        return Verdict.LOADING
    if not node.may_load:
        return Verdict.LIFECYCLE_OFF
    breaker = model.breaker
    if breaker is not CLOSED and not breaker.allows(now_s=now_s, in_flight=0):
        return Verdict.BREAKER_OPEN
    return Verdict.MOVING if node.moving is not None else None


def _deficit(
    snapshot: FleetSnapshot, node: NodeView, model: ModelView, *, now_s: float
) -> int | None:
    """How much is missing for a try; None = nobody knows, at most 0 = nothing.

    Sizes are estimates. So where all that is in memory can go, or where the size is a guess, no
    more is missing than that frees, and the rest is tried; but not on a card that others fill, and
    not anew where a load ran out of memory.
    """
    available = node.available_mib(now_s)
    if model.size_mib is None or available is None:
        return None
    missing = needed_mib(model) - available
    if missing <= 0:
        return missing
    there = displaceable(snapshot, node)
    reach = within_reach(there, model, snapshot.eviction.strategy)
    freed = there.sums[reach - 1] if reach else 0
    if freed >= missing:
        return missing
    emptied = 0 < reach == node.occupancy.count and not model.out_of_memory
    full = not reach and available < NEARLY_FULL_SHARE * (node.vram_total_mib or 0)
    return int(freed) if emptied or (model.size_guess and not full) else missing


def _fits(model: ModelView, deficit: int | None) -> bool:
    return deficit <= 0 if deficit is not None else not model.out_of_memory
