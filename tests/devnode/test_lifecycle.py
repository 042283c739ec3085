"""Listing, the three lifecycle calls, their traps, and the default model (contract §2, §3)."""

import asyncio

import aiohttp
import pytest

from cortex.devnode.scripted import ScriptedNode
from tests.devnode.wire import HI, Wire, frames, wire
from tests.running import give_up


async def test_port_is_closed_until_booted():
    node = ScriptedNode(["a"], boot_s=0.05)
    async with asyncio.TaskGroup() as tasks:
        booting = tasks.create_task(node.start())
        await asyncio.sleep(0.01)
        assert node.port == 0
        await booting
    async with wire(node.url) as client:
        assert (await client.get("/health")).text == "OK"
        assert (await client.get("/")).text == "OK"
    await node.stop()
    async with wire(node.url) as client:
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.get("/health")


async def test_listing_has_default_first_one_created_and_any_order():
    models = [f"m{n}" for n in range(8)]
    async with ScriptedNode(models, unloaded=["m7"]) as node, wire(node.url) as client:
        rows = (await client.get("/v1/models")).json["data"]
        assert rows[0]["id"] == "default"
        assert "status" not in rows[0]
        assert len({row["created"] for row in rows}) == 1
        assert rows[-1] == rows[-1] | {"id": "m7", "status": "unloaded"}
        orders = {tuple(await client.listing()) for _ in range(5)}
        assert len(orders) > 1
        assert {frozenset(order) for order in orders} == {frozenset(orders.pop())}


async def test_restart_changes_created_and_keeps_the_port():
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        before = (await client.get("/v1/models")).json["data"][0]["created"]
        assert await client.lifecycle("reload", "a") == "not_found"
        await node.stop()
        await node.start()
        async with wire(node.url) as again:
            assert (await again.get("/v1/models")).json["data"][0]["created"] > before
            assert await again.lifecycle("status", "a") == "loaded"


async def test_lifecycle_calls_answer_200_in_every_state():
    async with (
        ScriptedNode(["a", "b"], aliases={"other": "a"}) as node,
        wire(node.url) as client,
    ):
        assert await client.lifecycle("status", "a") == "loaded"
        assert await client.lifecycle("status", "other") == "loaded"
        assert await client.lifecycle("status", "zz") == "not_found"
        assert await client.lifecycle("status", "default") == "not_found"
        assert await client.lifecycle("unload", "default") == "not_found"
        assert await client.lifecycle("unload", "a") == "unloaded"
        assert await client.lifecycle("unload", "a") == "unloaded"
        assert await client.lifecycle("status", "a") == "unloaded"
        assert await client.lifecycle("reload", "a") == "loaded"


@pytest.mark.parametrize("verb", ["status", "unload", "reload"])
async def test_lifecycle_calls_refuse_what_is_no_request(verb):
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        path = f"/v1/models/{verb}"
        reply = await client.post(path, {})
        assert (reply.status, reply.kind) == (422, "text/plain")
        assert "model_id" in reply.text
        assert (await client.post(path, {"model_id": None})).status == 422
        reply = await client.get(path)
        assert (reply.status, reply.text) == (405, "")


async def test_reload_blocks_and_a_second_call_says_reloading():
    async with (
        ScriptedNode(["a"], unloaded=["a"], load_s=0.3) as node,
        wire(node.url) as client,
    ):
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(client.lifecycle("reload", "a"))
            await asyncio.sleep(0.03)
            assert await client.lifecycle("reload", "a") == "reloading"
            assert await client.lifecycle("status", "a") == "reloading"
            assert await client.listing() == [("default", None), ("a", "reloading")]
            assert not first.done()
        assert first.result() == "loaded"
        assert node.stats.loads["a"] == 1


async def test_unload_during_a_reload_changes_nothing():
    async with (
        ScriptedNode(["a"], unloaded=["a"], load_s=0.3) as node,
        wire(node.url) as client,
    ):
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(client.lifecycle("reload", "a"))
            await asyncio.sleep(0.03)
            assert await client.lifecycle("unload", "a") == "unloaded"
        assert first.result() == "loaded"
        assert await client.lifecycle("status", "a") == "loaded"


async def test_reload_goes_on_without_its_client():
    async with (
        ScriptedNode(["a"], unloaded=["a"], load_s=1.0) as node,
        wire(node.url) as client,
    ):
        await give_up(client.lifecycle("reload", "a"), lambda: node.stats.loads["a"] == 1)
        assert await client.lifecycle("status", "a") == "reloading"
        async with asyncio.timeout(5):
            while await client.lifecycle("status", "a") == "reloading":
                await asyncio.sleep(0.02)
        assert await client.lifecycle("status", "a") == "loaded"


