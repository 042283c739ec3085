"""The embedded database: one writer task, a reader beside it, and a queue that never blocks a request."""

import asyncio
import contextlib
import itertools
import json
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol, Self, TypeVar

import aiosqlite

from cortex.adminapi import (
    EventQuery,
    EventRow,
    HistoryQuery,
    HistoryRow,
    StatsRow,
    StoreStatus,
)
from cortex.core.errors import StoreError
from cortex.core.ids import ModelId, NodeName
from cortex.core.records import FleetEvent, Memory, NodeRecord, RequestRecord, ResidencyRecord
from cortex.store import queries, rows
from cortex.store.db import connect, connect_read_only, log, prepare

FLUSH_S = 0.25
"""A row is on disk this long after it was queued, at the latest."""
FLUSH_ROWS = 500
"""Rows of one transaction."""
MAX_QUEUED_ROWS = 50_000
"""Rows kept while the file takes none; the oldest are given up beyond that."""
RETRY_S = 1.0
"""Between two tries while the file takes nothing."""
SAVE_TIMEOUT_S = 5.0
"""Longest wait for a residency, node or pin to be committed."""
PRUNE_EVERY_S = 60.0
SUBSCRIBER_ROWS = 1000
"""Events kept for a slow subscriber; it loses the oldest beyond that."""

_T = TypeVar("_T")
Statement = tuple[str, list[tuple[object, ...]]]


class Clock(Protocol):
    def now_s(self) -> float: ...
    def now_ms(self) -> int: ...


