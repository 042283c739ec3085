"""A request that fails is freed as it ends, whichever way it fails: the collector of cycles looks rarely."""

import asyncio
import contextlib
from pathlib import Path

import aiohttp
import pytest

from tests.garbage import left_behind
from tests.gateway.conftest import chat_body, scripted
from tests.running import Running, running

SHORT_GAP = "[limits]\nidle_timeout_s = 0.3"
PATHS: dict[str, dict[str, int]] = {
    "/v1/chat/completions": {},
    "/v1/messages": {"max_tokens": 9},
}


async def asked(gateway: Running, path: str, *, stream: bool) -> None:
    body = chat_body(stream=stream) | PATHS[path]
    async with gateway.http.post(gateway.url + path, json=body) as response:
        with contextlib.suppress(aiohttp.ClientError):
            await response.read()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "knob",
    [
        {},
        {"drop_after_chunks": 3},
        {"eof_after_chunks": 3},
        {"error_event_after": 3},
        {"stall_after_chunks": 3},
        {"crash_after_chunks": 3},
        {"stall_after_chunks": 0},
    ],
    ids=str,
)
async def test_after_a_request(
    tmp_path: Path, knob: dict[str, int], path: str, stream: bool
) -> None:
    async with (
        scripted(["m1"], token_interval_s=0.001, **knob) as node,
        running(tmp_path, [node], toml=SHORT_GAP) as gateway,
    ):
        await gateway.get("/health")
        with left_behind() as left:
            for _ in range(4):
                await asked(gateway, path, stream=stream)
            await asyncio.sleep(0.05)
        assert left == []


@pytest.mark.parametrize(
    "sent",
    [
        b"rubbish\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: 127.0.0.1\r\n\r\n",
    ],
    ids=["no method", "no colon", "long", "version"],
)
async def test_after_what_is_no_request(tmp_path: Path, sent: bytes) -> None:
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        host, port = gateway.url.removeprefix("http://").split(":")
        with left_behind() as left:
            for _ in range(3):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(sent)
                async with asyncio.timeout(5):
                    assert b" 400 " in (answer := await reader.read()) or b" 431 " in answer
                writer.close()
            await asyncio.sleep(0.05)
        assert left == []
