"""Nodes that fail, refuse, fall silent, restart or poison a model, and who notices when."""

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cortex.core.health import Pauses
from cortex.devnode.scripted import ScriptedNode
from cortex.fleet.waits import Waits
from tests.fleet.conftest import apart, held, model_view, node_view, polls
from tests.gateway.conftest import scripted
from tests.running import Running, running, until

BROKEN = {"status": 500, "message": "CUDA_ERROR_ILLEGAL_ADDRESS", "times": None}
RARE_POLLS = "[polling]\ninterval_s = 60\ntimeout_s = 1.0"


async def health_is(gateway: Running, node: str, *wanted: str) -> None:
    async def so() -> bool:
        return (await node_view(gateway, node))["health"] in wanted

    await until(so, f"{node} to be {' or '.join(wanted)}")


async def kinds(gateway: Running, node: str) -> list[str]:
    """Of all the events of a node since its first."""
    return [row["kind"] for row in await gateway.events(node=node)][1:]


async def test_three_failures_open_the_breaker_and_no_client_notices(tmp_path: Path) -> None:
    async with (
        scripted(["a"], http_error=BROKEN) as broken,
        scripted(["a"]) as good,
        running(tmp_path, [broken, good]) as gateway,
    ):
        for _ in range(6):
            reply = await gateway.chat("a", **apart())
            assert (reply.status, reply.headers["x-cortex-node"]) == (200, "n1")
        assert (broken.stats.injected, good.stats.started) == (3, 6)
        rows = (await gateway.history())[::-1]
        assert [row["outcome"] for row in rows] == ["ok"] * 6
        assert [row["attempts"] for row in rows] == [2, 2, 2, 1, 1, 1]
        view = await model_view(gateway, "n0", "a")
        assert view["breaker_open"] is True
        assert "CUDA_ERROR_ILLEGAL_ADDRESS" in view["breaker_reason"]
        [opened] = await gateway.events(kind="breaker_open")
        assert (opened["node"], opened["model"]) == ("n0", "a")
        assert opened["detail"] == {"failures": 3, "open_s": 5.0}
        assert (await node_view(gateway, "n0"))["health"] == "up"


async def test_a_success_in_between_keeps_the_breaker_closed(tmp_path: Path) -> None:
    async with scripted(["a"]) as node, running(tmp_path, [node]) as gateway:
        for _ in range(3):
            await node.set(http_error=BROKEN | {"times": 2})
            replies = [(await gateway.chat("a")).status for _ in range(3)]
            assert replies == [502, 502, 200]
        assert await gateway.events(kind="breaker_open") == []


async def test_after_a_while_one_request_tries_and_its_success_closes_the_breaker(
    tmp_path: Path,
) -> None:
    brief = Waits(breaker=Pauses(0.4))
    async with (
        scripted(["a"], http_error=BROKEN) as node,
        running(tmp_path, [node], waits=brief) as gateway,
    ):
        for _ in range(3):
            assert (await gateway.chat("a")).code == "node_error"
        assert (await gateway.chat("a")).code == "model_failing"

        async def tried() -> bool:
            return (await gateway.chat("a")).code == "node_error"

        await until(tried, "a trial")
        opened = await gateway.events(kind="breaker_open")
        assert [row["detail"]["open_s"] for row in opened] == [0.4, 0.8]
        await node.set(http_error=None)

        async def served() -> bool:
            return (await gateway.chat("a")).status == 200

        await until(served, "the next trial")
        assert not (await model_view(gateway, "n0", "a"))["breaker_open"]
        assert node.stats.injected == 4


async def test_one_hang_of_a_node_counts_once_and_its_end_is_seen(tmp_path: Path) -> None:
    """Ten streams that stand still open the breaker once; a node that answers again is tried."""
    long = Waits(breaker=Pauses(60.0, 600.0))
    async with (
        scripted(["a"], stall_after_chunks=1) as node,
        running(tmp_path, [node], toml="[limits]\nidle_timeout_s = 0.5", waits=long) as gateway,
    ):
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(cut_stream(gateway))
        [opened] = await gateway.events(kind="breaker_open")
        assert opened["detail"] == {"failures": 3, "open_s": 60.0}
        assert (await gateway.chat("a")).code == "model_failing"
        await node.set(stall_after_chunks=None, listing_delay_s=30.0)

        fleet = gateway.services.fleet
        await until(lambda: fleet.node("n0").liveness.missed_polls > 0, "a missed poll")
        assert (await gateway.chat("a")).code in {"model_failing", "no_healthy_node"}
        await node.set(listing_delay_s=0.0)

        async def served() -> bool:
            return (await gateway.chat("a")).status == 200

        await until(served, "the first request after it")


