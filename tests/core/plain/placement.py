"""Placement: which node loads a model that is resident nowhere it could be served from."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from cortex.core.decisions import Considered, Load, Verdict, Want
from cortex.core.rules import EvictionRules
from cortex.core.snapshot import FleetSnapshot, ModelStatus, ModelView, NodeView
from tests.core.plain import forecast
from tests.core.plain.eviction import (
    Eviction,
    Impossible,
    Postponed,
    evict,
    is_spare,
    why_never,
)
from tests.core.plain.memory import available_mib, moving, size_of, sized
from tests.core.plain.routing import candidates, unfit


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """What placement found."""

    load: Load | None
    considered: tuple[Considered, ...]
    """Every node that lists the model without holding it ready."""
    postponed: str = ""
    """Why a node that could load it later cannot now; "" = there is none."""
    recheck_s: float | None = None
    """When that may change even if nothing happens (monotonic)."""


@dataclass(frozen=True, slots=True)
class _Option:
    """One node that could load the model, with what it costs; the smallest wins."""

    cost: tuple[object, ...]
    seen: Considered
    victims: tuple[ModelView, ...] = ()
    guess: str = ""
    load_s: float | None = None
    goes: str = ""


@dataclass(frozen=True, slots=True)
class _Refused:
    """One node that cannot load it now; `until` where it may later."""

    seen: Considered
    until: Postponed | None = None


def place(
    snapshot: FleetSnapshot, want: Want, *, now_s: float, another: bool = False
) -> Placed:
    """Choose a node to load the model on.

    1. Where it fits: the shortest load first, among equals the most memory left over. 2. Where nobody
    knows whether it fits (its size, or the node's memory, is unknown): likewise. 3. Where evicting
    makes it fit: the least valuable victims first, then the fewest, then the least memory. Ties
    go by name.
    """
    looked = [
        _look(snapshot, node, sized(snapshot, node, model), want, now_s=now_s)
        for node, model in candidates(snapshot, want)
        if model.status is not ModelStatus.LOADED
    ]
    options = [option for option in looked if isinstance(option, _Option)]
    told = options
    if another:
        # Nobody goes for it, nothing is tried, and it can be unloaded again.
        copies = [node.models[want.model] for node in snapshot.holders(want.model)]
        most = max((copy.size_mib or 0 for copy in copies), default=0)
        unloading = {name for name, node in snapshot.nodes.items() if node.may_unload}
        options = [
            o
            for o in options
            if o.seen.node in unloading
            and not o.victims
            and o.seen.need_mib is not None
            and o.seen.available_mib is not None
            and (
                not o.guess
                or (
                    o.guess.startswith("its size on")
                    and o.seen.available_mib
                    >= most - min(max(round(0.03 * most), 512), most // 2)
                )
            )
        ]
    refused = [refusal for refusal in looked if isinstance(refusal, _Refused)]
    passed = tuple(refusal.seen for refusal in refused)
    if not options:
        later = [refusal for refusal in refused if refusal.until is not None]
        rechecks = [r.until.recheck_s for r in later if r.until and r.until.recheck_s]
        return Placed(
            load=None,
            considered=passed,
            postponed="; ".join(f"{r.seen.node}: {r.until.reason}" for r in later if r.until),
            recheck_s=min(rechecks, default=None),
        )
    times = [o.load_s for o in options if not o.victims and o.load_s is not None]
    options = [_as_fast(option, min(times, default=0.0)) for option in options]
    best = min(options, key=lambda option: option.cost)
    chosen = replace(best.seen, verdict=Verdict.CHOSEN)
    considered = (*passed, chosen, *(o.seen for o in told if o.seen.node != best.seen.node))
    load = Load(
        node=best.seen.node,
        model=want.model,
        need_mib=best.seen.need_mib,
        guess=best.guess,
        evict=tuple(victim.id for victim in best.victims),
        another=another,
        reason=f"every copy is full, another {_reason(best)}" if another else _reason(best),
        considered=considered,
    )
    return Placed(load=load, considered=considered)


def _as_fast(option: _Option, best_s: float) -> _Option:
    """With the load in its cost, where that takes longer than the best by more than a fifth and a second."""
    if option.victims:
        return option
    known, left, name = option.cost
    slow = option.load_s is not None and option.load_s > 1.2 * best_s + 1
    return replace(option, cost=(known, option.load_s if slow else 0.0, left, name))


def never_fits(considered: Iterable[Considered]) -> bool:
    """True when every node that lists the model is too small for it even when empty."""
    verdicts = [seen.verdict for seen in considered if seen.verdict is not Verdict.NOT_ALLOWED]
    return bool(verdicts) and all(verdict is Verdict.TOO_SMALL for verdict in verdicts)


def _look(
    snapshot: FleetSnapshot, node: NodeView, model: ModelView, want: Want, *, now_s: float
) -> _Option | _Refused:
    refusal = (
        _too_small(node, model, now_s)
        or unfit(snapshot, node, want)
        or _cannot_load(node, model, now_s=now_s)
    )
    if refusal is None:
        return _option(snapshot, node, model, want, now_s=now_s)
    if refusal.verdict is Verdict.MOVING:
        return _Refused(refusal, Postponed(reason=refusal.detail, recheck_s=None))
    return _Refused(refusal)


def _too_small(node: NodeView, model: ModelView, now_s: float) -> Considered | None:
    """Asked first: a node that is down as well is still too small."""
    if model.size_guess:
        return None
    if node.vram_total_mib is not None and (model.size_mib or 0) > node.vram_total_mib:
        return _seen(node, model, now_s, Verdict.TOO_SMALL)
    return None


def _cannot_load(node: NodeView, model: ModelView, *, now_s: float) -> Considered | None:
    """What keeps the model from being loaded there, memory apart."""
    if model.wedged:
        return Considered(
            node=node.name,
            verdict=Verdict.WEDGED,
            detail="only a restart of the node clears it",
        )
    if model.status is ModelStatus.LOADING:
        return Considered(node=node.name, verdict=Verdict.LOADING)
    if not node.may_load:
        return Considered(
            node=node.name, verdict=Verdict.LIFECYCLE_OFF, detail=node.no_load_reason or ""
        )
    if not model.breaker.allows(now_s=now_s, in_flight=0):
        return Considered(
            node=node.name, verdict=Verdict.BREAKER_OPEN, detail=model.breaker.reason
        )
    if moving(node) is not None:
        return Considered(
            node=node.name,
            verdict=Verdict.MOVING,
            detail=f"{moving(node).status} {moving(node).id}",
        )
    return None


def _option(
    snapshot: FleetSnapshot, node: NodeView, model: ModelView, want: Want, *, now_s: float
) -> _Option | _Refused:
    need, available = model.size_mib, available_mib(node, now_s)
    known = need is not None and not model.size_guess and available is not None
    deficit = None
    if need is not None and available is not None:
        tolerance = 0 if model.out_of_memory else min(max(round(0.03 * need), 512), need // 2)
        deficit = need - tolerance - available
    if deficit is not None and deficit > 0:
        there = [m for m in node.models.values() if m.occupies]
        going = [m for m in there if why_never(m, model, snapshot.eviction.strategy) is None]
        sizes = [size_of(node, m) for m in going]
        full = not going and available < 0.1 * (node.vram_total_mib or 0)
        if (model.size_guess and not full) or (
            going and going == there and not model.out_of_memory
        ):
            freed = sum(size or 0 for size in sizes)
            if None not in sizes and freed < deficit:
                deficit = freed
    fits = deficit <= 0 if deficit is not None else not model.out_of_memory
    if fits:
        left = (available or 0) - (need or 0)
        option = _Option((0 if known else 1, -left, node.name), _seen(node, model, now_s))
        return replace(option, guess=model.size_guess, load_s=forecast.load_s(node, model))
    if now_s < model.breaker.evicts_from_s and not want.insists:
        left_s = model.breaker.evicts_from_s - now_s
        why = f"{model.breaker.reason}; nothing is unloaded for another try in {left_s:.0f} s"
        seen = Considered(node=node.name, verdict=Verdict.BREAKER_OPEN, detail=why)
        return _Refused(seen)
    match evict(node, model, want, snapshot, deficit_mib=deficit, now_s=now_s):
        case Eviction(victims=victims, freed_mib=freed, rank=rank):
            busy = any(victim.in_flight for victim in victims)
            cost: tuple[object, ...] = (2, busy, rank, len(victims), freed, node.name)
            goes = ", ".join(victim.id for victim in victims)
            rules = snapshot.eviction
            if forecast.decides(rules):
                losses = [
                    0.0
                    if is_spare(snapshot, node, victim)
                    else forecast.cost_s(node, victim, rules, now_s)
                    for victim in victims
                ]
                load_s = forecast.taken_to_load_s(node, model)
                cost = (2, busy, sum(losses) + 0.3 * load_s, rank, node.name)
                goes = ", ".join(
                    f"{victim.id} (another copy stays)"
                    if is_spare(snapshot, node, victim)
                    else f"{victim.id} ({_product(node, victim, rules, now_s)})"
                    for victim in victims
                )
            seen = _seen(node, model, now_s, detail=f"after unloading {goes}")
            return _Option(cost, seen, victims, model.size_guess, goes=goes)
        case Postponed() as until:
            return _Refused(_seen(node, model, now_s, Verdict.IN_USE, until.reason), until)
        case Impossible(reason=reason):
            return _Refused(_seen(node, model, now_s, Verdict.NO_ROOM, reason))


def _product(node: NodeView, model: ModelView, rules: EvictionRules, now_s: float) -> str:
    assert rules.outlook is not None
    percent, horizon_s = 100 * rules.outlook.chance(model.id, now_s), rules.outlook.horizon_s
    weight = "" if model.priority == 100 else f" × {model.priority / 100:g}"
    return (
        f"{_short(percent)} % within {horizon_s / 60:.0f} min"
        f" × ({_short(forecast.taken_to_load_s(node, model))} + 5) s{weight}"
        f" = {_short(forecast.cost_s(node, model, rules, now_s))} s"
    )


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"


def _seen(
    node: NodeView,
    model: ModelView,
    now_s: float,
    verdict: Verdict = Verdict.LESS_ROOM,
    detail: str = "",
) -> Considered:
    """What was seen there; `LESS_ROOM` stands for "could" until the best is chosen."""
    guess = f"its need is a guess: {model.size_guess}" if model.size_guess else ""
    return Considered(
        node=node.name,
        verdict=verdict,
        need_mib=model.size_mib,
        available_mib=available_mib(node, now_s),
        total_mib=node.vram_total_mib,
        detail=detail
        if verdict is Verdict.IN_USE
        else "; ".join(filter(None, (guess, detail))),
    )


def _reason(best: _Option) -> str:
    seen = best.seen
    perhaps = "perhaps " if best.guess else ""
    if best.victims:
        need = "memory" if seen.need_mib is None else f"{perhaps}{seen.need_mib} MiB"
        return f"needs {need}, free {seen.available_mib or 0} MiB: {best.goes} must go"
    if seen.need_mib is None:
        return "size unknown: tried where most memory is free"
    if seen.available_mib is None:
        return "the node reports no free memory: tried"
    if perhaps or seen.need_mib > seen.available_mib:
        return f"tried: {perhaps}{seen.need_mib} MiB wanted, {seen.available_mib} MiB free"
    load = "" if best.load_s is None else f", loads in about {best.load_s:.3g} s"
    return f"fits: needs {seen.need_mib} MiB of {seen.available_mib} MiB free{load}"
