"""Models that do not fit together: who gives way, and that nothing in use is ever cut."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cortex.devnode.scripted import ScriptedNode
from tests.running import Running, running, until

SMALL = {"vram_total_mib": 10_000, "size_mib": 6000, "info_delay_s": 0.0}

SIZES = '[models."a"]\nvram_mb = 6000\n[models."b"]\nvram_mb = 6000'


def kinds(rows: list[Any]) -> list[tuple[str, str | None]]:
    told = {"load", "loaded", "evict", "unload", "unloaded", "revived", "leak", "load_failed"}
    return [(row["kind"], row["model"]) for row in rows if row["kind"] in told]


async def stream(gateway: Running, model: str, tokens: int) -> str:
    body = {
        "model": model,
        "stream": True,
        "max_tokens": tokens,
        "messages": [{"role": "user", "content": "hi"}],
    }
    return (await gateway.post("/v1/chat/completions", body)).text


async def test_an_idle_model_gives_way_and_the_log_tells_it(tmp_path: Path) -> None:
    async with (
        ScriptedNode(["a", "b"], unloaded=["b"], **SMALL) as node,
        running(tmp_path, [node], toml=SIZES) as gateway,
    ):
        assert (await gateway.chat("a")).status == 200
        assert (await gateway.chat("b")).status == 200
        assert (await gateway.chat("a")).status == 200
        assert kinds(await gateway.events()) == [
            ("load", "b"),
            ("evict", "a"),
            ("unload", "a"),
            ("unloaded", "a"),
            ("loaded", "b"),
            ("load", "a"),
            ("evict", "b"),
            ("unload", "b"),
            ("unloaded", "b"),
            ("loaded", "a"),
        ]
        assert node.stats.unload_posts == {"a": 1, "b": 1}


async def test_alternating_clients_of_two_models_both_complete(tmp_path: Path) -> None:
    async with (
        ScriptedNode(
            ["a", "b"], unloaded=["b"], load_s=0.05, token_interval_s=0.005, **SMALL
        ) as node,
        running(tmp_path, [node]) as gateway,
    ):

        async def client(model: str) -> list[str]:
            return [await stream(gateway, model, 10) for _ in range(6)]

        async with asyncio.timeout(50), asyncio.TaskGroup() as group:
            ones, others = group.create_task(client("a")), group.create_task(client("b"))
        assert all(
            text.endswith("data: [DONE]\n\n") for text in ones.result() + others.result()
        )
        await until(lambda: gateway.services.fleet.depth() == 0, "empty queues")


async def test_a_size_that_nobody_knows_is_not_tried_on_a_full_card(tmp_path: Path) -> None:
    """It is taken to be as large as what is there, and learned from its load."""
    async with (
        ScriptedNode(["a", "b"], unloaded=["b"], **SMALL) as node,
        running(tmp_path, [node]) as gateway,
    ):
        told = (await gateway.get("/cortex/v1/explain", params={"model": "b"})).json
        assert (told["decision"], told["evict"]) == ("load", ["a"])
        assert "its need is a guess: the size of a" in told["considered"][0]["detail"]
        assert (await gateway.chat("b")).status == 200
        assert kinds(await gateway.events())[:2] == [("load", "b"), ("evict", "a")]
        sizes = {
            m["model"]: m["size_mib"] for m in (await gateway.status())["nodes"][0]["models"]
        }
        assert sizes == {"a": 6000, "b": 6000}
        assert node.stats.loads == {"b": 1}


@pytest.mark.parametrize(
    ("toml", "size_mib"), [("", 6500), ("[models.b]\nvram_mb = 3500\n", 3500)]
)
async def test_a_size_that_was_too_small_gives_way_to_a_load_that_ran_out_of_memory(
    tmp_path: Path, toml: str, size_mib: int
) -> None:
    """A guess, or what somebody configured."""
    card = {"vram_total_mib": 10_000, "size_mib": {"a": 3000, "c": 3000, "b": 6500}}
    async with (
        ScriptedNode(["a", "b", "c"], unloaded=["b"], info_delay_s=0.0, **card) as node,
        running(tmp_path, [node], toml=toml) as gateway,
    ):
        assert (await gateway.chat("b")).status == 200
        assert kinds(await gateway.events())[:4] == [
            ("load", "b"),
            ("load_failed", "b"),
            ("load", "b"),
            ("evict", "a"),
        ]
        models = (await gateway.status())["nodes"][0]["models"]
        assert {m["model"]: m["size_mib"] for m in models}["b"] == size_mib
        assert node.stats.loads == {"b": 2}
