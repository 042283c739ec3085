"""The fleet's ports, played by hand: no socket, no file, no time that passes by itself."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from cortex.core.clock import Clock
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import LifecycleAnswer, Listing, NodeInfo, ReportedStatus, Work
from cortex.core.records import FleetEvent, NodeRecord, Recollection, ResidencyRecord
from cortex.core.traits import Kind
from cortex.fleet.ports import Ports
from cortex.fleet.waits import WAITS, Waits


class HandClock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.s = 1000.0
        self.wall_ms = 1_800_000_000_000

    def now_s(self) -> float:
        return self.s

    def now_ms(self) -> int:
        return self.wall_ms

    def pass_s(self, seconds: float) -> None:
        self.s += seconds
        self.wall_ms += round(seconds * 1000)


class Events:
    """A journal that can be read."""

    def __init__(self) -> None:
        self.all: list[FleetEvent] = []

    def record(self, event: FleetEvent) -> None:
        self.all.append(event)

    @property
    def kinds(self) -> list[str]:
        return [event.kind.value for event in self.all]


class Kept:
    """A store that keeps it all in memory, and gives it back."""

    def __init__(self) -> None:
        self.nodes: dict[NodeName, NodeRecord] = {}
        self.residency: dict[tuple[NodeName, ModelId], ResidencyRecord] = {}
        self.pins: set[tuple[NodeName | None, ModelId]] = set()
        self.drained: set[NodeName] = set()
        self.saves = 0

    async def recall(self) -> Recollection:
        return Recollection(
            nodes=tuple(self.nodes.values()),
            residency=tuple(self.residency.values()),
            pins=frozenset(self.pins),
            drained=frozenset(self.drained),
        )

    async def save(self, *records: NodeRecord | ResidencyRecord) -> None:
        self.saves += 1
        for record in records:
            if isinstance(record, NodeRecord):
                self.nodes[record.name] = record
            else:
                self.residency[record.node, record.model] = record

    async def save_listing(self, node: NodeRecord, models: Sequence[ResidencyRecord]) -> None:
        await self.save(node, *models)
        listed = {model.model for model in models}
        for (name, model), record in list(self.residency.items()):
            if name == node.name and model not in listed:
                self.residency[name, model] = replace(record, gone=True)

    async def rename_nodes(self, renames: Mapping[NodeName, NodeName]) -> None:
        called = renames.get
        self.nodes = {
            called(name, name): replace(record, name=called(name, name))
            for name, record in self.nodes.items()
        }
        self.pins = {(name and called(name, name), model) for name, model in self.pins}
        self.drained = {called(name, name) for name in self.drained}

    async def save_drained(self, node: NodeName, *, drained: bool) -> None:
        (self.drained.add if drained else self.drained.discard)(node)

    async def save_pin(self, model: ModelId, node: NodeName | None) -> None:
        self.pins.add((node, model))

    async def delete_pin(self, model: ModelId, node: NodeName | None) -> None:
        self.pins.discard((node, model))


class Watched:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.polls: Counter[tuple[NodeName, bool]] = Counter()
        self.loads: list[tuple[NodeName, ModelId, float]] = []
        self.failed_loads: list[tuple[NodeName, ModelId, float]] = []
        self.bugs: Counter[str] = Counter()

    def polled(self, name: NodeName, *, ok: bool, duration_s: float) -> None:
        self.polls[name, ok] += 1

    def load_ended(self, node: NodeName, model: ModelId, spent_s: float, *, ok: bool) -> None:
        (self.loads if ok else self.failed_loads).append((node, model, spent_s))

    def internal_error(self, loop: str) -> None:
        self.bugs[loop] += 1


class Node:
    """A node that does at once what it is told; overridden where it shall not."""

    def __init__(
        self, *models: str, loaded: tuple[str, ...] = (), sizes: int = 8000, total: int = 24000
    ) -> None:
        self.created_at_s = 1
        self.models = {
            ModelId(model): ReportedStatus.LOADED
            if model in loaded
            else ReportedStatus.UNLOADED
            for model in (*loaded, *models)
        }
        self.sizes: dict[ModelId, int] = dict.fromkeys(self.models, sizes)
        self.total_mib = total
        self.calls: list[str] = []

    @property
    def free_mib(self) -> int:
        held = [
            self.sizes[m]
            for m, status in self.models.items()
            if status is ReportedStatus.LOADED
        ]
        return self.total_mib - sum(held)

    async def list_models(self) -> Listing:
        await asyncio.sleep(0)
        self.calls.append("list")
        return Listing(created_at_s=self.created_at_s, models=dict(self.models))

    async def system_info(self) -> NodeInfo:
        await asyncio.sleep(0)
        return NodeInfo(version="0.9.2", vram_total_mib=self.total_mib, free_mib=self.free_mib)

    async def kinds(self) -> Mapping[ModelId, frozenset[Kind]]:
        return {}

    async def model_status(self, model: ModelId) -> LifecycleAnswer:
        await asyncio.sleep(0)
        return LifecycleAnswer(status=self.models[model])

    async def reload(self, model: ModelId) -> LifecycleAnswer:
        await asyncio.sleep(0)
        self.calls.append(f"reload {model}")
        self.models[model] = ReportedStatus.LOADED
        return LifecycleAnswer(status=ReportedStatus.LOADED)

    async def unload(self, model: ModelId) -> LifecycleAnswer:
        await asyncio.sleep(0)
        self.calls.append(f"unload {model}")
        self.models[model] = ReportedStatus.UNLOADED
        return LifecycleAnswer(status=ReportedStatus.UNLOADED)

    async def wake(self, model: ModelId, work: Work) -> str | None:
        await asyncio.sleep(0)
        self.calls.append(f"wake {model}")
        self.models[model] = ReportedStatus.LOADED
        return None

    async def probe(self, model: ModelId) -> None:
        await asyncio.sleep(0)
        self.calls.append(f"probe {model}")


def ports(
    *,
    clock: Clock | None = None,
    journal: Events | None = None,
    store: Kept | None = None,
    watcher: Watched | None = None,
    waits: Waits = WAITS,
) -> Ports:
    return Ports(
        clock=clock or HandClock(),
        journal=journal or Events(),
        store=store or Kept(),
        watcher=watcher or Watched(),
        waits=waits,
    )
