"""Who goes by forecast: every set that suffices is weighed, by what each frees to the MiB."""

from collections.abc import Sequence

from cortex.core.rules import EvictionRules, Strategy
from cortex.core.snapshot import ModelView, NodeView

Weighed = tuple[float, tuple[int, ...]]


def load_s(node: NodeView, model: ModelView) -> float | None:
    """By the loads of the same kind, else by all."""
    ram, read = node.ram_total_mib, model.read_at_mib
    warm = (
        ram is not None
        and read is not None
        and node.read_mib - read + (model.size_mib or 0) <= 0.8 * ram
    )
    files = node.weights.get(model.id)
    if files is not None and files.cached_mib is not None:
        warm = files.cached_mib >= 0.8 * files.size_mib
    kind = model.warm_load_s if warm else model.cold_load_s
    return model.load_s if kind is None else kind


def taken_to_load_s(node: NodeView, model: ModelView) -> float:
    """The same, or a gigabyte a second, or twenty seconds."""
    known = load_s(node, model)
    if known is not None:
        return known
    return model.size_mib / 1000 if model.size_mib else 20.0


def decides(rules: EvictionRules) -> bool:
    outlook = rules.outlook
    return (
        rules.strategy is Strategy.FORECAST
        and outlook is not None
        and outlook.demand.known >= 50
        and not outlook.overruled
    )


def cost_s(node: NodeView, model: ModelView, rules: EvictionRules, now_s: float) -> float:
    assert rules.outlook is not None
    chance = rules.outlook.chance(model.id, now_s)
    return chance * (taken_to_load_s(node, model) + 5) * (max(0, model.priority) / 100)


def cheapest(
    costs: Sequence[float], sizes: Sequence[int | None], wanted: int
) -> tuple[int, ...] | None:
    """Places of the cheapest that free `wanted`, at least one; of equals the fewest, the first."""
    # The cheapest for each amount that can be freed; what is more than enough counts as enough.
    best: dict[int, Weighed] = {0: (0.0, ())}
    enough = max(wanted, 1)
    freeing = [
        enough if size is None or (not wanted and size) else min(size, enough) for size in sizes
    ]
    for place, (cost, freed) in enumerate(zip(costs, freeing, strict=True)):
        if not freed:
            continue
        for before, (spent, chosen) in list(best.items()):
            after = min(enough, before + freed)
            new = (spent + cost + 1e-6 * (1 + place), (*chosen, place))
            if after not in best or new[0] < best[after][0]:
                best[after] = new
    return best[enough][1] if enough in best else None
