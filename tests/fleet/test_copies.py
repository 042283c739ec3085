"""One more copy, as those live it who wait for a slot; in virtual time."""

import asyncio
from collections.abc import Callable

import pytest

from cortex.core.copies import SPARE_AFTER_S
from cortex.core.decisions import Want
from cortex.core.ids import ModelId, NodeName
from cortex.core.records import EventKind
from cortex.fleet.admission import Admitted
from cortex.fleet.fleet import Fleet
from cortex.fleet.policy import FleetPolicy, ModelPolicy, NodePolicy
from cortex.fleet.verdict import SERVED
from cortex.replay import virtual
from tests.fleet.fakes import Events, ports
from tests.replay.lived import SlowNode

A, B = ModelId("a"), ModelId("b")
SIZES = {A: 8000, B: 8000}
LOAD_S = 3.0 + SIZES[A] / 1000
ANSWER_S = 60.0


class Pair:
    """Two cards that hold one model each; `a` takes one request a copy."""

    def __init__(self, max_copies: int | None = None) -> None:
        self.events = Events()
        self.nodes = {NodeName(name): SlowNode(SIZES, 10_000, 1000.0) for name in ("m", "n")}
        policy = FleetPolicy(
            nodes=tuple(NodePolicy(name=name) for name in self.nodes),
            models={
                A: ModelPolicy(size_mib=SIZES[A], max_in_flight=1, max_copies=max_copies),
                B: ModelPolicy(size_mib=SIZES[B]),
            },
        )
        given = ports(clock=virtual.LoopClock(), journal=self.events)
        self.fleet = Fleet(policy, self.nodes, given)

    async def asks(
        self, model: ModelId, after_s: float, answer_s: float = ANSWER_S
    ) -> Admitted:
        await asyncio.sleep(after_s)
        admitted = await self.fleet.lease(Want(model))
        await asyncio.sleep(answer_s)
        self.fleet.ended(admitted.lease, SERVED)
        return admitted

    def told(self, kind: EventKind) -> list[tuple[str | None, str | None]]:
        return [(e.node, e.model) for e in self.events.all if e.kind is kind]


def lived(
    pair: Callable[[], Pair], *asks: tuple[ModelId, float]
) -> tuple[Pair, list[Admitted]]:
    """What each got that asked for a model, so long after the beginning."""

    async def main() -> tuple[Pair, list[Admitted]]:
        there = pair()
        async with asyncio.TaskGroup() as group:
            there.fleet.run(group)
            while not there.fleet.asked_all:
                await asyncio.sleep(0.1)
            async with asyncio.TaskGroup() as clients:
                got = [clients.create_task(there.asks(*ask), name="client") for ask in asks]
            there.fleet.stop()
        return there, [task.result() for task in got]

    return virtual.run(main)


def test_the_second_waits_for_a_slot_then_for_a_copy_and_it_counts_as_a_wait_for_a_slot() -> (
    None
):
    pair, (first, second) = lived(Pair, (A, 0.0), (A, LOAD_S + 1.0))
    assert first.load_wait_s == pytest.approx(LOAD_S, abs=1.0)
    assert (first.lease.node, second.lease.node) == ("m", "n")
    assert second.load_wait_s == 0.0
    assert second.queue_s == pytest.approx(SPARE_AFTER_S + LOAD_S, abs=1.0)
    assert pair.told(EventKind.LOADED) == [("m", A), ("n", A)]
    assert pair.told(EventKind.EVICT) == []


def test_where_only_one_is_allowed_it_waits_for_the_slot() -> None:
    pair, (_, second) = lived(lambda: Pair(max_copies=1), (A, 0.0), (A, LOAD_S + 1.0))
    assert second.queue_s == pytest.approx(ANSWER_S - 1.0, abs=1.0)
    assert pair.told(EventKind.LOADED) == [("m", A)]


def test_a_slot_that_comes_during_the_load_is_taken() -> None:
    pair, (_, second) = lived(Pair, (A, 0.0), (A, LOAD_S + ANSWER_S - SPARE_AFTER_S - 2.0))
    assert second.lease.node == "m"
    assert second.queue_s == pytest.approx(SPARE_AFTER_S + 2.0, abs=1.0)
    assert pair.told(EventKind.LOADED) == [("m", A), ("n", A)]


def test_the_copy_makes_room_for_another_model() -> None:
    """Though it was used last."""
    pair, got = lived(Pair, (A, 0.0), (A, LOAD_S + 1.0), (B, 200.0), (A, 300.0))
    assert pair.told(EventKind.EVICT) == [("m", A)]
    assert [admitted.lease.node for admitted in got] == ["m", "n", "m", "n"]
