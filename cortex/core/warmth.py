"""Whether a node's memory still holds the file of a model, and how long a load of it takes there: pure.

An operating system keeps in memory what was read last. So a file is warm while less than the machine's
memory has been read since it was; a load from there skips the disk.
"""

from dataclasses import replace

from cortex.core.reconcile import averaged
from cortex.core.snapshot import ModelView, NodeView

CACHE_SHARE = 0.8
"""Of a machine's memory that may hold files: the rest is the engine's own."""
CACHED_SHARE = 0.8
"""Of a file that has to be in memory for a load of it to count as warm."""
USUAL_MIB_PER_S, USUAL_LOAD_S = 1000.0, 20.0
"""Where no load was seen: the pace, and what one takes of a model whose size nobody knows either."""
NEAR_SHARE, NEAR_S = 0.2, 1.0
"""Loads that differ by less count as equally long."""


def read_since_mib(node: NodeView, model: ModelView) -> int | None:
    """What loads have read there since that model's last one; None = none of it was counted."""
    return None if model.read_at_mib is None else node.read_mib - model.read_at_mib


def is_warm(node: NodeView, model: ModelView) -> bool | None:
    """Whether most of its file is in memory; None = nobody knows.

    1. An agent beside the node has seen how much of it is. 2. By what loads have read there since.
    The file then counts as large as the model is in device memory, which is a little more than it is.
    """
    weights = node.weights.get(model.id)
    if weights is not None and weights.cached_mib is not None:
        return weights.cached_mib >= CACHED_SHARE * weights.size_mib
    since_mib = read_since_mib(node, model)
    if since_mib is None or node.ram_total_mib is None:
        return None
    return since_mib + (model.size_mib or 0) <= CACHE_SHARE * node.ram_total_mib


def expected_load_s(node: NodeView, model: ModelView) -> float | None:
    """How long a load takes there now, by those before: the warm ones, or the cold; None = there was none."""
    kind_s = model.warm_load_s if is_warm(node, model) else model.cold_load_s
    return model.load_s if kind_s is None else kind_s


def load_s_or_guess(node: NodeView, model: ModelView) -> float:
    """The same, where something has to be said: by the size, if there was no load yet."""
    known_s = expected_load_s(node, model)
    if known_s is not None:
        return known_s
    return model.size_mib / USUAL_MIB_PER_S if model.size_mib else USUAL_LOAD_S


def learned(model: ModelView, load_s: float | None, *, warm: bool | None) -> ModelView:
    """The averages after one more load; one that nobody knows to have been warm counts as cold."""
    return replace(
        model,
        load_s=averaged(model.load_s, load_s),
        warm_load_s=averaged(model.warm_load_s, load_s) if warm else model.warm_load_s,
        cold_load_s=model.cold_load_s if warm else averaged(model.cold_load_s, load_s),
    )


def is_near(load_s: float, best_s: float) -> bool:
    """As long as the best, for all that matters."""
    return load_s <= best_s * (1 + NEAR_SHARE) + NEAR_S
