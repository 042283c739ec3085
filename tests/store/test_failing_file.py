"""A file that takes nothing, for a while: rows are kept, saves are refused, requests notice nothing."""

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from cortex.adminapi import EventQuery
from cortex.core.errors import StoreError
from cortex.core.ids import ModelId, NodeName
from cortex.core.records import NodeRecord
from cortex.store.store import Store
from tests.running import until
from tests.store.conftest import (
    event,
    flushed,
    opened,
    request,
    select,
    told,
    writing,
    written,
)

Failure = Callable[[Store, Path], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def disk_full(store: Store, path: Path) -> AsyncIterator[None]:
    """No page can be added to the file."""
    (pages,) = select(path, "PRAGMA page_count")[0]
    await store._writer.execute(f"PRAGMA max_page_count = {pages}")
    yield
    await store._writer.execute("PRAGMA max_page_count = 1000000")


@asynccontextmanager
async def locked(store: Store, path: Path) -> AsyncIterator[None]:
    async with writing(path):
        yield


FAILURES = [
    pytest.param(disk_full, "database or disk is full", id="disk full"),
    pytest.param(locked, "database is locked", id="locked"),
]


@pytest.mark.parametrize(("failure", "reason"), FAILURES)
async def test_rows_are_kept_and_land_once_in_order_when_there_is_room_again(
    path: Path, failure: Failure, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"r{number}" for number in range(3000)]
    async with opened(path) as store:
        for number in range(500):
            store.request_done(request(number))
        await flushed(store)
        async with failure(store, path):
            for number in range(500, 2500):
                store.request_done(request(number))
            await until(lambda: not store.status().ok, "the failure to be noticed")
            assert store.status().reason == reason
            # Whatever fitted is neither lost nor waiting.
            there = len(written(path))
            assert there + store.status().queued_rows == 2500
            assert await told(store) == names[:there]
            store.record(event(1))
        for number in range(2500, 3000):
            store.request_done(request(number))
        await flushed(store)
        assert (store.status().ok, store.status().reason) == (True, "")
        assert store.status().dropped_rows == 0
    assert written(path) == names
    assert select(path, "SELECT reason FROM events") == [("e1",)]
    # Pruning, which goes on beside it, may have met the failure first.
    messages = [(r.levelno, r.getMessage()) for r in caplog.records if r.name == "cortex.store"]
    assert [m for m in messages if m[1] != "old rows not pruned"] == [
        (logging.ERROR, "the store takes nothing"),
        (logging.WARNING, "the store works again"),
    ]


@pytest.mark.parametrize(("failure", "reason"), FAILURES)
async def test_a_save_that_the_file_does_not_take_is_refused_and_not_done_later(
    path: Path, failure: Failure, reason: str
) -> None:
    many = "long" * 3000
    async with opened(path) as store:
        async with failure(store, path):
            with pytest.raises(StoreError) as refused:
                await store.save(NodeRecord(name=NodeName("n"), version=many))
            assert refused.value.message == f"not written: {reason}"
            assert not store.status().ok
        await until(
            lambda: store.status().ok, "the file to be found well with nothing to write"
        )
        assert (await store.recall()).nodes == ()
        await store.save(NodeRecord(name=NodeName("n"), version=many))
    assert select(path, "SELECT name FROM nodes") == [("n",)]


async def test_a_save_without_a_writer_ends_in_time_and_is_not_done_later(path: Path) -> None:
    async with opened(path, runs=False, save_s=0.05) as store:
        with pytest.raises(StoreError) as late:
            await store.save_pin(ModelId("m"), None)
        assert late.value.message == "not written within 0.05 s: the writer is busy"
        await store._flush()
        assert (await store.recall()).pins == frozenset()


async def test_a_save_asked_for_during_a_failing_flush_is_left_to_the_next(path: Path) -> None:
    async with (
        opened(path, runs=False, busy_s=0.3) as store,
        asyncio.TaskGroup() as group,
    ):
        async with writing(path):
            first = group.create_task(refused_pin(store, "first"), name="first")
            await asyncio.sleep(0)
            flush = group.create_task(store._flush(), name="flush")
            await until(store._flushing.locked, "the flush to begin")
            second = group.create_task(store.save_pin(ModelId("second"), None), name="second")
            await flush
            assert await first == "not written: database is locked"
            assert not second.done()
        await store._flush()
        await second
    assert select(path, "SELECT model FROM pins") == [("second",)]


async def refused_pin(store: Store, model: str) -> str:
    with pytest.raises(StoreError) as refused:
        await store.save_pin(ModelId(model), None)
    return refused.value.message


async def test_the_request_path_does_not_wait_for_a_locked_file(path: Path) -> None:
    async with opened(path, busy_s=3.0) as store:
        async with writing(path):
            store.request_done(request(0))
            store.record(event(0))
            await until(store._flushing.locked, "the writer to wait for the lock")
            began_s = time.monotonic()
            for number in range(1, 2001):
                store.request_done(request(number))
                store.record(event(number))
            assert time.monotonic() - began_s < 1.0
            assert await told(store) == []  # readers do not wait for it either
            assert time.monotonic() - began_s < 2.0
        await flushed(store)
        assert len(await told(store)) == 2001
        assert len((await store.events(EventQuery(limit=10_000))).rows) == 2001
        assert store.status().ok


async def test_beyond_the_bound_the_oldest_waiting_rows_are_dropped_and_counted(
    path: Path,
) -> None:
    async with opened(path, runs=False, max_queued_rows=100) as store:
        for number in range(100):
            store.request_done(request(number))
        assert store.status().dropped_rows == 0
        for number in range(100, 130):
            store.request_done(request(number))
        assert (store.status().queued_rows, store.status().dropped_rows) == (100, 30)
    assert written(path) == [f"r{number}" for number in range(30, 130)]
    # Numbers that were dropped are not given again.
    assert select(path, "SELECT min(id), max(id) FROM requests") == [(31, 130)]


async def test_a_failing_file_keeps_no_more_rows_than_the_bound_and_one_batch(
    path: Path,
) -> None:
    async with opened(path, max_queued_rows=100, flush_rows=10) as store:
        async with writing(path):
            store.request_done(request(0))
            await until(lambda: not store.status().ok, "the lock to be noticed")
            for number in range(1, 1000):
                store.request_done(request(number))
            await until(lambda: len(store._batch) == 10, "the batch to fill up")
            for number in range(1000, 2000):
                store.request_done(request(number))
            status = store.status()
            assert status.queued_rows == 110
            assert status.queued_rows + status.dropped_rows == 2000
        await flushed(store)
    names = written(path)
    assert len(names) == 110
    assert names[-100:] == [f"r{number}" for number in range(1900, 2000)]
    assert names == sorted(names, key=lambda name: int(name[1:]))


async def test_pauses_between_tries_grow_to_a_bound(path: Path) -> None:
    async with opened(path, busy_s=0.001, retry_s=0.01, max_retry_s=0.04) as store:
        async with writing(path):
            began_s = time.monotonic()
            store.request_done(request(1))
            await until(lambda: store._failures >= 3, "three tries")
            assert time.monotonic() - began_s > 0.03
            # Doubled each time, the pauses would last for minutes by then.
            await until(lambda: store._failures >= 16, "sixteen tries")
        await until(lambda: written(path) == ["r1"], "the row to be written", 2.0)


async def test_a_failing_file_is_not_pruned(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(path, prune_every_s=0.01) as store, writing(path):
        store.request_done(request(1))
        await until(lambda: not store.status().ok, "the lock to be noticed")
        tries = store._failures
        caplog.clear()
        await until(lambda: store._failures >= tries + 4, "more tries")
        assert caplog.messages == []


async def test_a_file_that_was_removed_is_not_ok(path: Path) -> None:
    async with opened(path) as store:
        store.request_done(request(0))
        await flushed(store)
        assert store.status().size_bytes == path.stat().st_size
        path.unlink()
        status = store.status()
        assert (status.ok, status.size_bytes) == (False, 0)
        assert status.reason == "the file cannot be reached: No such file or directory"
        with pytest.raises(StoreError) as missing:
            await store.recall()
        assert missing.value.message == f"{path}: there is no such file"


async def test_a_row_that_the_schema_refuses_holds_up_no_other(path: Path) -> None:
    async with opened(path) as store:
        store.request_done(request(1))
        store.request_done(request(2, route=None))
        store.request_done(request(3))
        await flushed(store)
        assert store.status().ok
    assert written(path) == ["r1", "r3"]


async def test_a_save_that_the_schema_refuses_is_the_only_one_refused(path: Path) -> None:
    async with opened(path) as store:
        store.request_done(request(1))
        with pytest.raises(StoreError, match="CHECK constraint failed"):
            await store.save(NodeRecord(name=NodeName("n"), cycles=-1))
        await flushed(store)
        await store.save(NodeRecord(name=NodeName("n"), cycles=1))
        assert store.status().ok
    assert written(path) == ["r1"]


async def test_closing_a_locked_file_gives_up_in_time_and_says_what_is_lost(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(path, runs=False) as store:
        store.request_done(request(1))
        store.record(event(1))
        async with writing(path):
            began_s = time.monotonic()
            await store.close()
            assert time.monotonic() - began_s < 1.0
    lost = [
        r.__dict__["fields"] for r in caplog.records if r.getMessage() == "rows lost at close"
    ]
    assert lost == [{"rows": 2}]
    assert written(path) == []
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
    connection.close()
