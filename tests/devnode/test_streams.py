"""Streams, whole answers, ids, and who stops when the client hangs up (contract §1.4, §4)."""

import asyncio
import base64
import json
import struct
import time

import aiohttp
import pytest

from cortex.devnode.scripted import ScriptedNode
from tests.devnode.wire import HI, Wire, frames, wire
from tests.running import give_up, until

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}


async def stream(client: Wire, **more: object) -> str:
    reply = await client.chat("a", stream=True, **more)
    assert (reply.status, reply.kind) == (200, "text/event-stream")
    assert reply.headers["Cache-Control"] == "no-cache"
    return reply.text


async def test_chat_stream_ends_with_finish_and_usage_in_one_chunk():
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        *chunks, done = frames(await stream(client, max_tokens=5))
    assert done == "[DONE]"
    parsed = [json.loads(chunk) for chunk in chunks]
    assert len(parsed) == 5
    choices = [chunk["choices"][0] for chunk in parsed]
    assert all(choice["delta"]["role"] == "assistant" for choice in choices)
    assert all(choice["delta"]["tool_calls"] is None for choice in choices)
    assert [choice["finish_reason"] for choice in choices] == [None] * 4 + ["length"]
    assert [chunk["usage"] is None for chunk in parsed] == [True] * 4 + [False]
    assert parsed[-1]["usage"]["completion_tokens"] == 5
    assert {chunk["object"] for chunk in parsed} == {"chat.completion.chunk"}


async def test_streamed_and_whole_answers_say_the_same_every_time():
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        whole = (await client.chat("a")).json["choices"][0]["message"]["content"]
        *chunks, _done = frames(await stream(client))
        deltas = (json.loads(chunk)["choices"][0]["delta"]["content"] for chunk in chunks)
        assert "".join(deltas) == whole
        other = await client.chat("a", messages=[{"role": "user", "content": "something else"}])
        assert other.json["choices"][0]["message"]["content"] != whole


async def test_length_follows_max_tokens_and_the_knob():
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:

        async def length(**more: object) -> tuple[int, str]:
            reply = (await client.chat("a", **more)).json
            return reply["usage"]["completion_tokens"], reply["choices"][0]["finish_reason"]

        assert await length(max_tokens=None) == (8, "stop")
        assert await length(max_tokens=3) == (3, "length")
        body = {"model": "a", "messages": HI, "max_completion_tokens": 2}
        reply = (await client.post("/v1/chat/completions", body)).json
        assert reply["usage"]["completion_tokens"] == 2
        assert await length(max_tokens=32_000) == (256, "stop")
        await node.set(tokens=20)
        assert await length(max_tokens=32_000) == (20, "stop")
        assert await length(max_tokens=7) == (7, "length")


async def test_completions_stream_has_no_usage():
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        body = {"model": "a", "prompt": "hi", "max_tokens": 3}
        whole = (await client.post("/v1/completions", body)).json
        assert whole["object"] == "text_completion"
        assert whole["usage"]["completion_tokens"] == 3
        reply = await client.post("/v1/completions", body | {"stream": True})
    *chunks, done = frames(reply.text)
    assert done == "[DONE]"
    assert all("usage" not in json.loads(chunk) for chunk in chunks)
    texts = [json.loads(chunk)["choices"][0]["text"] for chunk in chunks]
    assert "".join(texts) == whole["choices"][0]["text"]


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "weather"}}]
)
async def test_tool_call_arrives_whole_in_the_last_chunk(choice):
    more = {"tools": [TOOL], "tool_choice": choice}
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        chunk, done = frames(await stream(client, **more))
        whole = (await client.chat("a", **more)).json["choices"][0]
    assert done == "[DONE]"
    found = json.loads(chunk)["choices"][0]
    assert found["finish_reason"] == "tool_calls"
    assert found["delta"]["content"] is None
    (call,) = found["delta"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "amber", "days": 1}
    assert whole["message"]["tool_calls"] == [call]


async def test_tool_is_called_by_a_trigger_and_not_after_its_result():
    async with (
        ScriptedNode(["a"], tool_trigger="use it", tool_arguments={"x": 1}) as node,
        wire(node.url) as client,
    ):
        asked = [{"role": "user", "content": "please use it"}]
        reply = await client.chat("a", messages=asked, tools=[TOOL])
        (call,) = reply.json["choices"][0]["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"x": 1}
        said = [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "use it", "tool_call_id": call["id"]},
        ]
        reply = await client.chat("a", messages=asked + said, tools=[TOOL])
        assert reply.json["choices"][0]["message"]["tool_calls"] is None
        assert (await client.chat("a", tools=[TOOL])).json["choices"][0]["finish_reason"]


async def test_response_format_gives_json_of_that_schema():
    schema = TOOL["function"]["parameters"]
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        reply = await client.chat("a", response_format=wanted)
    content = reply.json["choices"][0]["message"]["content"]
    assert json.loads(content) == {"city": "amber", "days": 1}


