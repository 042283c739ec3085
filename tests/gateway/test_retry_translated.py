"""A translated answer that is tried again is made of the second try alone."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import scripted
from tests.node.rawnode import STREAM_HEAD, Got, RawNode, chunk, streaming
from tests.running import running

USAGE = {"prompt_tokens": 70, "completion_tokens": 7}

ASK: dict[str, Any] = {
    "model": "m1",
    "max_tokens": 12,
    "messages": [{"role": "user", "content": "hi"}],
}


@pytest.mark.parametrize("after", [1, 2, 5])
async def test_a_node_that_dies_in_mid_answer_leaves_nothing_of_it(
    tmp_path: Path, after: int
) -> None:
    async with scripted(["m1"]) as dying, scripted(["m1"]) as well:
        async with running(tmp_path, [well]) as gateway:
            alone = (await gateway.post("/v1/messages", ASK)).json
        dying.knobs.drop_after_chunks = after
        (tmp_path / "cortex.db").unlink()
        async with running(tmp_path, [dying, well]) as gateway:
            replies = [await gateway.post("/v1/messages", ASK) for _ in range(3)]
    assert [reply.status for reply in replies] == [200] * 3
    assert dying.stats.started >= 1
    for reply in replies:
        assert reply.json["content"] == alone["content"]
        assert reply.json["usage"] == alone["usage"]


async def test_what_a_dead_node_said_counts_for_nothing(tmp_path: Path) -> None:
    """Neither its tool call nor its tokens nor the time of its first byte."""
    begun = asyncio.Event()
    call = {
        "index": 0,
        "id": "c",
        "function": {"name": "bash", "arguments": '{"command":"rm"}'},
    }

    async def dying(_: Got, writer: asyncio.StreamWriter) -> None:
        delta = {"choices": [{"index": 0, "delta": {"tool_calls": [call]}}], "usage": USAGE}
        writer.write(STREAM_HEAD + chunk(b"data: " + json.dumps(delta).encode() + b"\n\n"))
        await writer.drain()
        begun.set()
        await asyncio.sleep(0.3)
        writer.transport.abort()

    text = {"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}]}
    well = streaming(b"data: " + json.dumps(text).encode() + b"\n\n", b"data: [DONE]\n\n")
    first, second = RawNode(["m1"], answer=dying), RawNode(["m1"], answer=well)
    async with first, second, running(tmp_path, [first, second]) as gateway:
        reply = await gateway.post("/v1/messages", ASK | {"stream": True})
        assert begun.is_set()
        assert reply.headers["x-cortex-node"] == "n1"
        assert "tool_use" not in reply.text
        assert "rm" not in reply.text
        [row] = await gateway.history()
        assert (row["attempts"], row["prompt_tokens"], row["completion_tokens"]) == (
            2,
            None,
            None,
        )
        assert row["ttft_ms"] >= 290
