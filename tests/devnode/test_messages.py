"""The Anthropic and the Responses routes (contract §1.4, §4)."""

import asyncio
import json

from cortex.devnode.scripted import ScriptedNode
from tests.devnode.wire import HI, Wire, named, wire
from tests.running import give_up, until

TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {}}}


async def messages(client: Wire, **more: object) -> list:
    body = {"model": "a", "messages": HI, "max_tokens": 3, "stream": True} | more
    return named((await client.post("/v1/messages", body)).text)


async def test_message_stream_begins_with_the_first_token_and_knows_no_input_tokens():
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        events = await messages(client)
    assert [name for name, _ in events] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert all(data["type"] == name for name, data in events)
    start = events[0][1]["message"]
    assert start["id"] == "0"
    assert start["usage"]["input_tokens"] == 0
    delta = events[-2][1]
    assert delta["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert delta["usage"] == {"output_tokens": 3}


async def test_message_whole():
    async with ScriptedNode(["a"], reasoning_tokens=1) as node, wire(node.url) as client:
        reply = await client.post("/v1/messages", {"model": "a", "messages": HI, "system": "s"})
    message = reply.json
    assert [block["type"] for block in message["content"]] == ["thinking", "text"]
    assert message["stop_reason"] == "end_turn"
    assert message["usage"]["input_tokens"] > 0


async def test_message_tool_use_and_its_result():
    choice = {"type": "tool", "name": "weather"}
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        body = {"model": "a", "messages": HI, "tools": [TOOL], "tool_choice": choice}
        reply = (await client.post("/v1/messages", body)).json
        (block,) = reply["content"]
        assert (block["type"], block["name"], block["input"]) == ("tool_use", "weather", {})
        assert reply["stop_reason"] == "tool_use"
        events = await messages(client, tools=[TOOL], tool_choice=choice)
        assert "input_json_delta" in json.dumps(events)
        result = {"type": "tool_result", "tool_use_id": block["id"], "content": "sun"}
        turns = [*HI, {"role": "assistant", "content": [block]}]
        turns.append({"role": "user", "content": [result]})
        body = {"model": "a", "messages": turns, "tools": [TOOL], "tool_choice": choice}
        assert (await client.post("/v1/messages", body)).json["stop_reason"] == "end_turn"


async def test_a_message_stream_is_silent_until_the_first_token_but_for_pings():
    slow = {"first_token_s": 0.25, "keepalive_s": 0.1}
    async with ScriptedNode(["a"], **slow) as node, wire(node.url) as client:
        names = [name for name, _ in await messages(client)]
        assert names[:2] == ["ping", "ping"]
        assert names[2] == "message_start"
        await node.set(context_tokens=0)
        [(name, event)] = await messages(client)
        assert (name, event["error"]["type"]) == ("error", "invalid_request_error")


async def test_message_stream_that_fails_or_is_cut():
    async with ScriptedNode(["a"], error_event_after=1) as node, wire(node.url) as client:
        events = await messages(client)
        assert events[-1][0] == "error"
        assert events[-1][1]["error"]["type"] == "api_error"
        await node.set(error_event_after=None, endless=True, token_interval_s=0.01)
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(messages(client))
            await asyncio.sleep(0.05)
            await client.lifecycle("unload", "a")
        assert "message_stop" not in [name for name, _ in asked.result()]


async def test_old_nodes_have_no_anthropic_route():
    async with ScriptedNode(["a"], profile="v0.7.0") as node, wire(node.url) as client:
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            reply = await client.post(path, {"model": "a", "messages": HI})
            assert (reply.status, reply.text) == (404, "")


async def test_count_tokens_needs_a_default_model():
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:

        async def count(model: str) -> tuple[int, dict]:
            body = {"model": model, "messages": HI}
            reply = await client.post("/v1/messages/count_tokens", body)
            return reply.status, reply.json

        assert await count("a") == (200, {"input_tokens": 1})
        assert (await count("zz"))[0] == 400
        await client.lifecycle("unload", "a")
        await client.lifecycle("reload", "a")
        assert (await count("a"))[0] == 500


async def test_abandoned_count_tokens_kills_the_models_other_work():
    async with ScriptedNode(["a"], first_token_s=5, count_tokens_delay_s=5) as node:
        async with wire(node.url) as client, asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(client.chat("a"))
            await until(lambda: node.stats.started == 1, "the chat to begin")
            counting = client.post("/v1/messages/count_tokens", {"model": "a", "messages": HI})
            await give_up(counting, lambda: node.stats.counts == 1)
        assert asked.result().status == 500
        assert node.stats.cut == 1


async def respond(client: Wire, **more: object) -> dict:
    body = {"model": "a", "input": "hi", "max_output_tokens": 3} | more
    reply = await client.post("/v1/responses", body)
    assert reply.status == 200
    return reply.json


async def test_response_lives_until_deleted_or_restarted():
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        made = await respond(client)
        assert made["id"].startswith("resp_")
        assert made["status"] == "completed"
        assert made["usage"]["output_tokens"] == 3
        path = f"/v1/responses/{made['id']}"
        assert (await client.get(path)).json == made
        assert (await client.get(path, "DELETE")).json["deleted"] is True
        reply = await client.get(path)
        assert (reply.status, list(reply.json)) == (404, ["message"])
        kept = await respond(client)
        await node.stop()
        await node.start()
        async with wire(node.url) as again:
            assert (await again.get(f"/v1/responses/{kept['id']}")).status == 404


async def test_history_is_kept_and_an_unknown_one_is_silently_empty():
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        first = await respond(client)
        second = await respond(client, previous_response_id=first["id"])
        assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]
        lost = await respond(client, previous_response_id="resp_none")
        assert lost["usage"]["input_tokens"] == first["usage"]["input_tokens"]


