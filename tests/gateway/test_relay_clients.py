"""Clients that hang up, and clients that do not read."""

import asyncio
from pathlib import Path

import pytest

from tests.gateway.conftest import chat_body, scripted
from tests.node.rawnode import STREAM_HEAD, Got, RawNode, chunk
from tests.running import Running, running, until

CHAT = "/v1/chat/completions"
MIB = 1024 * 1024


async def idle(gateway: Running) -> None:
    await until(lambda: gateway.services.recent.in_flight == 0, "the gateway to be idle")
    nodes = gateway.services.fleet.snapshot().nodes.values()
    assert [node.in_flight for node in nodes] == [0] * len(nodes)


async def test_a_client_that_hangs_up_stops_the_engine(tmp_path: Path) -> None:
    async with (
        scripted(["m1"], endless=True, token_interval_s=0.005) as node,
        running(tmp_path, [node]) as gateway,
    ):
        response = await gateway.http.post(gateway.url + CHAT, json=chat_body(stream=True))
        await response.content.readany()
        assert node.stats.in_flight["m1"] == 1
        response.close()
        await until(lambda: node.stats.streams_stopped == 1, "the engine to stop")
        assert node.stats.in_flight["m1"] == 0
        await idle(gateway)
        [row] = await gateway.history()
        assert (row["outcome"], row["error_code"], row["status"]) == ("client_gone", None, 200)
        assert (await gateway.status())["nodes"][0]["models"][0]["breaker_open"] is False


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_hangs_up_before_the_first_byte_is_accounted(
    tmp_path: Path, streamed: bool
) -> None:
    async with (
        scripted(["m1"], answer_delay_s=60) as node,
        running(tmp_path, [node]) as gateway,
    ):
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(gateway.chat("m1", stream=streamed))
            await until(lambda: node.stats.started == 1, "the request")
            asking.cancel()
        await until(lambda: node.stats.cancelled == 1, "the node to be let go")
        await idle(gateway)
        [row] = await gateway.history()
        assert (row["outcome"], row["status"], row["node"]) == ("client_gone", 0, "n0")


async def test_a_client_that_hangs_up_in_the_queue_leaves_it(tmp_path: Path) -> None:
    async with (
        scripted(["m1"], endless=True, token_interval_s=0.005) as node,
        running(tmp_path, [node], toml="[limits]\nmax_in_flight_per_model = 1") as gateway,
        gateway.http.post(gateway.url + CHAT, json=chat_body(stream=True)),
    ):
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(gateway.chat("m1"))
            await until(lambda: gateway.services.fleet.depth() == 1, "the queue")
            waiting.cancel()
        await until(lambda: gateway.services.fleet.depth() == 0, "the queue to empty")
        [row] = await gateway.history()
        assert (row["outcome"], row["node"]) == ("client_gone", None)
        assert node.stats.started == 1


async def test_a_body_that_is_broken_off_is_no_bug(tmp_path: Path) -> None:
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\n{{".encode()
        )
        await writer.drain()
        await until(lambda: gateway.services.recent.in_flight == 1, "the request")
        writer.close()
        await writer.wait_closed()
        await idle(gateway)
        [row] = await gateway.history()
        assert row["outcome"] == "client_gone"
        assert not node.stats.started


class Endless:
    """Streams as much as it is allowed to, and counts it."""

    def __init__(self) -> None:
        self.sent = 0
        self.cut = asyncio.Event()

    async def __call__(self, _: Got, writer: asyncio.StreamWriter) -> None:
        event = chunk(b'data: {"pad":"' + b"x" * 65_000 + b'"}\n\n')
        writer.write(STREAM_HEAD)
        try:
            while self.sent < 256 * MIB:
                writer.write(event)
                await writer.drain()
                self.sent += len(event)
        except ConnectionError:
            self.cut.set()


async def test_a_slow_reader_holds_the_node_back_instead_of_filling_memory(
    tmp_path: Path,
) -> None:
    endless = Endless()
    async with (
        RawNode(["m1"], answer=endless) as node,
        running(tmp_path, [node], toml="[limits]\nidle_timeout_s = 0.6") as gateway,
        gateway.http.post(
            gateway.url + CHAT, json=chat_body(stream=True), read_bufsize=65_536
        ) as response,
    ):
        assert response.status == 200
        # Socket buffers of two connections take some; the gateway itself next to nothing.
        await until(endless.cut.is_set, "the node to be let go")
        assert endless.sent < 32 * MIB
        await idle(gateway)
        [row] = await gateway.history()
        assert (row["outcome"], row["error_code"]) == ("error", "client_stalled")
        assert 400 < row["duration_ms"] < 5000
