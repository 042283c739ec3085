"""A copy of the state file as it is at one moment, made beside a running gateway."""

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import NamedTuple

from cortex.core.errors import StoreError
from cortex.store.db import connect_read_only


class Copied(NamedTuple):
    """What a copy holds."""

    size_bytes: int
    requests: int
    events: int


def copy(source: Path, target: Path, *, overwrite: bool) -> Copied:
    """Copy a state file, and check the copy; whoever writes to `source` is not held up.

    `target` appears when it is whole: what is not finished has another name, and goes when it fails.

    Raises:
        StoreError: One of them cannot be used, `target` is there already, or the copy is not sound.
    """
    if target.exists() and not overwrite:
        raise StoreError(f"{target}: it is there already; --force replaces it")
    if target.exists() and source.exists() and target.samefile(source):
        raise StoreError(f"{target}: it is the state file itself")
    partial = target.with_name(f"{target.name}.partial")
    connection = connect_read_only(source)
    try:
        _private(partial)
        copied = _copied(connection, partial)
        _settle(partial, target)
    except sqlite3.Error as exc:
        raise StoreError(f"{target}: {exc}") from exc
    except OSError as exc:
        raise StoreError(f"{target}: {exc.strerror}") from exc
    finally:
        connection.close()
        for suffix in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(OSError):
                partial.with_name(partial.name + suffix).unlink(missing_ok=True)
    return copied


def _private(path: Path) -> None:
    """An empty file that nobody else may read."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _copied(source: sqlite3.Connection, path: Path) -> Copied:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as copy_:
        # In one step: with others a write in between would begin it anew, again and again.
        source.backup(copy_, pages=-1)
        # One file, without a log beside it.
        copy_.execute("PRAGMA journal_mode = DELETE")
        [found] = copy_.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise StoreError(f"{path}: the copy is not sound: {found}")
        counts = [
            copy_.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 - ours
            for table in ("requests", "events")
        ]
    return Copied(path.stat().st_size, *counts)


def _settle(partial: Path, target: Path) -> None:
    """Give it its name once the disk has it."""
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
