"""What a model may take on a node where nobody has seen it: pure."""

from cortex.core.decisions import Want
from cortex.core.routing import candidates
from cortex.core.snapshot import FleetSnapshot, ModelView, NodeView, evolve


def largest_elsewhere(snapshot: FleetSnapshot, want: Want) -> tuple[ModelView, NodeView] | None:
    """Where the wanted model is known to be largest; None = no node needs it, or none knows."""
    known = [(m.size_mib, node.name, m, node) for node, m in candidates(snapshot, want)]
    if all(size is not None for size, *_ in known):
        return None
    sized = [entry for entry in known if entry[0] is not None]
    largest = max(sized, default=None, key=lambda entry: (entry[0] or 0, entry[1]))
    return None if largest is None else largest[2:]


def sized(
    node: NodeView, model: ModelView, elsewhere: tuple[ModelView, NodeView] | None
) -> ModelView:
    """The model with a size to plan by, where it has none of its own.

    1. What it is known to take on another node. 2. As much as the largest model of this node,
    known or shared out. Neither more than the device: a guess never makes a model one that can
    never fit.
    """
    if model.size_mib is not None:
        return model
    if elsewhere is not None:
        size, by = elsewhere[0].size_mib, f"its size on {elsewhere[1].name}"
    else:
        largest = node.largest
        if largest is None:
            return model
        size, by = node.size_of(largest), f"the size of {largest.id}"
    total = node.vram_total_mib
    capped = size if total is None or size is None else min(size, total)
    return evolve(model, size_mib=capped, size_guess=by)


def guessed(model: ModelView, detail: str) -> str:
    if not model.size_guess:
        return detail
    guess = f"its need is a guess: {model.size_guess}"
    return f"{guess}; {detail}" if detail else guess
