"""Which tests stay together, and which come first, when they are spread over processes (`make test`)."""

import gc
import socket
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Processes
from tests.faults import report

TOGETHER = {
    "tests/packaging/test_machine.py": "packages",
    "tests/packaging/test_rpm.py": "packages",
    "tests/faults/test_clock.py": "world",
    "tests/faults/test_disk.py": "world",
    "tests/faults/test_limits.py": "world",
    "tests/faults/test_network.py": "browser",
    "tests/faults/test_nodes.py": "world",
    "tests/web/test_browser.py": "browser",
    "tests/web/test_chat.py": "browser",
    "tests/web/test_looks.py": "browser",
}
"""Files that share something that takes long to make; and those that must not run beside each other: Chromium gives
up what it is about when the machine gets another network interface, or loses one.
"""
FIRST = (
    "packages",
    "tests/packaging/test_wheel.py",
    "tests/bench/test_bench.py",
    "tests/packaging/test_binary.py",
    "browser",
    "world",
    "tests/e2e/test_engine.py",
    "tests/hostile/test_hostile_nodes.py",
)
"""What takes longest begins first, or one process would be busy with it when the others are done."""


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts processes, and kills what is left of them however the test ends."""
    started = Processes(tmp_path)
    try:
        yield started
    finally:
        started.end()


def _unit(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    return TOGETHER.get(file, file)


def _place(nodeid: str) -> int:
    unit = _unit(nodeid)
    return FIRST.index(unit) if unit in FIRST else len(FIRST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _place(item.nodeid))


def pytest_collection_finish() -> None:
    """What all the modules are made of stays to the end: no collection need walk over it each time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling  # only where it is installed

    class ByUnit(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _unit(nodeid)

    return ByUnit(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a process of many: hand on what the faults came to."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["faults"] = [asdict(line) for line in report.LINES]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    handed_on = getattr(node, "workeroutput", {}).get(
        "faults", ()
    )  # none from one that crashed
    report.LINES.extend(report.Line(**line) for line in handed_on)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if report.LINES:
        terminalreporter.section("what happened when")
        for line in report.table():
            terminalreporter.write_line(line)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket of a service manager, where a test reads what it is told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "n"))
        told.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        yield told
