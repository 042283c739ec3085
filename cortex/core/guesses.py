"""What a model may take on a node where nobody has seen it: pure."""

from statistics import median
from typing import NamedTuple

from cortex.core.decisions import Want
from cortex.core.routing import candidates
from cortex.core.snapshot import FleetSnapshot, ModelView, NodeView, evolve

USUAL_RATIO = 1.2
"""What a model takes of device memory for each MiB of its files, where none was seen to: room to work in."""
_RATIO = object()


def weights_ratio(snapshot: FleetSnapshot) -> float:
    """The same, as the models of this fleet were seen to (median)."""
    known: float | None = snapshot.derived.get(_RATIO)
    if known is None:
        known = snapshot.derived[_RATIO] = _weights_ratio(snapshot)
    return known


def _weights_ratio(snapshot: FleetSnapshot) -> float:
    seen = [
        model.size_mib / weights.size_mib
        for node in snapshot.nodes.values()
        for name, weights in node.weights.items()
        if weights.size_mib
        and (model := node.models.get(name)) is not None
        and model.size_mib is not None
        and model.loads
    ]
    return median(seen) if seen else USUAL_RATIO


class Hints(NamedTuple):
    """What other nodes tell of the size of a model."""

    elsewhere: tuple[ModelView, NodeView] | None = None
    """Where it is known to be largest."""
    files_mib: int | None = None
    """Its largest files anywhere."""


def hints(snapshot: FleetSnapshot, want: Want) -> Hints:
    """Of the wanted model; none where every node knows its size."""
    known = [(m.size_mib, node.name, m, node) for node, m in candidates(snapshot, want)]
    if all(size is not None for size, *_ in known):
        return Hints()
    sized = [entry for entry in known if entry[0] is not None]
    largest = max(sized, default=None, key=lambda entry: (entry[0] or 0, entry[1]))
    files = [
        node.weights[want.model].size_mib for *_, node in known if want.model in node.weights
    ]
    return Hints(None if largest is None else largest[2:], max(files, default=None))


def sized(
    snapshot: FleetSnapshot, node: NodeView, model: ModelView, by_others: Hints
) -> ModelView:
    """The model with a size to plan by, where it has none of its own.

    1. What it is known to take on another node. 2. Its files, there or on another node, times what
    others take for theirs. 3. As much as the largest model of this node, known or shared out.
    None more than the device: a guess never makes a model one that can never fit.
    """
    if model.size_mib is not None:
        return model
    files_mib = by_others.files_mib
    if model.id in node.weights:
        files_mib = node.weights[model.id].size_mib
    size: int | None
    if (elsewhere := by_others.elsewhere) is not None:
        size, by = elsewhere[0].size_mib, f"its size on {elsewhere[1].name}"
    elif files_mib is not None:
        ratio = weights_ratio(snapshot)
        size, by = round(ratio * files_mib), f"its files of {files_mib} MiB × {ratio:.2g}"
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