async def cut_stream(gateway: Running) -> None:
    with suppress(aiohttp.ClientPayloadError):
        await gateway.chat("a", stream=True)


async def test_a_mistake_of_the_caller_says_nothing_of_the_node(tmp_path: Path) -> None:
    async with scripted(["a"], context_tokens=4) as node, running(tmp_path, [node]) as gateway:
        long = {"messages": [{"role": "user", "content": "word " * 5000}]}
        for _ in range(4):
            assert 400 <= (await gateway.chat("a", **long)).status < 500
        assert (await gateway.chat("a", max_tokens=1)).status == 200
        assert await gateway.events(kind="breaker_open") == []


async def test_a_refused_connection_makes_a_node_suspect_at_once(tmp_path: Path) -> None:
    async with (
        scripted(["a"]) as one,
        scripted(["a"]) as other,
        # Nobody polls in time: the request itself must notice.
        running(tmp_path, [one, other], toml=RARE_POLLS) as gateway,
    ):
        assert (await gateway.chat("a")).headers["x-cortex-node"] == "n0"
        await one.stop()
        for _ in range(3):
            assert (await gateway.chat("a", **apart())).headers["x-cortex-node"] == "n1"
        rows = (await gateway.history())[::-1]
        assert [row["attempts"] for row in rows] == [1, 2, 1, 1]
        assert [row["outcome"] for row in rows] == ["ok"] * 4
        assert (await kinds(gateway, "n0"))[0] == "node_suspect"
        assert (await node_view(gateway, "n0"))["health"] in {"suspect", "down"}


async def test_with_every_node_down_a_known_model_is_503_and_never_404(tmp_path: Path) -> None:
    async with (
        scripted(["a"]) as one,
        scripted(["a", "b"], unloaded=["b"]) as other,
        running(tmp_path, [one, other]) as gateway,
    ):
        await one.stop()
        await other.stop()
        for node in ("n0", "n1"):
            await health_is(gateway, node, "down")
        for model in ("a", "b"):
            reply = await gateway.chat(model)
            assert (reply.status, reply.code) == (503, "no_healthy_node")
            assert int(reply.headers["Retry-After"]) >= 1
            assert "n1" in reply.json["error"]["message"]
        assert (await gateway.chat("c")).status == 404
        assert (await gateway.get("/health")).json["status"] == "impaired"

        await one.start()
        await health_is(gateway, "n0", "up")
        assert (await gateway.chat("a")).status == 200
        lines = (await gateway.metrics()).splitlines()
        assert {'cortex_node_up{node="n0"} 1.0', 'cortex_node_up{node="n1"} 0.0'} <= set(lines)


async def test_a_model_nobody_knows_is_404_with_names_that_are_near(tmp_path: Path) -> None:
    async with scripted(["qwen-large"]) as node, running(tmp_path, [node]) as gateway:
        reply = await gateway.chat("qwen-larg")
        assert (reply.status, reply.code) == (404, "model_not_found")
        assert "did you mean qwen-large?" in reply.json["error"]["message"]
        assert (node.stats.started, dict(node.stats.loads)) == (0, {})


async def test_missed_polls_do_not_take_a_node_out_until_there_are_enough(
    tmp_path: Path,
) -> None:
    toml = "[polling]\ninterval_s = 0.1\ntimeout_s = 0.1\nfailures_before_down = 8"
    async with scripted(["a"]) as node, running(tmp_path, [node], toml=toml) as gateway:
        await node.set(listing_delay_s=5.0)

        async def missed() -> bool:
            return await polls(gateway, "n0", "failed") >= 1

        await until(missed, "a missed poll")
        assert (await gateway.chat("a")).status == 200
        assert (await node_view(gateway, "n0"))["health"] == "up"
        assert await gateway.events(kind="node_down") == []

        await health_is(gateway, "n0", "down")
        assert await polls(gateway, "n0", "failed") >= 8
        [down] = await gateway.events(kind="node_down")
        assert (down["node"], down["reason"]) == ("n0", "no answer in 0.1 s")
        await node.set(listing_delay_s=0.0)
        await health_is(gateway, "n0", "up")
        assert (await gateway.chat("a")).status == 200


async def test_one_missed_poll_is_forgiven(tmp_path: Path) -> None:
    toml = "[polling]\ninterval_s = 0.2\ntimeout_s = 0.25"
    async with scripted(["a"]) as node, running(tmp_path, [node], toml=toml) as gateway:
        for _ in range(4):
            before = await polls(gateway, "n0", "failed"), await polls(gateway, "n0", "ok")
            await node.set(listing_delay_s=3.0)

            async def one_more(index: int, outcome: str, counts: Any = before) -> bool:
                return await polls(gateway, "n0", outcome) > counts[index]

            await until(lambda: one_more(0, "failed"), "a missed poll")
            await node.set(listing_delay_s=0.0)
            await until(lambda: one_more(1, "ok"), "an answered poll")
        assert await kinds(gateway, "n0") == []


