"""What an agent reads of GPUs, and whether they are those of its node."""

from pathlib import Path

import pytest

from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import Listing, NodeInfo, ReportedStatus
from cortex.fleet.agents import Agents
from cortex.fleet.observations import Observations
from cortex.fleet.policy import FleetPolicy, NodePolicy
from cortex.fleet.state import FleetState
from tests.fleet.fakes import Events, HandClock
from tests.gateway.conftest import scripted
from tests.running import running

N = NodeName("n")


@pytest.mark.parametrize("configured", [None, 20_000])
@pytest.mark.parametrize(
    ("own_mib", "read_mib", "used"),
    [
        (24_576, 24_564, True),
        (24_576, 49_128, False),
        (24_576, 8_192, False),
        # A node that does not tell, and an agent of before the totals were sent.
        (None, 49_128, True),
        (24_576, None, True),
    ],
)
def test_what_is_read_of_other_gpus_is_not_used(
    own_mib: int | None, read_mib: int | None, used: bool, configured: int | None
) -> None:
    """The node's own total counts, whatever the configuration lets cortex use of it."""
    policy = FleetPolicy(nodes=(NodePolicy(name=N, vram_total_mib=configured),))
    state = FleetState(policy, clock=HandClock(), journal=Events())
    observations, agents = Observations(state), Agents(state)
    listing = Listing(created_at_s=1, models={ModelId("a"): ReportedStatus.LOADED})
    observations.listed(N, listing)
    observations.informed(
        N, NodeInfo(version="0.9.2", vram_total_mib=own_mib, free_mib=own_mib and 1000)
    )
    agents.reported(N, can_restart=True, free_mib=5000, total_mib=read_mib, acks=())
    node = state.node(N)
    assert node is not None
    assert (node.free_mib == 5000) is used
    assert (agents.why_unused(N) is None) is used


async def test_it_is_told_what_to_do_about_it(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t0ken")

    def gpu(index: int, used_mib: int) -> dict[str, object]:
        return {"index": index, "name": "GPU", "total_mib": 24_576, "used_mib": used_mib}

    async with (
        scripted(["m1"], size_mib=20_000, vram_total_mib=24_576) as node,
        running(tmp_path, [node], toml=f'[agent]\ntoken_file = "{token}"\n') as gateway,
    ):

        async def report(*gpus: dict[str, object]) -> None:
            body = {
                "node": "n0",
                "agent_version": "1",
                "can_restart": True,
                "node_ok": True,
                "acks": [],
                "gpus": gpus,
            }
            reply = await gateway.post(
                "/cortex/v1/agents/report", body, headers={"Authorization": "Bearer t0ken"}
            )
            assert reply.status == 200, reply.text

        await report(gpu(0, 20_000), gpu(1, 0))
        assert (await gateway.status())["nodes"][0]["vram_used_mib"] == 20_000
        reasons = (await gateway.get("/health")).json["reasons"]
        assert reasons == [
            (
                "the agent beside n0 reads GPUs of 49152 MiB, the node has 24576 MiB: tell the agent"
                " which are the node's (--gpus)"
            )
        ]
        await report(gpu(0, 21_000))
        assert (await gateway.status())["nodes"][0]["vram_used_mib"] == 21_000
        assert (await gateway.get("/health")).json["reasons"] == []
