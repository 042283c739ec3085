"""What happens without anybody asking: idle models go, pinned ones come back; and who is spared."""

import asyncio
import time
from pathlib import Path
from typing import Any

from cortex.devnode.scripted import ScriptedNode
from tests.running import Running, running, until

SIZES = '[models."a"]\nvram_mb = 6000\n[models."b"]\nvram_mb = 6000\n'


def two_models(**knobs: Any) -> ScriptedNode:
    """`a` is loaded, `b` is not, and only one of them fits."""
    small = {"vram_total_mib": 10_000, "size_mib": 6000, "info_delay_s": 0.0}
    return ScriptedNode(["a", "b"], unloaded=["b"], **(small | knobs))


async def statuses(gateway: Running) -> dict[str, str]:
    models = (await gateway.status())["nodes"][0]["models"]
    return {row["model"]: row["status"] for row in models}


async def test_an_idle_model_is_unloaded_and_comes_back_when_asked_for(tmp_path: Path) -> None:
    idle = '[models."a"]\nidle_unload_s = 0.5\n'
    async with (
        two_models(vram_total_mib=20_000) as node,
        running(tmp_path, [node], toml=idle) as gateway,
    ):
        assert (await gateway.chat("b")).status == 200

        async def gone() -> bool:
            return await statuses(gateway) == {"a": "unloaded", "b": "loaded"}

        await until(gone, "the idle model to go")
        (row,) = [row for row in await gateway.events() if row["kind"] == "drain"]
        assert row["reason"].startswith("idle for ")
        assert (await gateway.chat("a")).status == 200
        assert node.stats.unload_posts == {"a": 1}


async def test_a_model_in_use_is_not_idle(tmp_path: Path) -> None:
    idle = "[eviction]\nidle_unload_s = 0.3\n"
    async with (
        two_models(token_interval_s=0.02) as node,
        running(tmp_path, [node], toml=idle) as gateway,
    ):
        began_s = time.monotonic()
        assert (await gateway.chat("a", max_tokens=100)).status == 200
        assert time.monotonic() - began_s > 1.5
        assert node.stats.unload_posts == {}


async def test_a_pinned_model_that_is_absent_is_loaded_and_evicts_for_it(
    tmp_path: Path,
) -> None:
    async with (
        two_models() as node,
        running(tmp_path, [node], toml=SIZES, node_toml=['pinned = ["b"]']) as gateway,
    ):

        async def swapped() -> bool:
            return await statuses(gateway) == {"a": "unloaded", "b": "loaded"}

        await until(swapped, "the pinned model")
        # And nothing displaces it.
        refused = await gateway.chat("a")
        assert (refused.status, refused.code) == (503, "no_room")


async def test_a_pin_that_names_no_node_wants_one_copy(tmp_path: Path) -> None:
    async with (
        two_models(vram_total_mib=20_000) as one,
        two_models(vram_total_mib=20_000) as other,
        running(tmp_path, [one, other]) as gateway,
    ):
        assert (await gateway.post("/cortex/v1/models/pin", {"model": "b"})).status == 200

        def loads() -> int:
            return one.stats.loads["b"] + other.stats.loads["b"]

        await until(lambda: loads() == 1, "one load")
        # A round of the keeper later it is still one.
        await asyncio.sleep(1.2)
        assert loads() == 1
        health = (await gateway.get("/health")).json
        assert (health["status"], health["reasons"]) == ("ok", [])


async def test_priorities_displace_downwards_and_among_equals(tmp_path: Path) -> None:
    def model(name: str, priority: int) -> str:
        return f'[models."{name}"]\nvram_mb = 6000\npriority = {priority}\n'

    config = '[eviction]\nstrategy = "priority"\n' + model("a", 50) + model("b", 100)
    names = ["a", "b", "c"]
    async with (
        ScriptedNode(
            names,
            unloaded=["b", "c"],
            vram_total_mib=10_000,
            size_mib=6000,
            info_delay_s=0.0,
        ) as node,
        running(tmp_path, [node], toml=config + model("c", 100)) as gateway,
    ):
        for name in ("b", "c", "b"):
            assert (await gateway.chat(name)).status == 200
        refused = await gateway.chat("a")
        assert (refused.status, refused.code) == (503, "no_room")
        assert "b has priority 100, a 50" in refused.text
        assert node.stats.unload_posts == {"a": 1, "b": 1, "c": 1}


async def test_the_oldest_of_three_waiting_models_goes_first(tmp_path: Path) -> None:
    """No two of them may displace each other for ever, whatever comes in between."""
    names = ["a", "b", "c"]
    sizes = "".join(f'[models."{name}"]\nvram_mb = 6000\n' for name in names)
    async with (
        ScriptedNode(
            names,
            unloaded=["b", "c"],
            vram_total_mib=10_000,
            size_mib=6000,
            info_delay_s=0.0,
            load_s=0.05,
            token_interval_s=0.002,
        ) as node,
        running(tmp_path, [node], toml=sizes) as gateway,
    ):

        async def client(number: int) -> int:
            model = names[number % 3]
            return (await gateway.chat(model, max_tokens=5)).status

        async with asyncio.timeout(40), asyncio.TaskGroup() as group:
            tasks = [group.create_task(client(number)) for number in range(24)]
        assert [task.result() for task in tasks] == [200] * 24
        # All that waited for one model were served together, not one at a swap.
        assert sum(node.stats.loads.values()) <= 6
        assert node.stats.cut == 0
