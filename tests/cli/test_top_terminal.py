"""`cortex top` as a process on a terminal, in front of a gateway and nodes that are processes too."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.cli.pseudo_terminal import PseudoTerminal
from tests.command import ROOT
from tests.e2e.processes import Gateway, Processes, eventually, request

PROMPT = "a secret that nobody may see"


class Open(Protocol):
    def __call__(self, *argv: str, **options: object) -> PseudoTerminal: ...


def a_fleet(processes: Processes) -> Gateway:
    """Two nodes: n0 holds m1 and can load m2, slowly; n1 holds m3."""
    first = processes.node(
        "m1", "m2", unloaded=("m2",), load_s=0.3, endless=True, token_interval_s=0.05
    )
    return processes.serve(first, processes.node("m3"))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """For all tests that leave it as it was."""
    processes = Processes(tmp_path_factory.mktemp("fleet"))
    try:
        yield a_fleet(processes)
    finally:
        processes.end()


@pytest.fixture
def own_fleet(processes: Processes) -> Gateway:
    """For a test that changes it."""
    return a_fleet(processes)


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Open]:
    opened: list[PseudoTerminal] = []

    def top(*argv: str, **options: object) -> PseudoTerminal:
        opened.append(PseudoTerminal("top", *argv, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield top
    for terminal in opened:
        terminal.close()


def given_back(terminal: PseudoTerminal) -> None:
    assert terminal.modes == terminal.before
    screen = terminal.screen
    terminal.see(lambda _: screen.cursor_shown and not screen.alternate, "the first screen")
    assert terminal.screen.unknown == set()


def line_of(shown: str, *words: str) -> str:
    return next((line for line in shown.splitlines() if all(w in line for w in words)), "")


def test_a_model_becomes_resident_before_ones_eyes(own_fleet: Gateway, top: Open):
    terminal = top("--endpoint", own_fleet.url)
    terminal.see_text("m2")
    assert terminal.screen.alternate
    assert not terminal.screen.cursor_shown
    assert terminal.modes != terminal.before
    assert "unloaded" in line_of(terminal.shown, "m2")
    stream = own_fleet.stream("m2", messages=[{"role": "user", "content": PROMPT}])
    stream.read()
    terminal.see(lambda shown: line_of(shown, "m2", "resident"), "m2 to be resident")
    terminal.see(lambda shown: line_of(shown, "m2", "answering"), "its request")
    shown = terminal.see(lambda shown: line_of(shown, "load"), "an event")
    assert PROMPT not in shown
    terminal.press("q")
    assert terminal.end() == 0
    given_back(terminal)


def test_keys_focus_filter_pause_and_help(fleet: Gateway, top: Open):
    terminal = top("--endpoint", fleet.url)
    terminal.see_text("by name ▲")
    terminal.press("2s")
    terminal.see_text("models 3, by model ▲")
    terminal.press("r")
    terminal.see_text("models 3, by model ▼")
    terminal.press("/m3")
    terminal.see(
        lambda shown: "models 1, by model" in shown and "filter: m3_" in shown, "the filter"
    )
    # An Esc alone is known as one only after a moment in which nothing follows.
    terminal.press("\x1b")
    terminal.see_text("models 3, by model")
    terminal.press("p")
    terminal.see_text("PAUSED")
    terminal.press("?")
    terminal.see_text("turn the order round")
    terminal.press("x")
    terminal.see(lambda shown: "turn the order round" not in shown, "the help to go")
    terminal.press("pq")
    assert terminal.end() == 0
    given_back(terminal)


def test_a_model_is_chosen_and_explained(own_fleet: Gateway, top: Open):
    terminal = top("--endpoint", own_fleet.url)
    terminal.see_text("m3")
    terminal.press("2s")
    terminal.see_text("models 3, by model ▲")
    terminal.press("j\r")
    shown = terminal.see_text("load m2 on n0")
    assert "why: m2" in shown
    assert line_of(shown, "n0", "chosen")
    # It follows the fleet while it is on show.
    request(f"{own_fleet.url}/cortex/v1/nodes/n0/drain", {})
    terminal.see_text("reject m2")
    terminal.press("x")
    terminal.see_text("models 3, by model ▲")
    terminal.press("1\r")
    terminal.press("q")
    assert terminal.end() == 0
    given_back(terminal)


def test_a_new_size_is_filled_exactly(fleet: Gateway, top: Open):
    terminal = top("--endpoint", fleet.url)
    terminal.see_text("m1")
    for columns, lines in ((60, 15), (160, 50), (80, 24)):
        terminal.resize(columns, lines)

        def filled(shown: str, columns: int = columns) -> bool:
            first, *_, last = shown.splitlines()
            # The rules of the tables reach from edge to edge.
            rules = [len(line) for line in shown.splitlines() if line.startswith("─")]
            return first.startswith("cortex 0.") and "q quit" in last and rules == [columns] * 5

        terminal.see(filled, f"a picture of {columns}x{lines}")
    terminal.press("q")
    assert terminal.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back(fleet: Gateway, top: Open, number: signal.Signals):
    terminal = top("--endpoint", fleet.url)
    terminal.see_text("m1")
    terminal.process.send_signal(number)
    assert terminal.end() == 128 + number
    given_back(terminal)


def test_ctrl_c_ends_it(fleet: Gateway, top: Open):
    terminal = top("--endpoint", fleet.url)
    terminal.see_text("m1")
    terminal.press("\x03")
    assert terminal.end() == 130
    given_back(terminal)


def test_ctrl_z_gives_it_back_until_it_goes_on(fleet: Gateway, top: Open):
    terminal = top("--endpoint", fleet.url)
    terminal.see_text("m1")
    terminal.process.send_signal(signal.SIGTSTP)
    terminal.see(lambda _: not terminal.screen.alternate, "the own screen to be left")
    eventually(lambda: state_of(terminal.process.pid) == "T", "it to stop")
    assert terminal.modes == terminal.before
    terminal.process.send_signal(signal.SIGCONT)
    terminal.see(lambda _: terminal.screen.alternate, "the own screen again")
    terminal.see_text("m1")
    terminal.press("q")
    assert terminal.end() == 0
    given_back(terminal)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_it_outlives_the_gateway_and_says_since_when(
    own_fleet: Gateway, processes: Processes, top: Open
):
    terminal = top("--endpoint", own_fleet.url)
    terminal.see_text("m1")
    own_fleet.kill()
    assert "m1" in terminal.see_text("stale: as it was at ")
    processes.serve_file(own_fleet.source, own_fleet.port)
    terminal.see(lambda shown: "stale" not in shown and "m1" in shown, "it to be back")
    terminal.press("q")
    assert terminal.end() == 0
    given_back(terminal)


def test_without_colour_nothing_is_coloured(fleet: Gateway, top: Open):
    terminal = top("--endpoint", fleet.url, environ={"NO_COLOR": "1"})
    terminal.see_text("m1")
    terminal.press("q")
    assert terminal.end() == 0
    assert {
        code for code in terminal.screen.styles if code[:1] in "34" and len(code) > 1
    } == set()


def test_a_refused_key_ends_it_with_the_terminal_given_back(processes: Processes, top: Open):
    keys = '[auth]\nkeys = [{ name = "ops", key = "right-key-of-ops", role = "admin" }]'
    gateway = processes.serve(processes.node("m1"), toml=keys)
    terminal = top("--endpoint", gateway.url, environ={"CORTEX_API_KEY": "wrong"})
    assert terminal.end() == 77
    given_back(terminal)
    terminal.see_text("refused")


BROKEN = """
import sys
from cortex.cli import main, top
draw, drawn = top.full, []
def full(*scene):
    drawn.append(1)
    return draw(*scene) if len(drawn) < 3 else 1 / 0
