"""Opens the SQLite file: claims it, sets a corrupt one aside, refuses a newer or a locked one."""

import errno
import fcntl
import logging
import os
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from cortex.core.errors import ConfigError, StoreError
from cortex.store.limits import Limits
from cortex.store.migrate import migrate, newer_schema, newest, version_of

log = logging.getLogger("cortex.store")

CHECK_UP_TO_BYTES = 256 * 1024 * 1024
"""Files below this size are checked whole at start (about a second at most)."""
WAL_KEEP_BYTES = 64 * 1024 * 1024
"""A log that a long read made grow beyond this is cut back at the next checkpoint."""
_CLAIM_POLL_S = 0.05
_DEFAULTS = Limits()
_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_NOT_WRITABLE = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})
_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_ANOTHER_CORTEX = "another process holds it; is a second cortex running with this file?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A file that is ready for its writer."""

    claim: int
    """Descriptor whose lock keeps a second gateway off; closing it gives the file up."""
    last_request_id: int
    last_event_id: int


class UnsoundError(sqlite3.DatabaseError):
    """The check at start found damage."""


def prepare(path: Path, limits: Limits) -> Prepared:
    """Make the file at `path` ready for use: there, ours alone, sound, of the newest schema.

    Raises:
        ConfigError: It cannot be used, and why; one line.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not os.access(path, os.W_OK, effective_ids=True):
            # SQLite would open it for reading, as if nothing were wrong.
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        claim = _claim(path, limits.open_s)
    except OSError as exc:
        line = f"{path}: {exc.strerror}: state cannot be kept there"
        if exc.errno == errno.EROFS and "INVOCATION_ID" in os.environ:
            line += (
                f"; a unit needs ReadWritePaths={path.parent} for it (systemctl edit cortex)"
            )
        raise ConfigError([line]) from exc
    try:
        requests, events = _bring_up_or_replace(path, limits)
        return Prepared(claim=claim, last_request_id=requests, last_event_id=events)
    except sqlite3.Error as exc:
        os.close(claim)
        raise ConfigError([f"{path}: {_plainly(exc)}"]) from exc
    except BaseException:
        os.close(claim)
        raise


def connect(path: Path, busy_s: float) -> sqlite3.Connection:
    """A connection for writing. Transactions are begun by hand."""
    connection = sqlite3.connect(
        path, timeout=busy_s, isolation_level=None, check_same_thread=False
    )
    try:
        # NORMAL loses nothing when the process dies; FULL would cost an fsync per flush.
        connection.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;"
            f"PRAGMA journal_size_limit = {WAL_KEEP_BYTES};"
        )
    except BaseException:
        connection.close()
        raise
    return connection


def connect_read_only(path: Path, busy_s: float = _DEFAULTS.busy_s) -> sqlite3.Connection:
    """For reading beside a running gateway, or without one.

    Raises:
        StoreError: The file is missing, no database of cortex, or of another schema.
    """
    try:
        if not path.is_file():
            raise StoreError(f"{path}: there is no such file")
        connection = _open_to_read(path, busy_s)
    except OSError as exc:
        raise StoreError(f"{path}: {exc.strerror}") from exc
    except sqlite3.Error as exc:
        raise StoreError(f"{path}: {_plainly(exc)}") from exc
    have = version_of(connection)
    if have == newest():
        return connection
    connection.close()
    if have > newest():
        raise StoreError(newer_schema(path, have))
    if have == 0:
        raise StoreError(f"{path}: it is not a state file of cortex")
    raise StoreError(f"{path}: its schema is older; start the gateway once to upgrade it")


def _claim(path: Path, wait_s: float) -> int:
    """Keep a second gateway off: its rows would take the ids that ours are about to get.

    A file of its own, since closing any descriptor of the database would drop SQLite's locks.
    """
    lock = path.with_name(f"{path.name}.lock")
    # Read-only, so that it works on one that another user has left behind.
    claim = os.open(lock, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return claim
        except BlockingIOError as exc:
            if time.monotonic() >= deadline_s:
                os.close(claim)
                raise ConfigError([f"{path}: {_ANOTHER_CORTEX}"]) from exc
            time.sleep(_CLAIM_POLL_S)
        except OSError:
            os.close(claim)
            raise


def _bring_up_or_replace(path: Path, limits: Limits) -> tuple[int, int]:
    try:
        return _bring_up(path, limits)
    except sqlite3.DatabaseError as exc:
        if not (isinstance(exc, UnsoundError) or _code(exc) in _CORRUPT):
            raise
        _set_aside(path, str(exc))
        return _bring_up(path, limits)


def _bring_up(path: Path, limits: Limits) -> tuple[int, int]:
    with closing(connect(path, limits.open_s)) as connection:
        have = version_of(connection)
        if have > newest():
            raise ConfigError([newer_schema(path, have)])
        if have == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise ConfigError([f"{path}: it is the database of another program"])
        if path.stat().st_size < CHECK_UP_TO_BYTES:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise UnsoundError(verdict)
        migrate(connection)
        last = dict(connection.execute("SELECT name, seq FROM sqlite_sequence"))
        return last.get("requests", 0), last.get("events", 0)


def _set_aside(path: Path, why: str) -> None:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    names = (f"{path.name}.corrupt-{stamp}{f'-{n}' if n else ''}" for n in count())
    aside = next(a for name in names if not (a := path.with_name(name)).exists())
    # The database last: were we stopped half way, its log must not meet a fresh file.
    for suffix in ("-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    log.error(
        "the state file is corrupt: it was set aside and an empty one begun",
        extra={"fields": {"path": str(path), "set_aside": str(aside), "reason": why}},
    )


def _open_to_read(path: Path, busy_s: float) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        return _tried(uri, busy_s)
    except sqlite3.OperationalError as exc:
        # Without a log there is no writer; SQLite wants to create one all the same, which needs
        # a folder that we may write to. As an immutable file it can be read without.
        no_log = not path.with_name(f"{path.name}-wal").exists()
        if not (no_log and _code(exc) in _NOT_WRITABLE):
            raise
        return _tried(f"{uri}&immutable=1", busy_s)


def _tried(uri: str, busy_s: float) -> sqlite3.Connection:
    """A connection that has read from the file; opening alone reads nothing."""
    connection = sqlite3.connect(uri, uri=True, timeout=busy_s, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _plainly(exc: sqlite3.Error) -> str:
    if _code(exc) in _LOCKED:
        return _ANOTHER_CORTEX
    if _code(exc) == sqlite3.SQLITE_NOTADB:
        return "it is not a SQLite database"
    if _code(exc) in _NOT_WRITABLE:
        return f"{exc}: this user must be able to write to it and to its folder"
    return f"{exc}: it cannot be used"


def _code(exc: sqlite3.Error) -> int | None:
    """The primary result code; None where the error did not come from SQLite itself."""
    code: int | None = getattr(exc, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
