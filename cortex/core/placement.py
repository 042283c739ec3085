"""Placement: which node loads a model that is resident nowhere it could be served from."""

from collections.abc import Iterable

from cortex.core.decisions import Considered, Load, Verdict, Want
from cortex.core.routing import candidates, unfit
from cortex.core.snapshot import FleetSnapshot, ModelStatus, ModelView, NodeView


def place(
    snapshot: FleetSnapshot, want: Want, *, now_s: float
) -> tuple[Load | None, tuple[Considered, ...]]:
    """Choose a node with room: where it fits with most memory left over; unknown sizes last.

    A known size fits where `available_mib` covers it. An unknown size, or a node that reports no
    memory, is tried where most is free. Ties go by name.

    Returns:
        The choice or None, and every node that lists the model without holding it ready.
    """
    passed: list[Considered] = []
    fits: list[tuple[tuple[bool, int, str], Considered]] = []
    for node, model in candidates(snapshot, want):
        if model.status is ModelStatus.LOADED:
            continue
        seen = unfit(snapshot, node, want) or _cannot_load(node, model, now_s=now_s)
        if seen is None:
            seen = _room(node, model)
        if seen.verdict is Verdict.LESS_ROOM:
            known = model.size_mib is not None and seen.available_mib is not None
            left = (seen.available_mib or 0) - (model.size_mib or 0)
            fits.append(((not known, -left, node.name), seen))
        else:
            passed.append(seen)
    if not fits:
        return None, tuple(passed)
    best = min(fits, key=lambda entry: entry[0])[1]
    chosen = _as_chosen(best)
    considered = (*passed, chosen, *(seen for _, seen in fits if seen is not best))
    return (
        Load(
            node=best.node,
            model=want.model,
            need_mib=best.need_mib,
            reason=_reason(best),
            considered=considered,
        ),
        considered,
    )


def never_fits(considered: Iterable[Considered]) -> bool:
    """True when every node that lists the model is too small for it even when empty."""
    verdicts = [seen.verdict for seen in considered if seen.verdict is not Verdict.NOT_ALLOWED]
    return bool(verdicts) and all(verdict is Verdict.TOO_SMALL for verdict in verdicts)


def _cannot_load(node: NodeView, model: ModelView, *, now_s: float) -> Considered | None:
    """What keeps the model from being loaded there, memory apart."""
    if model.status is not ModelStatus.UNLOADED:
        return Considered(node=node.name, verdict=Verdict.LOADING, detail=model.status.value)
    if model.wedged:
        return Considered(
            node=node.name,
            verdict=Verdict.WEDGED,
            detail="only a restart of the node clears it",
        )
    if not node.may_load:
        return Considered(
            node=node.name, verdict=Verdict.LIFECYCLE_OFF, detail=node.no_load_reason
        )
    if not model.breaker.allows(now_s=now_s, in_flight=0):
        return Considered(
            node=node.name, verdict=Verdict.BREAKER_OPEN, detail=model.breaker.reason
        )
    return None


def _room(node: NodeView, model: ModelView) -> Considered:
    """Whether the model fits: `LESS_ROOM` stands for "fits" until the best is chosen."""
    need, available, total = model.size_mib, node.available_mib, node.vram_total_mib
    if need is None or available is None:
        verdict = Verdict.LESS_ROOM
    elif total is not None and need > total:
        verdict = Verdict.TOO_SMALL
    elif need > available:
        verdict = Verdict.NO_ROOM
    else:
        verdict = Verdict.LESS_ROOM
    return Considered(
        node=node.name,
        verdict=verdict,
        need_mib=need,
        available_mib=available,
        total_mib=total,
    )


def _as_chosen(seen: Considered) -> Considered:
    return Considered(
        node=seen.node,
        verdict=Verdict.CHOSEN,
        need_mib=seen.need_mib,
        available_mib=seen.available_mib,
        total_mib=seen.total_mib,
    )


def _reason(seen: Considered) -> str:
    if seen.need_mib is None:
        return "size unknown: tried where most memory is free"
    if seen.available_mib is None:
        return "the node reports no free memory: tried"
    return f"fits: needs {seen.need_mib} MiB of {seen.available_mib} MiB free"
