"""The watchdog's question to the poller: does every loop still come round?"""

import asyncio

from cortex.config.schema import Config
from cortex.core.ids import NodeName
from cortex.core.listing import Listing
from cortex.core.records import NodeRecord, ResidencyRecord
from cortex.fleet.guard import Guard
from cortex.fleet.poller import Poller
from cortex.fleet.state import FleetState
from cortex.fleet.waits import WAITS
from cortex.policies import fleet_policy
from tests.fleet.fakes import Events, HandClock, Kept, Watched

CONFIG = Config.model_validate(
    {
        "polling": {"interval_s": 0.001, "timeout_s": 1.0},
        "nodes": [
            {"name": "a", "endpoint": "http://127.0.0.1:9"},
            {"name": "b", "endpoint": "http://127.0.0.1:9"},
        ],
    }
)
LONGEST_S = 0.001 + 3 * 1.0 + WAITS.overdue_s


class Disk(Kept):
    """A store that hangs for one node."""

    def __init__(self) -> None:
        super().__init__()
        self.hung = asyncio.Event()

    async def save(self, *records: NodeRecord | ResidencyRecord) -> None:
        if any(isinstance(record, NodeRecord) and record.name == "a" for record in records):
            self.hung.set()
            await asyncio.Event().wait()


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
    state = FleetState(fleet_policy(CONFIG), clock=clock, journal=Events())
    poller = Poller(
        state,
        store=disk,
        watcher=Watched(),
        guard=Guard(clock),
    )
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        poller.follow(group, nodes)  # type: ignore[arg-type]
        await disk.hung.wait()
        began_s = clock.s
        clock.s = began_s + LONGEST_S
        await nodes[NodeName("b")].again()
        assert poller.overdue() == []
        clock.s = began_s + LONGEST_S + 0.001
        await nodes[NodeName("b")].again()
        assert poller.overdue() == ["a"]
        poller.stop()
