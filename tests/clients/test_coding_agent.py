"""A coding agent's own command line against the gateway, in a home folder of its own.

`make clients` installs it beside the Python environment; `CORTEX_CODING_AGENT` names another place.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Gateway, Processes, eventually, request

PLACES = (
    os.environ.get("CORTEX_CODING_AGENT", ""),
    str(Path(sys.prefix) / "clients" / "node_modules" / ".bin" / "claude"),
)
AGENT = next((place for place in PLACES if place and Path(place).is_file()), None)

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        AGENT is None,
        reason="no coding agent is installed: `make clients` does that",
    ),
]


def ask(gateway: Gateway, home: Path, prompt: str, *options: str) -> Any:
    """One question; the agent's own account of the answer."""
    assert AGENT is not None
    home.mkdir(exist_ok=True)
    environ = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "TERM": "dumb",
        "ANTHROPIC_BASE_URL": gateway.url,
        "ANTHROPIC_API_KEY": "any",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    ran = subprocess.run(
        [AGENT, "-p", prompt, "--model", "m1", "--output-format", "json", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        env=environ,
        cwd=home,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout)


def rows(gateway: Gateway, count: int) -> list[Any]:
    url = f"{gateway.url}/cortex/v1/history"
    eventually(lambda: len(request(url).json["rows"]) >= count, f"{count} rows")
    return list(request(url).json["rows"])


def test_a_question_is_answered(processes: Processes, tmp_path: Path) -> None:
    gateway = processes.serve(processes.node("m1", tokens=12))
    answer = ask(gateway, tmp_path / "home", "say hi")
    assert answer["is_error"] is False
    assert answer["result"]
    assert answer["usage"]["output_tokens"] == 12
    assert answer["usage"]["input_tokens"] > 100
    told = rows(gateway, 1)
    assert {(row["route"], row["dialect"], row["outcome"]) for row in told} == {
        ("messages", "anthropic", "ok")
    }


def test_a_tool_is_run_and_its_result_comes_back(processes: Processes, tmp_path: Path) -> None:
    node = processes.node(
        "m1",
        tokens=8,
        tool_trigger="please look",
        tool_arguments={"command": "echo it-was-run > proof", "description": "prove it"},
    )
    gateway = processes.serve(node)
    home = tmp_path / "home"
    answer = ask(gateway, home, "please look", "--tools", "Bash", "--allowedTools", "Bash")
    assert answer["is_error"] is False
    assert answer["num_turns"] == 2, answer
    assert answer["permission_denials"] == [], answer
    assert (home / "proof").read_text() == "it-was-run\n"
    assert len(rows(gateway, 2)) == 2
