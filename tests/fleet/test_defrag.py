"""A node whose memory is in pieces is restarted by its agent, and nobody notices."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cortex.agent.agent import Agent
from cortex.agent.gpus import GpuReader
from cortex.agent.memory import Memory
from cortex.agent.settings import Settings
from cortex.core.ids import NodeName
from cortex.devnode.scripted import ScriptedNode
from tests.agent.nodeprocess import NodeProcess
from tests.agent.nvml import FakeNvml
from tests.running import Running, running, until

TOKEN = "a-token"


def toml(folder: Path, more: str = "") -> str:
    token = folder / "token"
    token.write_text(TOKEN)
    return f'[agent]\ntoken_file = "{token}"\n{more}'


@asynccontextmanager
async def agent_of(
    gateway: Running, folder: Path, node: NodeProcess, *, name: str = "n0"
) -> AsyncIterator[None]:
    state = folder / f"agent-{name}"
    settings = Settings(
        gateway=gateway.url,
        node=NodeName(name),
        local=node.url,
        restart=node.restart_command,
        token_file=folder / "token",
        interval_s=0.1,
        state_dir=state,
    )
    with Memory(state) as memory:
        agent = Agent(settings, memory, gpus=GpuReader(FakeNvml))
        serving = asyncio.create_task(agent.serve())  # noqa: TID251 (ended below)
        try:
            await until(
                lambda: gateway.services.fleet.agents.can_restart(NodeName(name)),
                "a first report",
            )
            yield
        finally:
            agent.stop()
            async with asyncio.timeout(5):
                await serving


def steps(rows: list[Any]) -> list[str]:
    return [row["detail"]["step"] for row in rows if row["kind"] == "defrag"]


async def unload(gateway: Running, model: str) -> None:
    reply = await gateway.post("/cortex/v1/models/unload", {"model": model})
    assert reply.status == 200, reply.text


async def test_the_threshold_of_cycles_brings_a_restart(tmp_path: Path) -> None:
    config = toml(tmp_path, "[eviction]\ndefrag_after_cycles = 2\n")
    with NodeProcess(tmp_path) as node:
        async with (
            running(tmp_path, [node], toml=config) as gateway,
            agent_of(gateway, tmp_path, node),
        ):
            await unload(gateway, "m1")
            assert (await gateway.chat("m1")).status == 200
            await unload(gateway, "m1")
            assert (await gateway.status())["nodes"][0]["cycles"] == 2
            await until(lambda: node.starts == 2, "a restart", 20)
            # While it is away, requests wait for it instead of failing.
            assert (await gateway.chat("m1")).status == 200

            async def done() -> bool:
                return "done" in steps(await gateway.events())

            await until(done, "the end", 20)
            assert steps(await gateway.events()) == ["due", "restart", "done"]
            (view,) = (await gateway.status())["nodes"]
            assert (view["cycles"], view["draining"], view["defrag_due"]) == (0, False, False)
            assert view["agent_age_s"] < 5


async def test_without_an_agent_it_is_only_told(tmp_path: Path) -> None:
    config = "[eviction]\ndefrag_after_cycles = 1\n"
    async with (
        ScriptedNode(["m1"], info_delay_s=0.0) as node,
        running(tmp_path, [node], toml=config) as gateway,
    ):
        await unload(gateway, "m1")

        async def told() -> bool:
            return steps(await gateway.events()) == ["due"]

        await until(told, "the event")
        (view,) = (await gateway.status())["nodes"]
        assert view["defrag_due"]
        assert "1 unload cycles" in view["defrag_reason"]
        assert 'cortex_defrag_due{node="n0"} 1.0' in await gateway.metrics()
        reply = await gateway.post("/cortex/v1/nodes/n0/defrag")
        assert (reply.status, reply.code) == (409, "no_agent")


async def test_a_pinned_model_gets_a_copy_elsewhere_first(tmp_path: Path) -> None:
    with NodeProcess(tmp_path) as node:
        async with ScriptedNode(["m1"], unloaded=["m1"], info_delay_s=0.0) as other:
            pins = ['pinned = ["m1"]']
            async with (
                running(
                    tmp_path, [node, other], toml=toml(tmp_path), node_toml=pins
                ) as gateway,
                agent_of(gateway, tmp_path, node),
            ):
                reply = await gateway.post("/cortex/v1/nodes/n0/defrag")
                assert reply.status == 202, reply.text

                async def done() -> bool:
                    return "done" in steps(await gateway.events())

                served: set[str] = set()
                while not await done():
                    reply = await gateway.chat("m1", max_tokens=1)
                    assert reply.status == 200, reply.text
                    served.add(reply.headers["x-cortex-node"])
                assert steps(await gateway.events()) == ["due", "copy", "restart", "done"]
                assert "n1" in served
                assert node.starts == 2


async def test_a_restart_that_fails_puts_the_node_back_into_service(tmp_path: Path) -> None:
    with NodeProcess(tmp_path) as node:
        async with running(tmp_path, [node], toml=toml(tmp_path)) as gateway:
            node.restart_command = ("false",)
            async with agent_of(gateway, tmp_path, node):
                await gateway.post("/cortex/v1/nodes/n0/defrag")

                async def failed() -> bool:
                    return "failed" in steps(await gateway.events())

                await until(failed, "the failure", 20)
                last = (await gateway.events(kind="defrag"))[-1]
                assert last["reason"] == "its agent could not restart it: exit code 1"
                assert (await gateway.chat("m1")).status == 200


async def test_agents_without_the_token_are_refused(tmp_path: Path) -> None:
    config = toml(tmp_path)
    async with ScriptedNode(["m1"]) as node, running(tmp_path, [node], toml=config) as gateway:
        body = {"node": "n0", "can_restart": True}
        path = "/cortex/v1/agents/report"
        assert (await gateway.post(path, body)).status == 401
        headers = {"Authorization": "Bearer wrong"}
        assert (await gateway.post(path, body, headers=headers)).status == 401
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert (await gateway.post(path, body, headers=headers)).json["commands"] == []
        unknown = await gateway.post(path, {"node": "n9"}, headers=headers)
        assert (unknown.status, unknown.code) == (404, "not_found")


async def test_agents_are_not_welcome_without_a_token(tmp_path: Path) -> None:
    async with ScriptedNode(["m1"]) as node, running(tmp_path, [node]) as gateway:
        reply = await gateway.post("/cortex/v1/agents/report", {"node": "n0"})
        assert (reply.status, reply.code) == (403, "permission_denied")
