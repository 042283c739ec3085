"""Opens the SQLite file: sets a corrupt one aside, refuses a newer or a locked one."""

import logging
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from cortex.core.errors import ConfigError, StoreError
from cortex.store.migrate import migrate, newer_schema, newest, version_of

log = logging.getLogger("cortex.store")

BUSY_TIMEOUT_S = 2.0
"""How long a statement waits for another process's lock."""
CHECK_UP_TO_BYTES = 256 * 1024 * 1024
"""Files up to this size are checked whole at start (about a second at most)."""
_SIDE_FILES = ("", "-wal", "-shm")


def prepare(path: Path) -> None:
    """Make the file at `path` ready for use: there, sound, and of the newest schema.

    Raises:
        ConfigError: It cannot be used, and why; one line.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _open_checked(path)
    except ConfigError:
        raise
    except sqlite3.OperationalError as exc:
        raise ConfigError([f"{path}: {_plainly(exc)}"]) from exc
    except sqlite3.DatabaseError as exc:
        _set_aside(path, str(exc))
        _open_checked(path)
    except OSError as exc:
        raise ConfigError([f"{path}: {exc.strerror}: state cannot be kept there"]) from exc


def connect(path: Path) -> sqlite3.Connection:
    """A connection with the settings that every writer and reader here uses."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    # NORMAL loses nothing when the process dies; FULL would cost an fsync per flush.
    connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")
    return connection


def connect_read_only(path: Path) -> sqlite3.Connection:
    """For reading beside a running gateway, or without one.

    Raises:
        StoreError: The file is missing, no database, or of another schema.
    """
    if not path.is_file():
        raise StoreError(f"{path}: there is no such file")
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S
        )
        have = version_of(connection)
    except sqlite3.Error as exc:
        raise StoreError(f"{path}: {exc}") from exc
    if have > newest():
        connection.close()
        raise StoreError(newer_schema(path, have))
    if have < newest():
        connection.close()
        raise StoreError(f"{path}: its schema is older; start the gateway once to upgrade it")
    return connection


def _open_checked(path: Path) -> None:
    connection = connect(path)
    try:
        if path.stat().st_size <= CHECK_UP_TO_BYTES:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
        migrate(connection, path)
    finally:
        connection.close()


def _set_aside(path: Path, why: str) -> None:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = path.with_name(f"{path.name}.corrupt-{stamp}")
    for suffix in _SIDE_FILES:
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    log.error(
        "the state file is corrupt: it was set aside and an empty one begun",
        extra={"fields": {"path": str(path), "set_aside": str(aside), "reason": why}},
    )


def _plainly(exc: sqlite3.OperationalError) -> str:
    if "locked" in str(exc):
        return "another process holds it locked; is a second cortex running?"
    return f"{exc}: state cannot be kept there"
