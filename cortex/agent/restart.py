"""Runs the restart command: no shell, a deadline, and the end of what it said on stderr."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TAIL_BYTES = 800
READ_BYTES = 65_536
POLL_S = 0.05
GRACE_S = 1.0
"""From SIGTERM to SIGKILL, once the deadline has passed."""
OURS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY")
"""What systemd told this process and no other."""


@dataclass(frozen=True, slots=True)
class Outcome:
    ok: bool
    detail: str


class _Tail:
    """Keeps the end of a pipe. Not read to its end: a service left behind may hold it open."""

    def __init__(self) -> None:
        self._read, self.write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._read, False)
        self._kept = b""

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._read, READ_BYTES):
                self._kept = (self._kept + chunk)[-TAIL_BYTES:]

    def close_write(self) -> None:
        os.close(self.write)

    def close(self) -> None:
        os.close(self._read)

    def text(self) -> str:
        """Printable, in one line."""
        words = " ".join(self._kept.decode(errors="replace").split())
        return "".join(mark if mark.isprintable() else "?" for mark in words)


async def run(argv: Sequence[str], environ: Mapping[str, str], *, deadline_s: float) -> Outcome:
    """Run `argv` to its end, or for `deadline_s`.

    A cancelled call leaves the command running: half a restart is worse than one that nobody
    watches. Hence a plain child, looked at from time to time; asyncio's would be killed.
    """
    tail = _Tail()
    try:
        try:
            child = _start(argv, environ, tail.write)
        except OSError as exc:
            return Outcome(ok=False, detail=f"cannot run {argv[0]}: {exc.strerror}")
        finally:
            tail.close_write()
        try:
            async with asyncio.timeout(deadline_s):
                await _ended(child, tail)
        except TimeoutError:
            await _kill(child, tail)
            return Outcome(ok=False, detail=_said(f"no end within {deadline_s:g} s", tail))
        tail.drain()
    finally:
        tail.close()
    if child.returncode == 0:
        return Outcome(ok=True, detail=_said("done", tail))
    code = child.returncode
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return Outcome(ok=False, detail=_said(how, tail))


def _start(
    argv: Sequence[str], environ: Mapping[str, str], stderr: int
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 - argv is the operator's own, and no shell reads it
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        env={name: value for name, value in environ.items() if name not in OURS},
        # A group of its own, to be ended as a whole, and out of reach of a terminal's Ctrl-C.
        start_new_session=True,
    )


async def _ended(child: "subprocess.Popen[bytes]", tail: _Tail) -> None:
    while child.poll() is None:
        tail.drain()
        await asyncio.sleep(POLL_S)


async def _kill(child: "subprocess.Popen[bytes]", tail: _Tail) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await _ended(child, tail)
    tail.drain()


def _said(how: str, tail: _Tail) -> str:
    text = tail.text()
    return f"{how}: {text}" if text else how
