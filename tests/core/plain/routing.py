"""Routing: which node, of those that hold the model, serves a request."""

from collections.abc import Iterator

from cortex.core.decisions import Considered, Serve, Verdict, Want
from cortex.core.health import NodeHealth
from cortex.core.ids import NodeName
from cortex.core.snapshot import Drain, FleetSnapshot, ModelStatus, ModelView, NodeView

STICKY_MARGIN = 0.25
"""A warm node may be this share of its capacity busier than the idlest before it is left."""

_Servable = tuple[float, int, str, NodeView, ModelView]
"""Sort key (busy share, in-flight of the node, name), then what it stands for."""


def candidates(snapshot: FleetSnapshot, want: Want) -> Iterator[tuple[NodeView, ModelView]]:
    """Every (node, model) pair that lists the wanted model, in node-name order."""
    for name in snapshot.locations.get(want.model, ()):
        node = snapshot.nodes[name]
        yield node, node.models[want.model]


def unfit(snapshot: FleetSnapshot, node: NodeView, want: Want) -> Considered | None:
    """Why this node may not be given the request at all, whatever it holds; None = it may.

    1. The request belongs to another node, or the configuration keeps the model away. 2. It
    failed this request already. 3. It is restarting, or draining. 4. It is not up.
    """
    allowed = snapshot.allowed_nodes.get(want.model)
    if (want.only is not None and node.name != want.only) or (
        allowed is not None and node.name not in allowed
    ):
        return Considered(node=node.name, verdict=Verdict.NOT_ALLOWED)
    if node.name in want.excluded:
        return Considered(node=node.name, verdict=Verdict.ALREADY_TRIED)
    if node.drains == {Drain.DEFRAG}:
        return Considered(node=node.name, verdict=Verdict.RESTARTING)
    if node.drains:
        return Considered(node=node.name, verdict=Verdict.DRAINING)
    if node.liveness.health is not NodeHealth.UP:
        return Considered(node=node.name, verdict=Verdict.NOT_UP, detail=node.liveness.reason)
    return None


def limit_of(node: NodeView, model: ModelView) -> int:
    """Leases this (node, model) may hold at once."""
    return (
        model.max_in_flight
        if node.max_in_flight is None
        else min(model.max_in_flight, node.max_in_flight)
    )


def has_slot(node: NodeView, model: ModelView) -> bool:
    return model.in_flight < model.max_in_flight and (
        node.max_in_flight is None or node.in_flight < node.max_in_flight
    )


def _busy(node: NodeView, model: ModelView) -> float:
    """Share of the capacity in use: other models of the node count when the node has a limit."""
    share = model.in_flight / model.max_in_flight
    if node.max_in_flight is not None:
        share = max(share, node.in_flight / node.max_in_flight)
    return share


def route(
    snapshot: FleetSnapshot, want: Want, *, now_s: float
) -> tuple[Serve | None, tuple[Considered, ...]]:
    """Choose among resident copies: least in-flight for its capacity, sticky to the warm node.

    Ties go to the copy with fewer in flight on the whole node, then by name. The warm node
    (`want.preferred`) wins unless it is busier than the idlest by more than `STICKY_MARGIN`.

    Returns:
        The choice or None, and every node that was looked at. A node whose copy is not
        resident is absent from the second: `placement.place` speaks for it.
    """
    passed: list[Considered] = []
    servable: list[_Servable] = []
    for node, model in candidates(snapshot, want):
        refusal = unfit(snapshot, node, want) or _cannot_lease(node, model, now_s=now_s)
        if refusal is not None:
            passed.append(refusal)
        elif model.status is ModelStatus.LOADED:
            servable.append((_busy(node, model), node.in_flight, node.name, node, model))
    if not servable:
        return None, tuple(passed)

    best, reason = _choose(servable, want.preferred)
    passed.extend(
        Considered(
            node=entry[3].name,
            verdict=Verdict.CHOSEN if entry is best else Verdict.BUSIER,
            in_flight=entry[4].in_flight,
            limit=limit_of(entry[3], entry[4]),
        )
        for entry in servable
    )
    considered = tuple(passed)
    return (
        Serve(node=best[3].name, model=want.model, reason=reason, considered=considered),
        considered,
    )


def _choose(servable: list[_Servable], preferred: NodeName | None) -> tuple[_Servable, str]:
    best = min(servable, key=lambda entry: entry[:3])
    if preferred is not None and best[3].name != preferred:
        for entry in servable:
            if entry[3].name == preferred and entry[0] <= best[0] + STICKY_MARGIN:
                return entry, "served this conversation before"
    return best, "fewest in flight for its capacity" if len(
        servable
    ) > 1 else "the only copy free"


def _cannot_lease(node: NodeView, model: ModelView, *, now_s: float) -> Considered | None:
    """Why a resident copy may not take a lease now; None for a free slot or a non-resident."""
    if model.status is not ModelStatus.LOADED:
        return None
    if not model.breaker.allows(now_s=now_s, in_flight=model.in_flight):
        return Considered(
            node=node.name, verdict=Verdict.BREAKER_OPEN, detail=model.breaker.reason
        )
    if not has_slot(node, model):
        return Considered(
            node=node.name,
            verdict=Verdict.FULL,
            in_flight=model.in_flight,
            limit=limit_of(node, model),
        )
    return None
