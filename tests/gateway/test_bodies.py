"""Bodies of any size: accepted to the limit, refused beyond it, and never in the loop's way."""

import asyncio
import contextlib
import gc
import gzip
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest

from tests.gateway.conftest import scripted
from tests.node.rawnode import RawNode, saying, whole
from tests.running import running

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
MIB = 1024 * 1024


@dataclass(frozen=True)
class Elsewhere:
    url: str


@asynccontextmanager
async def node_in_a_process() -> AsyncIterator[Elsewhere]:
    """A node with a loop of its own, for parsing 50 MiB would block ours."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cortex.devnode", "scripted", "--port", "0", "--model", "m1"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(15):
            yield Elsewhere((await child.stdout.readline()).decode().split()[-1])
    finally:
        child.kill()
        await child.wait()


class Longest:
    """CPU seconds of the loop's longest turn; CPU, since other processes may hold the core."""

    turn_s = 0.0
    turns = 0

    async def watch(self) -> None:
        last_s = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now_s = time.thread_time()
            self.turn_s = max(self.turn_s, now_s - last_s)
            self.turns += 1
            last_s = now_s


@contextmanager
def no_collection() -> Iterator[None]:
    """A full collection in a process that holds a whole test suite takes longer than a turn may."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def chat_of(size: int, model: str = "m1", own: bytes = b'"max_tokens":2') -> bytes:
    """A chat of exactly `size` bytes with its model at the end, behind an image.

    A field of its `own` that only one make of nodes knows has it passed on as it is.
    """
    before = (
        b'{"messages":[{"role":"user","content":[{"type":"text","text":"what is this?"},'
        b'{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo'
    )
    after = b'"}}]}],' + own + b',"model":"' + model.encode() + b'"}'
    return before + b"A" * (size - len(before) - len(after)) + after


async def test_50_mib_are_accepted_and_no_turn_of_the_loop_takes_20_ms(tmp_path: Path) -> None:
    body = BytesIO(chat_of(50 * MIB, "petit"))
    toml = '[aliases]\npetit = "m1"'
    longest = Longest()
    async with node_in_a_process() as node, running(tmp_path, [node], toml=toml) as gateway:
        with no_collection():
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(longest.watch())
                reply = await gateway.post(CHAT, json=None, data=body, headers=JSON)
                watching.cancel()
        assert reply.status == 200, reply.text
        assert reply.json["usage"]["completion_tokens"] == 2
    assert longest.turns > 100
    assert longest.turn_s < 0.02


@pytest.mark.parametrize("unit", [b"[],", b"1,", b'"\\"",', b'{"a":[]},'], ids=repr)
async def test_nor_does_one_with_a_body_of_nothing_but_brackets_or_commas(
    tmp_path: Path, unit: bytes
) -> None:
    size = 8 * MIB
    body = b'{"model":"petit","stream":false,"messages":[' + unit * (size // len(unit)) + b"1]}"
    toml = '[aliases]\npetit = "m1"'
    longest = Longest()
    node = RawNode(["m1"], answer=saying(whole(b"{}")))
    async with node, running(tmp_path, [node], toml=toml) as gateway:
        with no_collection():
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(longest.watch())
                reply = await gateway.post(CHAT, json=None, data=BytesIO(body), headers=JSON)
                watching.cancel()
        assert reply.status == 200, reply.text
        assert len(node.got[0].body) == len(body) - len("petit") + len("m1")
    assert longest.turns > 100
    assert longest.turn_s < 0.02


async def test_51_mib_are_refused(tmp_path: Path) -> None:
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        reply = await gateway.post(
            CHAT, json=None, data=BytesIO(chat_of(51 * MIB)), headers=JSON
        )
        assert (reply.status, reply.code) == (413, "request_too_large")
        assert "50 MiB" in reply.json["error"]["message"]
        assert not node.stats.started
        [row] = await gateway.history()
        assert (row["status"], row["error_code"]) == (413, "request_too_large")


async def test_the_limit_is_exact_and_holds_without_a_declared_length(tmp_path: Path) -> None:
    async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
        for at in range(0, len(body), 60_000):
            yield body[at : at + 60_000]

    async with (
        RawNode(["m1"]) as node,
        running(tmp_path, [node], toml="[limits]\nmax_body_mb = 0.5") as gateway,
    ):
        for size, status in ((MIB // 2, 200), (MIB // 2 + 1, 413)):
            body = chat_of(size, own=b'"ignore_eos":false')
            whole = await gateway.post(CHAT, json=None, data=BytesIO(body))
            pieces = await gateway.post(CHAT, json=None, data=in_pieces(body))
            assert (whole.status, pieces.status) == (status, status), size
        assert [len(got.body) for got in node.got] == [MIB // 2] * 2


async def test_a_refusal_by_its_declared_length_does_not_wait_for_the_body(
    tmp_path: Path,
) -> None:
    async with RawNode(["m1"]) as node, running(tmp_path, [node]) as gateway:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {51 * MIB}\r\n\r\n"
        async with open_raw(gateway.url, head.encode()) as reader:
            assert b" 413 " in await reader.readline()


async def test_a_body_that_does_not_arrive_is_a_408(tmp_path: Path) -> None:
    async with (
        RawNode(["m1"]) as node,
        running(tmp_path, [node], toml="[limits]\nidle_timeout_s = 0.2") as gateway,
    ):
        head = f'POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{{"model":'
        async with open_raw(gateway.url, head.encode()) as reader:
            assert b" 408 " in await reader.readline()
            assert b'"code": "request_timeout"' in await reader.read(4096)


@asynccontextmanager
async def open_raw(url: str, sent: bytes) -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    try:
        writer.write(sent)
        async with asyncio.timeout(5):
            yield reader
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_compressed_body_reaches_the_node_unpacked(tmp_path: Path) -> None:
    body = chat_of(3000, own=b'"ignore_eos":false')
    packed = JSON | {"Content-Encoding": "gzip"}
    async with RawNode(["m1"]) as node, running(tmp_path, [node]) as gateway:
        reply = await gateway.post(CHAT, json=None, data=gzip.compress(body), headers=packed)
        assert reply.status == 200, reply.text
        assert node.got[0].body == body
        assert "Content-Encoding" not in node.got[0].headers
        broken = await gateway.post(CHAT, json=None, data=b"not gzip at all", headers=packed)
        assert (broken.status, broken.code) == (400, "invalid_request")


async def test_a_small_body_that_unpacks_to_a_large_one_is_refused(tmp_path: Path) -> None:
    bomb = gzip.compress(chat_of(20 * MIB))
    assert len(bomb) < 100_000
    async with (
        RawNode(["m1"]) as node,
        running(tmp_path, [node], toml="[limits]\nmax_body_mb = 1") as gateway,
    ):
        reply = await gateway.post(
            CHAT, json=None, data=bomb, headers=JSON | {"Content-Encoding": "gzip"}
        )
        assert (reply.status, reply.code) == (413, "request_too_large")
        assert not node.got


@pytest.mark.parametrize(
    "tail",
    [b"", b"}", b',"model":"m2"}', b'} {"x":1}', b'"]'],
    ids=["cut", "fine", "given twice", "two objects", "mismatch"],
)
async def test_a_large_body_is_checked_as_far_as_routing_needs(
    tmp_path: Path, tail: bytes
) -> None:
    body = b'{"model":"m1","pad":"' + b"x" * 400_000 + b'"' + tail
    async with RawNode(["m1"]) as node, running(tmp_path, [node]) as gateway:
        reply = await gateway.post(CHAT, json=None, data=body)
        assert (reply.status, len(node.got)) == ((200, 1) if tail == b"}" else (400, 0))
