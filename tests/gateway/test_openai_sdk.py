"""The official OpenAI SDK, pointed at the gateway, works as it does elsewhere."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.gateway.conftest import scripted, sdk
from tests.running import running, until

HI = [{"role": "user", "content": "hi"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


async def test_a_chat_comes_whole_with_its_usage(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node]) as gateway,
        sdk(gateway) as client,
    ):
        raw = await client.chat.completions.with_raw_response.create(
            model="m1", messages=HI, max_tokens=3
        )
        answer = raw.parse()
        assert answer.model == "m1"
        assert answer.choices[0].finish_reason == "length"
        assert len(answer.choices[0].message.content.split()) == 3
        assert answer.usage.completion_tokens == 3
        assert raw.headers["x-cortex-node"] == "n0"
        assert raw.headers["x-cortex-model"] == "m1"
        assert raw.headers["x-cortex-cold-start"] == "false"
        [row] = await gateway.history()
        assert (row["completion_tokens"], row["stream"], row["status"]) == (3, False, 200)
        assert row["prompt_tokens"] == answer.usage.prompt_tokens


async def test_a_streamed_chat_ends_with_its_usage(tmp_path: Path) -> None:
    async with (
        scripted(["m1"], token_interval_s=0.002) as node,
        running(tmp_path, [node]) as gateway,
        sdk(gateway) as client,
    ):
        streamed = await client.chat.completions.create(
            model="m1",
            messages=HI,
            max_tokens=6,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in streamed]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        whole = await client.chat.completions.create(model="m1", messages=HI, max_tokens=6)
        assert text == whole.choices[0].message.content
        assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1].usage.completion_tokens == 6
        assert chunks[-1].choices[0].finish_reason == "length"
        _, row = await gateway.history()
        assert row["stream"] is True
        assert row["completion_tokens"] == 6
        assert 0 < row["ttft_ms"] <= row["duration_ms"]
        assert row["tokens_per_s"] > 0


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_tool_is_called(tmp_path: Path, streamed: bool) -> None:
    arguments = {"city": "Oslo"}
    async with (
        scripted(["m1"], tool_trigger="rain", tool_arguments=arguments) as node,
        running(tmp_path, [node]) as gateway,
        sdk(gateway) as client,
    ):
        asked = {
            "model": "m1",
            "messages": [{"role": "user", "content": "will it rain?"}],
            "tools": [WEATHER],
        }
        if streamed:
            calls = [
                call
                async for chunk in await client.chat.completions.create(**asked, stream=True)
                for call in chunk.choices[0].delta.tool_calls or ()
            ]
        else:
            answer = await client.chat.completions.create(**asked)
            assert answer.choices[0].finish_reason == "tool_calls"
            calls = answer.choices[0].message.tool_calls
        [call] = calls
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments) == arguments


async def test_the_result_of_a_tool_goes_back_with_a_content_of_null(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    turns = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "dry"},
        {"role": "system", "content": "be brief"},
    ]
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node]) as gateway,
        sdk(gateway) as client,
    ):
        answer = await client.chat.completions.create(
            model="m1", messages=turns, max_completion_tokens=2
        )
        assert answer.usage.completion_tokens == 2


async def test_embeddings_come_one_per_input(tmp_path: Path) -> None:
    async with (
        scripted(["e1"], embedding_size=4, category="embedding") as node,
        running(tmp_path, [node]) as gateway,
        sdk(gateway) as client,
    ):
        answer = await client.embeddings.create(model="e1", input=["one", "two"])
        assert [row.index for row in answer.data] == [0, 1]
        assert [len(row.embedding) for row in answer.data] == [4, 4]
        assert answer.data[0].embedding != answer.data[1].embedding
        [row] = await gateway.history()
        assert row["route"] == "embeddings"
        assert row["prompt_tokens"] == answer.usage.prompt_tokens > 0
        assert row["completion_tokens"] is None


async def test_completions_whole_and_streamed_say_the_same(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node]) as gateway,
        sdk(gateway) as client,
    ):
        asked = {"model": "m1", "prompt": "once", "max_tokens": 4}
        whole = await client.completions.create(**asked)
        parts = [part async for part in await client.completions.create(**asked, stream=True)]
        assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text
        assert parts[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"


async def test_speech_is_relayed_as_sound(tmp_path: Path) -> None:
    async with (
        scripted(["m1"], category="speech") as node,
        running(tmp_path, [node]) as gateway,
        sdk(gateway) as client,
    ):
        sound = await client.audio.speech.create(
            model="m1", input="hello", voice="any", response_format="wav"
        )
        assert sound.content[:4] == b"RIFF"
        assert len(sound.content) == 44 + 4800
        [row] = await gateway.history()
        assert (row["route"], row["outcome"]) == ("speech", "ok")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_conversation_of_responses_stays_on_the_node_that_began_it(
    tmp_path: Path, streamed: bool
) -> None:
    async with (
        scripted(["m1"], endless=True, token_interval_s=0.01) as one,
        scripted(["m1"]) as other,
        running(tmp_path, [one, other]) as gateway,
        sdk(gateway) as client,
    ):
        # While the first node is busy, the conversation begins on the second.
        busy = await client.chat.completions.create(model="m1", messages=HI, stream=True)
        asked = {"model": "m1", "input": "hi", "max_output_tokens": 2}
        if streamed:
            events = [
                event async for event in await client.responses.create(**asked, stream=True)
            ]
            assert events[-1].type == "response.completed"
            first = events[-1].response
        else:
            first = await client.responses.create(**asked)
        assert other.stats.started == 1
        await busy.close()
        await until(lambda: one.stats.streams_stopped == 1, "the first node to be idle")
        for turn in range(4):
            raw = await client.responses.with_raw_response.create(
                **asked,
                previous_response_id=first.id,
                # A session that would otherwise be free to go anywhere.
                extra_headers={"x-session-id": f"another-{turn}"},
            )
            assert raw.headers["x-cortex-node"] == "n1"


async def test_a_stored_response_is_found_and_deleted_where_it_was_made(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as one,
        scripted(["m2"]) as other,
        running(tmp_path, [one, other]) as gateway,
        sdk(gateway) as client,
    ):
        made = await client.responses.create(model="m2", input="hi", max_output_tokens=2)
        found = await client.responses.with_raw_response.retrieve(made.id)
        assert found.headers["x-cortex-node"] == "n1"
        assert found.parse().output_text == made.output_text
        assert list(other.responses) == [made.id]
        await client.responses.delete(made.id)
        assert not other.responses


async def test_a_stored_response_is_found_after_a_restart_of_the_gateway(
    tmp_path: Path,
) -> None:
    async with scripted(["m1"]) as one, scripted(["m2"]) as other:
        async with running(tmp_path, [one, other]) as gateway, sdk(gateway) as client:
            made = await client.responses.create(model="m2", input="hi", max_output_tokens=2)
        async with running(tmp_path, [one, other]) as gateway, sdk(gateway) as client:
            assert (await client.responses.retrieve(made.id)).id == made.id


async def test_a_background_response_is_cancelled_on_its_node(tmp_path: Path) -> None:
    async with (
        scripted(["m1"], token_interval_s=0.05) as node,
        running(tmp_path, [node]) as gateway,
        sdk(gateway) as client,
    ):
        queued = await client.responses.create(
            model="m1", input="hi", background=True, max_output_tokens=4
        )
        assert queued.status == "queued"
        assert (await client.responses.cancel(queued.id)).status == "cancelled"


async def test_every_model_and_alias_is_listed_once(tmp_path: Path) -> None:
    toml = '[aliases]\nsmall = "m1"'
    async with (
        scripted(["m1", "org/m2"]) as one,
        scripted(["m1"]) as other,
        running(tmp_path, [one, other], toml=toml) as gateway,
        sdk(gateway) as client,
    ):
        listed = [model async for model in client.models.list()]
        assert [model.id for model in listed] == ["m1", "org/m2", "small"]
        assert (await client.models.retrieve("org/m2")).owned_by == "local"
        assert (await client.models.retrieve("small")).parent == "m1"


async def test_an_alias_reaches_the_model_it_stands_for(tmp_path: Path) -> None:
    toml = '[aliases]\nsmall = "org/m1"\n[models."org/m2"]\naliases = ["big"]'
    async with (
        scripted(["org/m1", "org/m2"]) as node,
        running(tmp_path, [node], toml=toml) as gateway,
        sdk(gateway) as client,
    ):
        for alias, model in (("small", "org/m1"), ("big", "org/m2")):
            answer = await client.chat.completions.create(
                model=alias, messages=HI, max_tokens=2
            )
            assert answer.model == model
        assert node.stats.requests == {"org/m1": 1, "org/m2": 1}
        assert [row["model"] for row in await gateway.history()] == ["org/m2", "org/m1"]


async def test_many_at_once_are_all_answered(tmp_path: Path) -> None:
    async with (
        scripted(["m1"], token_interval_s=0.001) as one,
        scripted(["m1"], token_interval_s=0.001) as other,
        running(tmp_path, [one, other]) as gateway,
        sdk(gateway) as client,
    ):
        async with asyncio.TaskGroup() as group:
            asking = [
                group.create_task(
                    client.chat.completions.create(
                        model="m1",
                        messages=[{"role": "user", "content": f"number {n}"}],
                        max_tokens=5,
                    )
                )
                for n in range(40)
            ]
        assert {task.result().usage.completion_tokens for task in asking} == {5}
        served = [node.stats.finished for node in (one, other)]
        assert sum(served) == 40
        assert min(served) >= 10
