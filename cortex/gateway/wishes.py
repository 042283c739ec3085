"""What each model of each node was seen to refuse, and would take in another form."""

from cortex.core.amend import Amendment
from cortex.core.ids import ModelId, NodeName

_NONE: frozenset[Amendment] = frozenset()


class Wishes:
    """Learned from refusals, for as long as this process lives: a body is never changed unasked."""

    def __init__(self) -> None:
        self._known: dict[tuple[NodeName, ModelId], frozenset[Amendment]] = {}

    def of(self, node: NodeName, model: ModelId) -> frozenset[Amendment]:
        return self._known.get((node, model), _NONE)

    def learn(self, node: NodeName, model: ModelId, wish: Amendment) -> None:
        self._known[node, model] = self.of(node, model) | {wish}
