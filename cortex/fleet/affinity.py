"""Which node served a conversation last, so that its next turn finds a warm KV cache."""

from collections import OrderedDict
from collections.abc import Mapping

from cortex.core.ids import ModelId, NodeName

CAPACITY = 20_000
"""Conversations remembered; the least recently used is forgotten."""


class Affinity:
    """An LRU map from (model, conversation key) to node."""

    def __init__(self) -> None:
        self._nodes: OrderedDict[tuple[ModelId, str | int], NodeName] = OrderedDict()

    def preferred(self, model: ModelId, key: str | int) -> NodeName | None:
        return self._nodes.get((model, key))

    def served(self, model: ModelId, key: str | int, node: NodeName) -> None:
        self._nodes[model, key] = node
        self._nodes.move_to_end((model, key))
        if len(self._nodes) > CAPACITY:
            self._nodes.popitem(last=False)

    def rename(self, renames: Mapping[NodeName, NodeName]) -> None:
        """The same nodes are called otherwise."""
        for place, node in self._nodes.items():
            if node in renames:
                self._nodes[place] = renames[node]
