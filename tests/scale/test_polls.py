"""Many nodes are polled one after another, never all at once."""

import asyncio
from collections.abc import Mapping

from bench.scale_polls import Polls, Silent
from cortex.core.errors import NodeUnreachableError
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import Listing, NodeInfo, ReportedStatus
from cortex.core.traits import Kind
from cortex.fleet.guard import Guard
from cortex.fleet.policy import FleetPolicy, NodePolicy
from cortex.fleet.poller import Poller
from cortex.fleet.state import FleetState
from cortex.telemetry.clock import SystemClock
from tests.fleet.fakes import Kept

NODES = 200
INTERVAL_S = 1.0
LISTING = Listing(
    created_at_s=1, models={ModelId(f"m{n}"): ReportedStatus.LOADED for n in range(10)}
)


class Node:
    """Answers at once; `down` makes it refuse."""

    down = False

    async def list_models(self) -> Listing:
        if self.down:
            raise NodeUnreachableError("refused")
        return LISTING

    async def system_info(self) -> NodeInfo:
        return NodeInfo(version="0.9.1", vram_total_mib=100, free_mib=50)

    async def kinds(self) -> Mapping[ModelId, frozenset[Kind]]:
        return {}


def most_within_a_tenth(polls: Polls) -> int:
    ends = [int(end * 10 / INTERVAL_S) for each in polls.ends_s.values() for end in each]
    return max(ends.count(tenth) for tenth in set(ends))


async def test_polls_are_spread_after_a_start_and_after_an_outage() -> None:
    names = [NodeName(f"n{number:03}") for number in range(NODES)]
    state = FleetState(
        FleetPolicy(
            nodes=tuple(NodePolicy(name=name) for name in names),
            poll_interval_s=INTERVAL_S,
            poll_timeout_s=1.0,
        ),
        clock=SystemClock(),
        journal=Silent(),
    )
    polls, store = Polls(), Kept()
    poller = Poller(
        state,
        store=store,
        watcher=polls,
        guard=Guard(SystemClock()),
    )
    nodes = {name: Node() for name in names}
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        poller.follow(group, nodes)  # type: ignore[arg-type]
        while not poller.first_round_done:
            await asyncio.sleep(0.01)
        polls.ends_s.clear()
        await asyncio.sleep(2.1 * INTERVAL_S)
        # Evenly spread it is a tenth of them; bunched, all. Half allows for a slow machine.
        assert most_within_a_tenth(polls) < NODES / 2
        assert polls.ends_s.keys() == set(names)
        assert max(len(ends) for ends in polls.ends_s.values()) <= 3

        Node.down = True
        try:
            for name in names:
                poller.kick(name)
            await asyncio.sleep(0.3 * INTERVAL_S)
        finally:
            Node.down = False
        await asyncio.sleep(0.6 * INTERVAL_S)
        polls.ends_s.clear()
        await asyncio.sleep(1.2 * INTERVAL_S)
        assert most_within_a_tenth(polls) < NODES / 2
        assert polls.ends_s.keys() == set(names)
        poller.stop()
    # Once each at first, and again where the system information came after it; not with every poll.
    assert NODES <= store.saves <= 4 * NODES
