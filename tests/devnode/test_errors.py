"""Each way a node says no, and the shape it says it in (contract §1.1)."""

import asyncio

import aiohttp
import pytest

from cortex.devnode.scripted import ScriptedNode
from tests.devnode.wire import HI, frames, named, wire


async def test_unknown_model_has_another_status_on_each_route():
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        reply = await client.chat("zz")
        assert reply.status == 500
        assert reply.json["message"].startswith("Requested model 'zz' is not available.")
        assert (
            await client.post("/v1/completions", {"model": "zz", "prompt": "x"})
        ).status == 500
        assert (await client.post("/v1/responses", {"model": "zz", "input": "x"})).status == 500
        reply = await client.post("/v1/embeddings", {"model": "zz", "input": "x"})
        assert (reply.status, list(reply.json)) == (422, ["message"])
        reply = await client.post("/v1/messages", {"model": "zz", "messages": HI})
        assert reply.status == 400
        assert reply.json["type"] == "error"
        assert reply.json["error"]["type"] == "invalid_request_error"


async def test_extractor_refuses_in_plain_text():
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        for path in ("/v1/chat/completions", "/v1/messages", "/v1/embeddings"):
            bad = await client.post(path, None, json=None, data="{", headers=JSON)
            assert (bad.status, bad.kind) == (400, "text/plain")
            kind = await client.post(path, None, json=None, data="{}")
            assert (kind.status, kind.kind) == (415, "text/plain")
            field = await client.post(path, {})
            assert (field.status, field.kind) == (422, "text/plain")


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"max_tokens": 0}, 500),
        ({"max_tokens": "4"}, 422),
        ({"messages": [{"role": "alien", "content": "x"}]}, 200),
        ({"messages": []}, 200),
        ({"messages": [{"content": "x"}]}, 422),
        ({"messages": [{"role": "system", "content": [{"type": "text", "text": "x"}]}]}, 500),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": ["x"]}]}]}, 422),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, 200),
        ({"messages": "hi"}, 200),
        ({"model": None}, 422),
        ({"max_completion_tokens": None}, 422),
        ({"temperature": "x"}, 422),
        ({"response_format": {"type": "yaml"}}, 422),
        ({"reasoning_effort": "extreme"}, 500),
        ({"messages": [{"role": "user"}]}, 500),
        ({"agent_permission": "ask"}, 422),
        ({"messages": [{"role": "user", "content": [{"text": "no type"}]}]}, 200),
        ({"model": 3}, 422),
        ({"stream_options": {"include_usage": True}, "seed": 1, "user": "u"}, 200),
    ],
)
async def test_chat_checks_its_body(body, status):
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        assert (await client.chat("a", **body)).status == status


def parts(*given: dict) -> dict:
    return {"messages": [{"role": "user", "content": list(given)}]}


def picture(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


SEARCH = [{"type": "web_search"}]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1."),
        ({"messages": [{"role": "user"}]}, "No content was provided, expected tool calls"),
        (
            {"reasoning_effort": "extreme"},
            "invalid reasoning effort `extreme`; expected one of: off",
        ),
        ({"max_completion_tokens": None}, "duplicate field `max_tokens` at line 1 column 40"),
        (
            parts(picture("data:image/png;base64,AAAA")),
            "The image format could not be determined",
        ),
        (parts(picture("http://127.0.0.1/a.png")), "Remote media URLs must not target"),
        (
            parts({"type": "image_url", "image_url": {"detail": "low"}}),
            "must have a `url` key.",
        ),
        (parts({"type": "text"}), "Text sub-content must have `text` key."),
        ({"grammar": {}, "response_format": {"type": "text"}}, "mutually exclusive"),
        ({"tools": SEARCH}, "only supported by the Responses API"),
    ],
)
async def test_what_is_wrong_is_said_in_the_nodes_own_words(body: dict, text: str):
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        reply = await client.chat("a", **body)
        assert reply.status in (422, 500)
        assert text in reply.text


async def test_a_readable_picture_and_one_at_a_public_address_are_taken():
    seen = picture("data:image/png;base64,iVBORw0KGgo="), picture("https://example.org/a.png")
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        assert (await client.chat("a", **parts(*seen))).status == 200


async def test_a_plain_template_takes_no_parts():
    async with ScriptedNode(["a"], plain_template=True) as node, wire(node.url) as client:
        reply = await client.chat("a", **parts({"type": "text", "text": "x"}))
        assert (reply.status, "(in chat_template:4)" in reply.text) == (500, True)
        assert (await client.chat("a")).status == 200


