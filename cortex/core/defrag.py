"""When a node wants a restart to get its memory back in one piece: pure."""

from cortex.core.ids import ModelId, NodeName
from cortex.core.snapshot import FleetSnapshot, NodeView

RESIDUE_SHARE = 0.1
"""Share of the device that unloads may leave behind before a restart is due."""


def why_due(node: NodeView, *, after_cycles: int) -> str | None:
    """Why a restart is due; None = it is not, or `after_cycles` is 0, which means never."""
    if not after_cycles:
        return None
    if node.cycles >= after_cycles:
        return f"{node.cycles} unload cycles since its restart, due after {after_cycles}"
    models = node.models.values()
    # A phantom takes no memory, and nobody misses it.
    wedged = sorted(model.id for model in models if model.wedged and not model.phantom)
    if wedged:
        return f"{', '.join(wedged)} wedged: only a restart clears it"
    total = node.vram_total_mib
    lacking = [
        model.id
        for model in models
        if total is not None
        and model.out_of_memory
        and total - node.residue_mib < (model.size_mib or 0) <= total
    ]
    if lacking:
        return f"unloads left {node.residue_mib} MiB behind, which {', '.join(sorted(lacking))} lacks"
    if total is not None and node.residue_mib > RESIDUE_SHARE * total:
        return f"unloads left {node.residue_mib} MiB of {total} MiB behind"
    return None


def needs_copy(snapshot: FleetSnapshot, name: NodeName) -> list[ModelId]:
    """Pinned models that would be nowhere while `name` restarts."""
    return [
        model.id
        for model in snapshot.nodes[name].models.values()
        if model.pinned
        and model.resident
        and not any(
            other != name
            and snapshot.nodes[other].routable
            and snapshot.nodes[other].models[model.id].resident
            for other in snapshot.locations.get(model.id, ())
        )
    ]


def bring_back(node: NodeView) -> list[ModelId]:
    """What `node` holds, in the order in which it should come back: pinned, then used last."""
    held = [model for model in node.models.values() if model.resident]
    held.sort(key=lambda model: (not model.pinned, -model.last_used_at_ms, model.id))
    return [model.id for model in held]
