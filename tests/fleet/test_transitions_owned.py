"""Loads and unloads belong to the fleet: how long they wait, and who calls them back."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cortex.core.decisions import Load, Want
from cortex.core.errors import CapacityError, ConflictError, NodeTimeoutError
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import LifecycleAnswer, ReportedStatus, Work
from cortex.fleet.fleet import Fleet
from cortex.fleet.policy import FleetPolicy, ModelPolicy, NodePolicy
from cortex.fleet.verdict import SERVED
from cortex.fleet.waits import Waits
from tests.fleet.fakes import Events, HandClock, Kept, Node, Watched, ports

N, A, B = NodeName("n"), ModelId("a"), ModelId("b")


class World:
    """One node of 24,000 MiB that holds A; B needs as much."""

    def __init__(self, node: Node, **settings: float) -> None:
        self.node, self.clock = node, HandClock()
        self.events, self.store, self.watched = Events(), Kept(), Watched()
        policy = FleetPolicy(
            nodes=(NodePolicy(name=N),),
            models={model: ModelPolicy(size_mib=16_000) for model in (A, B)},
            poll_interval_s=0.001,
            **settings,  # type: ignore[arg-type]
        )
        given = ports(
            clock=self.clock,
            journal=self.events,
            store=self.store,
            watcher=self.watched,
            waits=Waits(drain_after_s=0.0, verify_first_s=0.0001, status_interval_s=0.001),
        )
        self.fleet = Fleet(policy, {N: node}, given)

    async def until_told(self, kind: str) -> None:
        while kind not in self.events.kinds:
            await asyncio.sleep(0.001)


@asynccontextmanager
async def world_of(node: Node, **settings: float) -> AsyncIterator[World]:
    world = World(node, **settings)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        world.fleet.run(group)
        while not world.fleet.asked_all:
            await asyncio.sleep(0.001)
        yield world
        world.fleet.stop()
    world.fleet._state.check_invariants()
    assert world.watched.bugs == {}


def big(*unloaded: str, loaded: tuple[str, ...]) -> Node:
    return Node(*unloaded, loaded=loaded, sizes=16_000)


async def test_a_drain_for_a_request_goes_on_until_the_model_is_idle() -> None:
    async with world_of(big("b", loaded=("a",)), drain_timeout_s=0.001) as world:
        used = await world.fleet.lease(Want(model=A))
        async with asyncio.TaskGroup() as group:
            other = group.create_task(world.fleet.lease(Want(model=B)), name="for b")
            await world.until_told("evict")
            await asyncio.sleep(0.01)
            assert "revived" not in world.events.kinds
            assert not other.done()
            world.fleet.ended(used.lease, SERVED)
        world.fleet.ended(other.result().lease, SERVED)
        assert world.node.calls.count("unload a") == 1
        assert world.events.kinds.count("evict") == 1
        assert world.store.nodes[N].cycles == 1
        assert world.store.residency[N, B].loads == 1
        assert [load[:2] for load in world.watched.loads] == [(N, B)]


async def test_a_drain_that_nobody_waits_for_any_more_is_called_back() -> None:
    async with world_of(big("b", loaded=("a",))) as world:
        used = await world.fleet.lease(Want(model=A))
        async with asyncio.TaskGroup() as group:
            other = group.create_task(world.fleet.lease(Want(model=B)), name="for b")
            await world.until_told("evict")
            other.cancel()
        await world.until_told("revived")
        assert "load_abandoned" in world.events.kinds
        # It serves again at once.
        again = await world.fleet.lease(Want(model=A))
        for admitted in (used, again):
            world.fleet.ended(admitted.lease, SERVED)
        assert "unload a" not in world.node.calls


async def test_a_stop_in_the_very_turn_of_a_load_leaves_nothing_undone() -> None:
    """A job that never ran is no coroutine that nobody awaited."""
    async with world_of(big("b", loaded=())) as world:
        ended = world.fleet._lifecycle.load(Load(node=N, model=B, reason="by the test"))
        world.fleet.stop()
        assert await ended == "the gateway is stopping"
        gc.collect()


async def test_an_unload_by_hand_gives_up_in_time() -> None:
    async with world_of(big(loaded=("a",)), drain_timeout_s=0.005) as world:
        used = await world.fleet.lease(Want(model=A))
        with pytest.raises(ConflictError, match=r"a stays: n: still in use after 0\.005 s"):
            await world.fleet.operator.unload(A, None)
        world.fleet.ended(used.lease, SERVED)
        assert await world.fleet.operator.unload(A, None) == [N]
        assert world.node.calls.count("unload a") == 1


class Losing(Node):
    """Does what it is told, and says nothing of it."""

    async def wake(self, model: ModelId, work: Work) -> str | None:
        await super().wake(model, work)
        return "HTTP 502"

    async def unload(self, model: ModelId) -> LifecycleAnswer:
        await super().unload(model)
        raise TimeoutError


async def test_an_answer_that_is_lost_is_settled_by_the_status() -> None:
    async with world_of(Losing("b", loaded=("a",), sizes=16_000)) as world:
        admitted = await world.fleet.lease(Want(model=B))
        assert admitted.lease.node == N
        world.fleet.ended(admitted.lease, SERVED)
        assert [call for call in world.node.calls if call != "list"] == ["unload a", "wake b"]


class Refusing(Node):
    """Never has the memory, whatever it says is free."""

    async def wake(self, model: ModelId, work: Work) -> str | None:
        self.calls.append(f"wake {model}")
        return "failed to reload model: CUDA_ERROR_OUT_OF_MEMORY"


async def test_a_load_that_fails_is_told_and_not_tried_again_at_once() -> None:
    async with world_of(Refusing("b", sizes=16_000)) as world:
        with pytest.raises(CapacityError, match=r"no node has room|keep failing"):
            await world.fleet.lease(Want(model=B))
        assert 1 <= world.node.calls.count("wake b") <= 2
        assert world.node.models[B] is ReportedStatus.UNLOADED
        assert "load_failed" in world.events.kinds
        assert world.watched.loads == []


class Deaf(Node):
    """Never hears that it shall unload."""

    async def unload(self, model: ModelId) -> LifecycleAnswer:
        self.calls.append(f"missed {model}")
        raise NodeTimeoutError("no answer")


async def test_nobody_goes_in_vain_for_what_could_not_be_unloaded() -> None:
    node = Deaf("b", loaded=("a", "c"), sizes=10_000)
    async with world_of(node) as world, asyncio.TaskGroup() as group:
        waiting = group.create_task(world.fleet.lease(Want(model=B)), name="for b")
        await world.until_told("load_abandoned")
        await asyncio.sleep(0.01)
        assert node.calls.count("missed a") == 2
        assert not {"missed c", "wake b"} & set(node.calls)
        view = world.fleet.model(N, A)
        assert view is not None
        assert view.resident
        waiting.cancel()
