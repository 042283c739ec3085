"""What a node says meets what cortex did meanwhile, and clocks that were wrong."""

import asyncio
from dataclasses import replace

import pytest

from cortex.core.decisions import Load
from cortex.core.errors import NodeProtocolError, NodeUnreachableError
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import Listing, NodeInfo, ReportedStatus
from cortex.core.records import Recollection, ResidencyRecord
from cortex.core.snapshot import ModelStatus
from cortex.fleet.fleet import Fleet
from cortex.fleet.observations import Observations
from cortex.fleet.policy import FleetPolicy, NodePolicy
from cortex.fleet.procedures import Freed
from cortex.fleet.state import FleetState
from cortex.fleet.transitions import Transitions
from cortex.fleet.verdict import SERVED
from cortex.fleet.waits import Waits
from tests.fleet.fakes import Events, HandClock, Node, ports

N, A, B = NodeName("n"), ModelId("a"), ModelId("b")
POLICY = FleetPolicy(nodes=(NodePolicy(name=N),), poll_interval_s=0.001)


def listing(created_at_s: int = 1, **models: str) -> Listing:
    statuses = {ModelId(model): ReportedStatus(status) for model, status in models.items()}
    return Listing(created_at_s=created_at_s, models=statuses)


class World:
    def __init__(self, recollection: Recollection | None = None) -> None:
        self.clock, self.events = HandClock(), Events()
        self.state = FleetState(
            POLICY,
            clock=self.clock,
            journal=self.events,
            recollection=recollection or Recollection(),
        )
        self.observations = Observations(self.state)
        self.transitions = Transitions(self.state)

    def statuses(self) -> dict[ModelId, ModelStatus]:
        node = self.state.node(N)
        assert node is not None
        return {model.id: model.status for model in node.models.values()}


def test_a_model_that_was_gone_at_the_last_stop_is_known_again_once_it_is_listed() -> None:
    records = (
        ResidencyRecord(node=N, model=A, status="loaded"),
        ResidencyRecord(node=N, model=B, status="loaded", size_mib=5000, gone=True),
    )
    world = World(Recollection(residency=records))
    assert world.statuses().keys() == {A}
    world.observations.listed(N, listing(a="loaded", b="loaded"))
    assert world.state.snapshot().nodes[N].models[B].size_mib == 5000


@pytest.fixture
def world() -> World:
    world = World()
    world.observations.listed(N, listing(a="loaded", b="unloaded"))
    return world


def test_a_listing_from_before_an_unload_does_not_undo_it(world: World) -> None:
    fence = world.state.moves
    unload = world.transitions.begin_drain(N, A, "by request")
    assert world.transitions.begin_unload(unload)
    world.transitions.end_unload(unload, Freed())
    world.observations.listed(N, listing(a="loaded", b="unloaded"), fence)
    assert world.statuses()[A] is ModelStatus.UNLOADED
    # One that was asked for afterwards is believed, whatever it says.
    world.observations.listed(N, listing(a="loaded", b="unloaded"), world.state.moves)
    assert world.statuses()[A] is ModelStatus.LOADED


@pytest.mark.parametrize("said", [{"b": "unloaded"}, {}])
def test_a_listing_from_before_a_load_does_not_undo_it(
    world: World, said: dict[str, str]
) -> None:
    fence = world.state.moves
    load, _ = world.transitions.begin_load(Load(node=N, model=B, reason=""))
    world.transitions.end_load(load, load_s=1.0)
    world.observations.listed(N, listing(a="loaded", **said), fence)
    assert world.statuses() == {A: ModelStatus.LOADED, B: ModelStatus.LOADED}


def test_a_listing_from_before_a_refusal_does_not_bring_the_model_back(world: World) -> None:
    fence = world.state.moves
    world.observations.contradicted(N, A, ModelStatus.UNLOADED)
    world.observations.listed(N, listing(a="loaded", b="unloaded"), fence)
    assert world.statuses()[A] is ModelStatus.UNLOADED


def test_a_new_process_is_believed_though_its_listing_was_asked_for_before(
    world: World,
) -> None:
    fence = world.state.moves
    load, _ = world.transitions.begin_load(Load(node=N, model=B, reason=""))
    world.transitions.end_load(load, load_s=1.0)
    world.observations.listed(N, listing(2, a="loaded", b="unloaded"), fence)
    assert world.statuses()[B] is ModelStatus.UNLOADED


def test_no_model_was_used_in_the_future() -> None:
    now_ms = HandClock().now_ms()
    year_ms = 365 * 86_400_000
    records = (
        ResidencyRecord(
            node=N, model=A, status="loaded", last_used_at_ms=now_ms + year_ms, loads=2
        ),
        ResidencyRecord(node=N, model=B, status="loaded", last_used_at_ms=now_ms - 5),
    )
    world = World(Recollection(residency=records))
    world.observations.listed(N, listing(a="loaded", b="loaded"))
    views = world.state.snapshot().nodes[N].models
    assert [views[A].last_used_at_ms, views[B].last_used_at_ms] == [now_ms, now_ms - 5]
    assert views[A].loads == 2
    # The clock was ahead while the process ran, and was put back.
    world.clock.wall_ms += year_ms
    world.state.release(world.state.lease(N, B), SERVED)
    world.clock.wall_ms -= year_ms
    world.observations.listed(N, listing(a="loaded", b="loaded"))
    assert world.state.snapshot().nodes[N].models[B].last_used_at_ms == now_ms