async def test_reload_of_a_loaded_model_leaves_a_flag_for_ever():
    async with ScriptedNode(["a", "b"]) as node, wire(node.url) as client:
        assert await client.lifecycle("reload", "a") == "not_found"
        assert await client.lifecycle("status", "a") == "reloading"
        assert await client.lifecycle("reload", "a") == "reloading"
        rows = await client.listing()
        assert rows[1] == ("a", "reloading")
        assert ("a", "loaded") in rows
        assert (await client.chat("a")).status == 200

        assert await client.lifecycle("unload", "a") == "unloaded"
        assert await client.lifecycle("reload", "a") == "reloading"
        reply = await client.chat("a")
        assert reply.status == 500
        assert reply.json == {"message": "model `a` is being reloaded"}


@pytest.mark.parametrize("name", ["zz", "default"])
async def test_reload_of_an_unknown_model_leaves_a_phantom(name):
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        assert await client.lifecycle("reload", name) == "not_found"
        assert (name, "reloading") in await client.listing()


async def test_failed_load_says_why_and_may_be_tried_again():
    async with (
        ScriptedNode(
            ["a"], unloaded=["a"], load_fail="no such tensor", load_fail_times=1
        ) as node,
        wire(node.url) as client,
    ):
        reply = await client.post("/v1/models/reload", {"model_id": "a"})
        assert reply.status == 200
        assert reply.json["status"] == "internal_error"
        assert reply.json["error"] == "no such tensor"
        assert await client.lifecycle("status", "a") == "unloaded"
        assert await client.lifecycle("reload", "a") == "loaded"


async def test_load_without_room_is_an_out_of_memory():
    async with (
        ScriptedNode({"a": 6000, "b": 6000}, unloaded=["b"], vram_total_mib=8000) as node,
        wire(node.url) as client,
    ):
        reply = await client.post("/v1/models/reload", {"model_id": "b"})
        assert "OUT_OF_MEMORY" in reply.json["error"]
        await client.lifecycle("unload", "a")
        await asyncio.sleep(0.1)
        assert await client.lifecycle("reload", "b") == "loaded"


async def test_memory_comes_back_late_and_not_in_full():
    async with (
        ScriptedNode(
            {"a": 1000}, vram_total_mib=2000, release_delay_s=0.3, leak_pct=10, info_delay_s=0
        ) as node,
        wire(node.url) as client,
    ):
        assert await client.free_mib() == 1000
        await client.lifecycle("unload", "a")
        assert await client.free_mib() == 1000
        async with asyncio.timeout(5):
            while await client.free_mib() == 1000:
                await asyncio.sleep(0.02)
        assert await client.free_mib() == 1900
        await client.lifecycle("reload", "a")
        assert await client.free_mib() == 900
        await node.stop()
        await node.start()
        async with wire(node.url) as again:
            assert await again.free_mib() == 1000


async def test_unload_has_a_gap_in_which_the_model_is_nowhere():
    async with ScriptedNode(["a", "b"], unload_gap_s=0.3) as node, wire(node.url) as client:
        async with asyncio.TaskGroup() as tasks:
            unloading = tasks.create_task(client.lifecycle("unload", "a"))
            await asyncio.sleep(0.03)
            assert await client.lifecycle("status", "a") == "not_found"
            assert (await client.chat("a")).status == 500
        assert unloading.result() == "unloaded"
        assert await client.lifecycle("status", "a") == "unloaded"


async def test_unload_cuts_a_stream_cleanly_and_without_terminator():
    async with (
        ScriptedNode(["a"], token_interval_s=0.01, endless=True) as node,
        wire(node.url) as client,
    ):
        async with client.session.post(
            "/v1/chat/completions", json={"model": "a", "messages": HI, "stream": True}
        ) as response:
            first = await response.content.readuntil(b"\n\n")
            assert await client.lifecycle("unload", "a") == "unloaded"
            rest = first + await response.content.read()
        seen = frames(rest.decode())
        assert seen
        assert "[DONE]" not in seen
        assert not any('"finish_reason":"' in frame for frame in seen)
        assert node.stats.cut == 1


async def test_unload_fails_a_whole_answer():
    async with ScriptedNode(["a"], first_token_s=5) as node, wire(node.url) as client:
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(client.chat("a"))
            await asyncio.sleep(0.05)
            await client.lifecycle("unload", "a")
        reply = asked.result()
        assert reply.status == 500
        assert reply.json == {"message": "No response received from the model."}


async def test_request_for_an_unloaded_model_loads_it():
    async with (
        ScriptedNode(["a"], unloaded=["a"], load_s=0.3) as node,
        wire(node.url) as client,
    ):
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(client.chat("a"))
            while not node.stats.loading:
                await asyncio.sleep(0.01)
            second = await client.chat("a")
        assert first.result().status == 200
        assert second.status == 500
        assert second.json == {"message": "model `a` is being reloaded"}
        assert node.stats.loads["a"] == 1


async def test_request_whose_load_fails_is_a_500():
    async with ScriptedNode(["a"], unloaded=["a"], load_fail="boom") as node:
        async with wire(node.url) as client:
            reply = await client.chat("a")
        assert reply.status == 500
        assert reply.json == {"message": "failed to reload model: boom"}


