"""When rows are written: soon, in batches, once each; and all that is left at the close."""

import asyncio
import time
from pathlib import Path

import pytest

from cortex.adminapi import EventQuery
from cortex.core.errors import StoreError
from cortex.core.ids import ModelId, NodeName
from cortex.core.records import NodeRecord
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


async def test_a_row_is_on_disk_as_soon_as_it_has_waited_for_company(path: Path) -> None:
    async with opened(path, flush_s=1.0) as store:
        began_s = time.monotonic()
        store.request_done(request(1))
        assert store.status().queued_rows == 1
        await asyncio.sleep(0.1)
        assert written(path) == []  # it waits for company
        store.request_done(request(2))
        await until(lambda: written(path) == ["r1", "r2"], "both to be written at once", 10.0)
        assert time.monotonic() - began_s > 0.9


async def test_a_full_batch_is_written_at_once(path: Path) -> None:
    async with opened(path, flush_s=30.0, flush_rows=50) as store:
        for number in range(120):
            store.request_done(request(number))
        await until(lambda: len(written(path)) == 100, "two batches to be written", 5.0)
        await asyncio.sleep(0.05)
        assert store.status().queued_rows == 20
    assert len(written(path)) == 120


async def test_a_save_waits_for_no_company_and_takes_the_rows_along(path: Path) -> None:
    async with opened(path, flush_s=30.0) as store:
        store.request_done(request(1))
        async with asyncio.timeout(5):
            await store.save(NodeRecord(name=NodeName("n"), cycles=3))
        assert select(path, "SELECT name, cycles FROM nodes") == [("n", 3)]
        assert written(path) == ["r1"]


async def test_saves_are_done_in_the_order_they_were_asked_for(path: Path) -> None:
    async with opened(path) as store, asyncio.TaskGroup() as group:
        for cycles in range(200):
            record = NodeRecord(name=NodeName("n"), cycles=cycles)
            group.create_task(store.save(record), name=f"save {cycles}")
            group.create_task(store.save_pin(ModelId("m"), None), name=f"pin {cycles}")
            group.create_task(store.delete_pin(ModelId("m"), None), name=f"unpin {cycles}")
    assert select(path, "SELECT name, cycles FROM nodes") == [("n", 199)]
    assert select(path, "SELECT * FROM pins") == []


async def test_a_save_whose_caller_has_gone_is_not_done(path: Path) -> None:
    async with opened(path, runs=False) as store:
        async with asyncio.TaskGroup() as group:
            saving = group.create_task(store.save_pin(ModelId("gone"), None), name="gone")
            staying = group.create_task(store.save_pin(ModelId("stays"), None), name="stays")
            await asyncio.sleep(0)
            saving.cancel()
            await asyncio.sleep(0)
            await store._flush()
        assert saving.cancelled()
        assert staying.done()
    assert select(path, "SELECT model FROM pins") == [("stays",)]


@pytest.mark.parametrize("steps", range(14))
async def test_a_flush_cancelled_at_any_step_writes_every_row_once(
    path: Path, steps: int
) -> None:
    """The loop takes so many turns before the flush is cancelled: from its begin past its end."""
    async with opened(path, runs=False) as store:
        follower = store.subscribe()
        for number in range(20):
            store.request_done(request(number))
            store.record(event(number))
        async with asyncio.TaskGroup() as group:
            flush = group.create_task(store._flush(), name="flush")
            for _ in range(steps):
                await asyncio.sleep(0.0003)
            flush.cancel()
        store.request_done(request(20))
        await store._flush()
        assert store.status().queued_rows == 0
        assert store.status().ok
    assert written(path) == [f"r{number}" for number in range(21)]
    reasons = [f"e{number}" for number in range(20)]
    assert [r for (r,) in select(path, "SELECT reason FROM events ORDER BY id")] == reasons
    assert [row.reason async for row in follower] == reasons


