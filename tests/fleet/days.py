"""A fleet's day by a seed, in virtual time: nodes that fail, clients, operators, other configurations.

python -m tests.fleet.days --seeds 1-500
"""

import argparse
import asyncio
import contextlib
import logging
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from cortex.core.decisions import Want
from cortex.core.errors import (
    CapacityError,
    ConflictError,
    NodeTimeoutError,
    NodeUnreachableError,
    StoreError,
)
from cortex.core.health import CLOSED
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import LifecycleAnswer, Listing, NodeInfo, ReportedStatus, Work
from cortex.core.records import NodeRecord, Recollection, ResidencyRecord
from cortex.core.rules import EvictionRules, Strategy
from cortex.core.snapshot import ModelStatus
from cortex.fleet.fleet import Fleet
from cortex.fleet.lease import Lease
from cortex.fleet.policy import FleetPolicy, ModelPolicy, NodePolicy
from cortex.fleet.verdict import SERVED, UNHEARD, Verdict
from cortex.replay import virtual
from tests.fleet.fakes import Events, Kept, Node, Watched, ports

MODELS = [ModelId(f"m{n}") for n in range(6)]
DAY_S = 3600.0
CALM_S = 1800.0
"""Longer than any breaker, patience or load."""
SLACK_S = 5.0
"""By which a request may be told late."""
TOLD = {
    "draining",
    "load_failed",
    "model_failing",
    "no_capacity",
    "no_healthy_node",
    "model_never_fits",
    "no_room",
    "node_draining",
    "not_allowed",
    "queue_full",
    "queue_timeout",
    "does_not_fit",
    "node_wedged",
    "model_wedged",
}
"""Codes of refusals that a day like this may bring."""


class FrailNode(Node):
    """Loads in the background, one after the other; dies, hangs, leaks, and does what others tell it."""

    def __init__(
        self,
        endpoint: str,
        rng: random.Random,
        models: list[ModelId],
        sizes: dict[ModelId, int],
    ) -> None:
        super().__init__(*models, total=rng.choice([16_000, 24_000, 48_000]))
        self.endpoint = endpoint
        self.group: asyncio.TaskGroup
        self._rng = rng
        self.sizes = {m: sizes[m] for m in models}
        self.load_s = {m: rng.uniform(1, 200) for m in models}
        self.dead = False
        self.frozen = asyncio.Event()
        self.frozen.set()
        self.refusing = 0.0
        self.leak_mib = 0
        self.leaks = 0
        self._loads: dict[ModelId, asyncio.Task[None]] = {}

    @property
    def free_mib(self) -> int:
        held = sum(
            self.sizes[m]
            for m, status in self.models.items()
            if status is not ReportedStatus.UNLOADED
        )
        return max(0, self.total_mib - held - self.leak_mib)

    async def _reached(self) -> None:
        if self.dead:
            raise NodeUnreachableError("Connection refused")
        await asyncio.sleep(self._rng.uniform(0.0005, 0.05))
        await self.frozen.wait()
        if self.dead:
            raise NodeUnreachableError("Connection reset")

    def die(self) -> None:
        self.dead = True
        self.leak_mib = 0
        for load in self._loads.values():
            load.cancel()
        self._loads.clear()
        self.models = dict.fromkeys(self.models, ReportedStatus.UNLOADED)

    def come_back(self) -> None:
        if self.dead:
            self.dead = False
            self.created_at_s += 1
            for model in self._rng.sample(sorted(self.models), len(self.models)):
                if self._rng.random() < 0.3 and self.sizes[model] <= self.free_mib:
                    self.models[model] = ReportedStatus.LOADED

    async def list_models(self) -> Listing:
        await self._reached()
        return await super().list_models()

    async def system_info(self) -> NodeInfo:
        await self._reached()
        return await super().system_info()

    async def model_status(self, model: ModelId) -> LifecycleAnswer:
        await self._reached()
        return await super().model_status(model)

    async def wake(self, model: ModelId, work: Work) -> str | None:
        await self._reached()
        return await self._brought_in(model)

    async def reload(self, model: ModelId) -> LifecycleAnswer:
        await self._reached()
        refusal = await self._brought_in(model)
        return LifecycleAnswer(status=self.models[model], error=refusal)

    async def unload(self, model: ModelId) -> LifecycleAnswer:
        await self._reached()
        if self._rng.random() < 0.02:
            raise NodeTimeoutError("no answer")
        if self.models[model] is ReportedStatus.LOADED:
            self.let_go(model)
        return LifecycleAnswer(status=self.models[model])

    def let_go(self, model: ModelId) -> None:
        self.models[model] = ReportedStatus.UNLOADED
        self.leak_mib += self.leaks

    async def _brought_in(self, model: ModelId) -> str | None:
        if self.models[model] is ReportedStatus.LOADED:
            return None
        if self._rng.random() < self.refusing:
            return "failed to reload model: CUDA_ERROR_OUT_OF_MEMORY"
        if model not in self._loads:
            if self.sizes[model] > self.free_mib:
                return "failed to reload model: out of memory"
            self.begin_load(model)
        # Whoever asked may go; the load goes on.
        await asyncio.wait([self._loads[model]])
        if self.dead:
            raise NodeUnreachableError("Connection reset")
        return None

    def begin_load(self, model: ModelId) -> None:
        """As nobody may but who has seen that there is room."""
        self.models[model] = ReportedStatus.RELOADING

        async def load() -> None:
            await asyncio.sleep(self.load_s[model] * self._rng.uniform(0.8, 1.2))
            self.models[model] = ReportedStatus.LOADED
            del self._loads[model]

        self._loads[model] = self.group.create_task(load(), name=f"load {model}")


