"""Loads on demand: one each, never of a loaded model, and an honest end when they fail."""

import asyncio
import time
from pathlib import Path

import pytest

from cortex.core.health import Pauses
from cortex.fleet.waits import Waits
from tests.fleet.conftest import apart, chats, model_view, polls
from tests.gateway.conftest import scripted
from tests.running import running, until

NO_POLLS = "[polling]\ninterval_s = 60\ntimeout_s = 1.0"
"""What cortex believes between polls is put to the test."""


async def test_twenty_requests_at_once_make_one_load_and_all_succeed(tmp_path: Path) -> None:
    async with (
        scripted(["a"], unloaded=["a"], load_s=0.3) as node,
        running(tmp_path, [node]) as gateway,
    ):
        replies = await chats(gateway, "a", 20)
        assert [reply.status for reply in replies] == [200] * 20
        assert {reply.headers["x-cortex-cold-start"] for reply in replies} == {"true"}
        assert dict(node.stats.loads) == {"a": 1}
        assert (await gateway.chat("a")).headers["x-cortex-cold-start"] == "false"

        kinds = [(row["kind"], row["node"]) for row in await gateway.events(model="a")]
        assert kinds == [("load", "n0"), ("loaded", "n0"), ("sized", "n0")]
        view = await model_view(gateway, "n0", "a")
        assert (view["status"], view["loads"], view["in_flight"]) == ("loaded", 1, 0)
        assert 0.3 <= view["load_s"] < 5
        rows = await gateway.history()
        assert [row["cold_start"] for row in rows] == [False] + [True] * 20
        assert all(row["load_wait_ms"] > 100 for row in rows[1:])


async def test_two_nodes_that_could_load_it_make_one_load_between_them(tmp_path: Path) -> None:
    async with (
        scripted(["a"], unloaded=["a"], load_s=0.2) as one,
        scripted(["a"], unloaded=["a"], load_s=0.2) as other,
        running(tmp_path, [one, other]) as gateway,
    ):
        assert {reply.status for reply in await chats(gateway, "a", 20)} == {200}
        assert sum((one.stats.loads + other.stats.loads).values()) == 1


async def test_one_node_loads_one_model_at_a_time(tmp_path: Path) -> None:
    async with (
        scripted(["a", "b"], unloaded=["a", "b"], load_s=0.3) as node,
        running(tmp_path, [node]) as gateway,
    ):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(gateway.chat(m), name=m) for m in ("a", "b")]
        assert [task.result().status for task in tasks] == [200, 200]
        assert dict(node.stats.loads) == {"a": 1, "b": 1}
        assert node.stats.max_loading == 1


async def test_a_model_that_someone_else_loaded_is_not_loaded_again(tmp_path: Path) -> None:
    async with (
        scripted(["a"], unloaded=["a"]) as node,
        running(tmp_path, [node], toml=NO_POLLS) as gateway,
    ):
        await node.residency.reload("a")
        assert (await gateway.chat("a")).status == 200
        assert dict(node.stats.requests) == {"a": 1}
        assert node.stats.loads["a"] == 1
        assert (await model_view(gateway, "n0", "a"))["loads"] == 0


