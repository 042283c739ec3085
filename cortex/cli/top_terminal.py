"""The one owner of the terminal's state: its own screen, keys without Enter, and all of it given back."""

import asyncio
import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleDimensions, RenderableType
from rich.live import Live
from rich.text import Text

from cortex.cli.top_keys import Keys

LONE_ESC_S = 0.05
"""After this an Esc is the key itself, and not the start of a longer one."""
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def usable() -> bool:
    """Both ends are a terminal that can move its cursor."""
    dumb = os.environ.get("TERM", "") in {"", "dumb", "unknown"}
    return sys.stdin.isatty() and sys.stdout.isatty() and not dumb


class Terminal:
    """Between `taken` and its end the screen and the keys are ours.

    All of it happens on the event loop, signals too, so nothing can come between two steps of it.
    """

    def __init__(
        self,
        console: Console,
        *,
        key: Callable[[str], None],
        changed: Callable[[], None],
        ended: Callable[[int], None],
    ) -> None:
        """Args say whom to tell of a key, of a new size, and of a signal that is to end it."""
        self._console = console
        self._in = sys.stdin.fileno()
        self._key = key
        self._changed = changed
        self._ended = ended
        self._keys = Keys()
        self._flush: asyncio.TimerHandle | None = None
        self._before: list[Any] | None = None
        self._live: Live | None = None

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Give everything back at the end, whatever ended it."""
        loop = asyncio.get_running_loop()
        for number in ENDS:
            loop.add_signal_handler(number, self._ended, number)
        loop.add_signal_handler(signal.SIGWINCH, self._changed)
        loop.add_signal_handler(signal.SIGTSTP, self._suspend)
        try:
            self._take()
            yield
        finally:
            self._give_back()
            for number in (*ENDS, signal.SIGWINCH, signal.SIGTSTP):
                loop.remove_signal_handler(number)

    def size(self) -> tuple[int, int]:
        """Columns and lines as they are now; not those of the environment, which no resize changes."""
        try:
            size = os.get_terminal_size(sys.stdout.fileno())
        except OSError:
            size = shutil.get_terminal_size()
        # A terminal that nobody told its size says 0.
        return size.columns or 80, size.lines or 24

    def show(self, picture: RenderableType) -> None:
        if self._live is not None:
            self._live.update(picture, refresh=True)

    def fit(self) -> tuple[int, int]:
        """Let what is drawn next have the size of now; returns it."""
        width, height = self.size()
        self._console.size = ConsoleDimensions(width, height)
        return width, height

    def _take(self) -> None:
        self._before = termios.tcgetattr(self._in)
        tty.setcbreak(self._in, termios.TCSADRAIN)
        self.fit()
        self._live = Live(
            Text(),
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()
        asyncio.get_running_loop().add_reader(self._in, self._read)

    def _give_back(self) -> None:
        asyncio.get_running_loop().remove_reader(self._in)
        if self._flush is not None:
            self._flush.cancel()
        before, live = self._before, self._live
        self._before = self._live = None
        try:
            if live is not None:
                live.stop()
        finally:
            # The modes come back even where the screen cannot, as on a line that was cut.
            if before is not None:
                termios.tcsetattr(self._in, termios.TCSADRAIN, before)

    def _read(self) -> None:
        try:
            typed = os.read(self._in, 1024)
        except OSError:
            typed = b""
        if not typed:
            asyncio.get_running_loop().remove_reader(self._in)
            self._ended(signal.SIGHUP)
            return
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        for key in self._keys.feed(typed):
            self._key(key)
        if self._keys.waits:
            self._flush = asyncio.get_running_loop().call_later(LONE_ESC_S, self._alone)

    def _alone(self) -> None:
        for key in self._keys.flush():
            self._key(key)

    def _suspend(self) -> None:
        """Ctrl-Z: the shell gets its terminal as it was, and we take it again afterwards."""
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()
        self._changed()
