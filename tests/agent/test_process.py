"""`cortex agent` as a process of its own: killed, stopped, tried out, told nonsense."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cortex.agent.agent import new_loop
from cortex.agent.commands import INTERRUPTED
from cortex.cli import main
from cortex.cli.exit_codes import Exit
from cortex.devnode.scripted import ScriptedNode
from tests.agent.gateway import TinyGateway
from tests.agent.nodeprocess import NodeProcess
from tests.command import ROOT
from tests.running import free_port, until

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path):
    """Start agents, and end those that the test has not ended."""
    started: list[subprocess.Popen[str]] = []

    def start(gateway: TinyGateway, *argv: str, **environ: str) -> "subprocess.Popen[str]":
        base = [
            "--gateway",
            gateway.url,
            "--node",
            "n0",
            "--state-dir",
            str(tmp_path / "state"),
        ]
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "cortex", "agent", *base, *argv],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": str(ROOT)} | environ,
            )
        )
        return started[-1]

    yield start
    for agent in started:
        agent.kill()
        agent.communicate()


async def ended(agent: "subprocess.Popen[str]", timeout_s: float = 10.0) -> tuple[str, str]:
    await until(lambda: agent.poll() is not None, "the agent's end", timeout_s)
    return agent.communicate()


def patient(folder: Path) -> str:
    """A restart command that leaves a line, and another one once the file `go` is there."""
    script = folder / "patient.sh"
    script.write_text(
        f'cd "{folder}"; echo begun >>runs; while [ ! -e go ]; do sleep 0.02; done; echo ended >>runs\n'
    )
    return f"sh {script}"


def runs(folder: Path) -> list[str]:
    file = folder / "runs"
    return file.read_text().split() if file.exists() else []


async def test_killed_in_mid_command_it_restarts_nothing_twice(
    gateway: TinyGateway, tmp_path: Path, start: Start
):
    with NodeProcess(tmp_path) as node:
        script = tmp_path / "slow.sh"
        words = " ".join(f"'{word}'" for word in node.restart_command)
        script.write_text(f'cd "{tmp_path}"; echo begun >>runs; kill -9 $PPID; exec {words}\n')
        argv = ("--restart-command", f"sh {script}", "--local", node.url)
        agent = start(gateway, *argv)
        await gateway.reported()
        first = node.pid
        gateway.command("c1")
        await ended(agent)
        assert agent.returncode == -signal.SIGKILL
        assert "c1" not in gateway.acks
        again = start(gateway, *argv)
        ack = await gateway.acked("c1")
        assert (ack.ok, ack.detail) == (False, INTERRUPTED)
        # What was begun went on without its agent, as systemd's restart would.
        await until(lambda: node.starts == 2 and node.pid != first, "the new node")
        await until(lambda: gateway.reports[-1].node_ok, "the new node reported")
        await gateway.reported(3)
        assert again.poll() is None
    assert runs(tmp_path) == ["begun"]
    assert node.starts == 2


async def test_sigterm_ends_it_at_once_and_systemd_is_told(
    gateway: TinyGateway, tmp_path: Path, start: Start
):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        agent = start(
            gateway,
            "--restart-command",
            patient(tmp_path),
            NOTIFY_SOCKET=str(tmp_path / "notify"),
            WATCHDOG_USEC="100000",
        )
        gateway.command("c1")
        await until(lambda: runs(tmp_path) == ["begun"], "the command to begin")
        agent.send_signal(signal.SIGTERM)
        out, err = await ended(agent)
        assert (agent.returncode, out) == (0, "")
        told = manager_lines(manager)
    assert told[0] == "READY=1"
    assert told[-1] == "STOPPING=1"
    assert "WATCHDOG=1" in told
    assert f"STATUS=Reporting to {gateway.url}" in told
    lines = [json.loads(line) for line in err.splitlines()]
    assert [line["message"] for line in lines] == [
        "agent started",
        "gateway found",
        "command begun",
        "agent stopped",
    ]
    assert lines[-1]["left_running"] == "c1"
    # A restart is neither waited for, since this one goes on until `go` is there, nor cut in half.
    assert runs(tmp_path) == ["begun"]
    (tmp_path / "go").touch()
    await until(lambda: runs(tmp_path) == ["begun", "ended"], "the command's own end")


def manager_lines(manager: socket.socket) -> list[str]:
    told: list[str] = []
    while "STOPPING=1" not in told:
        told += manager.recv(4096).decode().splitlines()
    return told


async def test_once_prints_the_report(gateway: TinyGateway, start: Start):
    gateway.token = "t0ken"
    async with ScriptedNode(["m1"]) as node:
        agent = start(gateway, "--once", "--local", node.url, CORTEX_AGENT_UNIT="x.service")
        out, err = await ended(agent)
        assert agent.returncode == Exit.KEY_REFUSED
        assert err == f"cortex: {gateway.url}: HTTP 401: no such agent token\n"
        report = json.loads(out)
    assert report["node"] == "n0"
    assert report["node_ok"] is True
    assert report["can_restart"] is True
    assert report["gpus"] or report["gpu_reason"]


@pytest.mark.parametrize("command", ["", "x.service"])
def test_once_without_a_gateway(command: str, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("CORTEX_AGENT_UNIT", command)
    url = f"http://127.0.0.1:{free_port()}"
    argv = ["agent", "--once", "--gateway", url, "--node", "n0", "--local", url]
    assert main(argv) == Exit.UNREACHABLE
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["can_restart"] is bool(command)
    assert "Connection refused" in report["node_reason"]
    assert err.startswith(f"cortex: {url}: ")
    assert len(err.splitlines()) == 1


def test_mistakes_are_one_line_each_and_exit_code_78(capsys):
    assert main(["agent", "--unit", "a b"]) == Exit.CONFIG
    out, err = capsys.readouterr()
    assert out == ""
    assert [line[:20] for line in err.splitlines()] == [
        "cortex: --gateway or",
        "cortex: --node or $C",
        "cortex: --unit: expe",
    ]


async def test_a_second_agent_with_the_same_memory_does_not_start(
    gateway: TinyGateway, tmp_path: Path, start: Start
):
    start(gateway)
    await gateway.reported()
    second = start(gateway)
    _, err = await ended(second)
    assert second.returncode == Exit.CONFIG
    assert err == f'cortex: state directory "{tmp_path / "state"}": in use by another agent\n'


def test_its_loop_ends_though_a_call_hangs():
    gate, waited = threading.Event(), list[bool]()

    async def hang() -> None:
        loop = asyncio.get_running_loop()
        hung = loop.run_in_executor(None, lambda: waited.append(gate.wait(20)))
        assert await asyncio.to_thread(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        assert not hung.done()
        # The interpreter's own end would wait for any other.
        assert all(thread.daemon for thread in threading.enumerate()[1:])

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(hang())
    assert waited == []
    gate.set()
