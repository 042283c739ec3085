"""Who waits for whom, and for how long: admission over a state and a clock that are moved by hand."""

import asyncio
from typing import Any

import pytest

from cortex.core.decisions import Load, Want
from cortex.core.errors import CapacityError
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import Listing, NodeInfo, ReportedStatus
from cortex.fleet.admission import Admission, Admitted
from cortex.fleet.observations import Observations
from cortex.fleet.policy import FleetPolicy, ModelPolicy, NodePolicy
from cortex.fleet.procedures import Freed
from cortex.fleet.state import FleetState
from cortex.fleet.transitions import Transition, Transitions
from cortex.fleet.verdict import SERVED
from tests.fleet.fakes import Events, HandClock

N1, N2, A, B = NodeName("n1"), NodeName("n2"), ModelId("a"), ModelId("b")


class World:
    """Two nodes of 10,000 MiB; loads end when the test says so."""

    def __init__(self, **settings: Any) -> None:
        self.clock = HandClock()
        self.policy = FleetPolicy(
            nodes=(NodePolicy(name=N1), NodePolicy(name=N2)),
            models={model: ModelPolicy(size_mib=8000) for model in (A, B)},
            **({"max_in_flight_per_model": 1} | settings),
        )
        self.state = FleetState(self.policy, clock=self.clock, journal=Events())
        self.observations = Observations(self.state)
        self.transitions = Transitions(self.state)
        self.loads: list[tuple[Load, Transition, tuple[Transition, ...]]] = []
        self.withdrawn: list[ModelId] = []
        self.admission = Admission(
            self.state, begin_load=self._begin, nobody_waits=self.withdrawn.append
        )

    def node(self, name: NodeName, **models: str) -> None:
        statuses = {ModelId(model): ReportedStatus(status) for model, status in models.items()}
        self.observations.listed(name, Listing(created_at_s=1, models=statuses))
        self.observations.informed(
            name, NodeInfo(version="0.9.2", vram_total_mib=10_000, free_mib=None)
        )

    def _begin(self, load: Load) -> None:
        self.loads.append((load, *self.transitions.begin_load(load)))

    def end_load(self, load_s: float = 60.0) -> None:
        """The victims go and the model is there."""
        _, transition, victims = self.loads.pop()
        for victim in victims:
            assert self.transitions.begin_unload(victim)
            self.transitions.end_unload(victim, Freed())
        self.transitions.end_load(transition, load_s=load_s)


async def turns() -> None:
    """Let everybody run who can."""
    for _ in range(20):
        await asyncio.sleep(0)


def asking(
    world: World, group: asyncio.TaskGroup, want: Want, client: str = ""
) -> asyncio.Task[Admitted | CapacityError]:
    async def ask() -> Admitted | CapacityError:
        try:
            return await world.admission.acquire(want, client)
        except CapacityError as error:
            return error

    return group.create_task(ask(), name=f"{client} wants {want.model}")


async def test_who_wants_another_node_holds_nobody_up() -> None:
    world = World()
    world.node(N1, a="loaded")
    world.node(N2, a="unloaded")
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        operator = asking(world, group, Want(model=A, only=N2))
        await turns()
        assert len(world.loads) == 1
        got = await world.admission.acquire(Want(model=A))
        assert (got.lease.node, got.queue_s) == (N1, 0.0)
        # The next waits for a slot, the operator still for the load; each gets its own.
        plain = asking(world, group, Want(model=A, excluded=frozenset({N2})))
        await turns()
        assert world.admission.depths() == {A: 2}
        world.state.release(got.lease, SERVED)
        await turns()
        assert plain.done()
        assert not operator.done()
        world.end_load()
        await turns()
        assert operator.done()
    assert world.admission.depths() == {}
    assert world.withdrawn == []


async def test_a_newcomer_does_not_take_the_slot_that_an_older_one_waits_for() -> None:
    world = World()
    world.node(N1, a="loaded")
    world.node(N2, a="loaded")
    first = await world.admission.acquire(Want(model=A, only=N1))
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        older = asking(world, group, Want(model=A, only=N1))
        await turns()
        world.state.release(first.lease, SERVED)
        # In the same turn of the loop, before the older one could run.
        assert world.admission.at_once(Want(model=A, excluded=frozenset({N2}))) is None
        newer = asking(world, group, Want(model=A, excluded=frozenset({N2})))
        await turns()
        assert older.done()
        assert not newer.done()
        assert isinstance(older.result(), Admitted)
        world.state.release(older.result().lease, SERVED)  # type: ignore[union-attr]
        await turns()
        assert newer.done()


