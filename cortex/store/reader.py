"""Asks questions beside the writer: each on a read-only connection of its own, off the event loop."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from cortex.core.errors import StoreError
from cortex.store.db import connect_read_only
from cortex.store.limits import Limits

LONG_READS = 2
"""Long questions at a time: they share the default executor with name resolution."""
_STEPS_BETWEEN_LOOKS = 100_000
"""SQLite's virtual machine instructions between two looks at the deadline: a few ms."""

_T = TypeVar("_T")
Question = Callable[[sqlite3.Connection], _T]


class Reader:
    def __init__(self, path: Path, limits: Limits) -> None:
        self._path = path
        self._limits = limits
        self._long = asyncio.Semaphore(LONG_READS)

    async def ask_long(self, question: Question[_T]) -> _T:
        """Ask what may read many rows; waits its turn."""
        async with self._long:
            return await self.ask(question)

    async def ask(self, question: Question[_T]) -> _T:
        """Ask, and take no longer than `read_s`.

        Raises:
            StoreError: The file could not be read, or not in time.
        """
        patience = _Patience(self._limits.read_s)
        try:
            return await asyncio.to_thread(self._answer, question, patience)
        except sqlite3.Error as exc:
            if patience.is_over():
                late = f"not read within {self._limits.read_s:g} s; ask for less"
                raise StoreError(late) from exc
            raise StoreError(f"cannot read: {exc}") from exc
        finally:
            # Whoever asked may be gone; the thread should not go on for nobody.
            patience.end()

    def _answer(self, question: Question[_T], patience: "_Patience") -> _T:
        with closing(connect_read_only(self._path, self._limits.busy_s)) as connection:
            connection.set_progress_handler(patience.is_over, _STEPS_BETWEEN_LOOKS)
            return question(connection)


class _Patience:
    """Ends at a deadline, or when it is told to; read from the asking thread and the loop's."""

    def __init__(self, wait_s: float) -> None:
        self._deadline_s = time.monotonic() + wait_s

    def is_over(self) -> bool:
        return time.monotonic() >= self._deadline_s

    def end(self) -> None:
        self._deadline_s = 0.0