class Reticent(Node):
    """Does not tell its memory the first two times it is asked."""

    asked = 0

    async def system_info(self) -> NodeInfo:
        self.asked += 1
        if self.asked <= 2:
            raise NodeProtocolError("/v1/system/info answered HTTP 503")
        return await super().system_info()


async def test_a_node_that_fails_to_tell_its_memory_is_asked_again() -> None:
    node = Reticent(loaded=("a",))
    fleet = Fleet(POLICY, {N: node}, ports())
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        fleet.run(group)
        while (view := fleet.node(N)) is None or view.vram_total_mib is None:
            await asyncio.sleep(0.001)
        fleet.stop()
    assert (view.version, view.free_mib, view.may_unload) == ("0.9.2", 16000, True)


class Mortal(Node):
    dead = False

    async def list_models(self) -> Listing:
        if self.dead:
            raise NodeUnreachableError("connection refused")
        return await super().list_models()


async def test_a_pin_that_names_no_node_is_met_by_one_copy_and_outlives_its_node() -> None:
    first, second = Mortal(loaded=("a",)), Mortal("a")
    names = NodeName("n1"), NodeName("n2")
    policy = FleetPolicy(
        nodes=tuple(NodePolicy(name=name) for name in names), poll_interval_s=0.001
    )
    waits = Waits(house_s=0.001)
    fleet = Fleet(policy, dict(zip(names, (first, second), strict=True)), ports(waits=waits))

    def absent() -> set[bool]:
        snapshot = fleet.snapshot()
        return {snapshot.pin_absent(node.models[A]) for node in snapshot.nodes.values()}

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        fleet.run(group)
        while not fleet.asked_all:
            await asyncio.sleep(0.001)
        await fleet.operator.pin(A, None)
        await asyncio.sleep(0.01)
        assert absent() == {False}
        assert "wake a" not in second.calls
        first.dead = True
        while fleet.snapshot().nodes[names[0]].keeps:
            await asyncio.sleep(0)
        assert absent() == {True}
        while not ((view := fleet.model(names[1], A)) and view.resident):
            await asyncio.sleep(0.001)
        assert absent() == {False}
        # It stays where it is when the first comes back, and is no more than there.
        first.dead = False
        while not fleet.snapshot().nodes[names[0]].keeps:
            await asyncio.sleep(0.001)
        assert absent() == {False}
        fleet.stop()


@pytest.mark.parametrize(
    ("free_mib", "residue_mib"),
    [
        # The size was too large: all but what the other model holds is free.
        (16_000, 0),
        (15_000, 1000),
        (9000, 3000),
    ],
)
def test_no_more_is_left_behind_than_is_in_use(
    world: World, free_mib: int, residue_mib: int
) -> None:
    world.observations.listed(N, listing(a="loaded", b="loaded"))
    world.observations.informed(
        N, NodeInfo(version="0.9.2", vram_total_mib=24_000, free_mib=8000)
    )
    for model in (A, B):
        view = world.state.model(N, model)
        assert view is not None
        world.state.put_model(N, replace(view, size_mib=8000))
    unload = world.transitions.begin_drain(N, A, "by request")
    assert world.transitions.begin_unload(unload)
    world.transitions.end_unload(unload, Freed(mib=5000, residue_mib=3000, free_mib=free_mib))
    assert world.state.snapshot().nodes[N].residue_mib == residue_mib
    assert ("leak" in world.events.kinds) is (residue_mib > 0)


@pytest.mark.parametrize("size_mib", [20_000, None])
@pytest.mark.parametrize(("free_mib", "residue_mib"), [(23_200, 800), (24_000, 0)])
def test_what_was_left_behind_is_noticed_when_a_load_wants_the_room(
    world: World, size_mib: int | None, free_mib: int, residue_mib: int
) -> None:
    """Its memory is reserved by then, and not in use; or nobody knows how much it wants."""
    world.observations.informed(
        N, NodeInfo(version="0.9.2", vram_total_mib=24_000, free_mib=4000)
    )
    for model, size in ((A, 20_000), (B, size_mib)):
        view = world.state.model(N, model)
        assert view is not None
        world.state.put_model(N, replace(view, size_mib=size))
    load = Load(node=N, model=B, reason="wanted", evict=(A,))
    _, (unload,) = world.transitions.begin_load(load)
    assert world.transitions.begin_unload(unload)
    world.transitions.end_unload(unload, Freed(mib=19_200, residue_mib=800, free_mib=free_mib))
    assert world.state.snapshot().nodes[N].residue_mib == residue_mib


@pytest.mark.parametrize(
    ("leaks", "residue_mib"),
    [([800], 800), ([100, -100, 90, -90], 0), ([-300, 800, -100], 700)],
)
def test_what_others_take_and_give_back_does_not_add_up_to_a_leak(
    world: World, leaks: list[int], residue_mib: int
) -> None:
    for leak in leaks:
        unload = world.transitions.begin_drain(N, A, "by request")
        assert world.transitions.begin_unload(unload)
        world.transitions.end_unload(unload, Freed(mib=8000, residue_mib=leak))
        world.observations.listed(N, listing(a="loaded", b="unloaded"))
    assert world.state.snapshot().nodes[N].residue_mib == residue_mib
