"""The one decision of the request path; the live path and `explain` call this same function."""

from dataclasses import replace

from cortex.core.decisions import (
    Considered,
    Decision,
    Load,
    Reject,
    Verdict,
    Wait,
    Want,
)
from cortex.core.health import NodeHealth
from cortex.core.snapshot import FleetSnapshot, ModelStatus
from tests.core.plain.placement import never_fits, place
from tests.core.plain.routing import candidates, route

RETRY_AFTER_S = 5.0
"""What a caller is told to wait when no better estimate is known."""


def plan(snapshot: FleetSnapshot, want: Want, *, now_s: float) -> Decision:
    """Decide what to do with a request for `want.model`, which some node lists.

    1. A resident copy with a free slot serves.
    2. A load or a full copy that will free a slot is waited for.
    3. A node with room loads it, or one where less valuable idle models can go.
    4. Room that will come (what is in use ends, a node ends another load) is waited for.
    5. Otherwise rejected: never fits; or no node up; or no room. Each names its numbers.

    A full copy is waited for rather than duplicated, since loading a second copy costs memory
    and minutes, while slots free themselves in seconds.
    """
    served, seen_resident = route(snapshot, want, now_s=now_s)
    if served is not None:
        return served
    waited = _worth_waiting(snapshot, want, seen_resident)
    if waited is not None and not waited.loading:
        return _another(snapshot, want, seen_resident, now_s=now_s) or replace(
            waited, recheck_s=_another_from_s(want, now_s=now_s)
        )
    if waited is not None:
        return waited
    placed = place(snapshot, want, now_s=now_s)
    if placed.load is not None:
        return placed.load
    seen = _merge(seen_resident, placed.considered)
    back = [s.node for s in seen if s.verdict is Verdict.RESTARTING]
    reasons = [placed.postponed, f"{', '.join(back)} will be back" if back else ""]
    if any(reasons):
        return Wait(
            model=want.model,
            reason="; ".join(filter(None, reasons)),
            recheck_s=placed.recheck_s,
            considered=seen,
        )
    return _reject(want, seen, now_s=now_s, snapshot=snapshot)


def _another_from_s(want: Want, *, now_s: float) -> float | None:
    if want.since_s is None or want.only is not None or want.since_s + 5 <= now_s:
        return None
    return want.since_s + 5


def _another(
    snapshot: FleetSnapshot, want: Want, seen: tuple[Considered, ...], *, now_s: float
) -> Load | None:
    """One more copy, after five seconds, where nobody is in its way and it is in nobody's."""
    statuses = [model.status for _, model in candidates(snapshot, want)]
    loaded = statuses.count(ModelStatus.LOADED)
    still = loaded + statuses.count(ModelStatus.UNLOADED) == len(statuses)
    most = snapshot.max_copies.get(want.model)
    if (
        want.since_s is None
        or now_s < want.since_s + 5
        or want.only is not None
        or want.seniors
        or not still
        or (most is not None and loaded >= most)
    ):
        return None
    load = place(snapshot, want, now_s=now_s, another=True).load
    return load and replace(load, considered=_merge(seen, load.considered))


def _worth_waiting(
    snapshot: FleetSnapshot, want: Want, seen: tuple[Considered, ...]
) -> Wait | None:
    if any(entry.verdict is Verdict.FULL for entry in seen):
        return Wait(
            model=want.model, reason="every copy is at its in-flight limit", considered=seen
        )
    ruled_out = {entry.node for entry in seen if entry.verdict is not Verdict.FULL}
    for node, model in candidates(snapshot, want):
        if node.name in ruled_out:
            continue
        if model.status is ModelStatus.LOADING and not model.wedged:
            return Wait(
                model=want.model,
                reason=f"a load is under way on {node.name}",
                load_eta_s=model.load_s,
                loading=True,
                considered=seen,
            )
    return None


def _reject(
    want: Want, seen: tuple[Considered, ...], *, now_s: float, snapshot: FleetSnapshot
) -> Reject:
    said = "; ".join(_outside(entry) for entry in seen) or "no node lists it"
    verdicts = {entry.verdict for entry in seen}
    if never_fits(seen):
        return Reject(
            model=want.model,
            code="model_never_fits",
            reason=f"model {want.model} can never fit: {said}",
            considered=seen,
        )
    if verdicts & {Verdict.NO_ROOM}:
        code, why = "no_room", "no node has room"
    elif verdicts & {Verdict.BREAKER_OPEN}:
        code, why = "model_failing", "its nodes keep failing"
    elif verdicts & {Verdict.WEDGED, Verdict.LIFECYCLE_OFF} and not verdicts & {Verdict.NOT_UP}:
        code, why = "not_loadable", "it is not loaded and cannot be loaded"
    else:
        code, why = "no_healthy_node", "no healthy node can serve it now"
    return Reject(
        model=want.model,
        code=code,
        reason=f"model {want.model}: {why} ({said})",
        retry_after_s=_retry_after(snapshot, want, now_s=now_s),
        considered=seen,
    )


def _outside(entry: Considered) -> str:
    return str(replace(entry, detail="") if entry.verdict is Verdict.BREAKER_OPEN else entry)


def _retry_after(snapshot: FleetSnapshot, want: Want, *, now_s: float) -> float:
    """Until the first breaker lets a trial through, else a fixed guess."""
    waits = [
        model.breaker.open_until_s - now_s
        for node, model in candidates(snapshot, want)
        if model.breaker.open_until_s > now_s and node.liveness.health is NodeHealth.UP
    ]
    return min(waits, default=RETRY_AFTER_S)


def _merge(
    first: tuple[Considered, ...], second: tuple[Considered, ...]
) -> tuple[Considered, ...]:
    """Both lists, one entry a node: what `place` says of a node replaces what `route` said."""
    merged = {entry.node: entry for entry in first} | {entry.node: entry for entry in second}
    return tuple(merged.values())