async def test_a_restart_is_noticed_and_touches_no_request_of_another_node(
    tmp_path: Path,
) -> None:
    async with (
        scripted(["a"]) as one,
        scripted(["b"], endless=True, token_interval_s=0.05) as other,
        running(tmp_path, [one, other]) as gateway,
        held(gateway, "b"),
    ):
        await one.stop()
        await one.start()

        async def noticed() -> bool:
            return bool(await gateway.events(kind="node_restarted"))

        await until(noticed, "the restart")
        [event] = await gateway.events(kind="node_restarted")
        assert (event["node"], event["reason"]) == ("n0", "its process start changed")
        assert (await node_view(gateway, "n1"))["in_flight"] == 1
        assert other.stats.streams_stopped == 0
        assert (await gateway.chat("a")).status == 200
        assert await kinds(gateway, "n1") == []


async def test_a_restart_frees_what_was_in_flight_on_the_node(tmp_path: Path) -> None:
    async with (
        scripted(["a"], endless=True, token_interval_s=0.02) as node,
        running(tmp_path, [node]) as gateway,
        held(gateway, "a", 3),
    ):
        await node.stop()
        await node.start()

        async def freed() -> bool:
            return bool((await node_view(gateway, "n0"))["in_flight"] == 0)

        await until(freed, "the leases to come back")
        rows = await gateway.history()
        assert [row["outcome"] for row in rows] == ["error"] * 3


async def poisoned(node: ScriptedNode, gateway: Running) -> None:
    """Reload the loaded model `a`, behind the gateway's back: its node lists it twice for ever."""
    await node.residency.reload("a")

    async def seen() -> bool:
        return bool((await model_view(gateway, "n0", "a"))["status"] == "wedged")

    await until(seen, "a poll")


async def test_a_model_listed_twice_is_wedged_and_still_served(tmp_path: Path) -> None:
    async with scripted(["a"]) as node, running(tmp_path, [node]) as gateway:
        await poisoned(node, gateway)
        [event] = await gateway.events(kind="wedged")
        assert (event["node"], event["model"]) == ("n0", "a")
        assert event["reason"] == "listed twice by its node"
        reasons = (await gateway.get("/health")).json["reasons"]
        assert reasons == ["model a is wedged on n0: restart the node to load it again"]
        assert (await gateway.chat("a")).status == 200
        catalogue = (await gateway.get("/v1/models")).json["data"]
        assert [entry["id"] for entry in catalogue] == ["a"]


async def test_a_wedged_model_that_is_gone_is_loaded_elsewhere_until_the_node_restarts(
    tmp_path: Path,
) -> None:
    async with (
        scripted(["a"]) as one,
        scripted(["a"], unloaded=["a"]) as other,
        running(tmp_path, [one, other]) as gateway,
    ):
        await poisoned(one, gateway)
        await one.residency.unload("a")
        reply = await gateway.chat("a")
        assert (reply.status, reply.headers["x-cortex-node"]) == (200, "n1")
        assert dict(one.stats.loads) == {}
        assert dict(other.stats.loads) == {"a": 1}

        await one.stop()
        await one.start()

        async def mended() -> bool:
            return bool((await model_view(gateway, "n0", "a"))["status"] == "loaded")

        await until(mended, "the restart to mend it")


async def test_a_crash_under_load_loses_no_request_that_has_not_begun_to_answer(
    tmp_path: Path,
) -> None:
    async with (
        scripted(["a"], answer_delay_s=0.3) as one,
        scripted(["a"], answer_delay_s=0.3) as other,
        running(tmp_path, [one, other]) as gateway,
        asyncio.TaskGroup() as group,
    ):
        tasks = [
            group.create_task(gateway.chat("a", **apart()), name=f"chat {n}") for n in range(20)
        ]
        await until(
            lambda: one.stats.started + other.stats.started == 20, "all to be under way"
        )
        one.crash()
        assert [(await task).status for task in tasks] == [200] * 20
        assert {(await task).headers["x-cortex-node"] for task in tasks} == {"n1"}


