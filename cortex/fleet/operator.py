"""What an operator may do: load, unload, pin, unpin, drain, undrain, defrag.

By the same rules as what requests cause. What must outlive the process is committed to the store
before it takes effect, so that no restart undoes it.
"""

from cortex.core.decisions import Want
from cortex.core.errors import ConflictError
from cortex.core.ids import ModelId, NodeName
from cortex.core.snapshot import Drain, ModelView, NodeView
from cortex.fleet.admission import Admission
from cortex.fleet.defrag import Defrag
from cortex.fleet.lifecycle import Lifecycle
from cortex.fleet.ports import FleetStore
from cortex.fleet.state import FleetState
from cortex.fleet.verdict import UNUSED

OPERATOR = "(operator)"
"""The client that an operator's load queues as."""


class Operator:
    """The seven verbs."""

    def __init__(
        self,
        state: FleetState,
        *,
        store: FleetStore,
        admission: Admission,
        lifecycle: Lifecycle,
        defrag: Defrag,
    ) -> None:
        self._state = state
        self._store = store
        self._admission = admission
        self._lifecycle = lifecycle
        self._defrag = defrag

    async def load(self, model: ModelId, node: NodeName | None) -> None:
        """Have `model` resident, on `node` or anywhere; it queues as a request would.

        Raises:
            CapacityError: It cannot be, or was not in time.
        """
        if any(n.routable for n, _ in self._copies(model, node)):
            return
        admitted = await self._admission.acquire(
            Want(model=model, only=node, insists=True), OPERATOR
        )
        self._state.release(admitted.lease, UNUSED)

    async def unload(
        self, model: ModelId, node: NodeName | None, *, force: bool = False
    ) -> list[NodeName]:
        """Drain and unload `model`, on `node` or wherever it is; returns where it was.

        `force` does so even where the model is wedged, and will be gone until its node restarts.

        Raises:
            ConflictError: It must not be unloaded somewhere, or was still in use at the deadline.
        """
        copies = self._copies(model, node)
        for view, copy in copies:
            _may_unload(view, copy, force=force)
        ended = [
            (view.name, self._lifecycle.unload(view.name, model, "unloaded by request"))
            for view, _ in copies
        ]
        failures = [f"{name}: {why}" for name, end in ended if (why := await end)]
        if failures:
            raise ConflictError(f"{model} stays: {'; '.join(failures)}", code="not_unloaded")
        return [name for name, _ in ended]

    async def pin(self, model: ModelId, node: NodeName | None) -> None:
        """Keep `model` in memory, on `node` or anywhere.

        Raises:
            StoreError: It could not be written down, and is not so.
        """
        await self._store.save_pin(model, node)
        self._state.pin(model, node)

    async def unpin(self, model: ModelId, node: NodeName | None) -> None:
        """Take back a `pin` of the same words; raises as it does."""
        await self._store.delete_pin(model, node)
        self._state.unpin(model, node)

    async def drain(self, name: NodeName) -> None:
        """Take a node out of service: it finishes what runs. Raises as `pin` does."""
        if self._state.node(name) is not None:
            await self._store.save_drained(name, drained=True)
            self._state.drain(name, Drain.REQUEST, "drained by request")

    async def undrain(self, name: NodeName) -> None:
        """Put a drained node back into service; raises as `pin` does."""
        if self._state.node(name) is not None:
            await self._store.save_drained(name, drained=False)
            self._state.undrain(name, Drain.REQUEST, "undrained by request")

    def defrag(self, name: NodeName) -> None:
        """Have a node restarted as soon as that is safe.

        Raises:
            ConflictError: No agent beside it could do so.
        """
        self._defrag.request(name)

    def _copies(
        self, model: ModelId, node: NodeName | None
    ) -> list[tuple[NodeView, ModelView]]:
        snapshot = self._state.snapshot()
        names = [n for n in snapshot.locations.get(model, ()) if node in (None, n)]
        views = [snapshot.nodes[name] for name in names]
        return [(v, v.models[model]) for v in views if v.models[model].resident]


def _may_unload(node: NodeView, copy: ModelView, *, force: bool) -> None:
    if copy.pinned:
        raise ConflictError(f"{copy.id} is pinned on {node.name}", code="model_pinned")
    if copy.wedged and not force:
        raise ConflictError(
            f"{copy.id} is wedged on {node.name}: once unloaded, only a restart of the node"
            " brings it back (force unloads it all the same)",
            code="not_unloadable",
        )
    if node.no_unload_reason is not None:
        raise ConflictError(f"{node.name}: {node.no_unload_reason}", code="not_unloadable")
    if node.moving is not None:
        raise ConflictError(
            f"{node.name} is busy: {node.moving.status} {node.moving.id}", code="node_moving"
        )
