"""The request log read straight from the database file, beside a running gateway or without one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cortex.adminapi import HistoryBody, HistoryQuery, StatsBody
from cortex.cli.failures import CliError, ConfigFileError
from cortex.config.load import load, state_path
from cortex.core.errors import ConfigError, StoreError
from cortex.store.offline import DatabaseFile

T = TypeVar("T")


class FileSource:
    """A database file as a source of `cortex history`; opened for each question."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def history(self, query: HistoryQuery) -> HistoryBody:
        """The rows that pass the filters.

        Raises:
            CliError: The file cannot be read, and why.
        """
        return self._ask(lambda file: file.history(query))

    def stats(self, query: HistoryQuery) -> StatsBody:
        """One row per model; raises as `history` does."""
        return self._ask(lambda file: file.stats(query))

    def _ask(self, question: Callable[[DatabaseFile], T]) -> T:
        try:
            with DatabaseFile(self._path) as file:
                return question(file)
        except (StoreError, OSError) as error:
            raise CliError(str(error)) from error


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
