"""A streaming client hears something while its model is being loaded."""

import json
from pathlib import Path

import aiohttp
import pytest

from cortex.devnode.scripted import ScriptedNode
from tests.running import Running, running, until

HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cortex.gateway.exchange.COMMENT_S", 0.1)


async def ask(gateway: Running, model: str, **more: object) -> aiohttp.ClientResponse:
    body = {"model": model, "messages": HI, "stream": True, "max_tokens": 3} | more
    return await gateway.http.post(f"{gateway.url}/v1/chat/completions", json=body)


async def test_comments_come_before_the_tokens(tmp_path: Path) -> None:
    async with (
        ScriptedNode(["cold"], unloaded=["cold"], load_s=0.6) as node,
        running(tmp_path, [node]) as gateway,
    ):
        async with await ask(gateway, "cold") as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "text/event-stream"
            text = await response.text()
        comments, _, rest = text.partition("data: ")
        assert set(comments.split("\n\n")) == {": waiting for the model", ""}
        assert comments.count("\n\n") >= 3
        assert rest.endswith("data: [DONE]\n\n")
        (row,) = await gateway.history()
        assert (row["outcome"], row["status"], row["cold_start"]) == ("ok", 200, True)
        assert row["ttft_ms"] > 500


async def test_a_load_that_fails_after_the_first_comment_is_an_error_event(
    tmp_path: Path,
) -> None:
    async with (
        ScriptedNode(["cold"], unloaded=["cold"], load_s=0.4, load_fail="no such file") as node,
        running(tmp_path, [node]) as gateway,
    ):
        text = (await _received(gateway, "cold")).decode()
        event = json.loads(text.split("data: ", 1)[1])
        assert event["error"]["code"] == "model_failing"
        assert "[DONE]" not in text
        (row,) = await gateway.history()
        assert (row["outcome"], row["error_code"]) == ("error", "model_failing")


async def test_without_streaming_the_status_stays_honest(tmp_path: Path) -> None:
    async with (
        ScriptedNode(["cold"], unloaded=["cold"], load_s=0.4, load_fail="no such file") as node,
        running(tmp_path, [node]) as gateway,
    ):
        reply = await gateway.chat("cold")
        assert (reply.status, reply.code) == (503, "model_failing")
        assert int(reply.headers["Retry-After"]) >= 1


async def test_a_client_that_hangs_up_while_it_waits_leaves_the_queue(tmp_path: Path) -> None:
    async with (
        ScriptedNode(["cold"], unloaded=["cold"], load_s=1.0) as node,
        running(tmp_path, [node]) as gateway,
    ):
        response = await ask(gateway, "cold")
        assert gateway.services.fleet.depth() == 1
        response.close()
        await until(lambda: gateway.services.fleet.depth() == 0, "an empty queue")
        # The node cannot call a load back; it ends, and the next request finds it warm.
        assert (await gateway.chat("cold")).status == 200
        assert node.stats.loads == {"cold": 1}


async def _received(gateway: Running, model: str) -> bytes:
    """All bytes of a stream that is cut."""
    data = b""
    async with await ask(gateway, model) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            async for chunk in response.content.iter_any():
                data += chunk
    return data
