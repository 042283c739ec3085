"""Followers of events: each gets all from now on, once committed; a slow one loses the oldest."""

import asyncio
import gc
from pathlib import Path

from cortex.adminapi import EventQuery, EventRow
from cortex.store.subscription import Subscription
from tests.running import until
from tests.store.conftest import event, flushed, opened, request, select, writing


async def everything(follower: Subscription) -> list[str]:
    """To the end, which comes with the close of the store."""
    async with asyncio.timeout(5):
        return [row.reason async for row in follower]


async def test_a_follower_gets_every_event_from_its_beginning_in_order(path: Path) -> None:
    async with opened(path, flush_rows=7) as store:
        store.record(event(0))
        await flushed(store)
        early, late = store.subscribe(), store.subscribe()
        for number in range(1, 100):
            store.record(event(number, detail={"number": number}))
            store.request_done(request(number))
        await flushed(store)
        rows = (await store.events(EventQuery(after_id=1, limit=1000))).rows
        async with asyncio.timeout(5):
            first = [await anext(early) for _ in range(50)]
        # As a reader of the table gets them.
        assert first == rows[:50]
        assert first[0].detail == {"number": 1}
    assert await everything(early) == [f"e{number}" for number in range(51, 100)]
    assert await everything(late) == [f"e{number}" for number in range(1, 100)]


async def test_an_event_is_told_only_once_it_is_committed(path: Path) -> None:
    async with opened(path) as store:
        follower = store.subscribe()
        async with writing(path):
            store.record(event(1))
            await until(lambda: not store.status().ok, "the lock to be noticed")
            assert len(follower._rows) == 0
        async with asyncio.timeout(5):
            row = await anext(follower)
        assert select(path, "SELECT id, reason FROM events") == [(row.id, "e1")]


async def test_a_slow_follower_loses_the_oldest_and_holds_nobody_up(path: Path) -> None:
    async with opened(path, subscriber_rows=10, flush_rows=20) as store:
        slow, quick = store.subscribe(), store.subscribe()
        seen: list[str] = []

        async def follow() -> None:
            while (row := await anext(quick, None)) is not None:
                seen.append(row.reason)

        async with asyncio.TaskGroup() as group:
            group.create_task(follow(), name="quick")
            for number in range(100):
                store.record(event(number))
                if number % 5 == 4:
                    await flushed(store)
                    await until(lambda n=number: len(seen) == n + 1, "the quick one to follow")
            await store.close()
        assert seen == [f"e{number}" for number in range(100)]
        assert await everything(slow) == [f"e{number}" for number in range(90, 100)]
    assert select(path, "SELECT count(*) FROM events") == [(100,)]


async def test_a_waiting_follower_ends_when_the_store_closes(path: Path) -> None:
    async with opened(path) as store, asyncio.TaskGroup() as group:
        follower = store.subscribe()
        ends = group.create_task(everything(follower), name="follower")
        await asyncio.sleep(0.02)
        assert not ends.done()
        store.record(event(1))
        await store.close()
        assert await ends == ["e1"]
        # Whoever comes later has nothing to wait for.
        assert await everything(store.subscribe()) == []
        assert await everything(follower) == []


async def test_followers_that_were_dropped_cost_nothing(path: Path) -> None:
    async with opened(path) as store:
        kept = store.subscribe()
        for _ in range(50):
            store.subscribe()
        gc.collect()
        assert len(store._subscribers) == 1
        store.record(event(1))
    assert await everything(kept) == ["e1"]


async def test_a_follower_that_stopped_waiting_misses_nothing() -> None:
    follower = Subscription(max_rows=5)
    for _ in range(3):
        try:
            async with asyncio.timeout(0.005):
                await anext(follower)
        except TimeoutError:
            pass
    row = EventRow(id=1, at_ms=1, kind="start", reason="r")
    follower.publish(row)
    assert await anext(follower) == row
