"""A node with `dialect = "anthropic"`: OpenAI's clients are translated, Anthropic's pass through."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import scripted
from tests.running import Running, running
from tests.sdks import anthropic, openai

HI: Any = [{"role": "user", "content": "hi"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "parameters": {"type": "object", "properties": {"word": {"type": "string"}}},
        },
    }
]


@asynccontextmanager
async def fleet(folder: Path, **knobs: Any) -> AsyncIterator[tuple[Any, Running]]:
    async with (
        scripted(["m1"], **knobs) as node,
        running(
            folder,
            [node],
            node_toml=['dialect = "anthropic"'],
            toml='[aliases]\n"small" = "m1"',
        ) as gateway,
    ):
        yield node, gateway


@asynccontextmanager
async def client_of(gateway: Running) -> "AsyncIterator[openai.AsyncOpenAI]":
    url = f"{gateway.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
        yield client


async def test_a_chat_whole_and_streamed(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (_, gateway), client_of(gateway) as client:
        whole = await client.chat.completions.create(model="m1", max_tokens=6, messages=HI)
        assert whole.choices[0].finish_reason == "length"
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 6
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model="m1",
                max_tokens=6,
                messages=HI,
                stream=True,
                stream_options={"include_usage": True},
            )
        ]
        said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert said == whole.choices[0].message.content
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 6
        rows = await gateway.history()
        assert [(row["route"], row["outcome"]) for row in rows] == [("chat", "ok")] * 2
        assert {row["completion_tokens"] for row in rows} == {6}


async def test_a_tool_is_called_and_its_result_goes_back(tmp_path: Path) -> None:
    knobs = {"tool_trigger": "weather", "tool_arguments": {"word": "rain"}}
    async with fleet(tmp_path, **knobs) as (_, gateway), client_of(gateway) as client:
        question: Any = {"role": "user", "content": "the weather?"}
        asked = await client.chat.completions.create(
            model="m1", messages=[question], tools=TOOLS
        )
        assert asked.choices[0].finish_reason == "tool_calls"
        message = asked.choices[0].message
        assert message.tool_calls is not None
        (call,) = message.tool_calls
        assert call.type == "function"
        assert call.function.name == "look_up"
        assert json.loads(call.function.arguments) == {"word": "rain"}
        answer = await client.chat.completions.create(
            model="m1",
            max_tokens=4,
            messages=[
                question,
                message.model_dump(exclude_none=True),  # type: ignore[list-item]
                {"role": "tool", "tool_call_id": call.id, "content": "it rains"},
            ],
            tools=TOOLS,
        )
        assert answer.choices[0].finish_reason == "length"


async def test_what_the_dialect_has_no_words_for_is_refused(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (_, gateway), client_of(gateway) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.embeddings.create(model="m1", input="x")
        assert refused.value.code == "route_not_supported"
        with pytest.raises(openai.BadRequestError, match="n: this model"):
            await client.chat.completions.create(model="m1", messages=HI, n=2)
        assert (await gateway.status())["nodes"][0]["in_flight"] == 0


async def test_a_stream_that_breaks_off_is_an_error(tmp_path: Path) -> None:
    async with (
        fleet(tmp_path, eof_after_chunks=3) as (_, gateway),
        client_of(gateway) as client,
    ):
        with pytest.raises(openai.APIError):
            async for _ in await client.chat.completions.create(
                model="m1", max_tokens=50, messages=HI, stream=True
            ):
                pass
        (row,) = await gateway.history()
        assert (row["outcome"], row["error_code"]) == ("error", "node_truncated")


async def test_anthropics_own_clients_pass_through(tmp_path: Path) -> None:
    async with (
        fleet(tmp_path) as (node, gateway),
        anthropic.AsyncAnthropic(base_url=gateway.url, api_key="k", max_retries=0) as client,
    ):
        async with client.messages.stream(model="small", max_tokens=5, messages=HI) as stream:
            message = await stream.get_final_message()
        assert message.usage.output_tokens == 5
        # The node's own words: its ids are bare numbers.
        assert message.id.isdigit()
        with pytest.raises(anthropic.BadRequestError):
            await client.messages.create(
                model="m1",
                max_tokens=5,
                messages=[{"role": "user", "content": 5}],  # type: ignore[typeddict-item]
            )
        assert dict(node.stats.requests) == {"m1": 1}
