"""Every command, each in a process of its own: what is installed lacks nothing that one of them imports."""

import pytest

from cortex.cli.exit_codes import Exit
from cortex.cli.parser import build_parser
from tests.e2e.processes import Processes

(VERBS,) = (
    list(action.choices)
    for action in build_parser()._actions
    if isinstance(action.choices, dict)
)
OWN_WAY = {"serve", "agent", "demo", "key", "completion", "check-config"}
"""What asks no gateway."""
ARGUMENTS = {
    "top": ("--once",),
    **dict.fromkeys(("pin", "unpin", "load", "unload", "explain"), ("a",)),
    **dict.fromkeys(("drain", "undrain"), ("n0",)),
}


@pytest.mark.parametrize("verb", VERBS)
def test_help(processes: Processes, verb: str) -> None:
    child = processes.cortex(verb, "--help")
    assert child.process.returncode == 0, child.stderr
    assert child.stdout.startswith(f"usage: cortex {verb}")
    assert child.stderr == ""


def test_each_of_them_asks_a_gateway(processes: Processes) -> None:
    gateway = processes.serve(processes.node("a"))
    assert gateway.chat("a").status == 200
    for verb in VERBS:
        if verb in OWN_WAY or verb == "defrag":
            continue
        said = processes.cortex(verb, *ARGUMENTS.get(verb, ()), "--endpoint", gateway.url)
        assert said.process.returncode == 0, f"{verb}: {said.stderr}"
        assert "Traceback" not in said.stderr
    (refused,) = processes.cortex("defrag", "n0", "--endpoint", gateway.url).stderr.splitlines()
    assert "agent" in refused


def test_those_that_ask_nobody(processes: Processes) -> None:
    source, _ = processes.write(processes.node("a"))
    assert processes.cortex("check-config", str(source)).stdout.startswith("ok: ")
    assert "[[auth.keys]]" in processes.cortex("key", "new", "--name", "k").stdout
    for shell in ("bash", "zsh", "fish"):
        assert "cortex" in processes.cortex("completion", shell).stdout
    # Nobody is at port 9.
    agent = processes.cortex(
        "agent", "--once", "--gateway", "http://127.0.0.1:9", "--node", "n0"
    )
    assert agent.process.returncode == Exit.UNREACHABLE
    assert agent.stderr.startswith("cortex: ")


def test_the_demo_without_an_engine(processes: Processes) -> None:
    demo = processes.cortex("demo", "--scripted", "--once", "--port", "0")
    assert demo.process.returncode == 0, demo.stderr
    assert "tokens/s" in demo.stdout
