"""System info, metrics, profiles, knobs, and the node as a process (contract §6, §8)."""

import asyncio
import gc
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from cortex.devnode.__main__ import sized
from cortex.devnode.profile import PROFILES
from cortex.devnode.scripted import ScriptedNode
from tests.devnode.wire import HI, Wire, wire


async def test_system_info_is_slow_and_states_the_version():
    async with ScriptedNode(["a"], info_delay_s=0.1) as node, wire(node.url) as client:
        began_s = asyncio.get_running_loop().time()
        info = (await client.get("/v1/system/info")).json
        assert asyncio.get_running_loop().time() - began_s >= 0.1
    assert info["build"]["version"] == "0.9.2"
    assert info["build"]["git_revision"] == PROFILES["head"].git_revision
    assert [device["kind"] for device in info["devices"]] == ["cpu", "cuda"]
    assert info["memory"]["total_bytes"] > 0


@pytest.mark.parametrize("name", sorted(PROFILES))
async def test_every_profile_serves_chat_and_says_its_version(name):
    async with (
        ScriptedNode(["a"], profile=name, info_delay_s=0) as node,
        wire(node.url) as client,
    ):
        assert (await client.chat("a")).status == 200
        info = await client.get("/v1/system/info")
        if PROFILES[name].has_system_info:
            assert info.json["build"]["version"] == PROFILES[name].version
        else:
            assert info.status == 404
        has_metrics = PROFILES[name].has_messages
        assert (await client.get("/metrics")).status == (200 if has_metrics else 404)


async def test_request_id_is_echoed_or_made():
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        reply = await client.get("/health", headers={"x-request-id": "mine"})
        assert reply.headers["X-Request-ID"] == "mine"
        assert (await client.get("/health")).headers["X-Request-ID"].startswith("req_")
    async with ScriptedNode(["a"], profile="v0.8.4") as node, wire(node.url) as client:
        assert "X-Request-ID" not in (await client.get("/health")).headers


async def test_metrics_have_what_streams_took():
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        await client.chat("a", stream=True)
        text = (await client.get("/metrics")).text
        labels = '{method="POST",model="a",path="/v1/chat/completions"}'
        assert f"mistralrs_time_to_first_token_seconds_count{labels} 1.0" in text
        assert f"mistralrs_inter_token_latency_seconds_count{labels} 3.0" in text


async def test_metrics_count_in_flight_and_go_stale():
    async with ScriptedNode(["a"], first_token_s=0.3) as node, wire(node.url) as client:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(client.chat("a"))
            await asyncio.sleep(0.05)
            text = (await client.get("/metrics")).text
            path = "/v1/chat/completions"
            now = f'http_requests_in_flight{{method="POST",model="a",path="{path}"}}'
            assert f"{now} 1.0" in text
            assert "mistralrs_sequences_running 1" in text
            await client.lifecycle("unload", "a")
        text = (await client.get("/metrics")).text
        assert f"{now} 0.0" in text
        assert 'http_requests_in_flight{method="GET",model="none",path="/metrics"} 1.0' in text
        assert (
            f'http_requests_total{{method="POST",model="a",path="{path}",status="500"}}' in text
        )
        assert "mistralrs_sequences_running 1" in text


async def test_knobs_turn_over_http():
    async with ScriptedNode(["a"], tokens=2) as node, wire(node.url) as client:
        reply = await client.post("/_knobs", {"tokens": 5, "load_s": {"a": 1.5}})
        assert (reply.json["tokens"], reply.json["load_s"]) == (5, {"a": 1.5})
        assert (await client.chat("a", max_tokens=None)).json["usage"]["completion_tokens"] == 5
        assert (await client.get("/_knobs")).json["tokens"] == 5
        for wrong in (
            {"nonsense": 1},
            {"tokens": "five"},
            {"stall": 1},
            {"load_s": {"a": "x"}},
        ):
            reply = await client.post("/_knobs", {"tokens": 9} | wrong)
            assert reply.status == 400
        assert node.knobs.tokens == 5
    with pytest.raises(ValueError, match="unknown knob"):
        ScriptedNode(["a"], nonsense=1)


