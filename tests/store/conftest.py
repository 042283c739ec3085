"""What the tests of the store share: a real file, a clock they set, and short waits."""

import asyncio
import os
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cortex.adminapi import HistoryQuery
from cortex.core.ids import ModelId, NodeName, RequestId
from cortex.core.records import EventKind, FleetEvent, RequestRecord
from cortex.store.limits import Limits
from cortex.store.store import Store
from tests.running import until

FAST = Limits(
    flush_s=0.01, open_s=0.1, busy_s=0.05, retry_s=0.01, max_retry_s=0.05, prune_pause_s=0.001
)
NOW_MS = 1_800_000_000_000
SECOND = "another process holds it; is a second cortex running with this file?"
MUST_WRITE = "this user must be able to write to it and to its folder"
NOBODY = 65534


class SetClock:
    """Wall time that stands still until it is set."""

    def __init__(self) -> None:
        self.at_ms = NOW_MS

    def now_ms(self) -> int:
        return self.at_ms


@asynccontextmanager
async def opened(
    path: Path,
    *,
    retention_days: float = 30.0,
    clock: SetClock | None = None,
    runs: bool = True,
    **limits: Any,
) -> AsyncIterator[Store]:
    """A store, with its writer at work if it `runs`; closed as the daemon does it."""
    store = await Store.open(
        path,
        retention_days=retention_days,
        clock=clock or SetClock(),
        limits=replace(FAST, **limits),
    )
    try:
        async with asyncio.TaskGroup() as group:
            writer = group.create_task(store.run(), name="store") if runs else None
            try:
                yield store
            finally:
                if writer is not None:
                    writer.cancel()
    finally:
        await store.close()


def request(number: int = 0, **more: Any) -> RequestRecord:
    """A finished request; `number` tells it from others."""
    fields: dict[str, Any] = {
        "request_id": RequestId(f"r{number}"),
        "started_at_ms": NOW_MS + number,
        "route": "chat",
        "model": ModelId("m"),
        "node": NodeName("n"),
        "status": 200,
        "duration_ms": 10.0,
        "attempts": 1,
    }
    return RequestRecord(**fields | more)


def event(number: int = 0, **more: Any) -> FleetEvent:
    fields: dict[str, Any] = {
        "at_ms": NOW_MS + number,
        "kind": EventKind.LOADED,
        "reason": f"e{number}",
    }
    return FleetEvent(**fields | more)


def select(path: Path, sql: str) -> list[Any]:
    """Read beside the store, or after it, with nothing of it."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def written(path: Path) -> list[str]:
    """The requests of the file, in the order of their ids."""
    return [name for (name,) in select(path, "SELECT request_id FROM requests ORDER BY id")]


async def told(store: Store, limit: int = 10_000) -> list[str]:
    """The requests that the store tells of, oldest first."""
    return [row.request_id for row in (await store.history(HistoryQuery(limit=limit))).rows][
        ::-1
    ]


async def flushed(store: Store) -> None:
    """Nothing waits to be written any more."""
    await until(lambda: store.status().queued_rows == 0, "rows to be written")


@asynccontextmanager
async def writing(path: Path) -> AsyncIterator[None]:
    """Another program in the middle of a transaction: nobody else can write.

    It may have to wait for a transaction of the store, which takes the loop to end.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    with closing(connection):
        await asyncio.to_thread(connection.execute, "BEGIN IMMEDIATE")
        yield
        connection.rollback()


@contextmanager
def writing_before(path: Path) -> Iterator[None]:
    """The same at once, where no store has begun to write yet."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.rollback()


@contextmanager
def unprivileged() -> Iterator[Path]:
    """A folder of our own, without root's right to write anywhere."""
    folder = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    try:
        if root:
            os.chown(folder, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)
        shutil.rmtree(folder)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cortex.db"