async def test_a_load_that_someone_else_began_is_waited_for(tmp_path: Path) -> None:
    async with (
        scripted(["a"], unloaded=["a"], load_s=0.6) as node,
        running(tmp_path, [node], toml=NO_POLLS) as gateway,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(node.residency.reload("a"), name="someone else")
        await until(lambda: "a" in node.residency.reloading, "the other's load")
        assert (await gateway.chat("a")).status == 200
        assert dict(node.stats.requests) == {"a": 1}


async def test_a_loaded_model_is_never_reloaded_however_much_it_is_used(tmp_path: Path) -> None:
    async with (
        scripted(["a"], load_s=0.1) as node,
        running(tmp_path, [node]) as gateway,
    ):
        before = await polls(gateway, "n0", "ok")
        for _ in range(5):
            assert {reply.status for reply in await chats(gateway, "a", 10)} == {200}

        async def polled_again() -> bool:
            return await polls(gateway, "n0", "ok") > before + 1

        await until(polled_again, "two more polls")
        assert dict(node.stats.loads) == dict(node.stats.status_posts) == {}


async def test_a_model_unloaded_behind_our_back_is_loaded_again(tmp_path: Path) -> None:
    async with (
        scripted(["a"]) as node,
        running(tmp_path, [node]) as gateway,
    ):
        await node.residency.unload("a")

        async def seen() -> bool:
            return bool((await model_view(gateway, "n0", "a"))["status"] == "unloaded")

        await until(seen, "a poll")
        assert (await gateway.chat("a")).headers["x-cortex-cold-start"] == "true"
        assert dict(node.stats.loads) == {"a": 1}


async def test_a_failed_load_opens_the_breaker_and_says_why(tmp_path: Path) -> None:
    async with (
        scripted(["a", "b"], unloaded=["a"], load_fail={"a": "weights are missing"}) as node,
        running(tmp_path, [node]) as gateway,
    ):
        replies = await chats(gateway, "a", 5)
        assert {(reply.status, reply.code) for reply in replies} == {(503, "model_failing")}
        assert all(1 <= int(reply.headers["Retry-After"]) <= 5 for reply in replies)
        assert dict(node.stats.loads) == {"a": 1}, "a failed load is not tried at once"

        events = {row["kind"]: row for row in await gateway.events(model="a")}
        assert events["load_failed"]["reason"] == "weights are missing"
        assert events["breaker_open"]["reason"] == "weights are missing"
        view = await model_view(gateway, "n0", "a")
        assert (view["breaker_open"], view["breaker_reason"]) == (True, "weights are missing")
        assert (await gateway.chat("b")).status == 200
        lines = (await gateway.metrics()).splitlines()
        assert 'cortex_model_load_failures_total{model="a",node="n0"} 1.0' in lines


async def test_a_failed_load_is_tried_again_when_the_breaker_lets_it(tmp_path: Path) -> None:
    async with (
        scripted(["a"], unloaded=["a"], load_fail="no luck", load_fail_times=1) as node,
        running(tmp_path, [node], waits=Waits(breaker=Pauses(0.2))) as gateway,
    ):
        assert (await gateway.chat("a")).status == 503

        async def served() -> bool:
            return (await gateway.chat("a")).status == 200

        await until(served, "the second load")
        assert dict(node.stats.loads) == {"a": 2}
        assert not (await model_view(gateway, "n0", "a"))["breaker_open"]


async def test_a_model_that_cannot_be_loaded_does_not_take_anothers_place_at_every_trial(
    tmp_path: Path,
) -> None:
    brief = Waits(breaker=Pauses(0.05, 0.05))
    fails = {"load_fail": {"a": "no such file"}, "vram_total_mib": 1500}
    sizes = '[models."a"]\nvram_mb = 1024\n[models."b"]\nvram_mb = 1024\n'
    async with (
        scripted(["a", "b"], unloaded=["a"], **fails) as node,
        running(tmp_path, [node], toml=sizes, waits=brief) as gateway,
    ):
        for tried in (1, 2):

            async def trial(wanted: int = tried) -> bool:
                assert (await gateway.chat("a")).status == 503
                return node.stats.loads["a"] == wanted

            await until(trial, "another trial")
            assert (await gateway.chat("b")).status == 200
        for _ in range(5):
            reply = await gateway.chat("a")
            assert (reply.status, reply.code) == (503, "model_failing")
            await asyncio.sleep(0.06)
        assert dict(node.stats.unload_posts) == {"b": 2}
        explained = (await gateway.get("/cortex/v1/explain?model=a")).json
        assert "nothing is unloaded for another try in" in explained["considered"][0]["detail"]
        # An operator may insist, and where there is room it is tried all the same.
        load = await gateway.post("/cortex/v1/models/load", {"model": "a"})
        assert load.status == 503
        assert dict(node.stats.unload_posts) == {"b": 3}
        await node.set(load_fail=None)

        async def served() -> bool:
            return (await gateway.chat("a")).status == 200

        await until(served, "a trial in the room that is there")


async def test_where_one_node_fails_to_load_another_does(tmp_path: Path) -> None:
    async with (
        scripted(["a"], unloaded=["a"], load_fail="no luck") as one,
        scripted(["a"], unloaded=["a"]) as other,
        running(tmp_path, [one, other]) as gateway,
    ):
        replies = await chats(gateway, "a", 10)
        assert {reply.status for reply in replies} == {200}
        assert {reply.headers["x-cortex-node"] for reply in replies} == {"n1"}
        assert [dict(n.stats.loads) for n in (one, other)] == [{"a": 1}, {"a": 1}]
        assert {row["outcome"] for row in await gateway.history()} == {"ok"}


async def test_a_load_that_takes_too_long_is_given_up_and_never_repeated(
    tmp_path: Path,
) -> None:
    async with (
        scripted(["a"], unloaded=["a"], load_s=1.2) as node,
        running(tmp_path, [node], toml="[limits]\nload_timeout_s = 0.4") as gateway,
    ):
        began_s = time.monotonic()
        reply = await gateway.chat("a")
        assert 0.4 <= time.monotonic() - began_s < 5
        assert reply.status in {503, 504}
        assert int(reply.headers["Retry-After"]) >= 1
        assert [row["reason"] for row in await gateway.events(kind="load_failed")] == [
            "not loaded within 0.4 s"
        ]

        # The node goes on by itself, and the next poll to see the model finds it loaded.
        async def loaded() -> bool:
            return bool((await model_view(gateway, "n0", "a"))["status"] == "loaded")

        await until(loaded, "the node to finish")
        assert dict(node.stats.loads) == {"a": 1}


async def test_a_load_may_take_longer_than_anybody_waits_for_a_slot(tmp_path: Path) -> None:
    limits = "[limits]\nqueue_timeout_s = 0.3\nmax_in_flight_per_model = 1"
    async with (
        scripted(["a"], unloaded=["a"], load_s=1.2) as node,
        running(tmp_path, [node], toml=limits) as gateway,
    ):
        replies = await chats(gateway, "a", 3)
        assert [reply.status for reply in replies] == [200] * 3
        assert dict(node.stats.loads) == {"a": 1}


async def test_after_a_load_the_patience_for_a_slot_goes_on_where_it_was(
    tmp_path: Path,
) -> None:
    limits = "[limits]\nqueue_timeout_s = 0.5\nmax_in_flight_per_model = 1"
    async with (
        scripted(["a"], unloaded=["a"], load_s=1.0, token_interval_s=0.05) as node,
        running(tmp_path, [node], toml=limits) as gateway,
    ):
        replies = await chats(gateway, "a", 3, max_tokens=60)
        assert sorted(reply.status for reply in replies) == [200, 503, 503]
        rows = await gateway.history()
        [served] = [row for row in rows if row["outcome"] == "ok"]
        late = [row["queue_ms"] for row in rows if row["error_code"] == "queue_timeout"]
        # The others waited for the load, and then half a second; not for the end of the one.
        assert all(1500 <= queue_ms < served["duration_ms"] for queue_ms in late), rows
        assert len(late) == 2


async def test_a_load_leaves_the_node_answering(tmp_path: Path) -> None:
    polling = "[polling]\ninterval_s = 0.1\ntimeout_s = 0.3\n"
    async with (
        scripted(["a", "b"], unloaded=["a"], load_s=1.5, silent_reload_share=1.0) as node,
        running(tmp_path, [node], toml=polling) as gateway,
        asyncio.TaskGroup() as group,
    ):
        waiting = group.create_task(gateway.chat("a"), name="cold")
        await until(lambda: "a" in node.residency.reloading, "the load to begin")
        assert (await gateway.chat("b")).status == 200
        assert not waiting.done()
        assert (await waiting).status == 200
        assert dict(node.stats.reload_posts) == {}
        assert await polls(gateway, "n0", "failed") == 0


async def test_a_node_that_falls_silent_while_it_loads_for_us_is_not_down(
    tmp_path: Path,
) -> None:
    # It loads nothing for a request, so it must be told to, and then it reads nothing.
    polling = "[polling]\ninterval_s = 0.1\ntimeout_s = 0.1\n"
    old = {"requests_load": False, "silent_reload_share": 1.0, "load_s": 1.5}
    async with (
        scripted(["a", "b"], unloaded=["a"], **old) as node,
        running(tmp_path, [node], toml=polling) as gateway,
        asyncio.TaskGroup() as group,
    ):
        cold = [
            group.create_task(gateway.chat("a", **apart(stream=stream)), name=f"cold {stream}")
            for stream in (False, True)
        ]
        await until(lambda: "a" in node.residency.reloading, "the load to begin")
        other = group.create_task(gateway.chat("b", **apart()), name="resident")

        async def missed() -> bool:
            return await polls(gateway, "n0", "failed") >= 4

        await until(missed, "more missed polls than a node may have")
        assert not other.done()
        assert [(await reply).status for reply in (*cold, other)] == [200] * 3
        assert dict(node.stats.reload_posts) == dict(node.stats.loads) == {"a": 1}
        assert await gateway.events(kind="node_down") == []


async def test_a_lost_answer_is_followed_by_status_and_not_by_a_second_load(
    tmp_path: Path,
) -> None:
    async with (
        scripted(["a"], unloaded=["a"], load_s=0.8) as node,
        running(tmp_path, [node]) as gateway,
        asyncio.TaskGroup() as group,
    ):
        waiting = group.create_task(gateway.chat("a"), name="chat")
        await until(lambda: "a" in node.residency.reloading, "the load to begin")
        node.close_port()
        node._sever()
        await node.open_port()
        assert (await waiting).status == 200
        assert dict(node.stats.loads) == {"a": 1}
        assert node.stats.status_posts["a"] >= 2


async def test_a_node_that_restarts_in_the_middle_of_a_load_gets_a_new_one(
    tmp_path: Path,
) -> None:
    async with (
        scripted(["a"], unloaded=["a"], load_s=0.8) as node,
        running(tmp_path, [node]) as gateway,
        asyncio.TaskGroup() as group,
    ):
        waiting = group.create_task(gateway.chat("a"), name="chat")
        await until(lambda: "a" in node.residency.reloading, "the load to begin")
        await node.stop()
        await node.start()
        reply = await waiting
        # Either answer is honest; none at all, or a model stuck in loading, is not.
        assert reply.status in {200, 503}, reply.text

        async def served() -> bool:
            return (await gateway.chat("a")).status == 200

        await until(served, "the model after the restart", 15)
        assert node.stats.max_loading == 1


@pytest.mark.parametrize("restart", [False, True], ids=["one load", "a load and its successor"])
async def test_a_gateway_ends_at_once_though_a_load_is_under_way(
    tmp_path: Path, restart: bool
) -> None:
    async with (
        scripted(["a"], unloaded=["a"], load_s=60) as node,
        asyncio.TaskGroup() as group,
    ):
        async with running(tmp_path, [node]) as gateway:
            waiting = group.create_task(gateway.chat("a"), name="chat")
            await until(lambda: node.stats.loads["a"] == 1, "the load to begin")
            if restart:
                await node.stop()
                await node.start()
                await until(lambda: node.stats.loads["a"] == 2, "the load after the restart")
            began_s = time.monotonic()
            gateway.daemon.stop()
            reply = await waiting
            assert (reply.status, reply.code) == (503, "draining")
        assert time.monotonic() - began_s < 3


async def test_a_load_that_another_request_to_the_node_began_is_waited_for(
    tmp_path: Path,
) -> None:
    async with (
        scripted(["a", "b"], load_s=0.8) as node,
        running(tmp_path, [node], toml=NO_POLLS) as gateway,
    ):
        # Behind the gateway's back: the first request has the node load it, the others are refused.
        await node.residency.unload("a")
        replies = await chats(gateway, "a", 6)
        assert [reply.status for reply in replies] == [200] * 6
        assert dict(node.stats.loads) == {"a": 1}
        assert await gateway.events(kind="breaker_open") == []


async def test_a_model_that_does_not_chat_is_loaded_by_what_it_does(tmp_path: Path) -> None:
    async with (
        scripted(["e"], unloaded=["e"], category="embedding") as node,
        running(tmp_path, [node]) as gateway,
    ):
        reply = await gateway.post("/v1/embeddings", {"model": "e", "input": "x"})
        assert reply.status == 200
        assert dict(node.stats.loads) == {"e": 1}
        assert node.stats.reload_posts == {}
