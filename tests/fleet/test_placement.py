"""Where a model is loaded that is resident nowhere, and what a client is told when it cannot be."""

import asyncio
import time
from pathlib import Path

from tests.fleet.conftest import model_view, node_view
from tests.gateway.conftest import scripted
from tests.running import running, until


def sized(**mib: int) -> str:
    return "".join(f'[models."{model}"]\nvram_mb = {size}\n' for model, size in mib.items())


async def test_a_model_larger_than_every_node_is_refused_at_once_with_numbers(
    tmp_path: Path,
) -> None:
    async with (
        scripted(["big", "a"], unloaded=["big"], vram_total_mib=8_192) as one,
        scripted(["big"], unloaded=["big"], vram_total_mib=24_576) as other,
        running(tmp_path, [one, other], toml=sized(big=40_000)) as gateway,
    ):
        began_s = time.monotonic()
        reply = await gateway.chat("big")
        assert time.monotonic() - began_s < 2
        assert (reply.status, reply.code) == (503, "model_never_fits")
        # Nothing changes by asking again.
        assert "Retry-After" not in reply.headers
        assert reply.headers["x-should-retry"] == "false"
        message = reply.json["error"]["message"]
        for part in ("big", "n0", "n1", "40000", "8192", "24576"):
            assert part in message, message
        assert one.stats.loads + other.stats.loads == {}
        assert (await gateway.chat("a")).status == 200
        [row] = await gateway.history(outcome="model_never_fits")
        assert (row["status"], row["node"], row["attempts"]) == (503, None, 0)


async def test_the_configured_size_of_a_node_decides_over_its_own_word(tmp_path: Path) -> None:
    async with (
        scripted(["big"], unloaded=["big"], vram_total_mib=24_576) as node,
        running(
            tmp_path, [node], toml=sized(big=10_000), node_toml=["vram_mb = 8000"]
        ) as gateway,
    ):
        reply = await gateway.chat("big")
        assert (reply.status, reply.code) == (503, "model_never_fits")
        assert "8000" in reply.json["error"]["message"]


async def test_a_model_goes_where_it_fits(tmp_path: Path) -> None:
    async with (
        scripted(["big"], unloaded=["big"], vram_total_mib=8_192) as one,
        scripted(["big"], unloaded=["big"], vram_total_mib=24_576) as other,
        running(tmp_path, [one, other], toml=sized(big=20_000)) as gateway,
    ):
        reply = await gateway.chat("big")
        assert (reply.status, reply.headers["x-cortex-node"]) == (200, "n1")
        assert dict(one.stats.loads) == {}


async def test_a_model_goes_where_most_is_free(tmp_path: Path) -> None:
    async with (
        # More memory in all, but less that is free.
        scripted({"full": 20_000, "a": 1_000}, unloaded=["a"], vram_total_mib=24_576) as one,
        scripted(["a"], unloaded=["a"], vram_total_mib=16_384) as other,
        running(tmp_path, [one, other], toml=sized(a=1_000)) as gateway,
    ):
        assert (await gateway.chat("a")).headers["x-cortex-node"] == "n1"
        [load] = await gateway.events(kind="load")
        assert (load["node"], load["detail"]["need_mib"]) == ("n1", 1000)


async def test_memory_is_reserved_before_a_load_has_taken_it(tmp_path: Path) -> None:
    sizes = {"a": 10_000, "b": 10_000, "c": 10_000}
    async with (
        scripted(sizes, unloaded=list(sizes), load_s=0.3, vram_total_mib=24_576) as one,
        scripted(sizes, unloaded=list(sizes), load_s=0.3, vram_total_mib=24_576) as other,
        running(tmp_path, [one, other], toml=sized(**sizes)) as gateway,
    ):
        # Three at once over two nodes that hold two each: none may take two and a half.
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(gateway.chat(model), name=model) for model in sizes]
        assert [task.result().status for task in tasks] == [200] * 3
        loads = [sum(node.stats.loads.values()) for node in (one, other)]
        assert sorted(loads) == [1, 2]
        nodes = [await node_view(gateway, name) for name in ("n0", "n1")]
        assert sorted(node["vram_used_mib"] for node in nodes) == [10_000, 20_000]


async def test_where_cortex_may_not_load_it_says_so(tmp_path: Path) -> None:
    async with (
        scripted(["a", "b"], unloaded=["b"]) as node,
        running(tmp_path, [node], node_toml=['lifecycle = "off"']) as gateway,
    ):
        reply = await gateway.chat("b")
        assert (reply.status, reply.code) == (503, "not_loadable")
        assert dict(node.stats.loads) == {}
        assert (await gateway.chat("a")).status == 200
        assert (await node_view(gateway, "n0"))["may_load"] is False

        # Someone else may.
        await node.residency.reload("b")

        async def seen() -> bool:
            return bool((await model_view(gateway, "n0", "b"))["status"] == "loaded")

        await until(seen, "a poll")
        assert (await gateway.chat("b")).status == 200


async def test_models_of_the_catalogue_are_not_loaded_by_being_looked_at(
    tmp_path: Path,
) -> None:
    async with (
        scripted(["a", "b"], unloaded=["b"]) as node,
        running(tmp_path, [node]) as gateway,
    ):
        assert (await gateway.get("/v1/models/b")).json["status"] == "unloaded"
        assert (await gateway.get("/v1/models")).status == 200
        await gateway.status()
        assert dict(node.stats.loads) == {}


async def test_where_no_memory_is_reported_the_sizes_say_what_is_taken(tmp_path: Path) -> None:
    sizes = '[models."a"]\nvram_mb = 600\n'
    async with (
        scripted(["a", "b"], unloaded=["b"], cpu_only=True) as node,
        running(tmp_path, [node], toml=sizes, node_toml=["vram_mb = 1000"]) as gateway,
    ):
        [shown] = (await gateway.status())["nodes"]
        assert (shown["vram_used_mib"], shown["vram_total_mib"]) == (600, 1000)
        # One whose size nobody knows is resident as well: then nobody knows the sum.
        assert (await gateway.chat("b")).status == 200
        [shown] = (await gateway.status())["nodes"]
        assert shown["vram_used_mib"] is None
