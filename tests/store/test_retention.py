"""Old rows go, in small batches that hold nobody up; young ones stay."""

import asyncio
import logging
import time
from pathlib import Path

import pytest

from cortex.core.ids import ModelId, NodeName
from cortex.core.records import NodeRecord, ResidencyRecord
from cortex.store.rows import REMEMBERED
from tests.running import until
from tests.store.conftest import (
    NOW_MS,
    SetClock,
    event,
    flushed,
    opened,
    request,
    select,
    writing_before,
    written,
)

DAY_MS = 86_400_000


def days_ago(days: float, number: int) -> dict[str, int]:
    return {"started_at_ms": int(NOW_MS - days * DAY_MS) + number}


async def fill(path: Path, old: int, young: int) -> None:
    """Rows of 8 days ago and of 6 days ago, mixed."""
    async with opened(path, runs=False) as store:
        for number in range(max(old, young)):
            if number < old:
                store.request_done(request(number, **days_ago(8, number)))
                store.record(event(number, at_ms=NOW_MS - 8 * DAY_MS))
            if number < young:
                store.request_done(request(10_000 + number, **days_ago(6, number)))
                store.record(event(10_000 + number, at_ms=NOW_MS - 6 * DAY_MS))


def counts(path: Path) -> tuple[int, int]:
    ((requests, events),) = select(
        path, "SELECT (SELECT count(*) FROM requests), (SELECT count(*) FROM events)"
    )
    return requests, events


async def test_only_old_rows_go(path: Path) -> None:
    await fill(path, old=250, young=50)
    async with opened(path, retention_days=7, flush_rows=20) as store:
        await until(lambda: counts(path) == (50, 50), "250 old rows of each to go")
        await asyncio.sleep(0.05)
        assert store.status().ok
    assert written(path) == [f"r{10_000 + number}" for number in range(50)]
    kept = [f"e{10_000 + number}" for number in range(50)]
    assert [r for (r,) in select(path, "SELECT reason FROM events ORDER BY id")] == kept


async def test_the_border_is_exact(path: Path) -> None:
    border = NOW_MS - 7 * DAY_MS
    async with opened(path, runs=False, retention_days=7) as store:
        for number, at_ms in enumerate((border - 1, border, border + 1)):
            store.request_done(request(number, started_at_ms=at_ms))
            store.record(event(number, at_ms=at_ms))
        await store._flush()
        assert not await store._prune()
    assert written(path) == ["r1", "r2"]
    assert select(path, "SELECT reason FROM events") == [("e1",), ("e2",)]


async def test_a_batch_is_no_larger_than_said_and_takes_the_oldest(path: Path) -> None:
    async with opened(path, runs=False, retention_days=7, flush_rows=10) as store:
        for number in range(25):  # the youngest first
            store.request_done(request(number, **days_ago(8 + number, 0)))
        while store.status().queued_rows:
            await store._flush()
        assert await store._prune()
        assert written(path) == [f"r{number}" for number in range(15)]
        assert await store._prune()
        assert written(path) == [f"r{number}" for number in range(5)]
        assert not await store._prune()
        assert written(path) == []


async def test_the_writer_stays_responsive_while_much_is_pruned(path: Path) -> None:
    await fill(path, old=4000, young=0)
    async with opened(path, retention_days=7, flush_rows=20, prune_pause_s=0.01) as store:
        slowest_s, saves = 0.0, 0
        while counts(path)[0] > 2000:
            began_s = time.monotonic()
            await store.save(NodeRecord(name=NodeName("n"), cycles=saves))
            slowest_s = max(slowest_s, time.monotonic() - began_s)
            saves += 1
        store.request_done(request(1))
        await flushed(store)
        # Neither is done before the other: it goes on while rows are written.
        assert counts(path)[0] > 1
        assert saves > 20
        assert slowest_s < 1.0


async def test_pruning_is_repeated(path: Path) -> None:
    clock = SetClock()
    async with opened(path, retention_days=7, clock=clock, prune_every_s=0.02) as store:
        store.request_done(request(1))
        await flushed(store)
        await asyncio.sleep(0.06)
        assert written(path) == ["r1"]
        clock.at_ms += 8 * DAY_MS
        await until(lambda: written(path) == [], "the row to go")


async def test_a_locked_file_is_pruned_later(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(path, old=5, young=1)
    with caplog.at_level(logging.WARNING):
        async with opened(path, retention_days=7, prune_every_s=0.05) as store:
            with writing_before(path):
                await until(lambda: bool(caplog.records), "a warning")
                assert caplog.records[0].getMessage() == "old rows not pruned"
                assert caplog.records[0].__dict__["fields"] == {"reason": "database is locked"}
                assert counts(path) == (6, 6)
            await until(lambda: counts(path) == (1, 1), "the old rows to go")
            assert store.status().ok


async def test_a_file_that_was_pruned_of_all_rows_goes_on_counting(path: Path) -> None:
    await fill(path, old=3, young=0)
    async with opened(path, retention_days=7):
        await until(lambda: counts(path) == (0, 0), "the old rows to go")
    async with opened(path, runs=False) as store:
        store.request_done(request(9))
    assert select(path, "SELECT id, request_id FROM requests") == [(4, "r9")]


def of(model: str, *, node: str = "n0", used_ms: int = 0) -> ResidencyRecord:
    return ResidencyRecord(
        node=NodeName(node), model=ModelId(model), status="loaded", last_used_at_ms=used_ms
    )


async def test_models_without_end_are_forgotten_but_for_the_last_used(path: Path) -> None:
    """And those of other nodes are kept."""
    async with opened(path) as store:
        await store.save(of("used", used_ms=7), of("other", node="n1"))
        await store.save(*(of(f"m{number}") for number in range(REMEMBERED)))
    async with opened(path, runs=False) as store:
        await store._prune()
        kept = {record.model for record in (await store.recall()).residency}
    assert len(kept) == REMEMBERED + 1
    assert {"used", "other", "m1", f"m{REMEMBERED - 1}"} <= kept
    assert "m0" not in kept


async def test_a_model_that_its_node_has_not_listed_for_a_month_is_forgotten(
    path: Path,
) -> None:
    clock = SetClock()

    async def listed(*models: str, node: str = "n0") -> None:
        records = [of(model, node=node) for model in models]
        await store.save_listing(NodeRecord(name=NodeName(node)), records)

    async def kept(*, gone: bool) -> list[str]:
        await store._prune()
        residency = (await store.recall()).residency
        return sorted(f"{r.node}/{r.model}" for r in residency if r.gone == gone)

    async with opened(path, clock=clock, prune_every_s=3600) as store:
        await listed("stays", "leaves", "comes back")
        await listed("leaves", node="n1")
        clock.at_ms += 40 * DAY_MS
        # Nobody has used any of them, and nothing has changed.
        assert await kept(gone=True) == []
        await listed("stays", "comes back")
        clock.at_ms += DAY_MS
        await listed("stays")
        # A load is written by itself, and says nothing of the others.
        await store.save(NodeRecord(name=NodeName("n0")), of("stays"))
        assert await kept(gone=True) == ["n0/comes back", "n0/leaves"]
        clock.at_ms += 29 * DAY_MS
        await listed("stays", "comes back")
        assert await kept(gone=True) == ["n0/leaves"]
        clock.at_ms += 1
        assert await kept(gone=True) == []
        assert await kept(gone=False) == ["n0/comes back", "n0/stays", "n1/leaves"]
