"""The demo's processes: started, watched and ended by pid. Each writes to a file, so nothing ever blocks on a pipe."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from cortex.cli.failures import CliError
from cortex.cli.text import safe

LAST_LINES = 15
TERM_S = 8.0
"""From SIGTERM to SIGKILL, for each; the gateway drains for at most 5 s of it."""
TICK_S = 0.1
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Those that end a demo."""


class Child:
    """One process in a session of its own, so that Ctrl-C reaches the demo alone."""

    def __init__(
        self, name: str, argv: Sequence[str], log: Path, environ: Mapping[str, str]
    ) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter with our own modules
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environ),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def lines(self) -> list[str]:
        """What it has written so far, a line that is not complete yet left out."""
        written = self._log.read_text(errors="replace")
        return written[: written.rfind("\n") + 1].splitlines()

    def check(self) -> None:
        """Complain if it has ended.

        Raises:
            CliError: With its exit code and last lines.
        """
        code = self._process.poll()
        if code is None:
            return
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        last = [f"  {safe(line)}" for line in self.lines()[-LAST_LINES:]]
        raise CliError("\n".join([f"{self.name} {how}", *last]))

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process.poll() is None:
            self._process.terminate()

    def reap(self, patience_s: float) -> None:
        """Wait for its end, then kill it and what it started."""
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            # Its session is its process group; nobody else is in there.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Children:
    """Every process of one demo."""

    def __init__(self, directory: Path, environ: Mapping[str, str]) -> None:
        self._directory = directory
        self._environ = environ
        self._children: list[Child] = []

    def start(self, name: str, argv: Sequence[str]) -> Child:
        log = self._directory / f"{len(self._children)}.log"
        # A process that nobody knows of yet would outlive the demo.
        with held():
            child = Child(name, argv, log, self._environ)
            self._children.append(child)
        return child

    def check(self) -> None:
        """Complain of the first that has ended."""
        for child in self._children:
            child.check()

    def wait(
        self,
        what: str,
        ready: Callable[[], bool],
        *,
        deadline_s: float,
        draw: Callable[[], None],
    ) -> None:
        """Wait until `ready()`, as long as everyone lives.

        Raises:
            CliError: A process ended, or the deadline passed.
        """
        end_s = time.monotonic() + deadline_s
        while not ready():
            self.check()
            if time.monotonic() > end_s:
                raise CliError(f"{what} was not ready within {deadline_s:.0f} s")
            draw()
            time.sleep(TICK_S)

    def end(self) -> None:
        """End all and wait until they are gone: first the gateway, which finishes what runs."""
        for child in reversed(self._children):
            child.terminate()
            child.reap(TERM_S)
        self._children.clear()


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP act as Ctrl-C does, and none of them can stop the cleaning up after."""
    with _handled(signal.default_int_handler):
        yield


@contextmanager
def held() -> Iterator[None]:
    """Signals that come during this are delivered after it."""
    came: list[int] = []
    with _handled(lambda number, _frame: came.append(number)):
        yield
    if came:
        signal.raise_signal(came[0])


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    before = [signal.signal(number, handler) for number in SIGNALS]
    try:
        yield
    finally:
        for number, earlier in zip(SIGNALS, before, strict=True):
            signal.signal(number, earlier)


def deaf() -> None:
    """Take no more signals: the end has begun and is bounded."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