@pytest.mark.parametrize("before", [True, False])
async def test_a_load_that_never_ends_is_wedged_and_blocks_nothing_else(
    tmp_path: Path, before: bool
) -> None:
    # A reload of an id that the node does not have: listed as reloading for ever. Where that was
    # before the gateway came, only time tells it from a load.
    limits = f"[limits]\nload_timeout_s = {0.6 if before else 60}\n"
    async with scripted(["a", "b"], unloaded=["b"]) as node, AsyncExitStack() as stack:
        if before:
            await node.residency.reload("typo")
        gateway = await stack.enter_async_context(running(tmp_path, [node], toml=limits))
        if not before:
            await node.residency.reload("typo")

        async def seen(status: str) -> bool:
            models = (await node_view(gateway, "n0"))["models"]
            return {m["model"]: m["status"] for m in models}.get("typo") == status

        if before:
            await until(lambda: seen("loading"), "the phantom")
        await until(lambda: seen("wedged"), "the end of patience")
        [event] = await gateway.events(kind="wedged")
        why = "reloading for 0.6 s" if before else "reloading, and no model of its node"
        assert (event["model"], event["reason"]) == ("typo", why)
        health = (await gateway.get("/health")).json
        assert health["status"] == ("impaired" if before else "degraded")
        assert health["reasons"][-1] == (
            "model typo is wedged on n0: restart the node to load it again"
            if before
            else "n0 was told to reload typo, which is no model of it, and lists it until it restarts"
        )
        [shown] = (await gateway.status())["nodes"]
        assert shown["defrag_due"] == before
        reply = await gateway.chat("typo")
        assert (reply.status, reply.code) == (503, "not_loadable")
        assert "only a restart of the node clears it" in reply.json["error"]["message"]
        explained = (await gateway.get("/cortex/v1/explain?model=typo")).json
        assert explained["considered"][0]["verdict"] == "wedged"
        # Nothing else waits for it.
        assert (await gateway.chat("b", max_tokens=1)).status == 200
        unload = await gateway.post("/cortex/v1/models/unload", {"model": "a"})
        assert unload.status == 200


async def test_a_load_that_ends_late_after_all_is_believed(tmp_path: Path) -> None:
    limits = "[limits]\nload_timeout_s = 0.4\n"
    async with (
        scripted(["a"], unloaded=["a"], load_s=1.5) as node,
        running(tmp_path, [node], toml=limits) as gateway,
    ):
        assert (await gateway.chat("a")).status == 503

        async def seen(status: str) -> bool:
            return bool((await model_view(gateway, "n0", "a"))["status"] == status)

        await until(lambda: seen("wedged"), "a poll after the deadline")
        await until(lambda: seen("loaded"), "the end of the load")
        assert (await gateway.chat("a")).status == 200
        assert dict(node.stats.loads) == {"a": 1}
        assert (await gateway.get("/health")).json["status"] == "ok"


async def test_a_wedged_model_is_unloaded_only_by_force(tmp_path: Path) -> None:
    async with scripted(["a"]) as node, running(tmp_path, [node]) as gateway:
        await poisoned(node, gateway)
        for path, body in (
            ("/cortex/v1/models/unload", {"model": "a"}),
            ("/v1/models/unload", {"model_id": "a"}),
        ):
            refused = await gateway.post(path, body)
            assert (refused.status, refused.code) == (409, "not_unloadable")
            assert "only a restart of the node brings it back" in refused.text
        assert node.stats.unload_posts == {}
        forced = {"model": "a", "force": True}
        assert (await gateway.post("/cortex/v1/models/unload", forced)).status == 200
        assert node.stats.unload_posts == {"a": 1}
        # It says `reloading` from now on, and is none the less told for what it is.
        before = await polls(gateway, "n0", "ok")

        async def polled() -> bool:
            return await polls(gateway, "n0", "ok") > before + 1

        await until(polled, "another poll")
        reply = await gateway.chat("a")
        assert (reply.status, reply.code) == (503, "not_loadable")


async def test_what_a_node_has_not_begun_to_answer_leaves_it_when_it_is_found_down(
    tmp_path: Path,
) -> None:
    polling = "[polling]\ninterval_s = 0.2\ntimeout_s = 0.3\n[limits]\nidle_timeout_s = 50\n"
    async with (
        scripted(["a"]) as one,
        scripted(["a"]) as other,
        running(tmp_path, [one, other], toml=polling) as gateway,
        asyncio.TaskGroup() as group,
    ):
        await one.set(stall=True, listing_delay_s=60.0)
        waiting = [
            group.create_task(gateway.chat("a", **apart(stream=stream)), name=f"{stream}")
            for stream in (False, True, False, True)
        ]
        await until(lambda: one.stats.started > 0, "a request at the node that sleeps")
        replies = [await task for task in waiting]
        assert {(r.status, r.headers["x-cortex-node"]) for r in replies} == {(200, "n1")}
        assert [row["outcome"] for row in await gateway.history()] == ["ok"] * 4
        assert (await node_view(gateway, "n0"))["health"] == "down"
        view = await model_view(gateway, "n0", "a")
        assert (view["breaker_open"], view["in_flight"]) == (False, 0)
