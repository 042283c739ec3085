"""Which node is which: a node is the process at an endpoint, its name is only what it is called. Pure."""

from collections.abc import Mapping

from cortex.core.ids import NodeName


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
