"""Two models that each want the whole card, and clients of both: the fleet lives hours in virtual time."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from cortex.core.decisions import Wait, Want
from cortex.core.errors import CortexError
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import ReportedStatus, Work
from cortex.core.rules import EvictionRules
from cortex.fleet.fleet import Fleet
from cortex.fleet.policy import FleetPolicy, ModelPolicy, NodePolicy
from cortex.fleet.verdict import SERVED
from cortex.replay import virtual
from tests.fleet.fakes import Events, Node, ports

CARD, A, B = NodeName("card"), ModelId("a"), ModelId("b")
HOUR_S = 3600.0
PATIENCE_S = FleetPolicy(nodes=()).queue_timeout_s


class SlowNode(Node):
    """Holds `a`, and takes its time to load."""

    def __init__(self, load_s: float) -> None:
        super().__init__(B, loaded=(A,), sizes=15_000, total=24_000)
        self.load_s = load_s

    async def wake(self, model: ModelId, work: Work) -> str | None:
        self.models[model] = ReportedStatus.RELOADING
        await asyncio.sleep(self.load_s)
        return await super().wake(model, work)


@dataclass
class Day:
    """A fleet, and what became of its requests."""

    fleet: Fleet
    events: Events
    answers: Counter[ModelId] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)

    def when_s(self, kind: str, model: ModelId) -> list[float]:
        """The times of such events."""
        return [
            (event.at_ms - virtual.EPOCH_MS) / 1000
            for event in self.events.all
            if event.kind.value == kind and event.model == model
        ]

    async def asks(self, model: ModelId, answer_s: float) -> None:
        """One request, with an answer of so many seconds once it has its lease."""
        began_s = self.fleet.clock.now_s()
        try:
            admitted = await self.fleet.lease(Want(model=model))
        except CortexError as exc:
            self.failures.append(exc.message)
            return
        self.waits_s.append(self.fleet.clock.now_s() - began_s)
        await asyncio.sleep(answer_s)
        self.fleet.ended(admitted.lease, SERVED)
        self.answers[model] += 1

    async def works(
        self, model: ModelId, *, answer_s: float, thought_s: float, after_s: float = 0.0
    ) -> None:
        """A client who asks, reads, thinks, and asks again."""
        await asyncio.sleep(after_s)
        while True:
            await self.asks(model, answer_s)
            await asyncio.sleep(thought_s)


Deeds = Callable[[Day], Coroutine[Any, Any, object]]


def lived(deeds: Deeds, *, load_s: float, min_residency_s: float | None = None) -> Day:
    """The card's day until `deeds` are done."""

    async def main() -> Day:
        policy = FleetPolicy(
            nodes=(NodePolicy(name=CARD),),
            models={model: ModelPolicy(size_mib=15_000) for model in (A, B)},
            eviction=EvictionRules(min_residency_s=min_residency_s),
        )
        events = Events()
        given = ports(clock=virtual.LoopClock(), journal=events)
        fleet = Fleet(policy, {CARD: SlowNode(load_s)}, given)
        day = Day(fleet, events)
        async with asyncio.TaskGroup() as group:
            fleet.run(group)
            while not fleet.asked_all:
                await asyncio.sleep(0.01)
            await deeds(day)
            fleet.stop()
        return day

    return virtual.run(main)


async def beside(
    day: Day, clients: list[Coroutine[Any, Any, None]], deed: Coroutine[Any, Any, object]
) -> None:
    """`deed`, with `clients` at work until it is done."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client) for client in clients]
        await deed
        for task in tasks:
            task.cancel()


def both_at_work(for_s: float) -> Deeds:
    """A client of each model: nine seconds of answer, ten of thought."""

    async def deeds(day: Day) -> None:
        clients = [day.works(model, answer_s=9.0, thought_s=10.0) for model in (A, B)]
        await beside(day, clients, asyncio.sleep(for_s))

    return deeds


@pytest.mark.parametrize(
    ("load_s", "answers_in_ten_minutes", "longest_wait_s"), [(60.0, 25, 300), (180.0, 12, 480)]
)
def test_a_card_for_two_answers_more_than_it_loads(
    load_s: float, answers_in_ten_minutes: int, longest_wait_s: float
) -> None:
    """Alone, without the other, a client would get 31 answers in ten minutes."""
    day = lived(both_at_work(HOUR_S), load_s=load_s)
    assert day.failures == []
    assert sum(day.answers.values()) >= 6 * answers_in_ten_minutes
    assert max(day.waits_s) <= longest_wait_s
    assert abs(day.answers[A] - day.answers[B]) <= 10


def test_without_residency_all_the_time_goes_into_loads() -> None:
    """What the default is there for."""
    days = [lived(both_at_work(HOUR_S), load_s=60.0, min_residency_s=s) for s in (0.0, None)]
    loads = [len(day.when_s("loaded", A) + day.when_s("loaded", B)) for day in days]
    assert loads[0] > 2 * loads[1]
    assert sum(days[1].answers.values()) > 2 * sum(days[0].answers.values())


@pytest.mark.parametrize("answer_s", [45.0, 125.0])
def test_long_streams_that_overlap_are_drained_once(answer_s: float) -> None:
    """Three agents are never idle all at once; one drain, as long as an answer, is all they pay."""
    asked_s: list[float] = []

    async def deeds(day: Day) -> None:
        clients = [
            day.works(A, answer_s=answer_s, thought_s=2.0, after_s=n * answer_s / 3)
            for n in range(3)
        ]

        async def another() -> None:
            await asyncio.sleep(2.2 * answer_s)
            asked_s.append(day.fleet.clock.now_s())
            await day.asks(B, 10.0)

        await beside(day, clients, another())

    day = lived(deeds, load_s=60.0)
    (evicted_s,), (unloads_s,) = day.when_s("evict", A), day.when_s("unload", A)
    assert day.answers[B] == 1
    assert "revived" not in day.events.kinds
    assert evicted_s - asked_s[0] == pytest.approx(min(2 * answer_s, PATIENCE_S / 4))
    assert unloads_s - evicted_s <= answer_s


def test_residency_protects_until_a_waiter_would_be_late() -> None:
    async def deeds(day: Day) -> None:
        await day.asks(B, 10.0)
        decision = day.fleet.explain(Want(model=A))
        assert isinstance(decision, Wait)
        assert "loaded or used too recently" in decision.reason

    day = lived(deeds, load_s=20.0, min_residency_s=HOUR_S)
    assert day.failures == []
    assert day.waits_s == [pytest.approx(0.9 * PATIENCE_S + 20.0, abs=1)]


def test_the_oldest_request_is_served_first() -> None:
    """And what was loaded for it is not taken away before."""

    async def deeds(day: Day) -> None:
        async with asyncio.TaskGroup() as group:
            for model, after_s in ((B, 0.0), (A, 3.0), (B, 6.0), (A, 9.0)):
                group.create_task(_later(after_s, partial(day.asks, model, 1.0)))

    day = lived(deeds, load_s=30.0)
    assert (day.answers, day.failures) == ({A: 2, B: 2}, [])
    moves_s = sorted(day.when_s("loaded", A) + day.when_s("loaded", B))
    assert all(later - sooner >= 30.0 for sooner, later in pairwise(moves_s))
    assert len(moves_s) == 2


async def _later(after_s: float, deed: Callable[[], Coroutine[Any, Any, None]]) -> None:
    await asyncio.sleep(after_s)
    await deed()
