"""The request log read straight from the database file, beside a running gateway or without one."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cortex.adminapi import HistoryBody, HistoryQuery, StatsBody
from cortex.cli.failures import CliError, ConfigFileError
from cortex.config.load import load, state_path
from cortex.core.errors import ConfigError, StoreError
from cortex.store import queries
from cortex.store.db import connect_read_only


class DatabaseFile:
    """A database file as a source of `cortex history`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def history(self, query: HistoryQuery) -> HistoryBody:
        """The rows that pass the filters.

        Raises:
            CliError: The file cannot be read, and why.
        """
        with self._open() as connection:
            return HistoryBody(rows=queries.history(connection, query))

    def stats(self, query: HistoryQuery) -> StatsBody:
        """One row per model; raises as `history` does."""
        with self._open() as connection:
            return StatsBody(rows=queries.stats(connection, query))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(connect_read_only(self._path)) as connection:
                yield connection
        except (StoreError, OSError) as error:
            raise CliError(str(error)) from error
        except sqlite3.Error as error:
            raise CliError(f"{self._path}: {error}") from error


def configured(config: str | None) -> Path:
    """The database file of the configuration that `cortex serve` would use.

    Raises:
        ConfigFileError: There is none, or it has mistakes.
    """
    try:
        return state_path(load(Path(config) if config else None, os.environ), os.environ)
    except ConfigError as error:
        raise ConfigFileError(
            "\n".join(
                [*error.lines, "history: --db FILE reads a database without a configuration"]
            )
        ) from error
