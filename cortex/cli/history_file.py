"""The request log read straight from the database file, beside a running gateway or without one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cortex.adminapi import EventQuery, EventsBody, HistoryBody, HistoryQuery, StatsBody
from cortex.cli.configured import configured
from cortex.cli.failures import CliError
from cortex.config.load import state_path
from cortex.core.errors import StoreError
from cortex.core.recorded import Recorded
from cortex.store.offline import DatabaseFile

T = TypeVar("T")


class FileSource:
    """A database file as a source; opened for each question."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def history(self, query: HistoryQuery) -> HistoryBody:
        """The rows that pass the filters.

        Raises:
            CliError: The file cannot be read, and why.
        """
        return self.ask(lambda file: file.history(query))

    def stats(self, query: HistoryQuery) -> StatsBody:
        """One row per model; raises as `history` does."""
        return self.ask(lambda file: file.stats(query))

    def events(self, query: EventQuery) -> EventsBody:
        """The events that pass; raises as `history` does."""
        return self.ask(lambda file: file.events(query))

    def ask(self, question: Callable[[DatabaseFile], T]) -> T:
        """Any other question; raises as `history` does."""
        try:
            with DatabaseFile(self._path) as file:
                return question(file)
        except (StoreError, OSError) as error:
            raise CliError(str(error)) from error


def recorded(path: Path, since_ms: int) -> Recorded:
    """A span of a database's log.

    Raises:
        CliError: The file cannot be read, and why.
    """
    return FileSource(path).ask(lambda file: file.recorded(since_ms))


def configured_file(config: str | None, verb: str) -> Path:
    """The database file of the configuration that `cortex serve` would use.

    Raises:
        ConfigFileError: There is none, or it has mistakes.
    """
    hint = f"{verb}: --db FILE reads a database without a configuration"
    return state_path(configured(config, hint)[1], os.environ)
