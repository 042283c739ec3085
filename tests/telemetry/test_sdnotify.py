"""What the service manager is told, over a real socket."""

import os
import socket
import time

import pytest

from cortex.telemetry import sdnotify


def test_lines_of_one_call_are_one_message(manager: socket.socket) -> None:
    sdnotify.notify("READY=1", "STATUS=Serving 2 nodes")
    sdnotify.notify("STOPPING=1")
    assert manager.recv(4096) == b"READY=1\nSTATUS=Serving 2 nodes"
    assert manager.recv(4096) == b"STOPPING=1"


def test_an_abstract_socket_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"cortex-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(f"\0{name}")
        told.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        sdnotify.notify("READY=1")
        assert told.recv(4096) == b"READY=1"


def test_a_reload_carries_the_time_that_the_manager_compares(manager: socket.socket) -> None:
    before_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    sdnotify.reloading()
    state, at = manager.recv(4096).decode().split("\n")
    assert state == "RELOADING=1"
    name, _, at_us = at.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before_us <= int(at_us) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


@pytest.mark.parametrize("path", [None, "", "/nowhere/at/all"])
def test_without_a_manager_nothing_happens(
    monkeypatch: pytest.MonkeyPatch, path: str | None
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if path is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", path)
    sdnotify.notify("READY=1")
    sdnotify.reloading()


def test_a_manager_that_went_away_is_no_reason_to_stop(manager: socket.socket) -> None:
    manager.close()
    sdnotify.notify("WATCHDOG=1")


@pytest.mark.parametrize(
    ("usec", "pid", "interval_s"),
    [
        (None, None, None),
        ("", None, None),
        ("30000000", None, 15.0),
        ("30000000", "self", 15.0),
        ("30000000", "1", None),
    ],
)
def test_the_watchdog_is_fed_in_half_its_time_and_only_by_whom_it_watches(
    monkeypatch: pytest.MonkeyPatch,
    usec: str | None,
    pid: str | None,
    interval_s: float | None,
) -> None:
    pid = str(os.getpid()) if pid == "self" else pid
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert sdnotify.watchdog_interval_s() == interval_s
