import io
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol

import pytest

from cortex.cli import main
from tests.cli.gateway import FakeGateway, event_row, history_row, status
from tests.command import ROOT


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Run(Protocol):
    def __call__(self, *argv: str) -> Ran: ...


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No gateway, key or configuration of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith("CORTEX_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway() as gateway:
        gateway.answers |= {
            "/cortex/v1/status": status(),
            "/cortex/v1/history": {"rows": [history_row(2), history_row(1)]},
            "/cortex/v1/events": {"rows": [event_row(2), event_row(1)]},
        }
        yield gateway


@pytest.fixture
def run(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run the command in this process against `gateway`; its output is a pipe."""
    monkeypatch.setenv("CORTEX_ENDPOINT", gateway.url)

    def run(*argv: str) -> Ran:
        code = main(argv)
        out, err = capsys.readouterr()
        return Ran(int(code), out, err)

    return run


class Terminal(io.StringIO):
    """A stdout that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """What a terminal of 80 columns with colours gets."""
    terminal = Terminal()
    for name in ("NO_COLOR", "FORCE_COLOR", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    # Not sys.stdout itself: pytest puts its own there between the fixture and the test.
    monkeypatch.setattr("cortex.cli.tables.sys", SimpleNamespace(stdout=terminal))
    return terminal


def start(
    *argv: str,
    stdout: int = subprocess.PIPE,
    stdin: int | None = None,
    environ: dict[str, str] | None = None,
) -> "subprocess.Popen[str]":
    """The command as a process of its own, its output in a pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "cortex", *argv],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | (environ or {}),
    )
