"""Starts that are refused, and what a service manager is told of one that is not."""

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from tests.command import CORTEX, SOURCE
from tests.e2e.processes import Child, Processes, eventually, request
from tests.running import free_port

NOWHERE = "http://127.0.0.1:9"
AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Hands over descriptor `argv[1]` as systemd does, and becomes the command that follows."""


def as_systemd(opened: socket.socket, source: Path) -> list[str]:
    """The gateway, started with a socket that was opened for it."""
    serve = [*CORTEX, "serve", "--config", str(source)]
    return [sys.executable, "-c", AS_SYSTEMD, str(opened.fileno()), *serve]


@contextmanager
def manager(path: Path) -> Iterator[socket.socket]:
    """What systemd's end of NOTIFY_SOCKET is."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(path))
        told.settimeout(20)
        yield told


def told_until(told: socket.socket, wanted: str) -> list[str]:
    """Every line up to the wanted one."""
    lines: list[str] = []
    while wanted not in lines:
        lines += told.recv(4096).decode().split("\n")
    return lines


def serve(processes: Processes, source: Path) -> Child:
    return processes.cortex("serve", "--config", str(source))


def test_every_mistake_in_the_configuration_is_one_line_and_nothing_starts(
    processes: Processes, tmp_path: Path
) -> None:
    source, _ = processes.write(NOWHERE, toml="[limits]\nmax_queue = -1\nidle = 3\n[oops]")
    child = serve(processes, source)
    assert child.process.returncode == 78
    assert child.stdout == ""
    lines = child.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"cortex: {source}: ") for line in lines)
    assert any(
        "limits.max_queue: expected greater than or equal to 0, found -1" in x for x in lines
    )
    assert any("limits.idle: unknown key" in line for line in lines)
    assert any("oops: unknown key" in line for line in lines)
    assert not (tmp_path / "cortex.db").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gateway\n", "not valid TOML"),
        ("", "nodes: expected at least one [[nodes]] table, found none"),
    ],
)
def test_a_file_that_is_no_configuration(
    processes: Processes, tmp_path: Path, text: str, said: str
) -> None:
    source = tmp_path / "cortex.toml"
    source.write_text(text)
    child = serve(processes, source)
    assert child.process.returncode == 78
    (line,) = child.stderr.splitlines()
    assert line.startswith(f"cortex: {source}: {said}")


def test_a_configuration_that_is_missing(processes: Processes, tmp_path: Path) -> None:
    child = serve(processes, tmp_path / "none.toml")
    assert child.process.returncode == 78
    assert child.stderr == (
        f"cortex: {tmp_path / 'none.toml'}: cannot be read: No such file or directory\n"
    )


def test_a_configuration_that_its_group_may_write(processes: Processes, tmp_path: Path) -> None:
    source, _ = processes.write(NOWHERE)
    source.chmod(0o660)
    child = serve(processes, source)
    assert child.process.returncode == 78
    (line,) = child.stderr.splitlines()
    assert line.endswith(f" may write it: chmod go-w {source}")
    assert not (tmp_path / "cortex.db").exists()


def test_a_folder_that_cannot_be_made_for_the_state(
    processes: Processes, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("")
    path = tmp_path / "taken/cortex.db"
    source, _ = processes.write(NOWHERE, toml=f'[state]\npath = "{path}"')
    child = serve(processes, source)
    assert child.process.returncode == 78
    (line,) = child.stderr.splitlines()
    assert line.startswith(f"cortex: {path}: ")
    assert line.endswith("state cannot be kept there")


@pytest.mark.parametrize("which", ["listen", "metrics_listen"])
def test_a_port_in_use(processes: Processes, tmp_path: Path, which: str) -> None:
    source, ours = processes.write(NOWHERE)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        child = processes.command(
            *("serve", "--config", str(source)),
            environ={f"CORTEX_GATEWAY__{which.upper()}": f"127.0.0.1:{port}"},
        )
        assert child.end() == 71
    said = [line for line in child.stderr.splitlines() if not line.startswith("{")]
    assert len(said) == 1, child.stderr
    assert said[0].startswith("cortex: cannot serve: ")
    assert f"('127.0.0.1', {port})" in said[0]
    assert "address already in use" in said[0]
    # Whatever may fail comes before the first request.
    opened = [line["address"] for line in child.log if line["message"] == "listening"]
    assert ["127.0.0.1", ours] not in opened
    # It gave the state file back, too.
    assert processes.serve_file(*processes.write(NOWHERE)).process.poll() is None


def test_a_second_gateway_on_the_same_state_file(processes: Processes) -> None:
    first = processes.serve(processes.node("a"))
    source, _ = processes.write(NOWHERE)
    child = serve(processes, source)
    assert child.process.returncode == 78
    (line,) = child.stderr.splitlines()
    assert "is a second cortex running with this file?" in line
    assert first.chat("a").status == 200


def test_a_state_file_of_a_newer_version(processes: Processes, tmp_path: Path) -> None:
    source, _ = processes.write(NOWHERE)
    path = tmp_path / "cortex.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA user_version = 9999")
    connection.close()
    before = path.read_bytes()
    child = serve(processes, source)
    assert child.process.returncode == 78
    (line,) = child.stderr.splitlines()
    assert line.startswith(f"cortex: {path}: ")
    assert "9999" in line
    assert path.read_bytes() == before


