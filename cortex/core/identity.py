"""Which node is which: a node is the process at an endpoint, its name is only what it is called. Pure."""

from collections.abc import Mapping
from typing import TypeVar

from cortex.core.ids import NodeName

V = TypeVar("V")


def renamed(
    known: Mapping[NodeName, str], wanted: Mapping[NodeName, str]
) -> dict[NodeName, NodeName]:
    """Old names to new ones of nodes that a configuration calls otherwise.

    Args:
        known: The endpoint of every node that is known, "" where nobody knows; of two with the same,
            the last counts.
        wanted: That of every node of the configuration.
    """
    names = {endpoint: name for name, endpoint in known.items() if endpoint}
    return {
        old: new
        for new, endpoint in wanted.items()
        if known.get(new) != endpoint and (old := names.get(endpoint)) is not None
    }


def moved(
    found: Mapping[NodeName, V], renames: Mapping[NodeName, NodeName]
) -> dict[NodeName, V]:
    """The same under the new names; what was under one of those has lost it."""
    taken = set(renames.values())
    stays = {
        name: value
        for name, value in found.items()
        if name not in renames and name not in taken
    }
    return stays | {new: found[old] for old, new in renames.items() if old in found}
