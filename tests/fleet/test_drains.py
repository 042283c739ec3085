"""Models in use: they finish, they are spared, they come back; nothing running is ever cut."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from cortex.devnode.scripted import ScriptedNode
from cortex.fleet.waits import Waits
from tests.running import Running, until
from tests.running import running as _running

HI = [{"role": "user", "content": "hi"}]
SIZES = '[models."a"]\nvram_mb = 6000\n[models."b"]\nvram_mb = 6000\n'


running = partial(_running, waits=Waits(drain_after_s=0.2))


def two_models(**knobs: Any) -> ScriptedNode:
    """`a` is loaded, `b` is not, and only one of them fits."""
    small = {"vram_total_mib": 10_000, "size_mib": 6000, "info_delay_s": 0.0}
    return ScriptedNode(["a", "b"], unloaded=["b"], **(small | knobs))


def ask(gateway: Running, model: str, tokens: int) -> Any:
    body = {"model": model, "messages": HI, "stream": True, "max_tokens": tokens}
    return gateway.http.post(f"{gateway.url}/v1/chat/completions", json=body)


async def status_of(gateway: Running, model: str) -> str:
    models = (await gateway.status())["nodes"][0]["models"]
    return next(str(row["status"]) for row in models if row["model"] == model)


async def kinds(gateway: Running, *wanted: str) -> list[tuple[str, str]]:
    rows = await gateway.events()
    return [(row["kind"], row["model"]) for row in rows if row["kind"] in wanted]


async def test_a_model_in_use_is_drained_for_one_that_waits(tmp_path: Path) -> None:
    async with (
        two_models(token_interval_s=0.01) as node,
        running(tmp_path, [node], toml=SIZES) as gateway,
        ask(gateway, "a", 80) as stream,
    ):
        other = await gateway.chat("b", max_tokens=1)
        assert other.status == 200
        text = await stream.text()
        assert text.endswith("data: [DONE]\n\n")
        assert node.stats.cut == 0
        assert await kinds(gateway, "evict", "unload", "loaded") == [
            ("evict", "a"),
            ("unload", "a"),
            ("loaded", "b"),
        ]
        # The drain took the stream's time, not the five hundredths that the swap takes.
        (row,) = [row for row in await gateway.history() if row["model"] == "b"]
        assert row["load_wait_ms"] + row["queue_ms"] > 500


async def test_a_victim_is_revived_when_nobody_waits_for_its_room_any_more(
    tmp_path: Path,
) -> None:
    async with (
        two_models(token_interval_s=0.02) as node,
        running(tmp_path, [node], toml=SIZES) as gateway,
        ask(gateway, "a", 1000) as stream,
    ):
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(gateway.chat("b"))

            async def draining() -> bool:
                return await status_of(gateway, "a") == "draining"

            await until(draining, "the drain")
            waiting.cancel()
        # It serves again, beside the stream that never noticed.
        assert (await gateway.chat("a", max_tokens=1)).status == 200
        assert await kinds(gateway, "revived", "load_abandoned", "unload") == [
            ("load_abandoned", "b"),
            ("revived", "a"),
        ]
        stream.close()


async def test_a_drain_that_runs_out_of_time_spares_the_model(tmp_path: Path) -> None:
    limits = "[limits]\nload_timeout_s = 0.3\nqueue_timeout_s = 1.5\n"
    async with (
        two_models(token_interval_s=0.02) as node,
        running(tmp_path, [node], toml=SIZES + limits) as gateway,
        ask(gateway, "a", 150) as stream,
    ):
        refused = await gateway.chat("b")
        assert (refused.status, refused.code) == (503, "queue_timeout")
        assert (await stream.text()).endswith("data: [DONE]\n\n")
        assert node.stats.unload_posts == {}
        rows = [row for row in await gateway.events() if row["kind"] == "revived"]
        assert [row["reason"] for row in rows] == ["still in use after 0.3 s"]


async def test_a_drain_is_kept_up_for_as_long_as_somebody_waits(tmp_path: Path) -> None:
    """To give it up and to begin anew would cost the clients of the busy model twice."""
    limits = "[limits]\ndrain_timeout_s = 0.2\nqueue_timeout_s = 1.0\n"
    async with (
        two_models(token_interval_s=0.02) as node,
        running(tmp_path, [node], toml=SIZES + limits) as gateway,
        ask(gateway, "a", 100) as stream,
    ):
        # The stream takes 2 s: longer than a drain by hand may, and than the wait for a slot.
        assert (await gateway.chat("b", max_tokens=1)).status == 200
        assert (await stream.text()).endswith("data: [DONE]\n\n")
        assert await kinds(gateway, "evict", "revived", "load_abandoned") == [("evict", "a")]


async def test_a_request_for_a_model_that_drains_waits_for_its_return(tmp_path: Path) -> None:
    async with (
        two_models(token_interval_s=0.01) as node,
        running(tmp_path, [node], toml=SIZES) as gateway,
        ask(gateway, "a", 80) as stream,
    ):
        async with asyncio.TaskGroup() as group:
            for_b = group.create_task(gateway.chat("b", max_tokens=1))

            async def draining() -> bool:
                return await status_of(gateway, "a") == "draining"

            await until(draining, "the drain")
            late = group.create_task(gateway.chat("a", max_tokens=1))
        assert (for_b.result().status, late.result().status) == (200, 200)
        assert (await stream.text()).endswith("data: [DONE]\n\n")
        assert await kinds(gateway, "evict") == [("evict", "a"), ("evict", "b")]


async def test_an_operators_unload_lets_answers_finish(tmp_path: Path) -> None:
    async with (
        two_models(token_interval_s=0.01) as node,
        running(tmp_path, [node], toml=SIZES) as gateway,
        ask(gateway, "a", 50) as stream,
    ):
        reply = await gateway.post("/v1/models/unload", {"model_id": "a"})
        assert (reply.status, reply.json["status"]) == (200, "unloaded")
        assert (await stream.text()).endswith("data: [DONE]\n\n")
        assert node.stats.cut == 0
        # And back, by request of nobody in particular.
        reply = await gateway.post("/v1/models/reload", {"model_id": "a", "node": "n0"})
        assert reply.json == {
            "model_id": "a",
            "status": "loaded",
            "nodes": [{"node": "n0", "status": "loaded"}],
        }
        reply = await gateway.post("/v1/models/status", {"model_id": "nothing"})
        assert (reply.status, reply.code) == (404, "model_not_found")


async def test_what_must_stay_stays(tmp_path: Path) -> None:
    async with (
        two_models() as node,
        running(tmp_path, [node], toml=SIZES, node_toml=['pinned = ["a"]']) as gateway,
    ):
        reply = await gateway.post("/cortex/v1/models/unload", {"model": "a"})
        assert (reply.status, reply.code) == (409, "model_pinned")
        refused = await gateway.chat("b")
        assert (refused.status, refused.code) == (503, "no_room")
        assert "needs 6000 MiB, free 4000 MiB, total 10000 MiB, a is pinned" in refused.text
        assert node.stats.unload_posts == {}


async def test_a_node_that_would_lose_the_model_is_not_told_to_unload(tmp_path: Path) -> None:
    async with (
        two_models(profile="v0.9.0") as node,
        running(tmp_path, [node], toml=SIZES) as gateway,
    ):
        reply = await gateway.post("/cortex/v1/models/unload", {"model": "a"})
        assert (reply.status, reply.code) == (409, "not_unloadable")
        refused = await gateway.chat("b")
        assert (refused.status, refused.code) == (503, "no_room")
        assert "destroys models on unload" in refused.text
        (view,) = (await gateway.status())["nodes"]
        assert (view["may_load"], view["may_unload"]) == (True, False)


async def test_an_old_node_keeps_even_its_only_model(tmp_path: Path) -> None:
    async with (
        ScriptedNode(["a"], profile="v0.8.1") as node,
        running(tmp_path, [node]) as gateway,
    ):
        assert (await gateway.chat("a")).status == 200
        reply = await gateway.post("/cortex/v1/models/unload", {"model": "a"})
        assert (reply.status, reply.code) == (409, "not_unloadable")
        assert "does not tell its version" in reply.text
        assert node.stats.unload_posts == {}


async def test_clients_are_served_in_turn(tmp_path: Path) -> None:
    keys = "".join(f'[[auth.keys]]\nname = "{n}"\nkey = "{n}"\n' for n in ("one", "two"))
    limits = '[models."a"]\nmax_in_flight = 1\n'
    order: list[str] = []
    async with (
        ScriptedNode(["a"], token_interval_s=0.02) as node,
        running(tmp_path, [node], toml=keys + limits) as gateway,
    ):

        async def client(name: str) -> None:
            headers = {"Authorization": f"Bearer {name}"}
            body = {"model": "a", "messages": HI, "max_tokens": 3}
            reply = await gateway.post("/v1/chat/completions", body, headers=headers)
            assert reply.status == 200
            order.append(name)

        async with asyncio.TaskGroup() as group:
            for _ in range(12):
                group.create_task(client("one"))
            await until(lambda: gateway.services.fleet.depth() == 11, "a flood")
            group.create_task(client("two"))
        assert "two" in order[:4]


async def test_a_full_queue_makes_room_for_a_client_with_less(tmp_path: Path) -> None:
    keys = "".join(f'[[auth.keys]]\nname = "{n}"\nkey = "{n}"\n' for n in ("one", "two"))
    limits = '[models."a"]\nmax_in_flight = 1\n[limits]\nmax_queue = 4\n'
    async with (
        ScriptedNode(["a"], token_interval_s=0.05) as node,
        running(tmp_path, [node], toml=keys + limits) as gateway,
    ):

        async def client(name: str) -> tuple[int, int]:
            headers = {"Authorization": f"Bearer {name}"}
            body = {"model": "a", "messages": HI, "max_tokens": 3}
            reply = await gateway.post("/v1/chat/completions", body, headers=headers)
            return reply.status, int(reply.headers.get("Retry-After", "0"))

        async with asyncio.TaskGroup() as group:
            ones = [group.create_task(client("one")) for _ in range(5)]
            await until(lambda: gateway.services.fleet.depth() == 4, "a full queue")
            two = group.create_task(client("two"))
        assert two.result() == (200, 0)
        ends = sorted(task.result() for task in ones)
        assert [status for status, _ in ends] == [200] * 4 + [429]
        assert ends[-1][1] >= 1


async def test_leaks_are_seen_and_told(tmp_path: Path) -> None:
    async with (
        ScriptedNode(["a"], leak_pct=50.0, size_mib=6000, info_delay_s=0.0) as node,
        running(tmp_path, [node], toml=SIZES, waits=Waits(verify_s=0.3)) as gateway,
    ):
        reply = await gateway.post("/cortex/v1/models/unload", {"model": "a"})
        assert reply.status == 200
        (row,) = [row for row in await gateway.events() if row["kind"] == "leak"]
        assert row["reason"] == "3000 MiB did not come back"
        (view,) = (await gateway.status())["nodes"]
        assert (view["residue_mib"], view["cycles"]) == (3000, 1)
        assert view["defrag_due"]
        # A restart gives it all back.
        await node.stop()
        await node.start()

        async def clean() -> bool:
            return bool((await gateway.status())["nodes"][0]["residue_mib"] == 0)

        await until(clean, "the restart to be seen")
