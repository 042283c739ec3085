"""Which nodes list which model: pure, kept up to date by what changes."""

from bisect import bisect_left
from collections.abc import Mapping, Set

from cortex.core.ids import ModelId, NodeName

NOTHING: Set[ModelId] = frozenset()


def relocated(
    locations: Mapping[ModelId, tuple[NodeName, ...]],
    name: NodeName,
    *,
    gone: Set[ModelId] = NOTHING,
    come: Set[ModelId] = NOTHING,
) -> dict[ModelId, tuple[NodeName, ...]]:
    """The same with the models that a node no longer lists, and that it lists now; names stay sorted."""
    found = dict(locations)
    for model in gone:
        found[model] = tuple(node for node in found[model] if node != name)
        if not found[model]:
            del found[model]
    for model in come:
        names = found.get(model, ())
        at = bisect_left(names, name)
        found[model] = (*names[:at], name, *names[at:])
    return found
