import os
import re
import signal
import socket
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cortex.cli import demo, main
from cortex.cli.demo_children import Children, interruptible
from cortex.cli.exit_codes import Exit
from cortex.cli.failures import CliError
from tests.cli.conftest import start
from tests.cli.test_status import until


def processes_below(directory: Path) -> list[int]:
    """Live processes whose command line or environment mentions `directory`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environ = (entry / "environ").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if (
            str(directory).encode() in environ
            and state != "Z"
            and int(entry.name) != os.getpid()
        ):
            found.append(int(entry.name))
    return found


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo puts its state; also marks its processes, by their environment."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    return directory


def assert_nothing_left(temporary: Path) -> None:
    assert list(temporary.iterdir()) == []
    assert processes_below(temporary) == []


def test_once_answers_and_leaves_nothing(temporary: Path):
    child = start("demo", "--once", "--scripted", "--port", "0")
    out, err = child.communicate(timeout=50)
    assert (child.returncode, err) == (0, "")
    assert "scripted nodes, as asked for" in out
    assert len(re.findall(r"http://127\.0\.0\.1:\d+", out)) == 3
    assert re.search(r"first token after \d+ms, [\d.]+ tokens/s, \d+ pieces in ", out)
    assert "\x1b" not in out
    assert_nothing_left(temporary)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything(number: signal.Signals, temporary: Path):
    child, seen = start("demo", "--scripted", "--port", "0"), []
    assert child.stdout is not None
    until(child.stdout, "Ctrl-C ends it all", seen)
    assert len(processes_below(temporary)) >= 4
    child.send_signal(number)
    out, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (0, "")
    assert "ending the demo" in out
    assert_nothing_left(temporary)


def test_a_signal_while_it_starts(temporary: Path):
    child, seen = start("demo", "--scripted", "--port", "0"), []
    assert child.stdout is not None
    until(child.stdout, "cortex demo:", seen)
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (Exit.INTERRUPTED, "")
    assert_nothing_left(temporary)


class Interrupted(subprocess.Popen[bytes]):
    """One during whose start, when it is there and nobody knows of it, a signal comes."""

    def __init__(self, *argv: Any, **options: Any) -> None:
        super().__init__(*argv, **options)
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_in_the_middle_of_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cortex.cli.demo_children.subprocess.Popen", Interrupted)
    marked = tmp_path / "mark"
    children = Children(tmp_path, {"MARK": str(marked)})
    with interruptible(), pytest.raises(KeyboardInterrupt):
        children.start("node one", ["sleep", "60"])
    assert len(processes_below(marked)) == 1
    children.end()
    assert processes_below(marked) == []


def test_a_dead_child_is_named_with_its_last_lines(temporary: Path):
    child, seen = start("demo", "--scripted", "--port", "0"), []
    assert child.stdout is not None
    until(child.stdout, "Ctrl-C ends it all", seen)
    victim = next(
        pid
        for pid in processes_below(temporary)
        if b"scripted-b" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    os.kill(victim, signal.SIGKILL)
    _, err = child.communicate(timeout=30)
    assert child.returncode == Exit.FAILURE
    lines = err.splitlines()
    assert lines[0] == "cortex: node two was killed by signal 9"
    assert any("listening http://" in line for line in lines)
    assert_nothing_left(temporary)


def test_a_gateway_that_cannot_listen(temporary: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        child = start("demo", "--scripted", "--once", "--port", port)
        _, err = child.communicate(timeout=50)
    assert child.returncode == Exit.FAILURE
    assert "gateway ended with exit code" in err
    assert "address already in use" in err
    assert_nothing_left(temporary)


def test_an_address_of_another_machine(capsys, temporary: Path):
    assert demo._port("127.0.0.1", 5) == 5
    with pytest.raises(CliError, match="no address of this machine"):
        demo._port("192.0.2.1", 0)


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("cortex.cli.demo_children.TERM_S", 0.2)
    children = Children(tmp_path, os.environ)
    child = children.start(
        "deaf", ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"]
    )
    children.wait("deaf", lambda: child.lines() == ["up"], deadline_s=10, draw=lambda: None)
    children.end()
    assert not Path(f"/proc/{child.pid}").exists()


def test_waiting_has_a_deadline(tmp_path: Path):
    children = Children(tmp_path, os.environ)
    children.start("idle", ["sleep", "30"])
    with pytest.raises(CliError, match="idle was not ready within 0 s"):
        children.wait("idle", lambda: False, deadline_s=0.05, draw=lambda: None)
    children.end()


def test_the_configuration_is_valid(tmp_path: Path):
    text = demo.config_text("127.0.0.1:8000", {"one": "http://127.0.0.1:5"}, tmp_path)
    assert tomllib.loads(text)["nodes"] == [{"name": "one", "endpoint": "http://127.0.0.1:5"}]
    (tmp_path / "c.toml").write_text(text)
    assert main(["check-config", str(tmp_path / "c.toml")]) == 0


def test_the_plan(monkeypatch, tmp_path: Path):
    weights = tmp_path / "w.gguf"
    weights.touch()
    monkeypatch.setenv("CORTEX_DEMO_GGUF", str(weights))
    monkeypatch.setenv("CORTEX_ENGINE_PYTHON", "/usr/bin/python3")
    real = demo.plan(scripted=False)
    assert real.verb == "real"
    assert f"smollm2-cold={weights}" in real.argv("two")
    assert real.argv("two")[-2:] == ["--unloaded", "smollm2-cold"]
    assert demo.plan(scripted=True).verb == "scripted"
    monkeypatch.setenv("CORTEX_DEMO_GGUF", str(tmp_path / "none.gguf"))
    assert "a model is not installed" in demo.plan(scripted=False).why


def test_the_guide_can_be_copied():
    text = demo.guide("http://127.0.0.1:8000", demo.plan(scripted=True))
    assert "curl http://127.0.0.1:8000/v1/chat/completions" in text
    assert '"stream": true' in text
    assert "OpenAI(base_url" in text
    assert "status --watch --endpoint http://127.0.0.1:8000" in text
    snippet = text[text.index("from openai") : text.index("The fleet:")]
    compile("\n".join(line[2:] for line in ("  " + snippet).splitlines()), "guide", "exec")
