"""A day that a real fleet lives, in virtual time, and the log of it: what a replay is held against."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from cortex.core.decisions import Want
from cortex.core.errors import CapacityError
from cortex.core.ids import ModelId, NodeName, RequestId
from cortex.core.listing import ReportedStatus, Work
from cortex.core.records import EventKind, FleetEvent, Outcome, RequestRecord
from cortex.core.rules import EvictionRules, Strategy
from cortex.fleet.fleet import Fleet
from cortex.fleet.policy import FleetPolicy, ModelPolicy, NodePolicy
from cortex.fleet.verdict import SERVED
from cortex.fleet.waits import Waits
from cortex.replay import virtual
from tests.fleet.fakes import Events, Kept, Node, ports
from tests.store.conftest import opened

HOUR_S = 3600.0
GIB = 1024


class SlowNode(Node):
    """Takes its time for a load, by the size of the model and the pace of its disk."""

    def __init__(self, sizes: Mapping[str, int], total_mib: int, mib_per_s: float) -> None:
        super().__init__(*sizes, total=total_mib)
        self.sizes = {ModelId(model): size for model, size in sizes.items()}
        self.mib_per_s = mib_per_s

    async def wake(self, model: ModelId, work: Work) -> str | None:
        if self.sizes[model] > self.free_mib:
            await asyncio.sleep(1.0)
            return "failed to reload model: out of memory"
        self.models[model] = ReportedStatus.RELOADING
        await asyncio.sleep(3.0 + self.sizes[model] / self.mib_per_s)
        return await super().wake(model, work)


@dataclass
class Lived:
    """What the log of a fleet would have."""

    requests: list[RequestRecord] = field(default_factory=list)
    events: list[FleetEvent] = field(default_factory=list)
    kept: Kept = field(default_factory=Kept)

    @property
    def load_s(self) -> float:
        return sum(
            float(str(event.detail["load_s"]))
            for event in self.events
            if event.kind is EventKind.LOADED
        )

    async def write(self, path: Path) -> None:
        """Into a database file, as the gateway's own store has it."""
        async with opened(path, retention_days=10_000) as store:
            for event in self.events:
                store.record(event)
            for request in self.requests:
                store.request_done(request)
            await store.save(*self.kept.nodes.values(), *self.kept.residency.values())
            for node, model in self.kept.pins:
                await store.save_pin(model, node)


@dataclass(frozen=True)
class Clientele:
    """Who asks a fleet of cards for what."""

    sizes: Mapping[str, int] = field(
        default_factory=lambda: {
            "small": 5_000, "chat": 9_000, "code": 14_000, "big": 20_000,
            "embed": 2_000, "vision": 11_000, "draft": 7_000,
        }
    )  # fmt: skip
    weights: Sequence[float] = (8, 6, 5, 2, 3, 1, 1)
    priorities: Sequence[int] = (100, 100, 100, 100, 50, 100, 100)
    cards: Mapping[str, tuple[int, float]] = field(
        default_factory=lambda: {
            "fast": (16 * GIB, 2000.0), "slow": (10 * GIB, 500.0), "large": (22 * GIB, 900.0),
        }
    )  # fmt: skip
    clients: int = 4
    hours: float = 12.0
    strategy: Strategy = Strategy.LRU


def live(clientele: Clientele, seed: int = 1) -> Lived:
    """So many hours of conversations: each client has one after another, with a model of its choice."""

    async def main() -> Lived:
        rng, lived, ids = random.Random(seed), Lived(), count()
        journal = Events()
        nodes = {
            NodeName(name): SlowNode(clientele.sizes, total, pace)
            for name, (total, pace) in clientele.cards.items()
        }
        policy = FleetPolicy(
            nodes=tuple(NodePolicy(name=name) for name in nodes),
            models={
                ModelId(model): ModelPolicy(priority=priority, size_mib=clientele.sizes[model])
                for model, priority in zip(clientele.sizes, clientele.priorities, strict=True)
            },
            poll_interval_s=60.0,
            eviction=EvictionRules(strategy=clientele.strategy),
        )
        clock = virtual.LoopClock()
        # Nothing is due for its loops here, and every look of theirs takes a moment.
        waits = Waits(house_s=300.0, defrag_look_s=300.0)
        given = ports(clock=clock, journal=journal, store=lived.kept, waits=waits)
        fleet = Fleet(policy, nodes, given)

        async def ask(model: ModelId, client: str, answer_s: float) -> None:
            record = RequestRecord(
                request_id=RequestId(str(next(ids))),
                started_at_ms=clock.now_ms(),
                route="chat",
                model=model,
                client=client,
            )
            began_s = clock.now_s()
            fleet.asked(Want(model))
            try:
                admitted = await fleet.lease(Want(model=model, request_id=record.request_id))
            except CapacityError as exc:
                record.outcome, record.error_code = Outcome.ERROR, exc.code
            else:
                record.node = admitted.lease.node
                record.queue_ms = admitted.queue_s * 1000
                record.load_wait_ms = admitted.load_wait_s * 1000
                record.cold_start = admitted.load_wait_s > 0
                await asyncio.sleep(answer_s)
                fleet.ended(admitted.lease, SERVED)
            record.duration_ms = (clock.now_s() - began_s) * 1000
            lived.requests.append(record)

        async def client(name: str) -> None:
            models = [ModelId(model) for model in clientele.sizes]
            while True:
                model = rng.choices(models, clientele.weights)[0]
                for _ in range(rng.randint(1, 8)):
                    await ask(model, name, rng.uniform(1, 30))
                    await asyncio.sleep(rng.expovariate(1 / 30))
                await asyncio.sleep(rng.expovariate(1 / 300))

        async with asyncio.TaskGroup() as group:
            fleet.run(group)
            while not fleet.asked_all:
                await asyncio.sleep(0.1)
            journal.record(
                FleetEvent(
                    at_ms=clock.now_ms(),
                    kind=EventKind.START,
                    reason="cortex",
                    detail=fleet.described(),
                )
            )
            clients = [
                group.create_task(client(f"client {n}"), name=f"client {n}")
                for n in range(clientele.clients)
            ]
            await asyncio.sleep(clientele.hours * HOUR_S)
            for task in clients:
                task.cancel()
            fleet.stop()
            await fleet.keep()
        lived.events = journal.all
        return lived

    return virtual.run(main, within_s=1_000_000.0)
