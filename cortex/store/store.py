"""The embedded database: one writer, readers beside it, and a queue that never blocks a request."""

import asyncio
import contextlib
import itertools
import os
import sqlite3
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Self

import aiosqlite

from cortex.adminapi import (
    EventQuery,
    EventsBody,
    HistoryBody,
    HistoryQuery,
    StatsBody,
    StoreStatus,
)
from cortex.core.clock import Clock
from cortex.core.errors import ConfigError, StoreError
from cortex.core.ids import ModelId, NodeName
from cortex.core.records import (
    FleetEvent,
    NodeRecord,
    Recollection,
    RequestRecord,
    ResidencyRecord,
)
from cortex.store import queries, rows
from cortex.store.db import Prepared, connect, log, prepare
from cortex.store.limits import Limits
from cortex.store.reader import Reader
from cortex.store.subscription import Subscribers, Subscription


@dataclass(frozen=True, slots=True, eq=False)
class _Save:
    """Rows somebody waits for; `done` gets None, or why they were not written."""

    statements: list[tuple[str, list[rows.Values]]]
    done: asyncio.Future[str | None]


class Store:
    """The SQLite file. `run` is the writer; nothing else writes, `close` apart."""

    def __init__(
        self,
        path: Path,
        prepared: Prepared,
        writer: aiosqlite.Connection,
        *,
        retention_days: float,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._path = path
        self._claim = prepared.claim
        self._writer = writer
        self._retention_ms = int(retention_days * 86_400_000)
        self._clock = clock
        self._limits = limits
        self._reader = Reader(path, limits)
        self._subscribers = Subscribers(limits.subscriber_rows)
        self._request_ids = itertools.count(prepared.last_request_id + 1)
        self._event_ids = itertools.count(prepared.last_event_id + 1)
        self._queue: deque[rows.Row] = deque()
        #: Rows of the transaction under way; they leave only once they are on disk.
        self._batch: list[rows.Row] = []
        self._saves: deque[_Save] = deque()
        self._dropped = 0
        #: Set while anything waits to be written.
        self._some = asyncio.Event()
        #: Set while a batch is full or somebody waits for a commit.
        self._urgent = asyncio.Event()
        self._flushing = asyncio.Lock()
        #: Flushes that failed in a row, and why the last one did; "" while the file takes rows.
        self._failures = 0
        self._reason = ""
        self._closed = False

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        retention_days: float,
        clock: Clock,
        limits: Limits | None = None,
    ) -> Self:
        """Claim, check and migrate the file, then open it.

        Raises:
            ConfigError: It cannot be used; one line says why.
        """
        limits = limits or Limits()
        prepared = await asyncio.to_thread(prepare, path, limits)
        try:
            writer = await aiosqlite.Connection(partial(connect, path, limits.busy_s), 64)
        except sqlite3.Error as exc:
            os.close(prepared.claim)
            raise ConfigError([f"{path}: {exc}"]) from exc
        return cls(
            path, prepared, writer, retention_days=retention_days, clock=clock, limits=limits
        )

    def status(self) -> StoreStatus:
        """For the admin API; a file that was removed under us is no longer ok."""
        try:
            size_bytes, gone = self._path.stat().st_size, ""
        except OSError as exc:
            size_bytes, gone = 0, f"the file cannot be reached: {exc.strerror}"
        return StoreStatus(
            path=str(self._path),
            ok=not (self._reason or gone),
            reason=self._reason or gone,
            size_bytes=size_bytes,
            queued_rows=len(self._queue) + len(self._batch),
            dropped_rows=self._dropped,
        )

    def request_done(self, record: RequestRecord) -> None:
        """Queue the row of a finished request; never blocks, never raises."""
        self._enqueue(rows.request_row(next(self._request_ids), record))

    def record(self, event: FleetEvent) -> None:
        """Queue an event; never blocks, never raises."""
        self._enqueue(rows.event_row(next(self._event_ids), event))

    def _enqueue(self, row: rows.Row) -> None:
        if self._closed:
            self._dropped += 1
            return
        if len(self._queue) >= self._limits.max_queued_rows:
            self._queue.popleft()
            self._dropped += 1
        self._queue.append(row)
        # The first of them woke the writer, and all are its until none is left.
        if len(self._queue) == 1 or len(self._queue) >= self._limits.flush_rows:
            self._arm()

    async def save(self, *records: NodeRecord | ResidencyRecord) -> None:
        """Keep all of these, or none."""
        nodes = [rows.node_values(r) for r in records if isinstance(r, NodeRecord)]
        models = [rows.residency_values(r) for r in records if isinstance(r, ResidencyRecord)]
        await self._save((rows.SAVE_NODE, nodes), (rows.SAVE_RESIDENCY, models))

    async def save_listing(self, node: NodeRecord, models: Sequence[ResidencyRecord]) -> None:
        """Keep a node with all that it lists; any other model of it is gone from now on."""
        await self._save(
            (rows.SAVE_NODE, [rows.node_values(node)]),
            (rows.MARK_GONE, [(self._clock.now_ms(), rows.plain(node.name))]),
            (rows.SAVE_RESIDENCY, [rows.residency_values(model) for model in models]),
        )

    async def save_drained(self, node: NodeName, *, drained: bool) -> None:
        await self._save((rows.SAVE_DRAINED, [(rows.plain(node), int(drained))]))

    async def rename_nodes(self, renames: Mapping[NodeName, NodeName]) -> None:
        """Put what is kept of each node under its new name."""
        pairs = [(rows.plain(old), rows.plain(new)) for old, new in renames.items()]
        aside: list[rows.Values] = [(f"\0{new}", old) for old, new in pairs]
        back: list[rows.Values] = [(new, f"\0{new}") for _, new in pairs]
        await self._save(*((sql, aside + back) for sql in rows.RENAME))

    async def save_pin(self, model: ModelId, node: NodeName | None) -> None:
        await self._save((rows.SAVE_PIN, [(rows.plain(node or ""), rows.plain(model))]))

    async def delete_pin(self, model: ModelId, node: NodeName | None) -> None:
        await self._save((rows.DELETE_PIN, [(rows.plain(node or ""), rows.plain(model))]))

    async def _save(self, *statements: tuple[str, list[rows.Values]]) -> None:
        """Return once all are committed, together.

        Raises:
            StoreError: It was not, or not in time; a save that ran out of time is not tried again.
        """
        if self._closed:
            raise StoreError("the store is closed")
        save = _Save(list(statements), asyncio.get_running_loop().create_future())
        self._saves.append(save)
        self._arm()
        try:
            async with asyncio.timeout(self._limits.save_s):
                failure = await save.done
        except TimeoutError as exc:
            why = self._reason or "the writer is busy"
            raise StoreError(f"not written within {self._limits.save_s:g} s: {why}") from exc
        if failure is not None:
            raise StoreError(f"not written: {failure}")

    async def run(self) -> None:
        """Write what is queued, for ever; a failing file is retried, and nothing waits for it."""
        loop = asyncio.get_running_loop()
        prune_at_s = loop.time()
        while not self._closed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(prune_at_s):
                    await self._some.wait()
            if self._some.is_set():
                # A row waits for company before it is written, an idle store for nothing at all.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._limits.flush_s):
                        await self._urgent.wait()
                await self._flush()
            if not self._failures and loop.time() >= prune_at_s:
                more = await self._prune()
                pause_s = self._limits.prune_pause_s if more else self._limits.prune_every_s
                prune_at_s = loop.time() + pause_s
            if self._failures:
                await asyncio.sleep(self._retry_pause_s())
                if not self._some.is_set():
                    await self._probe()

    async def _flush(self, *, closing: bool = False) -> None:
        """One transaction: what somebody waits for, then the oldest rows.

        A flush that fails or is cancelled loses no row: the next one writes the same ids.
        """
        async with self._flushing:
            if self._closed and not closing:
                return
            while self._queue and len(self._batch) < self._limits.flush_rows:
                self._batch.append(self._queue.popleft())
            saves = len(self._saves)
            try:
                await self._commit_batch()
            except sqlite3.Error as exc:
                self._degrade(exc)
                self._settle(saves, str(exc))
            else:
                self._settle(saves, None)
                if len(self._subscribers):
                    self._subscribers.publish(rows.events_among(self._batch))
                self._batch.clear()
                self._recover()
            self._arm()

    async def _commit_batch(self) -> None:
        try:
            await self._commit(self._statements())
        except (OverflowError, UnicodeEncodeError):
            # Looked for only now, since next to no row has such a value.
            self._batch[:] = map(rows.made_plain, self._batch)
            await self._commit(self._statements())

    def _statements(self) -> list[tuple[str, list[rows.Values]]]:
        batch = self._batch
        statements = [
            *rows.request_inserts(batch),
            (rows.INSERT_EVENT, [r.values for r in batch if r.sql is rows.INSERT_EVENT]),
            # After the rows that came before them: a new name of a node goes for those as well.
            *chain.from_iterable(
                save.statements for save in self._saves if not save.done.done()
            ),
            (rows.TOUCH, rows.last_used(batch)),
        ]
        return [(sql, values) for sql, values in statements if values]

    async def _commit(self, statements: Iterable[tuple[str, list[rows.Values]]]) -> int:
        """Run all or nothing; returns how many rows the last statement changed."""
        changed = 0
        try:
            await self._writer.execute("BEGIN IMMEDIATE")
            for sql, values in statements:
                changed = (await self._writer.executemany(sql, values)).rowcount
            await self._writer.commit()
        except BaseException:
            # SQLite may have rolled back by itself; then there is nothing to do.
            with contextlib.suppress(sqlite3.Error):
                await self._writer.rollback()
            raise
        return changed

    def _settle(self, saves: int, failure: str | None) -> None:
        """Answer the oldest `saves`; whoever stopped waiting is not told."""
        for _ in range(saves):
            done = self._saves.popleft().done
            if not done.done():
                done.set_result(failure)

    def _arm(self) -> None:
        """Set both events to what is waiting now."""
        full = len(self._queue) + len(self._batch) >= self._limits.flush_rows
        for event, wanted in (
            (self._some, bool(self._queue or self._batch or self._saves)),
            (self._urgent, bool(full or self._saves)),
        ):
            if wanted:
                event.set()
            else:
                event.clear()

    async def _prune(self) -> bool:
        """Delete a batch of what retention no longer wants; True when there may be more.

        A failure is left to the next time: whether the file takes rows, the flushes tell.
        """
        now_ms = self._clock.now_ms()
        before = now_ms - self._retention_ms
        most = self._limits.flush_rows
        more = False
        aged: list[tuple[str, rows.Values]] = [
            *((sql, (before, most)) for sql in rows.PRUNE.values()),
            (rows.FORGET_GONE, (now_ms - rows.GONE_MS,)),
            (rows.FORGET, (rows.REMEMBERED,)),
        ]
        async with self._flushing:
            for sql, values in () if self._closed else aged:
                try:
                    more |= await self._commit([(sql, [values])]) == most
                except sqlite3.Error as exc:
                    log.warning("old rows not pruned", extra={"fields": {"reason": str(exc)}})
                    return False
        return more

    async def _probe(self) -> None:
        """With nothing to write, find out whether a file that failed has become writable."""
        async with self._flushing:
            if self._closed:
                return
            try:
                await self._commit([])
            except sqlite3.Error as exc:
                self._degrade(exc)
            else:
                self._recover()

    def _retry_pause_s(self) -> float:
        doubled = self._limits.retry_s * 2.0 ** min(self._failures - 1, 16)
        return min(doubled, self._limits.max_retry_s)

    def _degrade(self, exc: sqlite3.Error) -> None:
        self._failures += 1
        if not self._reason:
            log.error("the store takes nothing", extra={"fields": {"reason": str(exc)}})
        self._reason = str(exc)

    def _recover(self) -> None:
        self._failures = 0
        if self._reason:
            fields = {"after": self._reason, "dropped_rows": self._dropped}
            log.warning("the store works again", extra={"fields": fields})
            self._reason = ""

    async def recall(self) -> Recollection:
        """What the fleet knew when the last process ended."""
        return await self._reader.ask(queries.recall)

    async def tokens_since(self, since_ms: int) -> dict[str, int]:
        """Tokens by client of the requests that began at `since_ms` or later."""
        return await self._reader.ask_long(lambda file: queries.tokens_since(file, since_ms))

    async def history(self, query: HistoryQuery) -> HistoryBody:
        return await self._reader.ask_long(lambda file: queries.history(file, query))

    async def stats(self, query: HistoryQuery) -> StatsBody:
        return await self._reader.ask_long(lambda file: queries.stats(file, query))

    async def events(self, query: EventQuery) -> EventsBody:
        return await self._reader.ask_long(lambda file: queries.events(file, query))

    async def node_of_response(self, response_id: str) -> NodeName | None:
        return await self._reader.ask(lambda file: queries.node_of_response(file, response_id))

    def subscribe(self) -> Subscription:
        """Every event from now on, once committed; ends when the store closes."""
        return self._subscribers.add()

    async def close(self) -> None:
        """Write what is left, then close; a file that takes nothing loses what is left."""
        if self._closed:
            return
        self._closed = True
        try:
            while self._some.is_set():
                await self._flush(closing=True)
                if self._failures:
                    lost = len(self._queue) + len(self._batch)
                    log.error("rows lost at close", extra={"fields": {"rows": lost}})
                    break
        finally:
            self._subscribers.end()
            # So that `run` sees the end, should it still wait.
            self._some.set()
            self._urgent.set()
            # aiosqlite's thread is no daemon: an open connection would keep the process.
            await self._writer.close()
            os.close(self._claim)
