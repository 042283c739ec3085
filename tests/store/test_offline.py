"""Reading the file without the gateway, or beside it; and what each kind of wrong file is told."""

import asyncio
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from cortex.adminapi import EventQuery, HistoryQuery
from cortex.core.errors import StoreError
from cortex.store.db import connect
from cortex.store.migrate import migrate, migrations, newest
from cortex.store.offline import DatabaseFile
from cortex.store.queries import STATS_ROWS
from cortex.store.reader import LONG_READS
from tests.running import until
from tests.store.conftest import (
    MUST_WRITE,
    SECOND,
    event,
    flushed,
    opened,
    request,
    unprivileged,
    writing_before,
)


async def fill(path: Path, count: int = 3) -> None:
    async with opened(path, runs=False) as store:
        for number in range(count):
            store.request_done(request(number))
            store.record(event(number))


def names(file: DatabaseFile) -> list[str]:
    return [row.request_id for row in file.history(HistoryQuery()).rows]


def refusal(path: Path) -> str:
    with pytest.raises(StoreError) as refused, DatabaseFile(path):
        pass
    return refused.value.message


async def test_a_file_is_read_without_a_gateway_and_not_changed(path: Path) -> None:
    await fill(path)
    before = path.read_bytes()
    with DatabaseFile(path) as file:
        assert names(file) == ["r2", "r1", "r0"]
        assert [row.reason for row in file.events(EventQuery(after_id=1)).rows] == ["e1", "e2"]
        (stats,) = file.stats(HistoryQuery()).rows
        assert (stats.model, stats.requests) == ("m", 3)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            file._connection.execute("DELETE FROM requests")
    assert path.read_bytes() == before


async def test_it_answers_what_the_running_gateway_answers(path: Path) -> None:
    async with opened(path) as store:
        for number in range(20):
            store.request_done(request(number, ttft_ms=float(number)))
            store.record(event(number))
        await flushed(store)
        with DatabaseFile(path) as file:
            assert (
                file.history(HistoryQuery()).rows == (await store.history(HistoryQuery())).rows
            )
            assert file.stats(HistoryQuery()).rows == (await store.stats(HistoryQuery())).rows
            assert file.events(EventQuery()).rows == (await store.events(EventQuery())).rows
            # What is written meanwhile is seen by the next question.
            store.request_done(request(20))
            await flushed(store)
            assert names(file)[0] == "r20"
        assert store.status().ok


async def test_a_reader_holds_the_writer_up_no_longer_than_it_reads(path: Path) -> None:
    await fill(path)
    with DatabaseFile(path) as file:
        assert len(names(file)) == 3
        async with opened(path) as store:  # a gateway that starts beside it
            for number in range(3, 2000):
                store.request_done(request(number))
            await flushed(store)
            assert store.status().ok
        assert names(file)[0] == "r1999"


async def test_a_reader_does_not_wait_for_a_writer(path: Path) -> None:
    await fill(path)
    with writing_before(path), DatabaseFile(path) as file:
        assert len(names(file)) == 3


async def test_the_log_of_a_killed_gateway_is_read(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    async with opened(path) as store:
        store.request_done(request(1))
        await flushed(store)
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    with DatabaseFile(copy) as file:
        assert names(file) == ["r1"]


@pytest.mark.parametrize("read_before", [False, True])
async def test_a_file_in_a_read_only_folder_is_read(read_before: bool) -> None:
    with unprivileged() as folder:
        path = folder / "with ? and #.db"
        await fill(path)
        if read_before:  # which leaves an empty log
            with DatabaseFile(path):
                pass
        for file in folder.iterdir():
            file.chmod(0o400)
        folder.chmod(0o500)
        with DatabaseFile(path) as database:
            assert names(database) == ["r2", "r1", "r0"]


async def test_a_log_in_a_read_only_folder_needs_a_right_that_is_named() -> None:
    with unprivileged() as folder:
        path, copy = folder / "cortex.db", folder / "copy.db"
        async with opened(path) as store:
            store.request_done(request(1))
            await flushed(store)
            for suffix in ("", "-wal"):
                shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
        folder.chmod(0o500)
        # Read without its log, it would be told to be empty.
        assert refusal(copy) == f"{copy}: unable to open database file: {MUST_WRITE}"


def test_a_file_that_is_missing_is_refused_and_not_made(path: Path) -> None:
    assert refusal(path) == f"{path}: there is no such file"
    assert not path.exists()
    assert refusal(path.parent) == f"{path.parent}: there is no such file"


def test_a_file_that_may_not_be_reached_is_refused() -> None:
    with unprivileged() as folder:
        inside = folder / "inside"
        inside.mkdir(mode=0o000)
        assert refusal(inside / "cortex.db") == f"{inside / 'cortex.db'}: Permission denied"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"no database " * 1000, "it is not a SQLite database"),
        (b"", "it is not a state file of cortex"),
    ],
    ids=["garbage", "empty"],
)
def test_a_file_of_something_else_is_refused(path: Path, content: bytes, why: str) -> None:
    path.write_bytes(content)
    assert refusal(path) == f"{path}: {why}"
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_database_of_another_program_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE requests (id)")
    assert refusal(path) == f"{path}: it is not a state file of cortex"