async def test_response_stream():
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        body = {"model": "a", "input": "hi", "max_output_tokens": 3, "stream": True}
        reply = await client.post("/v1/responses", body)
        assert reply.text.endswith("data: [DONE]\n\n")
        events = named(reply.text)
        names = [name for name, _ in events]
        assert names[:2] == ["response.created", "response.in_progress"]
        assert events[0][1]["response"]["status"] == "queued"
        deltas = [data for name, data in events if name.endswith(".delta")]
        assert not any("item_id" in data for data in deltas)
        assert names.count("response.output_text.delta") == 3
        assert names[-1] == "response.completed"
        assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
        done = events[-1][1]["response"]
        assert done["usage"]["total_tokens"] == 4
        assert (await client.get(f"/v1/responses/{done['id']}")).status == 404
        follow = await respond(client, previous_response_id=done["id"])
        assert follow["usage"]["input_tokens"] > done["usage"]["input_tokens"]


async def test_a_whole_response_that_is_cut_says_so_in_other_words():
    async with ScriptedNode(["a"], first_token_s=5) as node, wire(node.url) as client:
        async with asyncio.TaskGroup() as tasks:
            body = {"model": "a", "input": "hi"}
            asked = tasks.create_task(client.post("/v1/responses", body))
            while not node.stats.in_flight["a"]:
                await asyncio.sleep(0.01)
            await client.lifecycle("unload", "a")
        assert asked.result().status == 500
        assert asked.result().json == {"message": "Unexpected response type"}


async def test_a_response_repeats_no_more_of_its_request_than_its_limit():
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        made = await respond(client, tools=[], store=True)
        absent = {"tools", "store", "tool_choice", "previous_response_id"}
        assert not absent & set(made)
        assert made["max_output_tokens"] == 3
        assert made["completed_at"] >= made["created_at"]
        reply = await client.post("/v1/responses", {"input": "x", "max_output_tokens": 0})
        assert reply.json["message"] == "max_output_tokens must be at least 1."


async def test_response_stream_that_fails():
    async with ScriptedNode(["a"], error_event_after=1) as node, wire(node.url) as client:
        body = {"model": "a", "input": "hi", "stream": True}
        names = [name for name, _ in named((await client.post("/v1/responses", body)).text)]
    assert names[-2:] == ["error", "response.failed"]


async def test_a_cancelled_background_response_stays_cancelled_and_nothing_else_can_be():
    async with ScriptedNode(["a"], first_token_s=0.1) as node, wire(node.url) as client:
        made = await respond(client, background=True)
        assert made["status"] == "queued"
        path = f"/v1/responses/{made['id']}"
        assert (await client.post(f"{path}/cancel")).json["status"] == "cancelled"
        await asyncio.sleep(0.2)
        assert (await client.get(path)).json["status"] == "cancelled"
        assert node.stats.generated > 0
        done = await respond(client)
        for unknown in (done["id"], made["id"], "resp_none"):
            reply = await client.post(f"/v1/responses/{unknown}/cancel")
            assert reply.status == 404
            assert reply.json["message"].endswith("not found or cannot be cancelled")
        made = await respond(client, background=True)
        await client.lifecycle("unload", "a")
        await asyncio.sleep(0.05)
        found = (await client.get(f"/v1/responses/{made['id']}")).json
        assert (found["status"], found["error"]["type"]) == ("failed", "unknown_error")


async def test_response_tool_call_and_developer_items():
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
    items = [{"role": "developer", "content": "d"}, {"type": "message", "role": "user",
             "content": [{"type": "input_text", "text": "x"}]}]  # fmt: skip
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        tools = [tool, {"type": "web_search"}]
        made = await respond(client, input=items, tools=tools, tool_choice="required")
        (call,) = made["output"]
        assert (call["type"], call["name"]) == ("function_call", "weather")
        body = {"model": "a", "input": "x", "tools": tools, "tool_choice": "required"}
        reply = await client.post("/v1/responses", body | {"stream": True})
        assert "response.function_call_arguments.done" in reply.text
