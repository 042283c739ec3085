"""What is to be done on a quiet node without anybody asking: pure.

Idle models are unloaded after their time, and pinned ones that are absent come back.
"""

from collections.abc import Iterator

from cortex.core.decisions import Want
from cortex.core.ids import ModelId, NodeName
from cortex.core.snapshot import FleetSnapshot, ModelStatus, ModelView


def idle_for_too_long(
    snapshot: FleetSnapshot, *, now_s: float, now_ms: int
) -> Iterator[tuple[NodeName, ModelId, float]]:
    """Every resident model past its `idle_unload_s`: node, model, idle time in seconds.

    The time runs from the last use or from when it became resident, whichever is later: a model
    that nobody has used yet was loaded for a reason.
    """
    for node in snapshot.nodes.values():
        if not (node.routable and node.may_unload) or node.moving is not None:
            continue
        for model in node.models.values():
            idle_s = _idle_s(model, now_s=now_s, now_ms=now_ms)
            if model.idle_unload_s is not None and idle_s >= model.idle_unload_s:
                yield node.name, model.id, idle_s


def _idle_s(model: ModelView, *, now_s: float, now_ms: int) -> float:
    """How long nobody has used it; 0 for one that may not be unloaded."""
    if not model.resident or model.in_flight or model.pinned or model.wedged:
        return 0.0
    since_load_s = now_s - (now_s if model.resident_since_s is None else model.resident_since_s)
    return min(since_load_s, (now_ms - model.last_used_at_ms) / 1000)


def absent_pins(snapshot: FleetSnapshot) -> list[Want]:
    """Every pinned model that is not in memory where its pin wants it.

    A pin that names no node is content with one copy anywhere, and is wanted once.
    """
    wanted: dict[tuple[ModelId, NodeName | None], Want] = {}
    for node in snapshot.nodes.values():
        for model in node.models.values():
            if not model.pinned or model.status is not ModelStatus.UNLOADED:
                continue
            if model.pin_floats and _held_somewhere(snapshot, model.id):
                continue
            only = None if model.pin_floats else node.name
            wanted[model.id, only] = Want(model=model.id, only=only)
    return list(wanted.values())


def _held_somewhere(snapshot: FleetSnapshot, model: ModelId) -> bool:
    """Or about to be: in memory, or on its way there, where that counts."""
    return any(node.keeps and node.models[model].occupies for node in snapshot.holders(model))
