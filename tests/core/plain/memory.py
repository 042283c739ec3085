"""A node's memory, added up from its models each time it is asked for."""

from cortex.core.snapshot import FRESH_S, ModelStatus, ModelView, NodeView


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
    if model.size_mib is not None:
        return model.size_mib
    if node.vram_total_mib is None or node.free_mib is None:
        return None
    occupying = [m for m in node.models.values() if m.occupies]
    known = sum(m.size_mib or 0 for m in occupying)
    unknown = sum(m.size_mib is None for m in occupying)
    return max(0, node.vram_total_mib - node.free_mib - known) // max(1, unknown)
