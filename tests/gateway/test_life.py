"""What counts as a sign that a node works, and what a client hears meanwhile."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import chat_body, stream
from tests.node.rawnode import LAST_CHUNK, STREAM_HEAD, Answer, Got, RawNode, chunk
from tests.running import running

MESSAGES = "/v1/messages"
SHORT = "[limits]\nidle_timeout_s = 0.3"


def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def slowly(*events: bytes, pause_s: float = 0.1) -> Answer:
    async def answer(_: Got, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for one in events:
            writer.write(chunk(one))
            await writer.drain()
            await asyncio.sleep(pause_s)
        writer.write(chunk(event({}, "stop")) + chunk(b"data: [DONE]\n\n") + LAST_CHUNK)

    return answer


def fragment(arguments: str, **more: Any) -> dict[str, Any]:
    function = {"arguments": arguments, **more}
    return {"tool_calls": [{"index": 0, "id": "c", "function": function}]}


LIFE: dict[str, tuple[dict[str, Any], list[bytes]]] = {
    "words": ({}, [event({"content": "a"})] * 8),
    "a call in fragments": (
        {},
        [event(fragment("", name="f")), *[event(fragment(piece)) for piece in '{"a":1}']],
    ),
    "thinking": ({}, [event({"reasoning_content": "hm"})] * 8),
    "thinking that is not shown": (
        {"thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}},
        [event({"reasoning_content": "hm"})] * 8,
    ),
    "half an event at a time": (
        {},
        [piece for _ in range(4) for piece in (event({"content": "a"})[:9], event({"content": "a"})[9:])],
    ),
}  # fmt: skip


async def test_whatever_the_engine_makes_is_life(tmp_path: Path) -> None:
    """All at once, each of them for longer than a silence may last."""
    answers = {kind: slowly(*events, pause_s=0.3) for kind, (_, events) in LIFE.items()}

    async def answer(got: Got, writer: asyncio.StreamWriter) -> None:
        await answers[json.loads(got.body)["model"]](got, writer)

    node = RawNode(list(LIFE), answer=answer)
    toml = "[limits]\nidle_timeout_s = 1.5"
    async with node, running(tmp_path, [node], toml=toml) as gateway:

        async def ask(kind: str, *, streamed: bool) -> None:
            asked = chat_body(kind, stream=streamed, max_tokens=2048, **LIFE[kind][0])
            seen = await stream(gateway.http, gateway.url, asked, MESSAGES)
            assert (seen.status, seen.complete) == (200, True), (kind, seen.body)
            assert b'"error"' not in seen.body, kind
            assert (b'"tool_use"' in seen.body) is (kind == "a call in fragments")

        async with asyncio.TaskGroup() as tasks:
            for kind in LIFE:
                for streamed in (True, False):
                    tasks.create_task(ask(kind, streamed=streamed))


NO_LIFE = {
    "comments": b": keep-alive\n\n",
    "pings": b'event: ping\ndata: {"type": "ping"}\n\n',
    "empty data": b"data:\n\n",
}


@pytest.mark.parametrize("kind", NO_LIFE)
@pytest.mark.parametrize("path", ["/v1/chat/completions", MESSAGES])
@pytest.mark.parametrize("streamed", [True, False])
async def test_what_only_the_server_sends_is_none(
    tmp_path: Path, kind: str, path: str, streamed: bool
) -> None:
    node = RawNode(["m1"], answer=slowly(event({"content": "a"}), *[NO_LIFE[kind]] * 40))
    async with node, running(tmp_path, [node], toml=SHORT) as gateway:
        asked = chat_body(stream=streamed, max_tokens=9)
        async with asyncio.timeout(3):
            seen = await stream(gateway.http, gateway.url, asked, path)
        assert b"sent nothing for 0.3 s" in seen.body
        [row] = await gateway.history()
        assert row["error_code"] == "node_timeout"


async def test_an_anthropic_client_is_pinged_whatever_the_node_sends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cortex.gateway.translated.PING_S", 0.1)
    hidden = event({"reasoning_content": "hm"})
    events = [event({"content": "a"}), *[b": hi\n\n", b"data:\n\n", hidden] * 20]
    node = RawNode(["m1"], answer=slowly(*events, pause_s=0.02))
    async with node, running(tmp_path, [node]) as gateway:
        more = {"thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}}
        asked = chat_body(stream=True, max_tokens=2048, **more)
        seen = await stream(gateway.http, gateway.url, asked, MESSAGES)
        assert seen.complete
        # One of them comes with the head.
        assert seen.body.count(b"event: ping") >= 5
