"""What loading a model on one node comes to: what has to go for it, and what that costs."""

from dataclasses import dataclass

from cortex.core.decisions import Alternative, Considered, Verdict
from cortex.core.eviction import Eviction
from cortex.core.guesses import guessed
from cortex.core.ids import ModelId
from cortex.core.snapshot import ModelView, NodeView


@dataclass(frozen=True, slots=True)
class Option:
    """One node that could load the model, with what it costs; the smallest wins."""

    cost: tuple[object, ...]
    seen: Considered
    victims: tuple[ModelId, ...] = ()
    cost_s: float | None = None
    """In seconds, as of an `Alternative`."""
    guess: bool = False
    """What it needs is one."""


def room_cost(model: ModelView, available: int | None) -> tuple[int, int]:
    known = model.size_mib is not None and not model.size_guess and available is not None
    return 0 if known else 1, (model.size_mib or 0) - (available or 0)


def with_room(node: NodeView, model: ModelView, *, now_s: float) -> Option:
    """Its memory suffices, or is tried."""
    return Option(
        (*room_cost(model, node.available_mib(now_s)), node.name),
        seen_there(node, model, now_s),
        cost_s=model.load_s,
        guess=bool(model.size_guess),
    )


def with_eviction(
    node: NodeView, model: ModelView, eviction: Eviction, *, now_s: float
) -> Option:
    """It suffices once others are gone."""
    victims = eviction.victims
    busy = any(victim.in_flight for victim in victims)
    return Option(
        (2, busy, eviction.rank, len(victims), eviction.freed_mib, node.name),
        seen_there(
            node,
            model,
            now_s,
            detail="after unloading " + ", ".join(victim.id for victim in victims),
        ),
        tuple(victim.id for victim in victims),
        cost_s=_loads_s(model, *victims),
        guess=bool(model.size_guess),
    )


def seen_there(
    node: NodeView,
    model: ModelView,
    now_s: float,
    verdict: Verdict = Verdict.LESS_ROOM,
    detail: str = "",
) -> Considered:
    """What was seen there; `LESS_ROOM` stands for "could" until the best is chosen."""
    return Considered(
        node=node.name,
        verdict=verdict,
        need_mib=model.size_mib,
        available_mib=node.available_mib(now_s),
        total_mib=node.vram_total_mib,
        # Where it waits, the detail is what it waits for.
        detail=detail if verdict is Verdict.IN_USE else guessed(model, detail),
    )


def reason_of(best: Option) -> str:
    seen = best.seen
    need = "memory" if seen.need_mib is None else f"{seen.need_mib} MiB"
    if best.guess:
        need = f"perhaps {need}"
    if best.victims:
        gone = ", ".join(best.victims)
        return f"needs {need}, free {seen.available_mib or 0} MiB: {gone} must go"
    if seen.need_mib is None:
        return "size unknown: tried where most memory is free"
    if seen.available_mib is None:
        return "the node reports no free memory: tried"
    if best.guess or seen.need_mib > seen.available_mib:
        return f"tried: {need} wanted, {seen.available_mib} MiB free"
    return f"fits: needs {need} of {seen.available_mib} MiB free"


def alternative(option: Option) -> Alternative:
    seen = option.seen
    return Alternative(
        seen.node, option.victims, option.cost_s, seen.need_mib, seen.available_mib
    )


def _loads_s(*models: ModelView) -> float | None:
    known = [model.load_s for model in models if model.load_s is not None]
    return sum(known) if len(known) == len(models) else None
