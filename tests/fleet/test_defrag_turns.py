"""Whose turn it is to be restarted, while the configuration changes under it."""

import asyncio

import pytest

from cortex.core.ids import NodeName
from cortex.core.records import EventKind
from cortex.fleet.fleet import Fleet
from cortex.fleet.policy import FleetPolicy, NodePolicy
from cortex.fleet.waits import Waits
from tests.fleet.fakes import Events, HandClock, Node, Watched, ports

A, B = NodeName("a"), NodeName("b")
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
