"""Bugs of loops and jobs: survived, counted, told; they stop nothing else."""

import asyncio

import pytest

from cortex.core.decisions import Want
from cortex.core.errors import ConflictError
from cortex.core.health import NodeHealth
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import Listing
from cortex.core.snapshot import ModelStatus
from cortex.fleet.fleet import Fleet
from cortex.fleet.guard import Guard
from cortex.fleet.policy import FleetPolicy, NodePolicy
from cortex.fleet.verdict import SERVED
from cortex.fleet.waits import Waits
from tests.fleet.fakes import Events, HandClock, Kept, Node, Watched, ports

HASTY = Waits(guard_first_s=0.001, guard_longest_s=0.002)
A, B, M = NodeName("a"), NodeName("b"), ModelId("m")


class StopError(Exception):
    """Ends a test's loop."""


async def test_a_loop_goes_on_after_a_bug_and_all_is_told() -> None:
    clock, watched, told = HandClock(), Watched(), []
    guard = Guard(clock, watched.internal_error, HASTY)
    turns = 0

    async def work() -> None:
        nonlocal turns
        turns += 1
        if turns < 3:
            raise KeyError("gone")

    await guard.keep("house", work, failed=told.append)
    assert turns == 3
    assert watched.bugs == {"house": 2}
    assert [type(error) for error in told] == [KeyError, KeyError]
    clock.pass_s(60)
    assert guard.reasons() == [
        "internal error in house (KeyError), 60 s ago: see the log, and please report it"
    ]
    clock.pass_s(HASTY.guard_told_s)
    assert guard.reasons() == []


async def test_the_pause_grows_up_to_its_bound_and_is_short_again_after_a_calm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, pauses = HandClock(), []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 9:
            raise StopError

    async def work() -> None:
        if len(pauses) == 7:
            clock.pass_s(61)
        raise ValueError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(StopError):
        await Guard(clock).keep("loop", work)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 1, 2]


async def test_what_is_cancelled_is_not_survived() -> None:
    guard = Guard(HandClock())
    async with asyncio.TaskGroup() as group:
        task = group.create_task(guard.keep("loop", asyncio.Event().wait))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()
    assert guard.reasons() == []


class Odd(Node):
    """A node whose name cannot be encoded, say."""

    async def list_models(self) -> Listing:
        raise UnicodeError("label empty or too long")


def fleet_of(nodes: dict[NodeName, Node], watched: Watched, events: Events) -> Fleet:
    policy = FleetPolicy(
        nodes=tuple(NodePolicy(name=name, endpoint=f"http://{name}") for name in nodes),
        poll_interval_s=0.01,
    )
    waits = Waits(guard_first_s=0.001, guard_longest_s=0.002, house_s=0.005)
    return Fleet(
        policy, nodes, ports(watcher=watched, journal=events, store=Kept(), waits=waits)
    )


async def test_a_node_that_brings_a_bug_about_is_down_and_no_other() -> None:
    watched, events = Watched(), Events()
    fleet = fleet_of({A: Odd("m"), B: Node(loaded=("m",))}, watched, events)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        fleet.run(group)
        while (node := fleet.node(A)) is None or node.liveness.health is not NodeHealth.DOWN:
            await asyncio.sleep(0.001)
        assert fleet.asked_all
        assert node.liveness.reason == "internal error: UnicodeError"
        admitted = await fleet.lease(Want(model=M))
        assert admitted.lease.node == B
        fleet.ended(admitted.lease, SERVED)
        fleet.stop()
    assert watched.bugs["poll"] >= 3


class Broken(Node):
    """Its unload ends in what nobody thought of."""

    async def unload(self, model: ModelId) -> None:  # type: ignore[override]
        raise ZeroDivisionError


async def test_a_bug_in_a_job_leaves_no_model_half_moved() -> None:
    watched, events = Watched(), Events()
    fleet = fleet_of({A: Broken("other", loaded=("m",))}, watched, events)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        fleet.run(group)
        while not fleet.asked_all:
            await asyncio.sleep(0.001)
        with pytest.raises(ConflictError, match="internal error: ZeroDivisionError"):
            await fleet.operator.unload(M, None)
        view = fleet.model(A, M)
        assert view is not None
        assert view.status in (ModelStatus.UNLOADED, ModelStatus.LOADED)
        # It is loaded as the node says, and serves.
        while not ((view := fleet.model(A, M)) and view.resident):
            await asyncio.sleep(0.001)
        fleet.stop()
    assert watched.bugs == {"job": 1}
    assert "unload_failed" in events.kinds