async def test_a_model_serves_what_it_is_made_for():
    kinds = {"e": "embedding", "i": "image", "s": "speech"}
    routes = {
        "a": ("/v1/chat/completions", {"messages": HI}),
        "e": ("/v1/embeddings", {"input": "x"}),
        "i": ("/v1/images/generations", {"prompt": "x"}),
        "s": ("/v1/audio/speech", {"input": "x", "response_format": "wav"}),
    }
    async with ScriptedNode(list(routes), category=kinds) as node, wire(node.url) as client:
        for path, body in routes.values():
            for model in routes:
                reply = await client.post(path, {"model": model, **body})
                if path == routes[model][0]:
                    assert reply.status == 200
                    continue
                assert reply.status == (500 if path == "/v1/embeddings" else 422)
                assert reply.json["message"].startswith("Received a request incompatible")


async def test_an_embeddings_refusal_of_a_text_model_comes_after_its_load():
    async with ScriptedNode(["a"], unloaded=["a"]) as node, wire(node.url) as client:
        assert (await client.post("/v1/embeddings", {"model": "a", "input": "x"})).status == 500
        assert await client.lifecycle("status", "a") == "loaded"


CALL = {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}


async def test_a_call_that_is_required_and_not_made_is_an_error():
    async with ScriptedNode(["a"], tool_calls=False) as node, wire(node.url) as client:
        reply = await client.chat("a", **CALL)
        assert reply.status == 500
        assert reply.json["message"] == "Tool choice was required but no tools were called."
        assert "partial_response" in reply.json
        [event, done] = frames((await client.chat("a", **CALL, stream=True)).text)
        assert "Tool choice was required" in event
        assert done == "[DONE]"
        tool = {"name": "f", "input_schema": {"type": "object"}}
        body = {"model": "a", "messages": HI, "tools": [tool], "stream": True}
        body["tool_choice"] = {"type": "tool", "name": "f"}
        reply = await client.post("/v1/messages", body)
        assert [name for name, _ in named(reply.text)] == ["error"]


async def test_without_a_gpu_a_batch_of_equal_prompts_fails_and_no_memory_is_known():
    async with ScriptedNode(["a"], cpu_only=True) as node, wire(node.url) as client:
        reply = await client.chat("a", n=2)
        assert reply.json["message"].startswith("input tensor is not contiguous")
        assert "partial_response" in reply.json
        [device] = (await client.get("/v1/system/info")).json["devices"]
        assert device["kind"] == "cpu"
        assert {device[key] for key in device if key not in {"kind", "name"}} == {None}


async def test_anybody_may_ask_and_nobody_says_what_serves():
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        reply = await client.get("/v1/chat/completions", "OPTIONS")
        assert (reply.status, reply.headers["Access-Control-Allow-Origin"]) == (200, "*")
        assert "Server" not in (await client.get("/health")).headers
        assert (await client.get("/", "HEAD")).status == 200


async def test_prompt_that_is_too_long_is_a_422_or_an_event():
    long = [{"role": "user", "content": "word " * 100}]
    async with ScriptedNode(["a"], context_tokens=50) as node, wire(node.url) as client:
        reply = await client.chat("a", messages=long)
        assert (reply.status, list(reply.json)) == (422, ["message"])
        reply = await client.chat("a", messages=long, stream=True)
        assert reply.status == 200
        assert '{"error":{"message":' in reply.text


async def test_failure_half_way_brings_the_partial_response():
    async with ScriptedNode(["a"], error_event_after=2) as node, wire(node.url) as client:
        reply = await client.chat("a")
        assert reply.status == 500
        assert set(reply.json) == {"message", "partial_response"}
        choice = reply.json["partial_response"]["choices"][0]
        assert choice["finish_reason"] == "error"
        assert len(choice["message"]["content"].split()) == 2


async def test_other_refusals_of_the_contract():
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        reply = await client.post("/v1/completions", {"model": "a", "prompt": ["x"]})
        assert (reply.status, reply.kind) == (422, "text/plain")
        body = {"model": "a", "input": "x", "dimensions": 3}
        reply = await client.post("/v1/embeddings", body)
        said = "Custom embedding dimensions (3) are not supported."
        assert (reply.status, reply.json["message"]) == (422, said)
        reply = await client.post("/v1/embeddings", {"model": "a", "input": []})
        said = "input must contain at least one entry."
        assert (reply.status, reply.json["message"]) == (422, said)
        body = {"model": "a", "input": "x", "max_tool_calls": 1}
        assert (await client.post("/v1/responses", body)).status == 500
        body = {"model": "a", "input": "x", "response_format": "mp3"}
        assert (await client.post("/v1/audio/speech", body)).status == 422
        body = {"model": "a", "prompt": "x", "response_format": "url"}
        assert (await client.post("/v1/images/generations", body)).status == 422
        document = {"role": "user", "content": [{"type": "document"}]}
        reply = await client.post("/v1/messages", {"model": "a", "messages": [document]})
        assert reply.status == 400


