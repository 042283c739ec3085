"""The single-file build: one process, ready quickly, known to the service manager by its own pid."""

import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cortex import __version__
from tests.e2e.conftest import processes as processes
from tests.e2e.processes import Processes
from tests.hostile.memory import cpu_s

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(600)
MOST_READY_CPU_S = 1.0
"""Of CPU, which others on the machine do not add to; how long it takes is printed (goal: 0.3 s)."""


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    pytest.importorskip("pex", reason="the dev extra is not installed")
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    sources = tmp_path_factory.mktemp("binary") / "cortex"
    kept = (
        "cortex",
        "migrations",
        "pyproject.toml",
        "setup.py",
        "README.md",
        "LICENSE",
        "Makefile",
    )
    sources.mkdir()
    for name in kept:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, sources / name)
        else:
            shutil.copy(ROOT / name, sources / name)
    done = subprocess.run(
        # The environment of this very interpreter, as it is.
        ["make", "binary", f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.dev"],
        cwd=sources,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return sources / "dist/cortex"


@pytest.fixture
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A home of its own for what the file unpacks, the same for all tests."""
    home = tmp_path_factory.getbasetemp() / "pex"
    return {**os.environ, "PEX_ROOT": str(home)}


def test_it_is_the_command(binary: Path, environ: dict[str, str], tmp_path: Path) -> None:
    assert binary.stat().st_size < 40_000_000
    done = subprocess.run(
        [binary, "--version"], env=environ, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"cortex {__version__} (revision ")
    assert subprocess.run([binary, "oops"], env=environ, capture_output=True).returncode == 2


def test_ready_and_watchdog_come_from_the_process_that_was_started(
    binary: Path, environ: dict[str, str], processes: Processes, tmp_path: Path
) -> None:
    source, _ = processes.write("http://127.0.0.1:9")
    environ |= {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "400000"}
    took_s, used_s = [], []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "n"))
        told.settimeout(20)
        told.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        for _ in range(6):
            began_s = time.perf_counter()
            child = subprocess.Popen(
                [binary, "serve", "--config", source], env=environ, stderr=subprocess.DEVNULL
            )
            try:
                line, pid = heard(told)
                assert line.startswith("READY=1")
                took_s.append(time.perf_counter() - began_s)
                used_s.append(cpu_s(child.pid))
                assert pid == child.pid
                line, pid = heard(told)
                assert line.startswith("WATCHDOG=1")
                assert pid == child.pid
            finally:
                child.send_signal(signal.SIGTERM)
                assert child.wait(20) == 0
            while not heard(told)[0].startswith("STOPPING=1"):
                pass
    first_s, *others_s = took_s
    print(
        f"ready: first {first_s * 1000:.0f} ms, then {statistics.median(others_s) * 1000:.0f}"
    )
    assert 0 < statistics.median(used_s[1:]) < MOST_READY_CPU_S


def heard(told: socket.socket) -> tuple[str, int]:
    """A message to the service manager, and the pid that the kernel says sent it."""
    text, extra, _, _ = told.recvmsg(4096, socket.CMSG_SPACE(struct.calcsize("3i")))
    ((_, _, credentials),) = extra
    return text.decode(), struct.unpack("3i", credentials)[0]
