"""An editor whose types allow for nothing unexpected: what it sends, and every event that it must be able to read.

The shapes are those of Zed's crate `open_ai`, which reads a line at a time, takes any line that begins with `data:`, and
abandons the answer at the first one that fits neither of its two types.
"""

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from tests.gateway.conftest import Streamed, scripted, stream
from tests.node.rawnode import RawNode, saying, streaming, whole
from tests.running import Running, running

Unsigned = Annotated[int, Field(ge=0, lt=1 << 64)]
READ_FILE = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Reads a file.",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
    },
}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "read_file", "arguments": '{"path": "a.py"}'},
}
LIVE = {
    "stream": True,
    "stream_options": {"include_usage": True},
    "max_completion_tokens": 8,
    "temperature": 1.0,
    "tools": [READ_FILE],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "prompt_cache_key": "thread-1",
}
CONVERSATION = [
    {"role": "system", "content": "You edit code."},
    {
        "role": "user",
        "content": [{"type": "text", "text": "Look"}, {"type": "text", "text": "!"}],
    },
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    # What a tool has read comes in parts, which a node takes of a user only.
    {
        "role": "tool",
        "tool_call_id": "call_1",
        "content": [{"type": "text", "text": "a = 1"}, {"type": "text", "text": "b = 2"}],
    },
]


class Typed(BaseModel):
    """Unknown fields pass, a known one of another type does not."""

    model_config = ConfigDict(strict=True, extra="ignore")


class Function(Typed):
    name: str | None = None
    arguments: str | None = None


class ToolCall(Typed):
    index: Unsigned
    id: str | None = None
    function: Function | None = None


class Delta(Typed):
    role: Literal["user", "assistant", "system", "tool"] | None = None
    content: str | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning_content: str | None = None


class Choice(Typed):
    index: Unsigned
    delta: Delta | None = None
    finish_reason: str | None = None


class Usage(Typed):
    prompt_tokens: Unsigned
    completion_tokens: Unsigned
    total_tokens: Unsigned


class Event(Typed):
    choices: list[Choice]
    usage: Usage | None = None


class Told(Typed):
    message: str


class Failed(Typed):
    error: Told


Read = TypeAdapter[Event | Failed](Event | Failed)


def read(seen: Streamed) -> list[Event | Failed]:
    lines = seen.body.decode().splitlines()
    found = [
        line.removeprefix("data:").removeprefix(" ") for line in lines if line[:5] == "data:"
    ]
    return [Read.validate_json(line, strict=True) for line in found if line != "[DONE]"]


async def ask(gateway: Running, messages: Sequence[Any] = CONVERSATION) -> Streamed:
    body = {"model": "m1", "messages": messages} | LIVE
    return await stream(gateway.http, gateway.url, body)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Running]:
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        yield gateway


async def test_every_event_is_of_its_types(gateway: Running) -> None:
    seen = await ask(gateway)
    assert seen.status == 200, seen.body
    events = [event for event in read(seen) if isinstance(event, Event)]
    assert len(events) == len(read(seen)) > 2
    told = [
        choice.delta.content for event in events for choice in event.choices if choice.delta
    ]
    assert "".join(text or "" for text in told).strip()
    assert [event.usage for event in events if event.usage]
    assert seen.complete
    assert seen.body.rstrip().endswith(b"data: [DONE]")


async def test_so_is_a_failure_in_the_middle(tmp_path: Path) -> None:
    word = {"choices": [{"index": 0, "delta": {"content": "a"}}]}
    failure = {"error": {"message": "CUDA out of memory", "type": 3, "code": None}}
    events = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in (word, failure)]
    node = RawNode(["m1"], answer=streaming(*events))
    async with node, running(tmp_path, [node]) as gateway:
        *_, last = read(await ask(gateway))
    assert isinstance(last, Failed)
    assert last.error.message == "node n0: CUDA out of memory"


async def test_a_refusal_has_words_and_a_whole_number_of_seconds(tmp_path: Path) -> None:
    failure = json.dumps({"error": {"message": "CUDA out of memory"}}).encode()
    node = RawNode(["m1"], answer=saying(whole(failure, "500 Internal Server Error")))
    async with node, running(tmp_path, [node]) as gateway:
        seen = await ask(gateway)
    assert seen.status == 502, seen.body
    assert json.loads(seen.body)["error"]["message"]
    assert int(seen.headers["Retry-After"]) > 0