async def test_a_full_queue_stays_full_however_many_come_at_once() -> None:
    world = World(max_queue=4)
    world.node(N1, a="loaded")
    await world.admission.acquire(Want(model=A), "holder")
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        greedy = [asking(world, group, Want(model=A), "greedy") for _ in range(4)]
        await turns()
        others = [asking(world, group, Want(model=A), f"client-{n}") for n in range(50)]
        for _ in range(5):
            await asyncio.sleep(0)
            assert world.admission.depth() <= 4
        await turns()
        refused = [task.result() for task in (*greedy, *others) if task.done()]
        assert len(refused) == 50
        assert {error.code for error in refused if isinstance(error, CapacityError)} == {
            "queue_full"
        }
        # The greedy one has its share still, and no more.
        assert sum(not task.done() for task in greedy) == 1
        world.admission.close("end")


async def test_of_one_place_a_displaced_request_leaves_nothing_behind() -> None:
    world = World(max_queue=1)
    world.node(N1, a="loaded")
    held = await world.admission.acquire(Want(model=A), "holder")
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        tasks = [asking(world, group, Want(model=A), f"client {n % 2}") for n in range(6)]
        await turns()
        world.state.release(held.lease, SERVED)
        await turns()
        won = [task for task in tasks if isinstance(task.result(), Admitted)]
        assert len(won) == 1
    assert world.admission.depths() == {}


async def test_what_was_just_loaded_serves_those_it_was_loaded_for_before_it_goes() -> None:
    world = World(max_in_flight_per_model=4)
    world.node(N1, a="loaded", b="unloaded")
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        for_b = [asking(world, group, Want(model=B)) for _ in range(2)]
        await turns()
        # Older, by the time it brings along, than those for whom B is loaded.
        older = asking(world, group, Want(model=A, since_s=world.clock.now_s() - 100))
        await turns()
        world.end_load()
        await turns()
        assert [task.done() for task in for_b] == [True, True]
        assert not older.done()
        for task in for_b:
            world.state.release(task.result().lease, SERVED)  # type: ignore[union-attr]
        await turns()
        # What took 60 s to load is not thrown out before it has been there for as long.
        assert world.loads == []
        world.clock.pass_s(60)
        world.admission._wake_heads()
        await turns()
        assert [load.evict for load, *_ in world.loads] == [(B,)]
        world.admission.close("end")


@pytest.mark.parametrize(
    ("loading", "patience_s", "words"),
    [(False, 300.0, "no slot for a within 300 s"), (True, 900.0, "a is still loading")],
)
async def test_a_load_does_not_use_up_the_patience_for_a_slot(
    loading: bool, patience_s: float, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    world.node(N1, a="unloaded" if loading else "loaded")
    until: list[float] = []

    async def pause(self: object, waiter: Any, recheck_s: float) -> None:
        until.append(recheck_s)
        world.clock.s = min(recheck_s, world.clock.s + 100)
        await asyncio.sleep(0)

    monkeypatch.setattr(Admission, "_pause", pause)
    began_s = world.clock.s
    if not loading:
        await world.admission.acquire(Want(model=A))
    with pytest.raises(CapacityError, match=words) as caught:
        await world.admission.acquire(Want(model=A))
    assert caught.value.code == "queue_timeout"
    assert world.clock.s - began_s == patience_s


async def test_all_tries_of_a_request_share_one_deadline() -> None:
    world = World()
    world.node(N1, a="loaded")
    held = await world.admission.acquire(Want(model=A))
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        now_s = world.clock.now_s()
        # It has waited 290 s for slots and 500 s for loads.
        want = Want(model=A, since_s=now_s - 790, load_waited_s=500)
        again = asking(world, group, want)
        await turns()
        world.clock.pass_s(9)
        world.admission._wake_heads()
        await turns()
        assert not again.done()
        world.clock.pass_s(1)
        world.admission._wake_heads()
        await turns()
        error = again.result()
        assert isinstance(error, CapacityError)
        assert error.code == "queue_timeout"
        # One with patience left is told what it waited this time.
        want = Want(model=A, since_s=world.clock.now_s() - 100, load_waited_s=40)
        other = asking(world, group, want)
        await turns()
        world.clock.pass_s(5)
        world.state.release(held.lease, SERVED)
        await turns()
        got = other.result()
        assert isinstance(got, Admitted)
        assert (got.queue_s, got.load_wait_s) == (5, 0)


def test_an_alias_of_what_no_node_lists_means_nothing() -> None:
    world = World(aliases={"small": ModelId("typo"), "good": A})
    world.node(N1, a="loaded")
    snapshot = world.state.snapshot()
    assert snapshot.resolve("small") is None
    assert snapshot.resolve("good") == A
