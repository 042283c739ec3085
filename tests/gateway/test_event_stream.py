"""`/cortex/v1/events/stream`: every change of the fleet as it happens."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cortex.adminapi import EventQuery, EventsBody
from cortex.core.records import EventKind
from cortex.gateway import admin
from tests.gateway.conftest import scripted
from tests.running import Running, running, until

STREAM = "/cortex/v1/events/stream"
PIN, UNPIN = "/cortex/v1/models/pin", "/cortex/v1/models/unpin"


class Reader:
    """Server-sent events, one at a time; comments are kept apart."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.comments: list[str] = []

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(5):
            while True:
                block = (await self.response.content.readuntil(b"\n\n")).decode()
                if not block.startswith(":"):
                    break
                self.comments.append(block.strip())
        fields = dict(line.split(": ", 1) for line in block.strip().splitlines())
        row = json.loads(fields["data"])
        assert fields["id"] == str(row["id"])
        assert fields["event"] == row["kind"]
        return dict(row)


@asynccontextmanager
async def following(gateway: Running, last: int | None = None) -> AsyncIterator[Reader]:
    # What the start left unwritten would come in between.
    await gateway.flushed()
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    async with gateway.http.get(gateway.url + STREAM, headers=headers) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-cache"
        assert await response.content.readuntil(b"\n\n") == b": open\n\n"
        yield Reader(response)


@pytest.mark.parametrize("last", ["²", "-1", "1e3", "9" * 40, "x", "٣"])
async def test_an_id_that_is_none_is_as_good_as_no_id(shared: Running, last: str) -> None:
    headers = {"Last-Event-ID": last}
    async with shared.http.get(shared.url + STREAM, headers=headers) as response:
        assert response.status == 200
        assert await response.content.readuntil(b"\n\n") == b": open\n\n"
        await shared.post(PIN, {"model": "m1"})
        assert b"event: " in await response.content.readuntil(b"\n\n")


async def test_a_change_arrives_as_it_is_committed(shared: Running) -> None:
    before = await shared.events()
    async with following(shared) as reader:
        await shared.post(PIN, {"model": "m1"})
        event = await reader.next()
        assert (event["kind"], event["model"]) == ("pin", "m1")
        # Nothing from before: whoever wants that asks for it.
        assert event["id"] > before[-1]["id"]
        await shared.post(UNPIN, {"model": "m1"})
        assert (await reader.next())["kind"] == "unpin"


async def test_a_reader_that_comes_back_misses_nothing_and_hears_nothing_twice(
    shared: Running,
) -> None:
    for verb in (PIN, UNPIN, PIN):
        await shared.post(verb, {"model": "m1"})
    rows = await shared.events()
    seen = [row["id"] for row in rows]
    async with following(shared, last=seen[-3]) as reader:
        assert [(await reader.next())["id"] for _ in range(2)] == seen[-2:]
        await shared.post(UNPIN, {"model": "m1"})
        assert (await reader.next())["id"] > seen[-1]


class FlushedByReading:
    """The ledger, with a write that happens to fall between a subscription and its first read."""

    def __init__(self, gateway: Running) -> None:
        self._gateway = gateway
        self._ledger = gateway.services.ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def events(self, query: EventQuery) -> EventsBody:
        await self._gateway.flushed()
        return await self._ledger.events(query)


async def test_an_event_that_is_both_read_and_heard_is_told_once(shared: Running) -> None:
    last = (await shared.events())[-1]["id"]
    shared.services.ledger = FlushedByReading(shared)
    await shared.post(PIN, {"model": "m1"})
    async with shared.http.get(
        shared.url + STREAM, headers={"Last-Event-ID": str(last)}
    ) as response:
        reader = Reader(response)
        assert (await reader.next())["kind"] == "pin"
        await shared.post(UNPIN, {"model": "m1"})
        assert (await reader.next())["kind"] == "unpin"


async def test_two_readers_both_hear_it(shared: Running) -> None:
    async with following(shared) as one, following(shared) as other:
        await shared.post(PIN, {"model": "m1"})
        assert await one.next() == await other.next()


async def test_a_quiet_stream_is_pinged(
    shared: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "STREAM_PING_S", 0.05)
    async with following(shared) as reader:
        async with asyncio.timeout(5):
            assert await reader.response.content.readuntil(b"\n\n") == b": ping\n\n"
        await shared.post(PIN, {"model": "m1"})
        assert (await reader.next())["kind"] == "pin"


async def test_a_reader_that_leaves_is_forgotten(shared: Running) -> None:
    subscribers = shared.daemon._store._subscribers
    async with following(shared):
        assert len(subscribers) == 1
    await until(lambda: len(subscribers) == 0, "the subscription to go")


async def test_an_open_stream_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async with scripted(["m1"]) as node, aiohttp.ClientSession() as mine:
        async with running(tmp_path, [node]) as gateway:
            response = await mine.get(gateway.url + STREAM)
            assert (await response.content.readany()).startswith(b": open\n\n")
            began_s = time.perf_counter()
        assert time.perf_counter() - began_s < 5
        response.close()


async def test_a_reader_that_takes_nothing_is_cut(
    shared: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(admin, "STALL_S", 0.3)
    subscribers = shared.daemon._store._subscribers
    state = shared.services.fleet._state
    with socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect(("127.0.0.1", int(shared.url.rpartition(":")[2])))
        stuck.sendall(f"GET {STREAM} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await until(lambda: len(subscribers) == 1, "the reader to be heard")

        async def gone() -> bool:
            for number in range(100):
                state.event(EventKind.CONFIG, "x" * 4000, f"n{number}")
            await shared.flushed()
            return len(subscribers) == 0

        await until(gone, "the reader to be cut", 30)
    assert [r for r in caplog.records if r.levelname == "ERROR"] == []