def test_an_older_file_is_refused_until_a_gateway_has_upgraded_it(path: Path) -> None:
    with closing(connect(path, 1.0)) as connection:
        migrate(connection, migrations()[:1])
    older = f"{path}: its schema is older; start the gateway once to upgrade it"
    assert refusal(path) == older


def test_a_newer_file_is_refused(path: Path) -> None:
    with closing(connect(path, 1.0)) as connection:
        migrate(connection)
        connection.execute(f"PRAGMA user_version = {newest() + 3}")
    assert refusal(path).startswith(
        f"{path}: its schema is version {newest() + 3}, this cortex knows {newest()}: "
    )


def test_a_file_that_is_held_alone_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cortex.store.db.connect_read_only.__defaults__", (0.05,))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL;")
        migrate(connection)
        assert refusal(path) == f"{path}: {SECOND}"


async def test_a_damaged_page_fails_the_question_and_not_the_program(path: Path) -> None:
    await fill(path, count=500)
    content = path.read_bytes()
    start = content.rindex(b"r400") // 4096 * 4096
    path.write_bytes(content[:start] + b"\xff" * 4096 + content[start + 4096 :])
    with DatabaseFile(path) as file, pytest.raises(StoreError) as failed:
        file.history(HistoryQuery(limit=1000))
    assert failed.value.message == f"{path}: cannot read: database disk image is malformed"


@pytest.fixture
def slow(path: Path) -> Path:
    """A file with so many rows that statistics take a while."""
    with closing(connect(path, 1.0)) as connection:
        migrate(connection)
        connection.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)"
            " INSERT INTO requests (request_id, started_at_ms, route, dialect, model, stream,"
            " status, outcome, duration_ms, queue_ms, load_wait_ms, cold_start, attempts)"
            " SELECT i, i, 'chat', 'openai', i % 7, 0, 200, 'ok', i * 37 % 1000, 0, 0, 0, 1"
            " FROM n"
        )
    return path


async def test_a_read_past_its_deadline_is_broken_off(slow: Path) -> None:
    async with opened(slow, read_s=0.005, retention_days=10**6) as store:
        with pytest.raises(StoreError) as late:
            await store.stats(HistoryQuery())
        assert late.value.message == "not read within 0.005 s; ask for less"
        assert store.status().ok
    async with opened(slow, retention_days=10**6) as store:
        assert (
            sum(row.requests for row in (await store.stats(HistoryQuery())).rows) == STATS_ROWS
        )


async def test_a_read_that_nobody_waits_for_is_broken_off(path: Path) -> None:
    began, ended = threading.Event(), threading.Event()

    def count_for_ever(connection: sqlite3.Connection) -> None:
        began.set()
        try:
            connection.execute(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
                " SELECT count(*) FROM n"
            )
        finally:
            ended.set()

    async with opened(path, read_s=1000.0) as store, asyncio.TaskGroup() as group:
        asking = group.create_task(store._reader.ask(count_for_ever), name="asking")
        await until(began.is_set, "the read to begin")
        asking.cancel()
        await until(ended.is_set, "the read to be broken off", 5.0)


async def test_long_reads_take_turns(path: Path) -> None:
    at_once, most = 0, 0

    def question(connection: sqlite3.Connection) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.02)
        at_once -= 1

    async with opened(path) as store, asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(store._reader.ask_long(question), name=f"long {number}")
    assert most == LONG_READS
