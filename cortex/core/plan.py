"""The one decision of the request path; the live path and `explain` call this same function."""

from collections.abc import Sequence
from dataclasses import replace

from cortex.core import placement, routing
from cortex.core.copies import another_from_s, wants_another
from cortex.core.decisions import (
    Account,
    Considered,
    Decision,
    Load,
    Reject,
    Serve,
    Verdict,
    Wait,
    Want,
)
from cortex.core.health import NodeHealth
from cortex.core.placement import Looked, never_fits, place, place_another
from cortex.core.routing import Survey, candidates, route
from cortex.core.snapshot import FleetSnapshot, ModelStatus, ModelView, NodeView

RETRY_AFTER_S = 5.0
"""What a caller is told to wait when no better estimate is known."""
NODES_NAMED = 8
"""Nodes that a reason names at most; `considered` has them all."""


def plan(snapshot: FleetSnapshot, want: Want, *, now_s: float) -> Decision:
    """Decide what to do with a request for `want.model`, which some node lists.

    1. A resident copy with a free slot serves.
    2. A load or a full copy that will free a slot is waited for. After a while for a slot, one
    more copy is loaded where memory is free.
    3. A node with room loads it, or one where less valuable idle models can go.
    4. Room that will come (what is in use ends, a node ends another load) is waited for.
    5. Otherwise rejected: never fits; or no node up; or no room. Each names its numbers.

    A full copy is waited for rather than duplicated at once, since loading a second copy costs
    memory and minutes, while slots free themselves in seconds.
    """
    routed = route(snapshot, want, now_s=now_s)
    if isinstance(routed, Serve):
        return routed
    if (awaited := routed.awaited) is not None:
        waits = _wait_for(snapshot, want, *awaited, now_s=now_s)
        return (
            None if waits.loading else _another(snapshot, want, routed, now_s=now_s)
        ) or waits
    placed = place(snapshot, want, routed, now_s=now_s)
    if not isinstance(placed, list):
        return placed
    seen = _merge(routed, placed)
    considered = Account(
        lambda: _merge_words(
            routing.told(snapshot, want, now_s=now_s),
            placement.told(snapshot, want, now_s=now_s),
        )
    )
    return _postponed(snapshot, want, seen, placed, considered, now_s=now_s) or _reject(
        snapshot, want, seen, considered, now_s=now_s
    )


def _another(
    snapshot: FleetSnapshot, want: Want, survey: Survey, *, now_s: float
) -> Load | None:
    """One more copy into free memory; None = not yet, or there is none."""
    if not wants_another(snapshot, want, now_s=now_s):
        return None
    load = place_another(snapshot, want, survey, now_s=now_s)
    if load is None:
        return None
    placed = load.considered
    considered = Account(
        lambda: _merge_words(routing.told(snapshot, want, now_s=now_s), tuple(placed))
    )
    return replace(load, considered=considered)


def _wait_for(
    snapshot: FleetSnapshot, want: Want, node: NodeView, model: ModelView, *, now_s: float
) -> Wait:
    loading = model.status is ModelStatus.LOADING
    return Wait(
        model=want.model,
        reason=f"a load is under way on {node.name}"
        if loading
        else "every copy is at its in-flight limit",
        load_eta_s=model.load_s if loading else None,
        loading=loading,
        recheck_s=None if loading else another_from_s(want, now_s=now_s),
        considered=Account(lambda: routing.told(snapshot, want, now_s=now_s)),
    )


def _postponed(
    snapshot: FleetSnapshot,
    want: Want,
    seen: Sequence[Looked],
    placed: Sequence[Looked],
    considered: Account,
    *,
    now_s: float,
) -> Wait | None:
    """The wait for room that will come, or for a node that restarts; None = there is neither."""
    later = [p for p in placed if p.verdict in (Verdict.IN_USE, Verdict.MOVING)]
    back = [s.node.name for s in seen if s.verdict is Verdict.RESTARTING]
    if not later and not back:
        return None
    whys = [
        f"{entry.node}: {entry.detail}"
        for entry in _in_words(snapshot, want, later[:NODES_NAMED], now_s=now_s)
    ]
    reasons = [_and_more("; ".join(whys), len(later))] if later else []
    if back:
        reasons.append(_and_more(", ".join(back[:NODES_NAMED]), len(back)) + " will be back")
    return Wait(
        model=want.model,
        reason="; ".join(reasons),
        recheck_s=min((p.recheck_s for p in later if p.recheck_s), default=None),
        considered=considered,
    )


def _reject(
    snapshot: FleetSnapshot,
    want: Want,
    seen: Sequence[Looked],
    considered: Account,
    *,
    now_s: float,
) -> Reject:
    named = _in_words(snapshot, want, seen[:NODES_NAMED], now_s=now_s)
    said = _and_more("; ".join(map(_outside, named)), len(seen)) or "no node lists it"
    verdicts = {entry.verdict for entry in seen}
    if never_fits(verdicts):
        return Reject(
            model=want.model,
            code="model_never_fits",
            reason=f"model {want.model} can never fit: {said}",
            considered=considered,
        )
    if Verdict.NO_ROOM in verdicts:
        code, why = "no_room", "no node has room"
    elif Verdict.BREAKER_OPEN in verdicts:
        code, why = "model_failing", "its nodes keep failing"
    elif verdicts & {Verdict.WEDGED, Verdict.LIFECYCLE_OFF} and Verdict.NOT_UP not in verdicts:
        code, why = "not_loadable", "it is not loaded and cannot be loaded"
    else:
        code, why = "no_healthy_node", "no healthy node can serve it now"
    return Reject(
        model=want.model,
        code=code,
        reason=f"model {want.model}: {why} ({said})",
        retry_after_s=_retry_after(snapshot, want, now_s=now_s),
        considered=considered,
    )


def _outside(entry: Considered) -> str:
    """For the client: what opened a breaker are the node's own words, which `explain` has."""
    return str(replace(entry, detail="") if entry.verdict is Verdict.BREAKER_OPEN else entry)


def _retry_after(snapshot: FleetSnapshot, want: Want, *, now_s: float) -> float:
    """Until the first breaker lets a trial through, else a fixed guess."""
    waits = [
        model.breaker.open_until_s - now_s
        for node, model in candidates(snapshot, want)
        if model.breaker.open_until_s > now_s and node.liveness.health is NodeHealth.UP
    ]
    return min(waits, default=RETRY_AFTER_S)


def _merge(survey: Survey, placed: Sequence[Looked]) -> list[Looked]:
    """One entry a node, first those that routing refused: what `place` says replaces its word."""
    by_node = {looked.node.name: looked for looked in placed}
    first = [
        by_node.pop(node.name) if node.name in by_node else Looked(node, model, verdict)
        for node, model, verdict in survey.refused
    ]
    return [*first, *by_node.values()]


def _merge_words(
    first: tuple[Considered, ...], second: tuple[Considered, ...]
) -> tuple[Considered, ...]:
    """As `_merge`, of what was said."""
    merged = {entry.node: entry for entry in first} | {entry.node: entry for entry in second}
    return tuple(merged.values())


def _in_words(
    snapshot: FleetSnapshot, want: Want, seen: Sequence[Looked], *, now_s: float
) -> list[Considered]:
    return [
        placement.in_words(
            snapshot, want, looked.node, looked.model, looked.verdict, now_s=now_s
        )
        for looked in seen
    ]


def _and_more(named: str, count: int) -> str:
    return f"{named}; and {count - NODES_NAMED} more" if count > NODES_NAMED else named