async def default_status(client: Wire) -> int:
    return (await client.chat("default")).status


async def test_default_moves_goes_and_never_comes_back():
    async with ScriptedNode(["a", "b"]) as node, wire(node.url) as client:
        assert (await client.chat("default")).json["model"] == "a"
        await client.lifecycle("unload", "a")
        assert (await client.chat("default")).json["model"] == "b"
        await client.lifecycle("unload", "b")
        assert await default_status(client) == 500
        assert await client.lifecycle("reload", "a") == "loaded"
        reply = await client.chat("default")
        assert reply.status == 500
        assert reply.json == {"message": "engine state lock is poisoned"}


async def test_old_node_with_several_models_destroys_one_on_unload():
    async with (
        ScriptedNode(["a", "b"], profile="v0.9.0", info_delay_s=0) as node,
        wire(node.url) as client,
    ):
        free_mib = await client.free_mib()
        assert await client.lifecycle("unload", "a") == "no_loader_config"
        assert await client.lifecycle("status", "a") == "not_found"
        assert [row[0] for row in await client.listing()] == ["default", "b"]
        assert await client.free_mib() == free_mib
        assert await default_status(client) == 500


@pytest.mark.parametrize("profile", ["v0.8.1", "v0.9.0"])
async def test_an_old_node_loses_even_its_only_model(profile: str):
    async with ScriptedNode(["a"], profile=profile) as node, wire(node.url) as client:
        assert await client.lifecycle("unload", "a") == "no_loader_config"
        assert await client.lifecycle("status", "a") == "not_found"
        assert (await client.chat("a")).json == {"message": 'ModelNotFound("a")'}
        assert await client.lifecycle("reload", "a") == "not_found"
        assert await client.lifecycle("status", "a") == "reloading"


async def test_loads_of_several_models_run_side_by_side():
    models = ["a", "b", "c"]
    async with ScriptedNode(models, unloaded=models, load_s={"a": 0.3, "b": 0.3}) as node:
        async with wire(node.url) as client, asyncio.TaskGroup() as tasks:
            for model in models:
                tasks.create_task(client.lifecycle("reload", model))
        assert node.stats.max_loading >= 2
        assert node.stats.loading == 0


async def answered(base: str, path: str) -> str:
    """What a connection of its own gets."""
    async with wire(base) as client:
        return (await client.get(path)).text


async def test_a_reload_of_a_quiet_node_may_silence_it_until_the_load_ends():
    node = ScriptedNode(["a", "b"], unloaded=["b"], load_s=0.5, silent_reload_share=1.0)
    async with node, wire(node.url) as kept, asyncio.TaskGroup() as tasks:
        await kept.get("/health")
        load = tasks.create_task(kept.lifecycle("reload", "b"))
        while node.stats.loading == 0:
            await asyncio.sleep(0.01)
        fresh = tasks.create_task(answered(node.url, "/health"))
        used = tasks.create_task(kept.get("/v1/models"))
        ended = await asyncio.wait({load, fresh, used}, return_when=asyncio.FIRST_COMPLETED)
        assert ended[0], "one of them"
        assert node.stats.loading == 0, "nobody was answered before the load had ended"
        assert (await load, await fresh) == ("loaded", "OK")
        assert (await used).status == 200
        assert await answered(node.url, "/health") == "OK"


@pytest.mark.parametrize("by", ["a request", "reload on a busy node", "reload, share 0"])
async def test_other_loads_leave_the_node_answering(by):
    share = 0.0 if by == "reload, share 0" else 1.0
    knobs = {"load_s": 0.4, "silent_reload_share": share, "token_interval_s": 0.02}
    async with (
        ScriptedNode(["a", "b"], unloaded=["b"], **knobs) as node,
        wire(node.url) as client,
        asyncio.TaskGroup() as tasks,
    ):
        if by == "reload on a busy node":
            tasks.create_task(client.chat("a", max_tokens=40))
            while not node.stats.in_flight["a"]:
                await asyncio.sleep(0.01)
        load: asyncio.Task[object]
        if by == "a request":
            load = tasks.create_task(client.chat("b"))
        else:
            load = tasks.create_task(client.lifecycle("reload", "b"))
        while node.stats.loading == 0:
            await asyncio.sleep(0.01)
        assert await answered(node.url, "/health") == "OK"
        assert node.stats.loading == 1, "the answer came while it loads"
        await load


async def test_a_silent_node_can_be_stopped():
    node = ScriptedNode(["a", "b"], unloaded=["b"], load_s=30.0, silent_reload_share=1.0)
    await node.start()

    async def stop() -> None:
        while node.stats.loading == 0:
            await asyncio.sleep(0.01)
        await node.stop()

    async with wire(node.url) as client, asyncio.TaskGroup() as tasks:
        tasks.create_task(stop())
        with pytest.raises(aiohttp.ClientError):
            await client.lifecycle("reload", "b")
