"""What the fleet needs from the layers beside it; `node` and `store` satisfy these structurally."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cortex.core.clock import Clock
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import LifecycleAnswer, Listing, NodeInfo, Work
from cortex.core.records import FleetEvent, NodeRecord, Recollection, ResidencyRecord
from cortex.core.traits import Kind
from cortex.fleet.waits import WAITS, Waits


class NodeControl(Protocol):
    """The control calls of one node. Each raises a `NodeError`; deadlines are the caller's."""

    async def list_models(self) -> Listing: ...
    async def system_info(self) -> NodeInfo: ...
    async def kinds(self) -> Mapping[ModelId, frozenset[Kind]]: ...
    async def model_status(self, model: ModelId) -> LifecycleAnswer: ...
    async def reload(self, model: ModelId) -> LifecycleAnswer: ...
    async def unload(self, model: ModelId) -> LifecycleAnswer: ...
    async def wake(self, model: ModelId, work: Work) -> str | None:
        """Have the model do a little of `work`, loading it first; None, or why the node refused."""
        ...

    async def probe(self, model: ModelId) -> None:
        """Have the model make one token."""
        ...


class Journal(Protocol):
    """Takes each event at the moment it is committed; never blocks, never raises."""

    def record(self, event: FleetEvent) -> None: ...


class FleetStore(Protocol):
    """What outlives the process. `save_*` return once committed, or raise `StoreError`."""

    async def recall(self) -> Recollection: ...
    async def save(self, *records: NodeRecord | ResidencyRecord) -> None:
        """Keep all of these, or none."""
        ...

    async def save_listing(self, node: NodeRecord, models: Sequence[ResidencyRecord]) -> None:
        """Keep a node and all that it lists; any other model kept of it is gone from now on."""
        ...

    async def rename_nodes(self, renames: Mapping[NodeName, NodeName]) -> None: ...
    async def save_drained(self, node: NodeName, *, drained: bool) -> None: ...
    async def save_pin(self, model: ModelId, node: NodeName | None) -> None: ...
    async def delete_pin(self, model: ModelId, node: NodeName | None) -> None: ...


class Watcher(Protocol):
    """Told of what is measured; for metrics. Never blocks, never raises."""

    def polled(self, name: NodeName, *, ok: bool, duration_s: float) -> None: ...
    def load_ended(
        self, node: NodeName, model: ModelId, spent_s: float, *, ok: bool
    ) -> None: ...
    def internal_error(self, loop: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What the fleet works with; every part of it the same."""

    clock: Clock
    journal: Journal
    store: FleetStore
    watcher: Watcher
    waits: Waits = WAITS
