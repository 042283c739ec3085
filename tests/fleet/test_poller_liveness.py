"""The watchdog's question to the poller: does every loop still come round?"""

import asyncio

from cortex.config.schema import Config
from cortex.core.ids import NodeName
from cortex.core.listing import Listing
from cortex.core.records import FleetEvent, Memory
from cortex.fleet.poller import OVERDUE_S, Poller, PollPolicy
from cortex.fleet.state import FORGOTTEN, FleetState
from cortex.policies import fleet_policy

CONFIG = Config.model_validate(
    {
        "nodes": [
            {"name": "a", "endpoint": "http://127.0.0.1:9"},
            {"name": "b", "endpoint": "http://127.0.0.1:9"},
        ]
    }
)
POLICY = PollPolicy(interval_s=0.001, timeout_s=1.0)
LONGEST_S = POLICY.interval_s + 3 * POLICY.timeout_s + OVERDUE_S


class HandClock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.s = 0.0

    def now_s(self) -> float:
        return self.s

    def now_ms(self) -> int:
        return round(self.s * 1000)


class QuietJournal:
    def record(self, event: FleetEvent) -> None: ...


class Disk:
    """A memory that hangs for one node."""

    def __init__(self) -> None:
        self.hung = asyncio.Event()

    async def recall(self) -> Memory:
        return FORGOTTEN

    async def save_node(self, record: object) -> None:
        if record.name == "a":  # type: ignore[attr-defined]
            self.hung.set()
            await asyncio.Event().wait()

    async def save_drained(self, node: object, *, drained: bool) -> None: ...

    async def save_residency(self, *records: object) -> None: ...

    async def save_pin(self, model: object, node: object) -> None: ...

    async def delete_pin(self, model: object, node: object) -> None: ...


class Node:
    def __init__(self) -> None:
        self.polls = 0
        self.polled = asyncio.Condition()

    async def list_models(self) -> Listing:
        self.polls += 1
        async with self.polled:
            self.polled.notify_all()
        return Listing(created_at_s=1)

    async def system_info(self) -> object:
        raise TimeoutError

    async def again(self) -> None:
        """Wait for two polls more: the turn in between is whole."""
        wanted = self.polls + 2
        async with self.polled:
            await self.polled.wait_for(lambda: self.polls >= wanted)


async def test_a_loop_that_hangs_is_named_and_its_neighbour_is_not() -> None:
    clock, disk = HandClock(), Disk()
    nodes = {NodeName("a"): Node(), NodeName("b"): Node()}
    state = FleetState(fleet_policy(CONFIG), clock=clock, journal=QuietJournal())
    poller = Poller(
        state,
        memory=disk,  # type: ignore[arg-type]
        clock=clock,
        policy=POLICY,
        observed=lambda name, *, ok, duration_s: None,
    )
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        poller.follow(group, nodes)  # type: ignore[arg-type]
        await disk.hung.wait()
        clock.s = LONGEST_S
        await nodes[NodeName("b")].again()
        assert poller.overdue() == []
        clock.s = LONGEST_S + 0.001
        await nodes[NodeName("b")].again()
        assert poller.overdue() == ["a"]
        poller.stop()