async def test_a_commit_whose_end_was_not_learned_writes_no_row_twice(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(path, runs=False) as store:
        follower = store.subscribe()
        commit = store._writer.commit

        async def cut_short() -> None:
            await commit()
            raise asyncio.CancelledError

        store.request_done(request(1))
        store.record(event(1))
        monkeypatch.setattr(store._writer, "commit", cut_short)
        with pytest.raises(asyncio.CancelledError):
            await store._flush()
        monkeypatch.undo()
        assert written(path) == ["r1"]
        assert store.status().queued_rows == 2
        store.request_done(request(2))
    assert written(path) == ["r1", "r2"]
    assert select(path, "SELECT reason FROM events") == [("e1",)]
    assert [row.reason async for row in follower] == ["e1"]


async def test_closing_writes_what_is_left(path: Path) -> None:
    async with opened(path, flush_s=30.0, flush_rows=100) as store:
        follower = store.subscribe()
        for number in range(50):
            store.request_done(request(number))
            store.record(event(number))
        assert written(path) == []
        await store.close()
        assert store.status().queued_rows == 0
    assert written(path) == [f"r{number}" for number in range(50)]
    assert [row.reason async for row in follower] == [f"e{number}" for number in range(50)]
    # The log was folded into the file: that one alone is a whole backup.
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "cortex.db",
        "cortex.db.lock",
    ]


async def test_closing_writes_more_than_a_batch_and_the_saves_under_way(path: Path) -> None:
    async with opened(path, runs=False, flush_rows=10) as store:
        for number in range(95):
            store.request_done(request(number))
        async with asyncio.TaskGroup() as group:
            group.create_task(store.save_pin(ModelId("m"), NodeName("n")), name="pin")
            await asyncio.sleep(0)
            await store.close()
    assert len(written(path)) == 95
    assert select(path, "SELECT node, model FROM pins") == [("n", "m")]


async def test_a_closed_store_refuses_saves_and_counts_rows(path: Path) -> None:
    async with opened(path) as store:
        await store.close()
        store.request_done(request(1))
        store.record(event(1))
        assert store.status().dropped_rows == 2
        with pytest.raises(StoreError) as closed:
            await store.save_pin(ModelId("m"), None)
        assert closed.value.message == "the store is closed"
        await store.close()  # once more changes nothing
    assert written(path) == []


async def test_the_writer_ends_when_the_store_closes(path: Path) -> None:
    async with opened(path, runs=False) as store, asyncio.TaskGroup() as group:
        running = group.create_task(store.run(), name="store")
        await asyncio.sleep(0.02)
        assert not running.done()
        await store.close()
        async with asyncio.timeout(5):
            await running


async def test_a_closing_beside_a_waiting_writer_loses_nothing(path: Path) -> None:
    async with opened(path, busy_s=5.0) as store:
        async with writing(path):
            store.request_done(request(1))
            await until(store._flushing.locked, "the writer to wait for the lock")
            store.request_done(request(2))
        await store.close()
    assert written(path) == ["r1", "r2"]


async def test_rows_land_in_the_order_they_were_queued_with_growing_ids(path: Path) -> None:
    async with opened(path, flush_rows=7) as store:
        for number in range(300):
            store.request_done(request(number))
            if number % 20 == 0:
                await asyncio.sleep(0.002)
            store.record(event(number))
        await flushed(store)
        assert await told(store) == [f"r{number}" for number in range(300)]
        events = (await store.events(EventQuery(limit=1000, after_id=0))).rows
        assert [row.reason for row in events] == [f"e{number}" for number in range(300)]
        assert [row.id for row in events] == list(range(1, 301))
    assert select(path, "SELECT min(id), max(id), count(*) FROM requests") == [(1, 300, 300)]


async def test_ids_are_never_given_twice(path: Path) -> None:
    for number in range(3):
        async with opened(path, runs=False) as store:
            store.request_done(request(number))
            store.record(event(number))
    async with opened(path, runs=False) as store:
        await store._writer.executescript("DELETE FROM requests; DELETE FROM events")
    async with opened(path, runs=False) as store:
        store.request_done(request(9))
        store.record(event(9))
    assert select(path, "SELECT id, request_id FROM requests") == [(4, "r9")]
    assert select(path, "SELECT id, reason FROM events") == [(4, "e9")]
