"""What a person sees while a command waits, and how a command that holds the terminal ends."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from rich.console import Console

from cortex.cli.text import span


@contextmanager
def progress(what: str) -> Iterator[None]:
    """A spinner with the time on a terminal's stderr, for what may take long; else nothing."""
    if not sys.stderr.isatty():
        yield
        return
    began_s, done = time.monotonic(), threading.Event()
    with Console(stderr=True).status(what) as status:

        def tick() -> None:
            while not done.wait(1.0):
                status.update(f"{what} {span(time.monotonic() - began_s)}")

        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
        try:
            yield
        finally:
            done.set()
            ticker.join()


def unwind_at_sigterm() -> None:
    """Have SIGTERM end this process as an exception does: what was changed of the terminal is put back."""
    signal.signal(signal.SIGTERM, _unwind)


def _unwind(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
