"""A node's memory, added up from its models each time it is asked for."""

from dataclasses import replace
from statistics import median

from cortex.core.snapshot import FRESH_S, FleetSnapshot, ModelStatus, ModelView, NodeView


def moving(node: NodeView) -> ModelView | None:
    still = {ModelStatus.LOADED, ModelStatus.UNLOADED}
    return next((m for m in node.models.values() if m.status not in still), None)


def reserved_mib(node: NodeView) -> int:
    return sum(m.size_mib or 0 for m in node.models.values() if m.status is ModelStatus.LOADING)


def available_mib(node: NodeView, now_s: float) -> int | None:
    bounds = []
    fresh = node.free_read_s is None or now_s - node.free_read_s <= FRESH_S
    if node.free_mib is not None and fresh:
        bounds.append(node.free_mib)
    if node.vram_total_mib is not None:
        held = sum(
            m.size_mib or 0
            for m in node.models.values()
            if m.occupies and m.status is not ModelStatus.LOADING
        )
        bounds.append(node.vram_total_mib - held)
    return min(bounds) - reserved_mib(node) if bounds else None


def size_of(node: NodeView, model: ModelView) -> int | None:
    if node.vram_total_mib is None or node.free_mib is None:
        return model.size_mib
    occupying = [m for m in node.models.values() if m.occupies]
    if model.size_mib is not None:
        alone = len(occupying) <= 1
        used = node.vram_total_mib - node.free_mib - node.residue_mib
        return max(model.size_mib, used) if alone else model.size_mib
    known = sum(m.size_mib or 0 for m in occupying)
    unknown = sum(m.size_mib is None for m in occupying)
    return max(0, node.vram_total_mib - node.free_mib - known) // max(1, unknown)


def sized(fleet: FleetSnapshot, node: NodeView, model: ModelView) -> ModelView:
    """With a guess where it has no size of its own."""
    if model.size_mib is not None:
        return model
    elsewhere = [
        (m.size_mib, other.name)
        for other in fleet.nodes.values()
        for m in other.models.values()
        if m.id == model.id and m.size_mib is not None
    ]
    here = [
        (size, m.id)
        for m in node.models.values()
        if (size := size_of(node, m) if m.occupies else m.size_mib) is not None
    ]
    pairs = [
        m.size_mib / other.weights[m.id].size_mib
        for other in fleet.nodes.values()
        for m in other.models.values()
        if m.id in other.weights and m.size_mib is not None and m.loads
    ]
    files = [
        other.weights[model.id].size_mib
        for other in fleet.nodes.values()
        if model.id in other.models and model.id in other.weights
    ]
    if elsewhere:
        size, where = max(elsewhere)
        by = f"its size on {where}"
    elif files:
        ratio = median(pairs) if pairs else 1.2
        mib = node.weights[model.id].size_mib if model.id in node.weights else max(files)
        size, by = round(ratio * mib), f"its files of {mib} MiB × {ratio:.2g}"
    elif here:
        size, largest = max(here)
        by = f"the size of {largest}"
    else:
        return model
    if node.vram_total_mib is not None:
        size = min(size, node.vram_total_mib)
    return replace(model, size_mib=size, size_guess=by)