async def test_unknown_paths_and_methods_have_empty_bodies():
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        for path in ("/nowhere", "/v1/models/a", "/v1/load_lora_adapter"):
            reply = await client.get(path)
            assert (reply.status, reply.text) == (404, "")
        reply = await client.get("/v1/chat/completions")
        assert (reply.status, reply.text) == (405, "")


async def test_body_over_the_limit_is_a_413(monkeypatch):
    monkeypatch.setattr("cortex.devnode.routes.MAX_BODY_BYTES", 1000)
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        reply = await client.chat("a", messages="x" * 2000)
        assert (reply.status, reply.kind) == (413, "text/plain")


async def test_the_remaining_shapes():
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        reply = await client.get("/v1/lora_adapters?model=a")
        assert (reply.status, reply.json["error"]["code"]) == (409, "lora_runtime_unavailable")
        reply = await client.get("/v1/files/file-1")
        assert (reply.status, reply.json["error"]["code"]) == (404, "file_not_found")
        reply = await client.get("/v1/skills/x/versions")
        assert set(reply.json["error"]) == {"message", "type"}
        reply = await client.get("/v1/sessions/x")
        assert (reply.status, reply.kind) == (404, "text/plain")
        reply = await client.get("/calibration/status")
        assert (reply.status, reply.kind) == (200, "text/plain")
        assert (await client.post("/re_isq", {"ggml_type": "Q4K"})).text == 'Re ISQ: "Q4K"'
        await client.lifecycle("unload", "a")
        reply = await client.post("/v1/files", None, json=None, data=b"x")
        assert (reply.status, reply.json) == (500, {"error": "engine state lock is poisoned"})
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.post("/re_isq", {"ggml_type": "Q4K"})


@pytest.mark.parametrize(
    ("shape", "status", "kind"),
    [
        ("message", 503, "application/json"),
        ("partial", 500, "application/json"),
        ("anthropic", 529, "application/json"),
        ("coded", 429, "application/json"),
        ("plain", 503, "text/plain"),
        ("ok_text", 200, "text/plain"),
    ],
)
async def test_injected_error_ends_after_its_times(shape, status, kind):
    error = {"status": status, "shape": shape, "message": "no", "times": 2}
    async with ScriptedNode(["a"], http_error=error) as node, wire(node.url) as client:
        for _ in range(2):
            reply = await client.chat("a")
            assert (reply.status, reply.kind) == (status, kind)
            assert "no" in reply.text
        assert (node.stats.injected, node.stats.started) == (2, 0)
        assert (await client.chat("a")).status == 200


async def test_injected_error_can_hit_another_route():
    error = {"status": 500, "path": "/v1/models", "times": None}
    async with ScriptedNode(["a"], http_error=error) as node, wire(node.url) as client:
        assert (await client.get("/v1/models")).status == 500
        assert (await client.get("/v1/models")).status == 500
        assert (await client.chat("a")).status == 200


async def test_texts_are_rusts_own_before_0_9_1():
    async with ScriptedNode(["a", "b"], profile="v0.8.4") as node, wire(node.url) as client:
        assert (await client.chat("zz")).json == {"message": 'ModelNotFound("zz")'}
        await client.lifecycle("reload", "yy")
        assert (await client.chat("yy")).json == {"message": 'ModelNotFound("yy")'}


async def test_a_phantom_is_listed_and_not_found():
    async with ScriptedNode(["a"]) as node, wire(node.url) as client:
        await client.lifecycle("reload", "yy")
        assert ("yy", "reloading") in await client.listing()
        reply = await client.chat("yy")
        assert (reply.status, reply.json) == (422, {"message": "model `yy` was not found"})
        reply = await client.post("/v1/messages", {"model": "yy", "messages": HI})
        assert (reply.status, reply.json["error"]["type"]) == (500, "api_error")


async def test_reloading_is_an_api_error_on_messages():
    async with (
        ScriptedNode(["a"], unloaded=["a"], load_s=0.3) as node,
        wire(node.url) as client,
    ):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(client.lifecycle("reload", "a"))
            await asyncio.sleep(0.03)
            reply = await client.post("/v1/messages", {"model": "a", "messages": HI})
        assert (reply.status, reply.json["error"]["type"]) == (500, "api_error")
