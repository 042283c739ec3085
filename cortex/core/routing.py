"""Routing: which node, of those that hold the model, serves a request."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from cortex.core.decisions import Account, Considered, Serve, Verdict, Want
from cortex.core.health import CLOSED, NodeHealth
from cortex.core.ids import NodeName
from cortex.core.snapshot import Drain, FleetSnapshot, ModelStatus, ModelView, NodeView

STICKY_MARGIN = 0.25
"""A warm node may be this share of its capacity busier than the idlest before it is left."""
_DEFRAG = frozenset({Drain.DEFRAG})
_Copies = list[tuple[NodeView, ModelView]]


@dataclass(slots=True)
class Survey:
    """The nodes that list a model, sorted by what they are good for; each list in the order of names."""

    servable: list[tuple[NodeView, ModelView]] = field(default_factory=list)
    """Hold it ready and have a free slot."""
    absent: list[tuple[NodeView, ModelView]] = field(default_factory=list)
    """May be used, but do not hold it ready."""
    refused: list[tuple[NodeView, ModelView, Verdict]] = field(default_factory=list)
    """May not be used: the whole node, or a copy that is resident."""

    @property
    def awaited(self) -> tuple[NodeView, ModelView] | None:
        """The first copy that is full, else that is being loaded: a slot will come.

        Slots free themselves in seconds, so where there are both the wait is one for a slot.
        """
        for node, model, why in self.refused:
            if why is Verdict.FULL:
                return node, model
        for node, model in self.absent:
            if model.status is ModelStatus.LOADING and not model.wedged:
                return node, model
        return None


def candidates(snapshot: FleetSnapshot, want: Want) -> Iterator[tuple[NodeView, ModelView]]:
    """Every (node, model) pair that lists the wanted model, in node-name order."""
    for name in snapshot.locations.get(want.model, ()):
        node = snapshot.nodes[name]
        yield node, node.models[want.model]


def unfit(node: NodeView, want: Want, allowed: frozenset[NodeName] | None) -> Verdict | None:
    """Why this node may not be given the request at all, whatever it holds; None = it may.

    1. The request belongs to another node, or the configuration keeps the model away. 2. It
    failed this request already. 3. It is restarting, or draining. 4. It is not up.
    """
    name = node.name
    if (want.only is not None and name != want.only) or (
        allowed is not None and name not in allowed
    ):
        return Verdict.NOT_ALLOWED
    if name in want.excluded:
        return Verdict.ALREADY_TRIED
    if node.drains:
        return Verdict.RESTARTING if node.drains == _DEFRAG else Verdict.DRAINING
    if node.liveness.health is not NodeHealth.UP:
        return Verdict.NOT_UP
    return None


def cannot_lease(node: NodeView, model: ModelView, *, now_s: float) -> Verdict | None:
    """Why a resident copy may not take a lease now; None = it has a free slot."""
    breaker = model.breaker
    if breaker is not CLOSED and not breaker.allows(now_s=now_s, in_flight=model.in_flight):
        return Verdict.BREAKER_OPEN
    return None if has_slot(node, model) else Verdict.FULL


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


def route(snapshot: FleetSnapshot, want: Want, *, now_s: float) -> Serve | Survey:
    """Choose among resident copies: least in-flight for its capacity, sticky to the warm node.

    Ties go to the copy with fewer in flight on the whole node, then by name. The warm node
    (`want.preferred`) wins unless it is busier than the idlest by more than `STICKY_MARGIN`.
    """
    picked = pick(snapshot, want, now_s=now_s)
    if picked is None:
        return _survey(snapshot, want, now_s=now_s)
    chosen, reason = picked
    return Serve(
        node=chosen.name,
        model=want.model,
        reason=reason,
        considered=Account(lambda: told(snapshot, want, now_s=now_s, chosen=chosen)),
    )


def pick(snapshot: FleetSnapshot, want: Want, *, now_s: float) -> tuple[NodeView, str] | None:
    """As `route`, without an account of it: a copy with a free slot and why it; None = there is none."""
    if want.excluded or want.only is not None:
        copies = _copies(snapshot, want)
    else:
        copies = snapshot.derived.get(want.model) or _copies(snapshot, want)
        if copies:
            snapshot.derived[want.model] = copies
    return _choose(copies, want.preferred, now_s=now_s)


def _copies(snapshot: FleetSnapshot, want: Want) -> _Copies:
    """The resident copies on nodes that may be given the request."""
    allowed = snapshot.allowed_nodes.get(want.model)
    return [
        (node, model)
        for node, model in candidates(snapshot, want)
        if model.status is ModelStatus.LOADED and unfit(node, want, allowed) is None
    ]


def _survey(snapshot: FleetSnapshot, want: Want, *, now_s: float) -> Survey:
    survey = Survey()
    allowed = snapshot.allowed_nodes.get(want.model)
    for node, model in candidates(snapshot, want):
        verdict = unfit(node, want, allowed)
        loaded = model.status is ModelStatus.LOADED
        if verdict is None and loaded:
            verdict = cannot_lease(node, model, now_s=now_s)
        if verdict is not None:
            survey.refused.append((node, model, verdict))
        elif loaded:
            survey.servable.append((node, model))
        else:
            survey.absent.append((node, model))
    return survey


def _choose(
    copies: _Copies, preferred: NodeName | None, *, now_s: float
) -> tuple[NodeView, str] | None:
    warm = idlest = None
    least = warm_busy = math.inf
    free = 0
    for node, model in copies:
        # Share of the capacity in use; from 1 on there is no slot. Other models of the node count
        # where the node has a limit.
        busy = model.in_flight / model.max_in_flight
        if node.max_in_flight is not None:
            busy = max(busy, node.in_flight / node.max_in_flight)
        breaker = model.breaker
        if busy >= 1 or (
            breaker is not CLOSED and not breaker.allows(now_s=now_s, in_flight=model.in_flight)
        ):
            continue
        free += 1
        # In the order of names, so that of equals the first stays.
        if (
            idlest is None
            or busy < least
            or (busy == least and node.in_flight < idlest.in_flight)
        ):
            idlest, least = node, busy
        if node.name == preferred:
            warm, warm_busy = node, busy
    if idlest is None:
        return None
    if warm is not None and warm is not idlest and warm_busy <= least + STICKY_MARGIN:
        return warm, "served this conversation before"
    return idlest, "fewest in flight for its capacity" if free > 1 else "the only copy free"


def told(
    snapshot: FleetSnapshot, want: Want, *, now_s: float, chosen: NodeView | None = None
) -> tuple[Considered, ...]:
    """What routing saw of each node, in words: who was refused, then who could serve.

    A node whose copy is not resident is absent unless the node itself is unfit:
    `placement.told` speaks for it.
    """
    survey = _survey(snapshot, want, now_s=now_s)
    refused = [refusal(*entry) for entry in survey.refused]
    servable = [
        _counted(node, model, Verdict.CHOSEN if node is chosen else Verdict.BUSIER)
        for node, model in survey.servable
    ]
    return (*refused, *servable)


def refusal(node: NodeView, model: ModelView, verdict: Verdict) -> Considered:
    """Why a node is not given the request, in words."""
    match verdict:
        case Verdict.NOT_UP:
            detail = node.liveness.reason
        case Verdict.BREAKER_OPEN:
            detail = model.breaker.reason
        case Verdict.FULL:
            return _counted(node, model, verdict)
        case _:
            detail = ""
    return Considered(node=node.name, verdict=verdict, detail=detail)


def _counted(node: NodeView, model: ModelView, verdict: Verdict) -> Considered:
    return Considered(
        node=node.name,
        verdict=verdict,
        in_flight=model.in_flight,
        limit=limit_of(node, model),
    )
