"""What is done on a quiet node without anybody asking, in virtual time."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from cortex.core.decisions import Want
from cortex.core.ids import ModelId, NodeName
from cortex.fleet.fleet import Fleet
from cortex.fleet.policy import FleetPolicy, ModelPolicy, NodePolicy
from cortex.fleet.verdict import SERVED
from cortex.replay import virtual
from tests.fleet.fakes import Node, Watched, ports

N, A, B = NodeName("n"), ModelId("a"), ModelId("b")
IDLE_S = 600.0


class World:
    def __init__(self, node: Node) -> None:
        self.node, self.watched = node, Watched()
        policy = FleetPolicy(
            nodes=(NodePolicy(name=N),),
            models={model: ModelPolicy(size_mib=8000) for model in node.models},
            idle_unload_s=IDLE_S,
        )
        given = ports(clock=virtual.LoopClock(), watcher=self.watched)
        self.fleet = Fleet(policy, {N: node}, given)

    def resident(self) -> set[ModelId]:
        models = self.fleet.snapshot().nodes[N].models.values()
        return {model.id for model in models if model.resident}

    async def uses(self, model: ModelId, for_s: float) -> None:
        admitted = await self.fleet.lease(Want(model=model))
        await asyncio.sleep(for_s)
        self.fleet.ended(admitted.lease, SERVED)


def lived(node: Node, deeds: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        world = World(node)
        async with asyncio.TaskGroup() as group:
            world.fleet.run(group)
            await asyncio.sleep(10.0)
            await deeds(world)
            world.fleet.stop()
        assert world.watched.bugs == {}

    virtual.run(main)


def test_idle_models_go_after_their_time() -> None:
    async def deeds(world: World) -> None:
        await world.uses(A, 2 * IDLE_S)
        assert world.resident() == {A}
        await asyncio.sleep(IDLE_S - 30)
        assert world.resident() == {A}
        await asyncio.sleep(60)
        assert world.resident() == set()

    node = Node(loaded=("a", "b"))
    lived(node, deeds)
    unloads = [call for call in node.calls if call.startswith("unload")]
    assert unloads == ["unload b", "unload a"]


def test_a_pin_comes_back_once_nobody_uses_what_is_in_its_way() -> None:
    async def deeds(world: World) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(world.uses(A, 300.0), name="use")
            await asyncio.sleep(1.0)
            await world.fleet.operator.pin(B, N)
            await asyncio.sleep(200.0)
            assert world.resident() == {A}
        await asyncio.sleep(10.0)
        assert world.resident() == {B}
        await asyncio.sleep(2 * IDLE_S)
        assert world.resident() == {B}

    node = Node("b", loaded=("a",), total=12_000)
    lived(node, deeds)
    assert node.calls.count("wake b") == 1


def test_no_house_is_kept_on_a_node_out_of_service() -> None:
    async def deeds(world: World) -> None:
        await world.fleet.operator.drain(N)
        await world.fleet.operator.pin(B, N)
        await asyncio.sleep(2 * IDLE_S)
        assert world.resident() == {A}
        assert "wake b" not in world.node.calls
        await world.fleet.operator.undrain(N)
        await asyncio.sleep(10.0)
        assert world.resident() == {B}

    lived(Node("b", loaded=("a",)), deeds)
