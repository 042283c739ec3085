"""Reads the database file without the gateway, or beside it; changes nothing in it."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from cortex.adminapi import (
    EventQuery,
    EventsBody,
    HistoryBody,
    HistoryQuery,
    StatsBody,
)
from cortex.core.errors import StoreError
from cortex.core.recorded import Recorded
from cortex.core.records import Recollection
from cortex.store import queries
from cortex.store.db import connect_read_only
from cortex.store.recorded import recorded


class DatabaseFile:
    """The file behind the admin API's questions, answered in the admin API's own shapes.

    Every method raises `StoreError` where the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = connect_read_only(path)

    def history(self, query: HistoryQuery) -> HistoryBody:
        with self._reading():
            return queries.history(self._connection, query)

    def stats(self, query: HistoryQuery) -> StatsBody:
        with self._reading():
            return queries.stats(self._connection, query)

    def events(self, query: EventQuery) -> EventsBody:
        with self._reading():
            return queries.events(self._connection, query)

    def recall(self) -> Recollection:
        """What a gateway that starts now would know of the fleet."""
        with self._reading():
            return queries.recall(self._connection)

    def recorded(self, since_ms: int) -> Recorded:
        """A span of the log with the fleet that lived it, for a replay."""
        with self._reading():
            return recorded(self._connection, since_ms)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise StoreError(f"{self._path}: cannot read: {exc}") from exc
