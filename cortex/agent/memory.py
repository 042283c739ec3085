"""The commands that were ever begun, in a small file that is on the disk before any of them runs."""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from cortex.agent.commands import Entry
from cortex.core.errors import ConfigError

log = logging.getLogger("cortex.agent")

MOST_ENTRIES = 100
FILE = "commands.json"
LOCK = "agent.lock"


class Memory:
    """Owner of the state directory: one agent at a time. Blocking."""

    def __init__(self, directory: Path) -> None:
        """Take the directory.

        Raises:
            ConfigError: It cannot be written, or another agent has it.
        """
        self._directory = directory
        self._file = directory / FILE
        try:
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._lock = _lock(directory)
        except BlockingIOError:
            raise ConfigError(
                [f'state directory "{directory}": in use by another agent']
            ) from None
        except OSError as exc:
            raise _unusable(directory, exc) from exc
        try:
            self._entries, self.complete = self._load()
            self._save(self._entries)
        except OSError as exc:
            os.close(self._lock)
            raise _unusable(directory, exc) from exc

    complete: bool
    """False when the file of the agent before this one could not be read."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        os.close(self._lock)

    @property
    def entries(self) -> Mapping[str, Entry]:
        return self._entries

    def begin(self, command_id: str) -> None:
        """Write down that `command_id` is begun; on return it is on the disk.

        Raises:
            OSError: It is not on the disk, and must not be carried out.
        """
        entries = {**self._entries, command_id: Entry(command_id)}
        for oldest in list(entries)[:-MOST_ENTRIES]:
            del entries[oldest]
        self._save(entries)
        self._entries = entries

    def end(self, command_id: str, *, ok: bool, detail: str) -> None:
        """Write down how it went.

        Raises:
            OSError: Only this process knows.
        """
        self._entries = {**self._entries, command_id: Entry(command_id, ok, detail)}
        self._save(self._entries)

    def _load(self) -> tuple[dict[str, Entry], bool]:
        try:
            text = self._file.read_text()
        except FileNotFoundError:
            return {}, True
        except UnicodeDecodeError:
            text = ""
        try:
            rows = json.loads(text)["commands"]
            return {row["id"]: _entry(row) for row in rows}, True
        except (ValueError, KeyError, TypeError) as exc:
            aside = self._file.with_suffix(".corrupt")
            self._file.replace(aside)
            fields = {"file": str(aside), "reason": repr(exc)[:200]}
            log.warning("memory of commands was corrupt", extra={"fields": fields})
            return {}, False

    def _save(self, entries: Mapping[str, Entry]) -> None:
        """Replace the file; a reader finds the old one or the new one, whole."""
        fresh = self._file.with_suffix(".new")
        rows = [asdict(entry) for entry in entries.values()]
        with fresh.open("w") as file:
            json.dump({"commands": rows}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._file)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _lock(directory: Path) -> int:
    lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        undo.pop_all()
    return lock


def _entry(row: Mapping[str, object]) -> Entry:
    match row:
        case {"id": str(id_), "ok": bool() | None as ok, "detail": str(detail)}:
            return Entry(id_, ok, detail)
        case _:
            raise ValueError("an entry is not one")


def _unusable(directory: Path, exc: OSError) -> ConfigError:
    return ConfigError([f'state directory "{directory}": {exc.strerror or exc}'])