async def test_reasoning_is_kept_apart():
    async with ScriptedNode(["a"], reasoning_tokens=2) as node, wire(node.url) as client:
        message = (await client.chat("a")).json["choices"][0]["message"]
        assert len(message["reasoning_content"].split()) == 2
        assert "reasoning_content" in (await stream(client))


async def test_ids_are_small_numbers_that_repeat():
    async with (
        ScriptedNode(["a", "b"], aliases={"nick": "a"}) as node,
        wire(node.url) as client,
    ):
        assert [(await client.chat("a")).json["id"] for _ in range(2)] == ["0", "1"]
        assert (await client.chat("b")).json["id"] == "0"
        reply = (await client.chat("nick")).json
        assert (reply["id"], reply["model"]) == ("2", "a")
        await client.lifecycle("unload", "a")
        assert (await client.chat("a")).json["id"] == "0"


async def test_embeddings_in_every_form_of_input_and_output():
    async with (
        ScriptedNode(["a"], aliases={"nick": "a"}, category="embedding") as node,
        wire(node.url) as client,
    ):

        async def embed(value: object, **more: object) -> dict:
            body = {"model": "nick", "input": value} | more
            return (await client.post("/v1/embeddings", body)).json

        one = await embed("x")
        assert one["model"] == "nick"
        (row,) = one["data"]
        assert len(row["embedding"]) == 16
        assert row == (await embed(["x", "y"]))["data"][0]
        coded = (await embed("x", encoding_format="base64"))["data"][0]["embedding"]
        values = struct.unpack("<16f", base64.b64decode(coded))
        assert values == pytest.approx(row["embedding"])
        assert len((await embed([1, 2, 3]))["data"]) == 1
        assert len((await embed([[1], [2]]))["data"]) == 2


async def test_a_stop_string_ends_the_answer_and_says_so():
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        whole = (await client.chat("a")).json["choices"][0]["message"]["content"].split()
        reply = (await client.chat("a", stop=whole[2])).json
        assert reply["choices"][0]["finish_reason"] == "stop"
        assert reply["choices"][0]["message"]["content"].split() == whole[:2]
        assert reply["usage"]["completion_tokens"] == 3
        body = {"model": "a", "messages": HI, "max_tokens": 4, "stop_sequences": [whole[1]]}
        assert (await client.post("/v1/messages", body)).json["stop_reason"] == "end_turn"


@pytest.mark.parametrize("top", [0, 1])
async def test_logprobs_come_with_every_token(top: int):
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        ask = {"logprobs": True, "top_logprobs": top}
        choice = (await client.chat("a", **ask)).json["choices"][0]
        tokens = choice["logprobs"]["content"]
        assert "".join(t["token"] for t in tokens) == choice["message"]["content"]
        assert bytes(tokens[0]["bytes"]).decode() == tokens[0]["token"]
        assert {len(t["top_logprobs"]) for t in tokens} == {top}
        *chunks, _done = frames((await client.chat("a", **ask, stream=True)).text)
        streamed = [json.loads(chunk)["choices"][0]["logprobs"] for chunk in chunks]
        assert [t for part in streamed for t in part["content"]] == tokens


async def test_a_load_slows_the_other_models():
    slow = {"load_s": 5.0, "loading_token_s": 0.2}
    async with (
        ScriptedNode(["a", "b"], unloaded=["b"], **slow) as node,
        wire(node.url) as client,
        asyncio.TaskGroup() as tasks,
    ):
        loading = tasks.create_task(client.chat("b"))
        while not node.stats.loading:
            await asyncio.sleep(0.01)
        began_s = time.monotonic()
        await client.chat("a", max_tokens=3)
        assert time.monotonic() - began_s >= 0.4
        loading.cancel()


async def test_images_and_speech():
    kinds = {"a": "image", "s": "speech"}
    async with ScriptedNode(["a", "s"], category=kinds) as node, wire(node.url) as client:
        body = {"model": "a", "prompt": "x", "n": 2, "response_format": "B64Json"}
        rows = (await client.post("/v1/images/generations", body)).json["data"]
        assert len(rows) == 2
        assert base64.b64decode(rows[0]["b64_json"]).startswith(b"\x89PNG")
        body = {"model": "s", "input": "x", "response_format": "wav"}
        reply = await client.post("/v1/audio/speech", body)
        assert (reply.kind, reply.text[:4]) == ("audio/wav", "RIFF")


async def test_eof_without_terminator_looks_complete_to_http():
    async with ScriptedNode(["a"], eof_after_chunks=2) as node, wire(node.url) as client:
        seen = frames(await stream(client))
        assert len(seen) == 2
        assert "[DONE]" not in seen


async def test_dropped_connection_does_not():
    async with (
        ScriptedNode(["a"], drop_after_chunks=2, token_interval_s=0.01) as node,
        wire(node.url) as client,
    ):
        with pytest.raises(aiohttp.ClientPayloadError):
            await stream(client)
        await node.set(drop_after_chunks=0)
        with pytest.raises(aiohttp.ClientError):
            await stream(client)


