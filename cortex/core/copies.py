"""Models that are in memory more than once: which copies are to spare, and when one more is worth it.

A copy that is not the only one costs nothing to lose, so it goes first. And where every copy is full for
long, one more may use memory that nobody else does. Pure.
"""

from collections import Counter

from cortex.core.decisions import Want
from cortex.core.ids import ModelId, NodeName
from cortex.core.routing import candidates
from cortex.core.snapshot import FleetSnapshot, ModelStatus, NodeView

SPARE_AFTER_S = 5.0
"""A request has to wait so long for a slot before one more copy is loaded: most slots are free by then."""
NONE: frozenset[ModelId] = frozenset()
_SPARES = object()


def spares(snapshot: FleetSnapshot, node: NodeView) -> frozenset[ModelId]:
    """The models in memory on `node` that are so on another one, too, where that counts.

    Without those whose size nobody knows: they may be lost for nothing.
    """
    known: dict[NodeName, frozenset[ModelId]] | None = snapshot.derived.get(_SPARES)
    if known is None:
        known = snapshot.derived[_SPARES] = _spares(snapshot)
    return known.get(node.name, NONE)


def _spares(snapshot: FleetSnapshot) -> dict[NodeName, frozenset[ModelId]]:
    keeping = [node for node in snapshot.nodes.values() if node.keeps]
    count = Counter(
        view.id
        for node in keeping
        for view in node.models.values()
        if view.status is ModelStatus.LOADED
    )
    found: dict[NodeName, set[ModelId]] = {}
    for model, copies in count.items():
        if copies > 1:
            for node in snapshot.holders(model):
                view = node.models[model]
                loaded = view.status is ModelStatus.LOADED
                if node.keeps and loaded and view.size_mib is not None:
                    found.setdefault(node.name, set()).add(model)
    return {name: frozenset(models) for name, models in found.items()}


def another_from_s(want: Want, *, now_s: float) -> float | None:
    """From when on `want` may have one more copy loaded (monotonic); None = it may already, or never."""
    if want.since_s is None or want.only is not None:
        return None
    from_s = want.since_s + SPARE_AFTER_S
    return from_s if from_s > now_s else None


def wants_another(snapshot: FleetSnapshot, want: Want, *, now_s: float) -> bool:
    """Whether one more copy may be loaded for a request that waits for a slot, if there is memory for it.

    1. It has waited for `SPARE_AFTER_S`. 2. Any node would do. 3. No older request waits for
    another model, which may need that memory or that node. 4. No copy is on its way, in or out.
    5. There are fewer than `max_copies`.
    """
    if want.since_s is None or now_s - want.since_s < SPARE_AFTER_S:
        return False
    if want.only is not None or want.seniors:
        return False
    statuses = [view.status for _, view in candidates(snapshot, want)]
    copies = sum(status is not ModelStatus.UNLOADED for status in statuses)
    moving = copies > statuses.count(ModelStatus.LOADED)
    return not moving and copies < snapshot.max_copies.get(want.model, copies + 1)
