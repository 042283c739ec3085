"""Connections, byte by byte: what the gateway reads itself, what it leaves to aiohttp, what it cuts."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from cortex.gateway import front
from tests.gateway.conftest import scripted
from tests.node.rawnode import RawNode, saying, silence, streaming, whole
from tests.running import Running, running, until

CHAT = "/v1/chat/completions"
BODY = b'{"model":"m1","messages":[{"role":"user","content":"hi"}]}'
WAIT_S = 10.0


class Client:
    """A connection, and what is said over it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer, by its length or in chunks."""
        async with asyncio.timeout(WAIT_S):
            raw = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = raw.decode().removesuffix("\r\n\r\n").split("\r\n")
            pairs = (line.partition(": ") for line in lines)
            headers = {name.lower(): value for name, _, value in pairs}
            if "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            else:
                body = await self._chunks()
        return int(first.split(" ")[1]), headers, body

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)
        return body

    async def closed(self) -> bytes:
        """What comes until the gateway closes."""
        async with asyncio.timeout(WAIT_S):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""


@asynccontextmanager
async def connected(gateway: Running) -> AsyncIterator[Client]:
    port = int(gateway.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


def request(body: bytes = BODY, *fields: str, path: str = CHAT, version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*lines, "", ""]).encode() + body


def by_aiohttp(gateway: Running) -> int:
    """Connections that aiohttp has."""
    return len(gateway.daemon._listeners[-1]._runner.server.connections)


async def test_a_connection_of_inference_never_meets_aiohttp(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node]) as gateway,
        connected(gateway) as client,
    ):
        before = by_aiohttp(gateway)
        for _ in range(3):
            client.send(request())
            status, headers, body = await client.answer()
            assert status == 200
            assert json.loads(body)["object"] == "chat.completion"
            assert headers["server"] == "cortex"
            assert "connection" not in headers
        assert by_aiohttp(gateway) == before


async def test_after_any_other_request_aiohttp_has_the_connection(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node]) as gateway,
        connected(gateway) as client,
    ):
        client.send(request())
        assert (await client.answer())[0] == 200
        before = by_aiohttp(gateway)
        client.send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b'"m1"' in (await client.answer())[2]
        assert by_aiohttp(gateway) == before + 1
        client.send(request(b'{"stream":true,' + BODY[1:]))
        status, headers, body = await client.answer()
        assert (status, headers["x-cortex-node"]) == (200, "n0")
        assert body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("pause", [1, 7, 60])
async def test_a_request_may_come_in_any_pieces(tmp_path: Path, pause: int) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node]) as gateway,
        connected(gateway) as client,
    ):
        whole_request = request()
        for at in range(0, len(whole_request), pause):
            client.send(whole_request[at : at + pause])
            await asyncio.sleep(0)
        assert (await client.answer())[0] == 200


async def test_pipelined_requests_are_answered_in_turn(tmp_path: Path) -> None:
    async with (
        scripted(["m1"], answer_delay_s=0.05) as node,
        running(tmp_path, [node]) as gateway,
        connected(gateway) as client,
    ):
        ids = ["first", "second", "third"]
        client.send(*(request(BODY, f"x-request-id: {name}") for name in ids))
        answers = [await client.answer() for _ in ids]
        assert [headers["x-request-id"] for _, headers, _ in answers] == ids
        assert node.stats.started == len(ids)
        # Behind a request that is not plain, too.
        client.send(
            request(BODY, "x-request-id: a"), b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        assert (await client.answer())[1]["x-request-id"] == "a"
        assert json.loads((await client.answer())[2])["status"] == "ok"


async def test_what_is_not_plain_is_answered_all_the_same(tmp_path: Path) -> None:
    chunked = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    )
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        async with connected(gateway) as client:
            client.send(chunked)
            assert (await client.answer())[0] == 200
        async with connected(gateway) as client:
            head, _, body = request(BODY, "Expect: 100-continue").partition(b"\r\n\r\n")
            client.send(head, b"\r\n\r\n")
            async with asyncio.timeout(WAIT_S):
                assert (
                    await client.reader.readuntil(b"\r\n\r\n")
                    == b"HTTP/1.1 100 Continue\r\n\r\n"
                )
            client.send(body)
            assert (await client.answer())[0] == 200


async def test_an_old_client_gets_its_stream_without_chunks(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node]) as gateway,
        connected(gateway) as client,
    ):
        client.send(request(b'{"stream":true,' + BODY[1:], version="1.0"))
        head, _, body = (await client.closed()).partition(b"\r\n\r\n")
        assert b"Connection: close" in head
        assert b"chunked" not in head
        assert body.endswith(b"data: [DONE]\n\n")


async def test_a_client_that_wants_to_close_is_closed(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node]) as gateway,
        connected(gateway) as client,
    ):
        client.send(request(BODY, "Connection: close"))
        head, _, body = (await client.closed()).partition(b"\r\n\r\n")
        assert b"Connection: close" in head
        assert json.loads(body)["object"] == "chat.completion"


async def test_a_head_that_takes_too_long_ends_the_connection(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml="[limits]\nhead_timeout_s = 0.3") as gateway,
        connected(gateway) as client,
    ):
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHos")
        assert await client.closed() == b""
        assert node.stats.started == 0


async def test_a_body_that_takes_too_long_is_refused(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml="[limits]\nidle_timeout_s = 0.3") as gateway,
        connected(gateway) as client,
    ):
        client.send(request()[:-5])
        status, _, body = await client.answer()
        assert (status, json.loads(body)["error"]["code"]) == (408, "request_timeout")


async def test_a_refused_body_is_read_over_and_the_connection_kept(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml="[limits]\nmax_body_mb = 0.001") as gateway,
        connected(gateway) as client,
    ):
        large = request(b"x" * 100_000)
        client.send(large[:2000])
        assert (await client.answer())[0] == 413
        client.send(large[2000:], request())
        assert (await client.answer())[0] == 200


async def test_a_client_that_hangs_up_cancels_its_request(tmp_path: Path) -> None:
    async with (
        RawNode(["m1"], answer=silence) as node,
        running(tmp_path, [node]) as gateway,
    ):
        async with connected(gateway) as client:
            client.send(request())
            await until(lambda: gateway.services.recent.in_flight == 1, "the request")
        await until(lambda: gateway.services.recent.in_flight == 0, "its end")
        [row] = await gateway.history()
        assert row["outcome"] == "client_gone"


async def test_no_request_begins_on_a_kept_connection_while_stopping(tmp_path: Path) -> None:
    async with (
        scripted(["m1"], answer_delay_s=0.3) as node,
        running(tmp_path, [node]) as gateway,
        connected(gateway) as kept,
        connected(gateway) as busy,
    ):
        kept.send(request())
        assert (await kept.answer())[0] == 200
        busy.send(request())
        await until(lambda: gateway.services.recent.in_flight == 1, "the request")
        gateway.daemon.stop()
        await until(lambda: gateway.services.draining, "the drain")
        kept.send(request())
        status, headers, _ = await kept.answer()
        assert (status, headers["connection"]) == (503, "close")
        assert (await busy.answer())[0] == 200
        assert await kept.closed() == b""


async def test_a_conversation_is_let_go_once_it_is_answered(tmp_path: Path) -> None:
    """A failure after the first byte is not retried, so nothing may be sent again by mistake."""
    events = [b'data: {"n":1}\n\n', b'data: {"error":{"message":"boom"}}\n\n']
    async with (
        RawNode(["m1"], answer=streaming(*events)) as broken,
        RawNode(["m1"], answer=streaming(*events)) as other,
        running(tmp_path, [broken, other]) as gateway,
        connected(gateway) as client,
    ):
        client.send(request(b'{"stream":true,' + BODY[1:]))
        sent = await client.closed()
        assert b'{"n":1}' in sent
        assert b"node_error" in sent
        [row] = await gateway.history()
        assert (row["attempts"], row["outcome"]) == (1, "error")


async def test_an_answer_that_is_not_a_stream_keeps_its_length(tmp_path: Path) -> None:
    async with (
        RawNode(["m1"], answer=saying(whole(b'{"ok":true}'))) as node,
        running(tmp_path, [node]) as gateway,
        connected(gateway) as client,
    ):
        client.send(request())
        _, headers, body = await client.answer()
        assert (headers["content-length"], body) == ("11", b'{"ok":true}')


async def test_a_silent_connection_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "FIRST_S", 0.2)
    monkeypatch.setattr(front, "HOUSEKEEPING_S", 0.05)
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node]) as gateway,
        connected(gateway) as client,
    ):
        assert await client.closed() == b""


async def test_a_second_head_that_takes_too_long_ends_the_connection_as_well(
    tmp_path: Path,
) -> None:
    """Of the connections that aiohttp has, which waits for such a one for ever."""
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml="[limits]\nhead_timeout_s = 0.3") as gateway,
        connected(gateway) as client,
    ):
        client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await client.answer())[0] == 200
        client.send(b"GET /health HTTP/1.1\r\nHost: loc")
        assert await client.closed() == b""


async def test_an_answer_that_takes_longer_than_a_head_may_is_not_cut(tmp_path: Path) -> None:
    async with (
        scripted(["m1"], load_s=0.5, unloaded=["m1"]) as node,
        running(tmp_path, [node], toml="[limits]\nhead_timeout_s = 0.1") as gateway,
        connected(gateway) as client,
    ):
        load = b'{"model":"m1"}'
        for _ in range(2):
            client.send(
                b"POST /cortex/v1/models/load HTTP/1.1\r\nHost: localhost\r\n",
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(load),
                load,
            )
            assert (await client.answer())[0] == 200


async def test_where_descriptors_run_out_the_longest_idle_make_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        scripted(["m1"], token_interval_s=0.05) as node,
        running(tmp_path, [node]) as gateway,
        AsyncExitStack() as stack,
    ):
        fronts = gateway.daemon._listeners[-1]._fronts
        idle = [await stack.enter_async_context(connected(gateway)) for _ in range(8)]
        busy = await stack.enter_async_context(connected(gateway))
        busy.send(request(stream_body(tokens=100_000)))
        assert b"200" in await busy.reader.readline()
        await until(lambda: len(fronts.open) >= 9, "all to be there")
        # As if there were no more descriptors than are taken now.
        fronts._most_files = 0
        async with connected(gateway) as late:
            late.send(request())
            assert (await late.answer())[0] == 200
            assert await idle[0].closed() == b""
        assert "descriptors run out" in caplog.text
        assert await busy.reader.readline()
        # Nobody idle is left in the end: who comes then is told.
        for there in tuple(fronts.open):
            # Those of the other clients of this test.
            if there.is_idle or there._aiohttp is not None:
                there.transport.abort()
        await until(lambda: len(fronts.open) == 1, "only the busy one to be left")
        async with connected(gateway) as late:
            refused = await late.closed()
            assert b"503" in refused
            assert b"no_capacity" in refused
        assert await busy.reader.readline()


def stream_body(tokens: int) -> bytes:
    return json.dumps(
        {
            "model": "m1",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": True,
            "max_tokens": tokens,
        }
    ).encode()