top.full = full
sys.exit(main())
"""


def test_a_bug_gives_the_terminal_back(fleet: Gateway, top: Open):
    terminal = top("--endpoint", fleet.url, program=("-c", BROKEN))
    assert terminal.end() == 1
    given_back(terminal)
    terminal.see_text("ZeroDivisionError")


def piped(*argv: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cortex", "top", *argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_without_a_terminal_there_is_one_picture(fleet: Gateway):
    done = piped("--endpoint", fleet.url)
    assert done.returncode == 0
    assert "one picture" in done.stderr
    assert "\x1b" not in done.stdout
    assert line_of(done.stdout, "m1", "n0", "resident")
    assert all(line == line.rstrip() for line in done.stdout.splitlines())
    assert piped("--once", "--endpoint", fleet.url).stderr == ""


def test_one_picture_of_nobody_is_a_failure():
    done = piped("--once", "--endpoint", "http://127.0.0.1:9")
    assert done.returncode == 69
    assert "cannot reach cortex" in done.stderr


def test_json_is_a_whole_state_per_line(fleet: Gateway, processes: Processes):
    once = piped("--json", "--once", "--endpoint", fleet.url)
    assert {model["model"] for model in json.loads(once.stdout)["models"].values()} == {
        "m1", "m2", "m3",
    }  # fmt: skip
    child = processes.command("top", "--json", "--endpoint", fleet.url)
    eventually(lambda: child.stdout.count("\n") >= 1, "a state")
    stream = fleet.stream("m1")
    eventually(lambda: '"state": "answering"' in child.stdout, "a request")
    stream.close()
    for line in child.stdout.splitlines()[:-1]:
        state = json.loads(line)
        assert {model["model"] for model in state["models"].values()} == {"m1", "m2", "m3"}
    child.send(signal.SIGINT)
    assert child.end() == 130