class FailingStore(Kept):
    """Takes nothing for a while."""

    failing = False

    async def save(self, *records: NodeRecord | ResidencyRecord) -> None:
        self._fail()
        await super().save(*records)

    async def rename_nodes(self, renames: Mapping[NodeName, NodeName]) -> None:
        self._fail()
        await super().rename_nodes(renames)

    async def save_drained(self, node: NodeName, *, drained: bool) -> None:
        self._fail()
        await super().save_drained(node, drained=drained)

    async def save_pin(self, model: ModelId, node: NodeName | None) -> None:
        self._fail()
        await super().save_pin(model, node)

    async def delete_pin(self, model: ModelId, node: NodeName | None) -> None:
        self._fail()
        await super().delete_pin(model, node)

    def _fail(self) -> None:
        if self.failing:
            raise StoreError("disk I/O error")


@dataclass
class Day:
    seed: int
    answers: int = 0
    told: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    longest_wait_s: float = 0.0


class World:
    """The day's nodes, clients and operators."""

    def __init__(self, seed: int) -> None:
        self.day = Day(seed)
        self.rng = rng = random.Random(seed)
        sizes = {m: rng.choice([2000, 6000, 9000, 15_000, 20_000]) for m in MODELS}
        names = [NodeName(f"n{n}") for n in range(rng.randint(1, 4))]
        self.nodes = {
            name: FrailNode(
                f"http://{name}", rng, sorted(rng.sample(MODELS, rng.randint(2, 6))), sizes
            )
            for name in names
        }
        self.names, self.away = set(names), set[str]()
        for node in self.nodes.values():
            node.dead = True
            node.come_back()
        #: Told, learned, or wrong by a little.
        told_sizes = {
            m: ModelPolicy(size_mib=round(sizes[m] * rng.choice([0.9, 1.0, 1.0, 1.1])))
            for m in MODELS
            if rng.random() < 0.5
        }
        self.policy = FleetPolicy(
            nodes=tuple(NodePolicy(name=n, endpoint=f"http://{n}") for n in names),
            models=told_sizes,
            max_in_flight_per_model=rng.choice([1, 2, 8]),
            queue_timeout_s=rng.choice([20.0, 300.0]),
            load_timeout_s=300.0,
            max_queue=rng.choice([3, 1024]),
            eviction=EvictionRules(
                strategy=rng.choice(list(Strategy)),
                min_residency_s=rng.choice([None, None, 0.0, 30.0]),
            ),
            idle_unload_s=rng.choice([None, None, 120.0]),
            defrag_after_cycles=rng.choice([0, 5, 20]),
        )
        self.watched, self.events, self.store = Watched(), Events(), FailingStore()
        self.ports = ports(
            clock=virtual.LoopClock(),
            journal=self.events,
            store=self.store,
            watcher=self.watched,
        )
        self.group: asyncio.TaskGroup
        self.fleet: Fleet

    def _start(self, policy: FleetPolicy, recollection: Recollection) -> None:
        self.fleet = Fleet(policy, self.nodes, self.ports, recollection)
        self.fleet._state.listeners.append(self._check)
        self.fleet.run(self.group)

    def violated(self, what: str) -> None:
        at_s = asyncio.get_running_loop().time()
        self.day.violations.append(f"{at_s:.1f} s: {what}")

    def _check(self) -> None:
        try:
            self.fleet._state.check_invariants()
        except AssertionError as exc:
            self.violated(str(exc))

    async def lives(self, for_s: float) -> Day:
        async with asyncio.TaskGroup() as group:
            self.group = group
            self._start(self.policy, Recollection())
            agents = []
            for node in self.nodes.values():
                node.group = group
                if self.rng.random() < 0.5:
                    agents.append(group.create_task(self._agent(node), name="agent"))
            clients = [
                group.create_task(self._client(self.rng.choice(MODELS)), name=f"client {n}")
                for n in range(self.rng.randint(1, 12))
            ]
            clients.append(group.create_task(self._passer_by(), name="passer-by"))
            fate = group.create_task(self._fate(), name="fate")
            await asyncio.sleep(for_s)
            fate.cancel()
            await self._calms_down()
            await asyncio.sleep(CALM_S)
            for client in clients:
                client.cancel()
            await asyncio.sleep(CALM_S)
            await self._all_is_well()
            for agent in agents:
                agent.cancel()
            self.fleet.stop()
        self.day.events.update(self.events.kinds)
        if self.watched.bugs:
            self.violated(f"internal errors: {dict(self.watched.bugs)}")
        return self.day

    # Clients

    async def _client(self, model: ModelId) -> None:
        rng = self.rng
        answer_s, thought_s = rng.uniform(0.5, 60), rng.uniform(0.1, 60)
        while True:
            if rng.random() < 0.1:
                model = rng.choice(MODELS)
            excluded: frozenset[NodeName] = frozenset()
            for _ in range(3):
                failed = await self._request(model, excluded, answer_s * rng.uniform(0.2, 2))
                if failed is None:
                    break
                excluded |= {failed}
            await asyncio.sleep(thought_s * rng.uniform(0.2, 2))

    async def _request(
        self, model: ModelId, excluded: frozenset[NodeName], answer_s: float
    ) -> NodeName | None:
        """One try; returns the node that failed it."""
        clock, policy = self.fleet.clock, self.fleet._state.policy
        if self.fleet.snapshot().resolve(model) is None:
            return None
        began_s = clock.now_s()
        patience_s = self.rng.choice([float("inf")] * 4 + [10.0, 60.0])
        if not excluded:
            self.fleet.asked(Want(model))
        try:
            async with asyncio.timeout(None if patience_s == float("inf") else patience_s):
                admitted = await self.fleet.lease(
                    Want(model=model, excluded=excluded), client=str(self.rng.randint(1, 3))
                )
        except TimeoutError:
            return None
        except CapacityError as exc:
            self.day.told[exc.code] += 1
            if exc.code not in TOLD:
                self.violated(f"told {exc.code}: {exc.message}")
            return None
        finally:
            waited_s = clock.now_s() - began_s
            self.day.longest_wait_s = max(self.day.longest_wait_s, waited_s)
            if waited_s > policy.queue_timeout_s + policy.load_timeout_s + SLACK_S:
                self.violated(f"{model} waited {waited_s:.0f} s")
        return await self._answer(admitted.lease, answer_s)

    async def _answer(self, lease: Lease, answer_s: float) -> NodeName | None:
        verdict, began_s = UNHEARD, self.fleet.clock.now_s()
        node = self.nodes[lease.node]
        boot = node.created_at_s
        try:
            while self.fleet.clock.now_s() - began_s < answer_s:
                await asyncio.sleep(min(1.0, answer_s))
                if node.dead or node.created_at_s != boot:
                    verdict = Verdict(failure="reset", unreachable="Connection refused")
                    return lease.node
                if node.models[lease.model] is not ReportedStatus.LOADED:
                    verdict = Verdict(contradicts=ModelStatus.UNLOADED, count=False)
                    return lease.node
            verdict = SERVED
            self.day.answers += 1
        finally:
            self.fleet.ended(lease, verdict)
        return None

    async def _passer_by(self) -> None:
        """Looks in now and then, and gets at once what is there for the taking."""
        while True:
            await asyncio.sleep(self.rng.uniform(5, 60))
            waited_for = self.fleet.depths()
            for node in self.fleet.snapshot().nodes.values():
                for model in node.models.values():
                    free = model.in_flight < model.max_in_flight and model.breaker is CLOSED
                    if model.resident and node.routable and free and model.id not in waited_for:
                        lease = self.fleet.lease_at_once(Want(model=model.id, only=node.name))
                        if lease is None:
                            self.violated(f"{model.id} on {node.name} is not to be had")
                        else:
                            self.fleet.ended(lease, UNHEARD)

    async def _agent(self, node: FrailNode) -> None:
        """Beside the node: reports, and restarts it when asked."""
        acks: list[tuple[str, str | None]] = []
        while True:
            await asyncio.sleep(5.0)
            name = next(name for name, other in self.nodes.items() if other is node)
            if self.fleet.node(name) is None:
                continue
            for command in self.fleet.agents.reported(
                name,
                can_restart=True,
                free_mib=node.free_mib,
                total_mib=node.total_mib,
                acks=acks,
            ):
                node.die()
                await asyncio.sleep(self.rng.uniform(1, 60))
                node.come_back()
                acks = [(command.id, None)]

    # Fate

    async def _fate(self) -> None:
        deeds: list[Callable[[], Awaitable[None]]] = [
            self._node_dies,
            self._node_hangs,
            self._loads_fail,
            self._hand_moves,
            self._leaks,
            self._operator_moves,
            self._operator_pins,
            self._operator_drains,
            self._node_leaves,
            self._names_change,
            self._limits_change,
            self._store_fails,
            self._gateway_restarts,
        ]
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(self.rng.expovariate(1 / 60))
                deed = self.rng.choice(deeds)
                group.create_task(self._done(deed), name=deed.__name__)

    async def _done(self, deed: Callable[[], Awaitable[None]]) -> None:
        with contextlib.suppress(ConflictError, CapacityError, StoreError):
            await deed()

    def _any(self) -> FrailNode:
        return self.rng.choice(list(self.nodes.values()))

    async def _node_dies(self) -> None:
        node = self._any()
        node.die()
        await asyncio.sleep(self.rng.choice([0.5, 10, 120]))
        node.come_back()

    async def _node_hangs(self) -> None:
        node = self._any()
        node.frozen.clear()
        await asyncio.sleep(self.rng.choice([1, 8, 40]))
        node.frozen.set()

    async def _loads_fail(self) -> None:
        node = self._any()
        node.refusing = 0.7
        await asyncio.sleep(self.rng.uniform(10, 300))
        node.refusing = 0.0

    async def _hand_moves(self) -> None:
        node = self._any()
        model = self.rng.choice(sorted(node.models))
        match node.models[model]:
            case ReportedStatus.LOADED:
                node.let_go(model)
            case ReportedStatus.UNLOADED if (
                not node.dead and node.sizes[model] <= node.free_mib
            ):
                node.begin_load(model)

    async def _leaks(self) -> None:
        self._any().leaks = self.rng.choice([0, 20, 600])

    async def _operator_moves(self) -> None:
        model = self.rng.choice(MODELS)
        names = [None, *self.fleet.snapshot().locations.get(model, ())]
        if self.fleet.snapshot().resolve(model) is None:
            return
        if self.rng.random() < 0.5:
            await self.fleet.operator.load(model, self.rng.choice(names))
        else:
            await self.fleet.operator.unload(model, self.rng.choice(names))

    async def _operator_pins(self) -> None:
        model = self.rng.choice(MODELS)
        name = self.rng.choice([None, *self.nodes])
        await self.fleet.operator.pin(model, name)
        await asyncio.sleep(self.rng.uniform(10, 600))
        await self.fleet.operator.unpin(model, name)

    async def _operator_drains(self) -> None:
        name = self.rng.choice(list(self.nodes))
        await self.fleet.operator.drain(name)
        await asyncio.sleep(self.rng.uniform(1, 300))
        await self.fleet.operator.undrain(name)

    async def _node_leaves(self) -> None:
        """And comes back; it stays at work for as long as somebody uses it."""
        node = self._any()
        if len(self.away) + 1 < len(self.nodes):
            self.away.add(node.endpoint)
            self._apply()
            await asyncio.sleep(self.rng.choice([0, 30, 200]))
            self.away.discard(node.endpoint)
            self._apply()

    async def _names_change(self) -> None:
        self._call_otherwise()
        self._apply()

    def _call_otherwise(self) -> None:
        """Two nodes swap their names, or one gets a new one."""
        one, other = self.rng.choice(list(self.nodes)), self.rng.choice(list(self.nodes))
        fresh = NodeName(f"n{len(self.names)}")
        self.names.add(fresh)
        called = {one: other, other: one} if one != other else {one: fresh}
        moved = {called.get(name, name): node for name, node in self.nodes.items()}
        self.nodes.clear()
        self.nodes.update(moved)

    async def _limits_change(self) -> None:
        self.policy = replace(
            self.policy,
            max_in_flight_per_model=self.rng.choice([1, 2, 8]),
            drain_timeout_s=self.rng.choice([1.0, 30.0]),
            poll_interval_s=self.rng.choice([1.0, 5.0]),
        )
        self._apply()

    async def _store_fails(self) -> None:
        self.store.failing = True
        await asyncio.sleep(self.rng.uniform(1, 60))
        self.store.failing = False

    async def _gateway_restarts(self) -> None:
        """It ends in order, knows again what the store does, and may find others' names."""
        if self.store.failing:
            return
        self.fleet.close("restarting")
        await asyncio.sleep(0)
        self.fleet.stop()
        await asyncio.sleep(0)
        recollection = await self.store.recall()
        if self.rng.random() < 0.3:
            self._call_otherwise()
        self._start(self._configured(), recollection)
        # New names are kept in a task of their own.
        await asyncio.sleep(0.1)
        pins = self.fleet._state._pins
        if not self.store.failing and pins != self.store.pins:
            self.violated(f"pins {pins}, and {self.store.pins} in the store")

    def _apply(self) -> None:
        self.fleet.apply(self._configured())

    def _configured(self) -> FleetPolicy:
        nodes = tuple(
            NodePolicy(name=name, endpoint=node.endpoint)
            for name, node in self.nodes.items()
            if node.endpoint not in self.away
        )
        return replace(self.policy, nodes=nodes)

    async def _calms_down(self) -> None:
        """Nothing fails any more, and nobody meddles."""
        self.away.clear()
        self.store.failing = False
        self._apply()
        for name, node in self.nodes.items():
            node.come_back()
            node.frozen.set()
            node.refusing, node.leaks, node.leak_mib = 0.0, 0, 0
            await self.fleet.operator.undrain(name)
        for where, model in list(self.store.pins):
            await self.fleet.operator.unpin(model, where)

    async def _all_is_well(self) -> None:
        """Nobody waits, nothing is held, and every model that has room is served again."""
        if waiting := self.fleet.depths():
            self.violated(f"still waiting: {waiting}")
        for node in self.fleet.snapshot().nodes.values():
            if node.in_flight or node.moving is not None or not node.routable:
                self.violated(
                    f"{node.name}: {node.in_flight} in flight, {node.moving}, {node.drains}"
                )
        for model in MODELS:
            room = max(
                (n.total_mib for n in self.nodes.values() if model in n.models), default=0
            )
            if not room or room < 1.2 * max(n.sizes.get(model, 0) for n in self.nodes.values()):
                continue
            if why := await self._why_not_served(model):
                self.violated(f"{model} is not served after a calm hour: {why}")

    async def _why_not_served(self, model: ModelId) -> str | None:
        """Asked as a client does who is told to come again: a patience of seconds is less than a load."""
        why, clock = None, self.fleet.clock
        until_s = clock.now_s() + CALM_S
        while clock.now_s() < until_s:
            try:
                admitted = await self.fleet.lease(Want(model=model))
            except CapacityError as exc:
                why = exc.message
                if exc.code != "queue_timeout":
                    break
                await asyncio.sleep(exc.retry_after_s or 0.0)
            else:
                self.fleet.ended(admitted.lease, SERVED)
                return None
        return why


def live(seed: int, for_s: float = DAY_S) -> Day:
    """The day of one seed, and a calm hour after it."""

    async def main() -> Day:
        return await World(seed).lives(for_s)

    return virtual.run(main)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.fleet.days", description=__doc__)
    parser.add_argument("--seeds", default="1-100", help="N or N-M")
    first, _, last = parser.parse_args().seeds.partition("-")
    logging.disable(logging.CRITICAL)
    total, bad = Day(0), 0
    for seed in range(int(first), int(last or first) + 1):
        day = live(seed)
        total.answers += day.answers
        total.told += day.told
        total.events += day.events
        total.longest_wait_s = max(total.longest_wait_s, day.longest_wait_s)
        bad += bool(day.violations)
        for violation in day.violations[:5]:
            print(f"seed {seed}: {violation}", file=sys.stderr, flush=True)
    print(f"{total.answers} answers, longest wait {total.longest_wait_s:.0f} s")
    print("told:", dict(total.told.most_common()))
    print("events:", dict(total.events.most_common()))
    print(f"{bad} seeds with violations")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