async def test_stats_count_what_was_asked():
    async with ScriptedNode(["a", "b"]) as node, wire(node.url) as client:
        await client.chat("a")
        await client.lifecycle("status", "b")
        await client.lifecycle("unload", "b")
        await client.lifecycle("reload", "b")
        stats = await client.stats()
    assert (stats["started"], stats["finished"], stats["cancelled"]) == (1, 1, 0)
    assert stats["requests"] == {"a": 1}
    for counter in ("status_posts", "unload_posts", "reload_posts", "loads"):
        assert stats[counter] == {"b": 1}
    assert stats["connections"] == 1
    assert stats["loaded"] == ["a", "b"]
    assert stats["devices"][1]["available_bytes"] > 0


async def test_a_job_that_a_stop_overtakes_before_its_first_step_leaves_no_coroutine_behind():
    async with ScriptedNode(["a"], info_delay_s=0) as node:
        await node.set(refuse_s=60.0)
    gc.collect()


async def test_refused_port_opens_again_on_the_same_number():
    async with ScriptedNode(["a"]) as node:
        async with wire(node.url) as client:
            assert (await client.get("/health")).status == 200
            await node.set(refuse=True)
            assert (await client.get("/health")).status == 200
        async with wire(node.url) as client:
            with pytest.raises(aiohttp.ClientConnectionError):
                await client.get("/health")
        await node.set(refuse=False)
        async with wire(node.url) as client:
            assert (await client.get("/health")).status == 200
            await client.post("/_knobs", {"refuse_s": 0.05})
            async with asyncio.timeout(2):
                while not await reachable(node.url):
                    await asyncio.sleep(0.01)


async def reachable(url: str) -> bool:
    try:
        async with wire(url) as client:
            return (await client.get("/health")).status == 200
    except aiohttp.ClientConnectionError:
        return False


async def test_answer_and_listing_can_be_slow():
    async with (
        ScriptedNode(["a"], answer_delay_s=0.05, listing_delay_s=0.05) as node,
        wire(node.url) as client,
    ):
        for ask in (client.chat("a"), client.listing()):
            began_s = asyncio.get_running_loop().time()
            await ask
            assert asyncio.get_running_loop().time() - began_s >= 0.05


def test_model_argument_may_carry_a_size():
    assert sized("org/model") == ("org/model", 1024)
    assert sized("org/model:4096") == ("org/model", 4096)
    assert sized("org:7b") == ("org:7b", 1024)


@asynccontextmanager
async def process(*args: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cortex.devnode", "scripted", *args),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        line = (await child.stdout.readline()).decode().split()
        assert line[0] == "listening"
        yield child, line[1]
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def first_chunk(client: Wire) -> aiohttp.ClientResponse:
    response = await client.session.post(
        "/v1/chat/completions", json={"model": "a", "messages": HI, "stream": True}
    )
    await response.content.readuntil(b"\n\n")
    return response


async def test_process_dies_at_sigterm_with_its_connections():
    knobs = json.dumps({"endless": True, "token_interval_s": 0.02})
    async with process("--model", "a:2048", "--knobs", knobs) as (child, url):
        async with wire(url) as client:
            assert (await client.get("/_knobs")).json["size_mib"] == {"a": 2048}
            response = await first_chunk(client)
            child.send_signal(signal.SIGTERM)
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
        assert await child.wait() != 0


async def test_process_crashes_in_the_middle_of_a_stream():
    knobs = json.dumps({"crash_after_chunks": 2, "token_interval_s": 0.02})
    async with process("--model", "a", "--profile", "v0.9.2", "--knobs", knobs) as (child, url):
        async with wire(url) as client:
            response = await first_chunk(client)
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
        assert await child.wait() == 1
