"""What other makes of nodes do to a stream, done by the scripted one, and what a gateway makes of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from cortex.devnode.oddities import NAMES
from cortex.devnode.scripted import ScriptedNode
from tests.devnode.wire import wire
from tests.gateway.conftest import chat_body, scripted, stream
from tests.running import Running, running

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
CUT = {"empty_finish", "finish_error", "finish_abort", "error_late"}
CALLS = {"same_index", "no_index", "call_fragments", "object_arguments"}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
OSLO = {"city": "Oslo"}


def body(path: str, oddity: str, *, streamed: bool) -> dict[str, Any]:
    asked = chat_body(stream=streamed)
    if streamed or path == MESSAGES:
        # A whole chat without it is gathered from a stream, however quick the node is.
        asked["max_tokens"] = 6
    if oddity in CALLS:
        function = TOOL["function"]
        assert isinstance(function, dict)
        own = {"name": "weather", "input_schema": function["parameters"]}
        asked["tools"] = [own if path == MESSAGES else TOOL]
        asked["messages"] = [{"role": "user", "content": "what is the weather like?"}]
    return asked


async def test_a_node_is_as_odd_as_it_is_told_to_be() -> None:
    tools = {"tool_trigger": "weather", "tool_arguments": OSLO}
    async with ScriptedNode(["a"], **tools) as node, wire(node.url) as client:
        # The other two are seen by the gateway, below.
        for oddity in sorted(NAMES - {"open_end", "stale_connection"}):
            asked = body(CHAT, oddity, streamed=True) | {"model": "a"}
            await node.set(oddity=None)
            plain = (await client.post(CHAT, asked)).text
            await node.set(oddity=oddity)
            assert (await client.post(CHAT, asked)).text != plain, oddity
        with pytest.raises(ValueError, match="oddity"):
            node.knobs.update({"oddity": "no such thing"})


async def ask(gateway: Running, path: str, asked: dict[str, Any]) -> tuple[bool, str]:
    """Whether the answer looks whole, and all of it."""
    seen = await stream(gateway.http, gateway.url, asked, path)
    text = seen.body.decode()
    return seen.status == 200 and seen.complete and '"error":{' not in text, text


WAYS = [(path, streamed) for path in (CHAT, MESSAGES) for streamed in (True, False)]


@pytest.mark.parametrize("oddity", sorted(NAMES))
async def test_a_gateway_makes_the_best_of_it(tmp_path: Path, oddity: str) -> None:
    tools = {"tool_trigger": "weather", "tool_arguments": OSLO}
    # A model for each way to ask, since failures are counted by model.
    models = [f"m{number}" for number in range(len(WAYS))]
    async with scripted(models, **tools) as node, running(tmp_path, [node]) as gateway:
        await node.set(oddity=oddity)
        for model, (path, streamed) in zip(models, WAYS, strict=True):
            passed = path == CHAT and streamed
            # A chat that is passed on as a stream has the node's own word for its end.
            cut = oddity in CUT and not (passed and oddity.startswith("finish_"))
            asked = body(path, oddity, streamed=streamed) | {"model": model}
            for _ in range(2):
                whole, text = await ask(gateway, path, asked)
                assert whole is not cut, text
            if oddity in CALLS and not passed:
                expected = 2 if oddity == "same_index" else 1
                assert calls_of(text, path, streamed=streamed) == [OSLO] * expected
            view = gateway.services.fleet.model("n0", model)
            assert view.breaker.failures == (2 if cut else 0)


def calls_of(text: str, path: str, *, streamed: bool) -> list[Any]:
    if path == CHAT:
        message = json.loads(text)["choices"][0]["message"]
        return [json.loads(call["function"]["arguments"]) for call in message["tool_calls"]]
    if not streamed:
        return [
            block["input"]
            for block in json.loads(text)["content"]
            if block["type"] == "tool_use"
        ]
    events = [json.loads(e.split("data: ")[1]) for e in text.split("\n\n") if "data: " in e]
    return [
        json.loads(event["delta"]["partial_json"])
        for event in events
        if event["type"] == "content_block_delta" and "partial_json" in event["delta"]
    ]
