"""Whose turn it is to be restarted, while the configuration changes under it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from cortex.core.decisions import Want
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import ReportedStatus, Work
from cortex.core.records import EventKind
from cortex.fleet.fleet import Fleet
from cortex.fleet.policy import FleetPolicy, ModelPolicy, NodePolicy
from cortex.fleet.verdict import SERVED
from cortex.fleet.waits import Waits
from cortex.replay import virtual
from tests.fleet.fakes import Events, HandClock, Node, Watched, ports

A, B, WANTED = NodeName("a"), NodeName("b"), ModelId("wanted")
WAITS = Waits(defrag_look_s=0.001, house_s=0.001)


def policy(*names: NodeName) -> FleetPolicy:
    return FleetPolicy(
        nodes=tuple(NodePolicy(name=name) for name in names), poll_interval_s=0.01
    )


def steps(events: Events, name: NodeName) -> list[object]:
    return [
        event.detail["step"]
        for event in events.all
        if event.kind is EventKind.DEFRAG and event.node == name
    ]


async def command_for(fleet: Fleet, name: NodeName) -> str:
    """The id of the command that the node's agent gets, once there is one."""
    while True:
        for command in fleet.agents.reported(name, can_restart=True, free_mib=None, acks=()):
            return command.id
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("gone", [A, B])
async def test_a_node_may_leave_while_it_or_another_is_restarted(gone: NodeName) -> None:
    events, watched = Events(), Watched()
    nodes = {A: Node("m"), B: Node("m")}
    given = ports(clock=HandClock(), journal=events, watcher=watched, waits=WAITS)
    fleet = Fleet(policy(A, B), nodes, given)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        fleet.run(group)
        for name in (A, B):
            fleet.agents.reported(name, can_restart=True, free_mib=None, acks=())
        while not fleet.asked_all:
            await asyncio.sleep(0.001)
        fleet.operator.defrag(A)
        fleet.operator.defrag(B)
        first = await command_for(fleet, A)
        fleet.apply(policy(*({A, B} - {gone})))
        nodes[A].created_at_s += 1
        fleet.agents.reported(A, can_restart=True, free_mib=None, acks=[(first, None)])
        ends = {"done", "failed"}
        while not ends & set(steps(events, A)):
            await asyncio.sleep(0.001)
        if gone is A:
            # Its end is no end of the others: B has its turn.
            second = await command_for(fleet, B)
            nodes[B].created_at_s += 1
            fleet.agents.reported(B, can_restart=True, free_mib=None, acks=[(second, None)])
            while "done" not in steps(events, B):
                await asyncio.sleep(0.001)
        fleet.stop()
    assert watched.bugs == {}
    assert steps(events, A)[-1] == ("failed" if gone is A else "done")
    assert ("restart" in steps(events, B)) is (gone is A)


class Slow(Node):
    """Takes a minute to load."""

    async def wake(self, model: ModelId, work: Work) -> str | None:
        self.models[model] = ReportedStatus.RELOADING
        await asyncio.sleep(60.0)
        return await super().wake(model, work)


Deeds = Callable[[Fleet, Events], Awaitable[float]]


def waited_s(policy: FleetPolicy, nodes: dict[NodeName, Node], deeds: Deeds) -> float:
    """What `deeds` tell, once A has been restarted by its agent after them; in virtual time."""
    events = Events()

    async def main() -> float:
        given = ports(clock=virtual.LoopClock(), journal=events)
        fleet = Fleet(replace(policy, poll_interval_s=5.0), nodes, given)
        async with asyncio.TaskGroup() as group:
            fleet.run(group)
            agent = group.create_task(_agent(fleet, nodes[A]), name="agent")
            await asyncio.sleep(10.0)
            told_s = await deeds(fleet, events)
            while "done" not in steps(events, A):
                await asyncio.sleep(1.0)
            agent.cancel()
            fleet.stop()
        return told_s

    return virtual.run(main, within_s=3600.0)


@pytest.mark.parametrize("asked", [False, True])
def test_a_restart_waits_for_the_load_and_whom_it_is_for(asked: bool) -> None:
    """Due by the very unload that made room, or asked for by an operator meanwhile."""

    async def deeds(fleet: Fleet, events: Events) -> float:
        async with asyncio.TaskGroup() as group:
            began_s = fleet.clock.now_s()
            lease = group.create_task(fleet.lease(Want(model=WANTED)), name="lease")
            await asyncio.sleep(10.0)
            if asked:
                fleet.operator.defrag(A)
            admitted = await lease
        told_s = fleet.clock.now_s() - began_s
        await asyncio.sleep(5.0)
        assert "restart" not in steps(events, A)
        fleet.ended(admitted.lease, SERVED)
        return told_s

    node = Slow(WANTED, loaded=("m",), sizes=16_000)
    swapping = replace(
        policy(A),
        models={model: ModelPolicy(size_mib=16_000) for model in node.models},
        defrag_after_cycles=0 if asked else 1,
    )
    assert waited_s(swapping, {A: node}, deeds) == pytest.approx(60.0, abs=2.0)


def test_a_load_that_begins_while_a_pinned_model_is_copied_is_not_for_nothing() -> None:
    kept = ModelId("kept")

    async def deeds(fleet: Fleet, events: Events) -> float:
        await fleet.operator.pin(kept, A)
        fleet.operator.defrag(A)
        await asyncio.sleep(10.0)
        assert steps(events, A)[-1] == "copy"
        began_s = fleet.clock.now_s()
        admitted = await fleet.lease(Want(model=WANTED))
        told_s = fleet.clock.now_s() - began_s
        fleet.ended(admitted.lease, SERVED)
        return told_s

    nodes: dict[NodeName, Node] = {A: Slow(WANTED, loaded=(kept,)), B: Slow(kept)}
    assert waited_s(policy(A, B), nodes, deeds) == pytest.approx(60.0, abs=2.0)


async def _agent(fleet: Fleet, node: Node) -> None:
    acks: list[tuple[str, str | None]] = []
    while True:
        for command in fleet.agents.reported(A, can_restart=True, free_mib=None, acks=acks):
            node.created_at_s += 1
            node.models = dict.fromkeys(node.models, ReportedStatus.UNLOADED)
            acks = [(command.id, None)]
        await asyncio.sleep(1.0)