class Store:
    """The SQLite file. `run` is the writer; nothing else writes."""

    def __init__(self, path: Path, *, retention_days: float, clock: Clock) -> None:
        self._path = path
        self._retention_ms = int(retention_days * 86_400_000)
        self._clock = clock
        self._rows: deque[RequestRecord | FleetEvent] = deque()
        self._saves: deque[tuple[list[Statement], asyncio.Future[None]]] = deque()
        self._queued = asyncio.Event()
        self._full = asyncio.Event()
        self._dropped = 0
        self._failing: str | None = None
        self._closed = False
        self._subscribers: set[_Subscription] = set()
        self._writer: aiosqlite.Connection

    @classmethod
    async def open(cls, path: Path, *, retention_days: float, clock: Clock) -> Self:
        """Open, check and migrate the file.

        Raises:
            ConfigError: It cannot be used; one line says why.
        """
        await asyncio.to_thread(prepare, path)
        store = cls(path, retention_days=retention_days, clock=clock)
        store._writer = await aiosqlite.Connection(lambda: connect(path), 64)
        return store

    def request_done(self, record: RequestRecord) -> None:
        """Queue the row of a finished request; never blocks, never raises."""
        self._enqueue(record)

    def record(self, event: FleetEvent) -> None:
        """Queue an event; never blocks, never raises."""
        self._enqueue(event)

    def _enqueue(self, row: RequestRecord | FleetEvent) -> None:
        if len(self._rows) >= MAX_QUEUED_ROWS:
            self._rows.popleft()
            self._dropped += 1
        self._rows.append(row)
        self._queued.set()
        if len(self._rows) >= FLUSH_ROWS:
            self._full.set()

    async def save_residency(self, *records: ResidencyRecord) -> None:
        values = [
            (r.node, r.model, r.status, r.last_used_at_ms, r.loads, r.load_s, r.size_mib)
            for r in records
        ]
        await self._save([(rows.SAVE_RESIDENCY, list(values))])

    async def save_node(self, record: NodeRecord) -> None:
        r = record
        row = (r.name, r.cycles, r.boot_at_s, r.last_restart_at_ms, r.health, r.version)
        await self._save([(rows.SAVE_NODE, [row])])

    async def save_pin(self, model: ModelId, node: NodeName | None) -> None:
        await self._save([("INSERT OR REPLACE INTO pins VALUES (?, ?)", [(node or "", model)])])

    async def delete_pin(self, model: ModelId, node: NodeName | None) -> None:
        sql = "DELETE FROM pins WHERE node = ? AND model = ?"
        await self._save([(sql, [(node or "", model)])])

    async def _save(self, statements: list[Statement]) -> None:
        if self._closed:
            raise StoreError("the store is closed")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._saves.append((statements, done))
        self._queued.set()
        self._full.set()
        try:
            async with asyncio.timeout(SAVE_TIMEOUT_S):
                await done
        except TimeoutError as exc:
            raise StoreError(f"not written within {SAVE_TIMEOUT_S:g} s") from exc

    async def run(self) -> None:
        """Write what is queued, for ever; a failing file is retried, and nothing waits for it."""
        pruned_s = self._clock.now_s()
        while True:
            await self._queued.wait()
            if not self._full.is_set():
                # The first row of a batch waits for company, an idle store not at all.
                try:
                    async with asyncio.timeout(FLUSH_S):
                        await self._full.wait()
                except TimeoutError:
                    pass
            await self._flush()
            if not self._rows and not self._saves:
                self._queued.clear()
            if len(self._rows) < FLUSH_ROWS and not self._saves:
                self._full.clear()
            if self._failing is not None:
                await asyncio.sleep(RETRY_S)
            elif self._clock.now_s() - pruned_s > PRUNE_EVERY_S:
                pruned_s = self._clock.now_s()
                await self._prune()

    async def _flush(self) -> None:
        """One transaction: what must be saved, then up to `FLUSH_ROWS` rows.

        Rows leave the queue only once they are on disk, so a flush that fails or is cancelled
        loses none.
        """
        saves = list(self._saves)
        batch = list(itertools.islice(self._rows, FLUSH_ROWS))
        dropped_before = self._dropped
        try:
            published = await self._write(saves, batch)
        except sqlite3.Error as exc:
            self._degrade(str(exc))
            self._settle(saves, StoreError(f"not written: {exc}"))
            return
        self._settle(saves, None)
        # Rows that were dropped meanwhile are those at the head, which have just been written.
        for _ in range(max(0, len(batch) - (self._dropped - dropped_before))):
            self._rows.popleft()
        self._recover()
        for row in published:
            for subscriber in self._subscribers:
                subscriber.publish(row)

    def _settle(
        self,
        saves: list[tuple[list[Statement], asyncio.Future[None]]],
        error: StoreError | None,
    ) -> None:
        """Answer those who wait for a commit, and sleep again when nothing is left."""
        for _, done in saves:
            self._saves.popleft()
            if done.done():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

    async def _write(
        self,
        saves: list[tuple[list[Statement], asyncio.Future[None]]],
        batch: list[RequestRecord | FleetEvent],
    ) -> list[EventRow]:
        requests = [row for row in batch if isinstance(row, RequestRecord)]
        events = [row for row in batch if isinstance(row, FleetEvent)]
        touched = {
            (r.node, r.model): r.started_at_ms + int(r.duration_ms)
            for r in requests
            if r.node is not None and r.model is not None
        }
        try:
            for statements, _ in saves:
                for sql, values in statements:
                    await self._writer.executemany(sql, values)
            if requests:
                await self._writer.executemany(
                    rows.INSERT_REQUEST, map(rows.request_row, requests)
                )
            if touched:
                await self._writer.executemany(
                    rows.TOUCH, [(node, model, at) for (node, model), at in touched.items()]
                )
            published = [await self._insert_event(event) for event in events]
            await self._writer.commit()
        except BaseException:
            await self._writer.rollback()
            raise
        return published

    async def _insert_event(self, event: FleetEvent) -> EventRow:
        detail = json.dumps(dict(event.detail), default=str)
        values = (event.at_ms, event.kind.value, event.reason, event.node, event.model, detail)
        async with self._writer.execute(rows.INSERT_EVENT, values) as cursor:
            row_id = cursor.lastrowid
        assert row_id is not None
        return EventRow(
            id=row_id,
            at_ms=event.at_ms,
            kind=event.kind.value,
            reason=event.reason,
            node=event.node,
            model=event.model,
            detail=dict(event.detail),
        )

    async def _prune(self) -> None:
        """Delete what retention no longer wants, in batches that hold the lock briefly."""
        before = self._clock.now_ms() - self._retention_ms
        for table, column in (("requests", "started_at_ms"), ("events", "at_ms")):
            sql = f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE {column} < ? LIMIT ?)"  # noqa: S608
            deleted = FLUSH_ROWS
            while deleted == FLUSH_ROWS:
                try:
                    async with self._writer.execute(sql, (before, FLUSH_ROWS)) as cursor:
                        deleted = cursor.rowcount
                    await self._writer.commit()
                except sqlite3.Error as exc:
                    self._degrade(str(exc))
                    return

    def _degrade(self, why: str) -> None:
        if self._failing is None:
            log.error("the store takes nothing", extra={"fields": {"reason": why}})
        self._failing = why

    def _recover(self) -> None:
        if self._failing is not None:
            log.warning("the store works again", extra={"fields": {"after": self._failing}})
        self._failing = None

    async def recall(self) -> Memory:
        """What the fleet knew when the last process ended."""
        return await self._read(rows.recall)

    async def history(self, query: HistoryQuery) -> list[HistoryRow]:
        return await self._read(lambda connection: queries.history(connection, query))

    async def stats(self, query: HistoryQuery) -> list[StatsRow]:
        return await self._read(lambda connection: queries.stats(connection, query))

    async def events(self, query: EventQuery) -> list[EventRow]:
        return await self._read(lambda connection: queries.events(connection, query))

    async def node_of_response(self, response_id: str) -> NodeName | None:
        sql = "SELECT node FROM requests WHERE response_id = ? ORDER BY id DESC LIMIT 1"
        row = await self._read(lambda c: c.execute(sql, (response_id,)).fetchone())
        return NodeName(row[0]) if row and row[0] else None

    async def _read(self, question: Callable[[sqlite3.Connection], _T]) -> _T:
        """Ask on a thread and a read-only connection of its own: neither loop nor writer waits."""

        def ask() -> _T:
            with contextlib.closing(connect_read_only(self._path)) as connection:
                return question(connection)

        try:
            return await asyncio.to_thread(ask)
        except sqlite3.Error as exc:
            raise StoreError(f"cannot read: {exc}") from exc

    def subscribe(self) -> AsyncIterator[EventRow]:
        """Every event from now on, once committed; ends when the store closes."""
        return _Subscription(self._subscribers)

    def status(self) -> StoreStatus:
        return StoreStatus(
            path=str(self._path),
            ok=self._failing is None,
            reason=self._failing or "",
            size_bytes=self._path.stat().st_size if self._path.exists() else 0,
            queued_rows=len(self._rows),
            dropped_rows=self._dropped,
        )

    async def close(self) -> None:
        """Write what is left, then close; a file that takes nothing loses what is left."""
        while (self._rows or self._saves) and not self._closed:
            await self._flush()
            if self._failing is not None:
                break
        self._closed = True
        for subscriber in list(self._subscribers):
            subscriber.end()
        # aiosqlite's thread is no daemon: an open connection would keep the process.
        await self._writer.close()


class _Subscription:
    """One reader of events; a slow one loses the oldest and holds nobody up."""

    def __init__(self, registry: "set[_Subscription]") -> None:
        self._registry = registry
        self._rows: deque[EventRow] = deque(maxlen=SUBSCRIBER_ROWS)
        self._some = asyncio.Event()
        self._ended = False
        registry.add(self)

    def publish(self, row: EventRow) -> None:
        self._rows.append(row)
        self._some.set()

    def end(self) -> None:
        self._ended = True
        self._some.set()

    async def aclose(self) -> None:
        self._registry.discard(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> EventRow:
        while not self._rows:
            if self._ended:
                raise StopAsyncIteration
            self._some.clear()
            await self._some.wait()
        return self._rows.popleft()
