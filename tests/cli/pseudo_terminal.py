"""A command on a terminal of its own: what it drew, its keys, its size, its modes."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.cells import cell_len

from tests.command import ROOT

DEADLINE_S = 20.0
_CONTROL = re.compile(r"\x1b\[([?0-9;]*)([@-~])")


class Drawn:
    """A screen as far as `cortex top` uses one: moves, erasing, and a second screen."""

    def __init__(self, columns: int, lines: int) -> None:
        self.alternate = False
        self.cursor_shown = True
        self.unknown: set[str] = set()
        self.styles: set[str] = set()
        self._unread = ""
        self.resize(columns, lines)

    def resize(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines
        self._rows = [[" "] * columns for _ in range(lines)]
        self._x = self._y = 0

    @property
    def text(self) -> list[str]:
        return ["".join(row).rstrip() for row in self._rows]

    @property
    def whole(self) -> bool:
        """Nothing of a picture is missing: each begins at the top, and has its last line at the bottom."""
        return not self.alternate or self._y == self.lines - 1

    def feed(self, text: str) -> None:
        text = self._unread + text
        self._unread = ""
        at = 0
        while at < len(text):
            if text[at] != "\x1b":
                self._put(text[at])
                at += 1
                continue
            found = _CONTROL.match(text, at)
            if found is None:
                self._unread = text[at:]
                return
            self._control(found[1], found[2])
            at = found.end()

    def _put(self, char: str) -> None:
        if char == "\r":
            self._x = 0
        elif char == "\n":
            self._x = 0
            self._y += 1
            if self._y >= self.lines:
                # What scrolls was drawn too long.
                self._rows = [*self._rows[1:], [" "] * self.columns]
                self._y = self.lines - 1
        elif self._x < self.columns:
            self._rows[self._y][self._x] = char
            self._x += cell_len(char)

    def _control(self, arguments: str, kind: str) -> None:
        match kind, arguments:
            case "H", _:
                self._x = self._y = 0
            case "m", _:
                self.styles |= set(arguments.split(";"))
            case "J", _:
                self.resize(self.columns, self.lines)
            case "h" | "l", "?1049":
                self.alternate = kind == "h"
                self.resize(self.columns, self.lines)
            case "h" | "l", "?25":
                self.cursor_shown = kind == "h"
            case _:
                self.unknown.add(arguments + kind)


class PseudoTerminal:
    """`cortex argv…` at the other end. Ends with the test."""

    def __init__(
        self,
        *argv: str,
        columns: int = 100,
        lines: int = 30,
        environ: Mapping[str, str] | None = None,
        program: tuple[str, ...] = ("-m", "cortex"),
    ) -> None:
        self._ours, self._theirs = pty.openpty()
        self.screen = Drawn(columns, lines)
        self.written = ""
        self.resize(columns, lines, tell=False)
        self.before = self.modes
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("CORTEX_") and name not in {"NO_COLOR", "COLUMNS", "LINES"}
        }
        clean |= {
            "TERM": "xterm-256color",
            "PYTHONPATH": str(ROOT),
            "PYTHONIOENCODING": "utf-8",
        }
        self.process = subprocess.Popen(
            [sys.executable, *program, *argv],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env=clean | dict(environ or {}),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    @property
    def modes(self) -> list[Any]:
        """The terminal's attributes; ours stays open, so they outlive the command."""
        return termios.tcgetattr(self._theirs)

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, lines: int, *, tell: bool = True) -> None:
        """The kernel tells the command with a SIGWINCH."""
        if tell:
            self.screen.resize(columns, lines)
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, size)

    def see(
        self, holds: Callable[[str], object], what: str, timeout_s: float = DEADLINE_S
    ) -> str:
        """Read until the screen's text is so; fails showing the screen at the deadline."""
        end_s = time.monotonic() + timeout_s
        while not (self.screen.whole and holds(self.shown)):
            left_s = end_s - time.monotonic()
            assert left_s > 0, f"waited in vain for {what}:\n{self.shown}"
            self._read(min(left_s, 0.2))
        return self.shown

    def see_text(self, text: str, timeout_s: float = DEADLINE_S) -> str:
        return self.see(lambda shown: text in shown, repr(text), timeout_s)

    @property
    def shown(self) -> str:
        return "\n".join(self.screen.text)

    def end(self, timeout_s: float = DEADLINE_S) -> int:
        """Wait for the end of the command; its exit code. Its last words may still be on their way."""
        end_s = time.monotonic() + timeout_s
        while self.process.poll() is None:
            assert time.monotonic() < end_s, f"it goes on:\n{self.shown}"
            self._read(0.05)
        return self.process.returncode

    def _read(self, wait_s: float) -> bool:
        if not select.select([self._ours], [], [], wait_s)[0]:
            return False
        text = os.read(self._ours, 65_536).decode(errors="replace")
        self.written += text
        self.screen.feed(text)
        return True

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(DEADLINE_S)
        os.close(self._ours)
        os.close(self._theirs)
