"""From any older file to the newest schema; a step that fails leaves no trace."""

import importlib.resources
import sqlite3
import tomllib
from contextlib import closing
from pathlib import Path

import pytest

from cortex.core.errors import ConfigError
from cortex.store.db import connect
from cortex.store.migrate import migrate, migrations, newest, version_of
from tests.command import ROOT
from tests.store.conftest import opened, request, select, told

SCHEMA = "SELECT type, name, sql FROM sqlite_master ORDER BY type, name"
INTO_NODES = "INSERT INTO nodes (name, cycles, health) VALUES ('n', 7, 'up')"


def at_version(path: Path, version: int) -> None:
    """A file as an older cortex left it."""
    with closing(connect(path, 1.0)) as connection:
        migrate(connection, migrations()[:version])


async def test_a_new_file_gets_the_newest_schema(path: Path) -> None:
    async with opened(path):
        pass
    assert select(path, "PRAGMA user_version") == [(newest(),)]
    tables = {name for kind, name, _ in select(path, SCHEMA) if kind == "table"}
    assert tables == {"nodes", "residency", "pins", "requests", "events", "sqlite_sequence"}


@pytest.mark.parametrize("version", range(len(migrations()) + 1))
async def test_every_older_version_is_brought_up_with_its_rows(
    path: Path, tmp_path: Path, version: int
) -> None:
    at_version(path, version)
    if version:
        with closing(connect(path, 1.0)) as connection:
            connection.execute(INTO_NODES)
    async with opened(path) as store:
        cycles = [(node.name, node.cycles) for node in (await store.recall()).nodes]
        assert cycles == ([("n", 7)] if version else [])
        store.request_done(request(1))
        await store._flush()
        assert await told(store) == ["r1"]

    fresh = tmp_path / "fresh.db"
    at_version(fresh, newest())
    assert select(path, SCHEMA) == select(fresh, SCHEMA)
    assert select(path, "PRAGMA user_version") == [(newest(),)]


@pytest.mark.parametrize(
    "broken",
    [
        "CREATE TABLE more (a); INSERT INTO more VALUES (1); SELECT a FROM nowhere;",
        "ALTER TABLE nodes ADD COLUMN more; CREATE INDEX i ON nodes (more); not SQL;",
        "DELETE FROM nodes; DROP TABLE nodes; CREATE TABLE pins (a);",
    ],
    ids=["table and row", "column and index", "table dropped"],
)
def test_a_migration_that_fails_leaves_no_trace(path: Path, broken: str) -> None:
    at_version(path, newest())
    with closing(connect(path, 1.0)) as connection:
        connection.execute(INTO_NODES)
        before = select(path, SCHEMA)
        with pytest.raises(sqlite3.Error):
            migrate(connection, [*migrations(), broken])
        assert not connection.in_transaction
        assert version_of(connection) == newest()
    assert select(path, SCHEMA) == before
    assert select(path, "SELECT name, cycles FROM nodes") == [("n", 7)]


def test_the_steps_before_one_that_fails_stay(path: Path) -> None:
    steps = ["CREATE TABLE one (a)", "CREATE TABLE two (a); no;", "CREATE TABLE three (a)"]
    with closing(connect(path, 1.0)) as connection:
        with pytest.raises(sqlite3.Error):
            migrate(connection, steps)
        assert version_of(connection) == 1
        steps[1] = "CREATE TABLE two (a)"
        for _ in range(2):  # the second time nothing is left to do
            migrate(connection, steps)
            assert version_of(connection) == 3
    assert [name for _, name, _ in select(path, SCHEMA)] == ["one", "three", "two"]


@pytest.mark.parametrize("end", ["", ";", " -- the end", "; -- the end", ";\n/* the end */\n"])
def test_a_migration_may_end_as_it_likes(path: Path, end: str) -> None:
    with closing(connect(path, 1.0)) as connection:
        migrate(connection, [f"CREATE TABLE one (a){end}"])
        assert version_of(connection) == 1
    assert [name for _, name, _ in select(path, SCHEMA)] == ["one"]


def test_migrations_are_numbered_without_a_gap_and_packaged() -> None:
    names = sorted(file.name for file in (ROOT / "migrations").glob("*.sql"))
    assert [int(name[:4]) for name in names] == list(range(1, newest() + 1))
    installed = importlib.resources.files("cortex.migrations")
    assert sorted(f.name for f in installed.iterdir() if f.name.endswith(".sql")) == names

    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setuptools["package-dir"]["cortex.migrations"] == "migrations"
    assert setuptools["package-data"]["cortex.migrations"] == ["*.sql"]


async def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    async with opened(path) as store:
        store.request_done(request(1))
    with closing(connect(path, 1.0)) as connection:
        connection.execute(f"PRAGMA user_version = {newest() + 1}")
    before = path.read_bytes()

    with pytest.raises(ConfigError) as refused:
        async with opened(path):
            pass
    (line,) = refused.value.lines
    assert line == (
        f"{path}: its schema is version {newest() + 1}, this cortex knows {newest()}: it was"
        " written by a newer cortex; install that one, or move the file away"
    )
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.corrupt-*"))

    # The refusal holds nothing: what makes the file right is enough.
    with closing(connect(path, 1.0)) as connection:
        connection.execute(f"PRAGMA user_version = {newest()}")
    async with opened(path) as store:
        assert await told(store) == ["r1"]
