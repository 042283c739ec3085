"""The official `anthropic` SDK against a gateway over chat-completions nodes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import scripted
from tests.running import Running, running
from tests.sdks import anthropic

TOOLS: Any = [
    {
        "name": "look_up",
        "description": "Look something up.",
        "input_schema": {
            "type": "object",
            "properties": {"word": {"type": "string"}},
            "required": ["word"],
        },
    }
]
HI: Any = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def client_of(
    folder: Path, toml: str = "", **knobs: Any
) -> "AsyncIterator[tuple[Running, anthropic.AsyncAnthropic]]":
    async with (
        scripted(["m1"], **knobs) as node,
        running(folder, [node], toml=toml) as gateway,
        anthropic.AsyncAnthropic(base_url=gateway.url, api_key="any", max_retries=0) as client,
    ):
        yield gateway, client


async def test_a_whole_message(tmp_path: Path) -> None:
    async with client_of(tmp_path) as (gateway, client):
        message = await client.messages.create(model="m1", max_tokens=5, messages=HI)
        assert message.id.startswith("msg_")
        assert message.model == "m1"
        assert (message._request_id or "").startswith("req_")
        assert message.role == "assistant"
        assert [block.type for block in message.content] == ["text"]
        assert message.stop_reason == "max_tokens"
        assert message.usage.output_tokens == 5
        assert message.usage.input_tokens > 0
        (row,) = await gateway.history()
        assert (row["route"], row["dialect"], row["outcome"]) == ("messages", "anthropic", "ok")
        assert row["completion_tokens"] == 5


async def test_a_stream_is_accumulated_to_the_same_message(tmp_path: Path) -> None:
    async with client_of(tmp_path, reasoning_tokens=3) as (_, client):
        async with client.messages.stream(
            model="m1",
            max_tokens=20,
            messages=HI,
            thinking={"type": "enabled", "budget_tokens": 1024},
        ) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_message()
        assert kinds[0] == "message_start"
        assert kinds[-1] == "message_stop"
        assert [block.type for block in final.content] == ["thinking", "text"]
        assert final.content[0].signature  # type: ignore[union-attr]
        assert final.usage.input_tokens > 0
        whole = await client.messages.create(model="m1", max_tokens=20, messages=HI)
        assert whole.content[1].text == final.content[1].text  # type: ignore[union-attr]


async def test_a_tool_is_called_and_its_result_goes_back(tmp_path: Path) -> None:
    knobs = {"tool_trigger": "weather", "tool_arguments": {"word": "rain"}}
    async with client_of(tmp_path, **knobs) as (_, client):
        question: Any = {"role": "user", "content": "what is the weather?"}
        asked = await client.messages.create(
            model="m1", max_tokens=50, messages=[question], tools=TOOLS
        )
        assert asked.stop_reason == "tool_use"
        (call,) = [block for block in asked.content if block.type == "tool_use"]
        assert (call.name, call.input) == ("look_up", {"word": "rain"})
        result: Any = {
            "role": "user",
            "content": [
                {"type": "text", "text": "there you are"},
                {"type": "tool_result", "tool_use_id": call.id, "content": "it rains"},
            ],
        }
        answer = await client.messages.create(
            model="m1",
            max_tokens=5,
            messages=[question, {"role": "assistant", "content": asked.content}, result],
            tools=TOOLS,
        )
        assert answer.stop_reason == "max_tokens"


@pytest.mark.parametrize("stream", [False, True])
async def test_errors_are_the_sdks_own(tmp_path: Path, stream: bool) -> None:
    async with client_of(tmp_path) as (_, client):

        async def ask(**more: Any) -> None:
            wanted: Any = {"model": "m1", "max_tokens": 5, "messages": HI} | more
            if stream:
                async with client.messages.stream(**wanted) as events:
                    await events.get_final_message()
            else:
                await client.messages.create(**wanted)

        with pytest.raises(anthropic.NotFoundError) as missing:
            await ask(model="m2")
        assert missing.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
        assert (missing.value.request_id or "").startswith("req_")
        with pytest.raises(anthropic.BadRequestError, match=r"messages\.0\.content\.0"):
            await ask(messages=[{"role": "user", "content": [{"type": "hologram"}]}])
        with pytest.raises(anthropic.BadRequestError, match="last turn"):
            await ask(messages=[*HI, {"role": "assistant", "content": "so"}])


async def test_a_stream_that_breaks_off_is_an_error_and_no_message(tmp_path: Path) -> None:
    async with client_of(tmp_path, eof_after_chunks=3) as (gateway, client):
        with pytest.raises(anthropic.APIError):
            async with client.messages.stream(model="m1", max_tokens=50, messages=HI) as stream:
                await stream.get_final_message()
        (row,) = await gateway.history()
        assert (row["outcome"], row["error_code"]) == ("error", "node_truncated")


async def test_a_cold_load_is_waited_for_with_pings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cortex.gateway.exchange.COMMENT_S", 0.1)
    async with (
        scripted(["m1"], unloaded=["m1"], load_s=0.5) as node,
        running(tmp_path, [node]) as gateway,
    ):
        body = {"model": "m1", "max_tokens": 3, "messages": HI, "stream": True}
        text = (await gateway.post("/v1/messages", body)).text
        names = [line[7:] for line in text.splitlines() if line.startswith("event: ")]
        assert names[0] == "message_start"
        assert names.count("message_start") == 1
        assert names.count("ping") >= 3
        assert names[-1] == "message_stop"
        assert "[DONE]" not in text


async def test_tokens_are_counted_without_a_node(tmp_path: Path) -> None:
    async with client_of(tmp_path) as (gateway, client):
        text = "The quick brown fox jumps over the lazy dog. " * 50
        long: Any = [{"role": "user", "content": text}]
        before = await client.messages.count_tokens(model="m1", messages=long)
        assert before.input_tokens > len(text) / 5
        asked = await client.messages.create(model="m1", max_tokens=1, messages=long)
        after = await client.messages.count_tokens(model="m1", messages=long)
        real = asked.usage.input_tokens
        assert real <= after.input_tokens <= real * 1.15
        assert len(await gateway.history()) == 1


async def test_what_agents_send_goes_through(tmp_path: Path) -> None:
    """System blocks that change, system turns in mid-conversation, betas, unknown fields."""
    body = {
        "model": "m1",
        "max_tokens": 4,
        "stream": True,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=1"},
            {
                "type": "text",
                "text": "You are terse. " * 3000,
                "cache_control": {"type": "ephemeral"},
            },
        ],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hello"}]},
            {"role": "system", "content": "The date is known."},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "x"},
                    {
                        "type": "tool_use",
                        "id": "functions.look_up:0",
                        "name": "look_up",
                        "input": {},
                    },
                ],
            },
            {"role": "system", "content": [{"type": "text", "text": "Tools have changed."}]},
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "functions.look_up:0",
                        "content": [{"type": "text", "text": "no"}],
                        "is_error": True,
                        "cache_control": {"type": "ephemeral"},
                    }
                ],
            },
        ],
        "tools": [TOOLS[0] | {"name": f"tool_{n}", "defer_loading": n == 0} for n in range(20)],
        "metadata": {"user_id": "x" * 200},
        "thinking": {"type": "adaptive", "display": "omitted"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
    }
    headers = {
        "anthropic-version": "2026-10-21",
        "anthropic-beta": "a-1,b-2",
        "x-api-key": "any",
    }
    async with client_of(tmp_path) as (gateway, _):
        reply = await gateway.post("/v1/messages?beta=true", body, headers=headers)
        assert reply.status == 200, reply.text
        assert reply.text.rstrip().endswith('{"type":"message_stop"}')