@pytest.mark.parametrize(("profile", "as_json"), [("head", True), ("v0.9.2", False)])
async def test_error_in_a_stream_is_json_or_bare_text(profile, as_json):
    async with (
        ScriptedNode(["a"], error_event_after=1, profile=profile) as node,
        wire(node.url) as client,
    ):
        _chunk, error, done = frames(await stream(client))
    assert done == "[DONE]"
    if as_json:
        assert json.loads(error)["error"]["type"] == "server_error"
    else:
        with pytest.raises(ValueError, match="Expecting value"):
            json.loads(error)


async def test_keepalives_without_end():
    async with (
        ScriptedNode(["a"], endless_keepalives=1, keepalive_s=0.02) as node,
        wire(node.url) as client,
        client.session.post(
            "/v1/chat/completions", json={"model": "a", "messages": HI, "stream": True}
        ) as response,
    ):
        assert (await response.content.readuntil(b"\n\n")).startswith(b"data: ")
        for _ in range(5):
            assert await response.content.readuntil(b"\n\n") == b":\n\n"


async def test_slow_first_token_is_bridged_by_comments():
    async with (
        ScriptedNode(["a"], first_token_s=0.1, keepalive_s=0.02) as node,
        wire(node.url) as client,
    ):
        text = await stream(client)
    assert text.startswith(":\n\n:\n\n")
    assert frames(text)[-1] == "[DONE]"


@pytest.mark.parametrize("profile", ["head", "v0.7.0"])
async def test_stream_cut_by_unload_never_ends_in_0_7_0(profile):
    async with (
        ScriptedNode(
            ["a"], profile=profile, keepalive_s=0.02, token_interval_s=0.01, endless=True
        ) as node,
        wire(node.url) as client,
        client.session.post(
            "/v1/chat/completions", json={"model": "a", "messages": HI, "stream": True}
        ) as response,
    ):
        first = json.loads((await response.content.readuntil(b"\n\n"))[6:])
        assert (first["created"] > 1e12) == (profile == "v0.7.0")
        await client.lifecycle("unload", "a")
        if profile == "head":
            await response.content.read()
        else:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await response.content.read()


async def test_stall_sends_nothing_at_all():
    async with ScriptedNode(["a"], stall=True) as node, wire(node.url) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.chat("a")
        await node.set(stall=False, stall_after_chunks=1, keepalive_s=0.01)
        async with client.session.post(
            "/v1/chat/completions", json={"model": "a", "messages": HI, "stream": True}
        ) as response:
            await response.content.readuntil(b"\n\n")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await response.content.readany()


async def test_crash_takes_every_connection():
    async with ScriptedNode(["a"], crash_after_chunks=1) as node, wire(node.url) as client:
        with pytest.raises(aiohttp.ClientError):
            await stream(client)
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.get("/health")
        await node.set(crash_after_chunks=None)
        await node.start()
        async with wire(node.url) as again:
            assert (await again.chat("a")).status == 200


async def settled(node: ScriptedNode, counter: str, value: int) -> None:
    await until(lambda: getattr(node.stats, counter) == value, f"{counter} to be {value}")


async def test_stream_work_stops_with_its_client():
    async with ScriptedNode(["a"], endless=True, token_interval_s=0.005) as node:
        async with wire(node.url) as client:
            async with client.session.post(
                "/v1/chat/completions", json={"model": "a", "messages": HI, "stream": True}
            ) as response:
                await response.content.readuntil(b"\n\n")
                assert node.stats.in_flight["a"] == 1
            await settled(node, "streams_stopped", 1)
        await settled(node, "cancelled", 1)
        assert node.stats.in_flight["a"] == 0
        generated = node.stats.generated
        await asyncio.sleep(0.05)
        assert node.stats.generated == generated


async def test_whole_answer_is_worked_out_without_its_client():
    async with ScriptedNode(["a"], tokens=4, token_interval_s=0.25) as node:
        async with wire(node.url) as client:
            await give_up(client.chat("a"), lambda: node.stats.in_flight["a"] == 1)
        await settled(node, "whole_continued", 1)
        assert node.stats.cancelled == 1
        assert node.stats.in_flight["a"] == 1
        await settled(node, "generated", 4)
        await until(lambda: node.stats.in_flight["a"] == 0, "the end of it")
        assert node.stats.streams_stopped == 0


@pytest.mark.parametrize("streamed", [False, True])
async def test_requests_beyond_the_engines_seats_wait(streamed):
    async with ScriptedNode(["a"], max_seqs=1, first_token_s=0.05) as node:
        began_s = asyncio.get_running_loop().time()
        async with wire(node.url) as client, asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(client.chat("a", stream=streamed))
        assert asyncio.get_running_loop().time() - began_s >= 0.15


async def test_stream_that_failed_never_ends_in_0_7_0():
    async with (
        ScriptedNode(["a"], profile="v0.7.0", error_event_after=0) as node,
        wire(node.url) as client,
    ):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await stream(client)
