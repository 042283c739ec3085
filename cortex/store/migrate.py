"""Brings a database to the newest schema: numbered files, forward only, each all or nothing."""

import functools
import importlib.resources
import re
import sqlite3
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from pathlib import Path

_NUMBERED = re.compile(r"(\d{4})_\w+\.sql")


@functools.cache
def migrations() -> tuple[str, ...]:
    """The SQL of every migration, in order; numbered from 1 without a gap."""
    found = sorted(
        (int(match.group(1)), file.read_text(encoding="utf-8"))
        for file in _folder().iterdir()
        if (match := _NUMBERED.fullmatch(file.name))
    )
    assert found, "the migrations are not installed"
    assert [number for number, _ in found] == list(range(1, len(found) + 1))
    return tuple(sql for _, sql in found)


def newest() -> int:
    return len(migrations())


def migrate(connection: sqlite3.Connection, steps: Sequence[str] | None = None) -> None:
    """Apply what is missing of `steps`: of all that are installed, if None.

    The runner wraps each file itself, because `executescript` commits an open transaction first,
    so that a BEGIN outside of it would not roll back DDL.

    Raises:
        sqlite3.Error: A migration failed; the file is as it was before that one.
    """
    steps = migrations() if steps is None else steps
    have = version_of(connection)
    for number, sql in enumerate(steps[have:], start=have + 1):
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{sql}\n;PRAGMA user_version = {number};\nCOMMIT;"
            )
        except sqlite3.Error:
            connection.rollback()
            raise


def version_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def newer_schema(path: Path, have: int) -> str:
    return (
        f"{path}: its schema is version {have}, this cortex knows {newest()}: "
        "it was written by a newer cortex; install that one, or move the file away"
    )


def _folder() -> Traversable:
    try:
        return importlib.resources.files("cortex.migrations")
    except ModuleNotFoundError:
        # A bare checkout: the folder stands beside the package.
        return Path(__file__).parents[2] / "migrations"