def test_a_fleet_that_is_all_down_is_still_served(processes: Processes) -> None:
    gateway = processes.serve(f"http://127.0.0.1:{free_port()}")
    eventually(
        lambda: "node n0 is down" in str(request(gateway.url + "/health").json["reasons"]),
        "a reason",
    )
    assert request(gateway.url + "/health").status == 200
    assert gateway.chat("a").status == 404
    gateway.send(signal.SIGTERM)
    assert gateway.end() == 0


def test_the_service_manager_is_told_of_start_reload_and_end(
    processes: Processes, tmp_path: Path
) -> None:
    with manager(tmp_path / "n") as told:
        gateway = processes.serve(processes.node("a"), NOTIFY_SOCKET=str(tmp_path / "n"))
        ready, status = told.recv(4096).decode().split("\n")
        assert ready == "READY=1"
        assert re.fullmatch(r"STATUS=[01] of 1 nodes up, 0 requests in flight", status)

        before_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        gateway.send(signal.SIGHUP)
        lines = told_until(told, "READY=1")
        assert lines[0] == "RELOADING=1"
        name, _, at_us = lines[1].partition("=")
        assert name == "MONOTONIC_USEC"
        assert before_us < int(at_us) < time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

        gateway.source.write_text("[oops]")
        gateway.send(signal.SIGHUP)
        assert told_until(told, "RELOADING=1")
        refused = told.recv(4096).decode().split("\n")
        assert refused[0] == "READY=1"
        assert refused[1].startswith(
            f"STATUS=Reload refused: {gateway.source}: oops: unknown key"
        )

        gateway.send(signal.SIGTERM)
        stopping = told_until(told, "STOPPING=1")
        # Longer than the drain, in microseconds: a unit with a shorter time cuts nothing.
        (wanted,) = [line for line in stopping if line.startswith("EXTEND_TIMEOUT_USEC=")]
        assert int(wanted.partition("=")[2]) > 30_000_000
        assert gateway.end() == 0


def test_the_watchdog_is_fed_in_half_its_time(processes: Processes, tmp_path: Path) -> None:
    with manager(tmp_path / "n") as told:
        gateway = processes.serve(
            processes.node("a"), NOTIFY_SOCKET=str(tmp_path / "n"), WATCHDOG_USEC="400000"
        )
        told_until(told, "WATCHDOG=1")
        fed_s = []
        for _ in range(4):
            fed = told.recv(4096).decode().split("\n")
            assert fed == ["WATCHDOG=1", "STATUS=1 of 1 nodes up, 0 requests in flight"]
            fed_s.append(time.monotonic())
        gaps_s = [after - before for before, after in pairwise(fed_s)]
        assert 0.15 < sum(gaps_s) / 3 < 0.4
        # Addressed to another process, it is none of ours: nothing is fed.
        gateway.kill()
    with manager(tmp_path / "m") as told:
        quiet = processes.serve_file(
            gateway.source,
            gateway.port,
            NOTIFY_SOCKET=str(tmp_path / "m"),
            WATCHDOG_USEC="200000",
            WATCHDOG_PID=str(os.getpid()),
        )
        time.sleep(0.4)
        quiet.send(signal.SIGTERM)
        assert "WATCHDOG=1" not in told_until(told, "STOPPING=1")


def test_a_socket_that_the_service_manager_opened_is_served(
    processes: Processes, tmp_path: Path
) -> None:
    source, port = processes.write(processes.node("a"))
    with socket.create_server(("127.0.0.1", 0)) as opened, socket.socket() as taken:
        # Its own address is taken: only the socket that was passed can be served.
        taken.bind(("127.0.0.1", port))
        taken.listen()
        child = subprocess.Popen(
            as_systemd(opened, source),
            env={**os.environ, **SOURCE, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"},
            pass_fds=[opened.fileno()],
            stderr=subprocess.PIPE,
        )
        try:
            # Whoever connects before the start is over waits in the socket's queue.
            reply = request(f"http://127.0.0.1:{opened.getsockname()[1]}/health")
            assert reply.status == 200
        finally:
            child.terminate()
            _, complaints = child.communicate(timeout=20)
        assert child.returncode == 0, complaints
