"""A hold on a resident model, and on the node by whatever name."""

from collections.abc import Callable
from dataclasses import dataclass

from cortex.core.ids import ModelId, NodeName


class Ref:
    """A node, by whatever name; one for each that is known."""

    __slots__ = ("name",)

    def __init__(self, name: NodeName) -> None:
        self.name = name


class Held:
    """A model on a node, whatever that is called meanwhile."""

    __slots__ = ()
    ref: Ref
    model: ModelId

    @property
    def node(self) -> NodeName:
        """As it is called now."""
        return self.ref.name


@dataclass(slots=True, eq=False)
class Lease(Held):
    """One request's hold on a resident model; give it back with `FleetState.release`.

    Not frozen, which would triple what it costs to make one.
    """

    ref: Ref
    model: ModelId
    since_s: float
    """Monotonic."""


@dataclass(frozen=True, slots=True)
class Beat:
    """Something to be done again and again for a request while it waits."""

    act: Callable[[], object]
    every_s: float
