"""Each client of docs/clients.md asks a gateway, in a home folder of its own, with nothing but what the page tells.

`make clients` installs them beside the Python environment, in the versions that the files beside this one name.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from cortex.devnode.scripted_engine import WORDS
from tests.docs.test_snippets import CLIENTS, snippets
from tests.e2e.processes import Gateway, Processes, eventually, request

INSTALLED = Path(sys.prefix) / "clients"
PROGRAMS = tuple(
    INSTALLED / place for place in ("node_modules/.bin", "python/bin", "aider/bin")
)
KEYS = """
[[auth.keys]]
name = "reader"
key = "THE-KEY"
[[auth.keys]]
name = "owner"
key = "OWNERS-KEY"
role = "admin"
[aliases]
small = "org/model"
"""
QUIET = {
    "CONTINUE_TELEMETRY_ENABLED": "0",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
}
"""What tells them to leave their makers' servers alone."""

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not all(folder.is_dir() for folder in PROGRAMS),
        reason="clients are not installed: `make clients` does that",
    ),
]


def shown(heading: str, language: str) -> str:
    """The first snippet of a language below a heading."""
    section = CLIENTS.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return snippets(language, section)[0]


def command_in_text(beginning: str) -> str:
    """What the page tells to run, between two back-ticks."""
    [command] = re.findall(rf"`({re.escape(beginning)}[^`]*)`", CLIENTS)
    return str(command)


class User:
    """Somebody with a new home folder, who does what the page says."""

    def __init__(self, home: Path, gateway: Gateway) -> None:
        self.home, self.gateway = home, gateway
        home.mkdir()
        self.environ = QUIET | {
            "PATH": ":".join(map(str, (*PROGRAMS, os.environ["PATH"]))),
            "HOME": str(home),
            "TERM": "dumb",
        }

    def writes(self, name: str, text: str) -> None:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._here(text))

    def types(self, script: str) -> str:
        """What the commands print: the words of the model are among it, and the gateway has a row of them."""
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._here(script)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=150,
            env=self.environ,
            cwd=self.home,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert any(word.strip() in ran.stdout for word in WORDS), ran.stdout + ran.stderr
        row = self.rows(1)[0]
        assert (row["outcome"], row["model"]) == ("ok", "org/model")
        return ran.stdout

    def rows(self, count: int) -> list[Any]:
        """Of the history, once there are so many."""

        def found() -> list[Any]:
            url = f"{self.gateway.url}/cortex/v1/history?client=reader"
            reply = request(url, headers={"Authorization": "Bearer OWNERS-KEY"})
            return list(reply.json["rows"])

        eventually(lambda: len(found()) >= count, f"{count} rows")
        return found()

    def _here(self, text: str) -> str:
        return text.replace("http://gateway:8000", self.gateway.url)

    def end(self) -> None:
        """Kill what a client has left running."""
        ours = f"HOME={self.home}\0".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if ours in (process / "environ").read_bytes():
                    os.kill(int(process.name), SIGKILL)


@contextmanager
def somebody(processes: Processes, **knobs: Any) -> Iterator[User]:
    """A user of a gateway with one node, which does as its knobs say."""
    node = processes.node("org/model", **knobs)
    someone = User(processes.folder / "home", processes.serve(node, toml=KEYS))
    try:
        yield someone
    finally:
        someone.end()


@pytest.fixture
def user(processes: Processes) -> Iterator[User]:
    with somebody(processes) as someone:
        yield someone


def test_claude_code(user: User) -> None:
    user.types(shown("Claude Code", "sh").rstrip() + ' -p "say hi"')


def test_claude_code_by_its_settings(processes: Processes) -> None:
    with somebody(processes, tokens=12) as user:
        user.writes(".claude/settings.json", shown("Claude Code", "json"))
        answer = json.loads(user.types('claude -p "say hi" --output-format json'))
        assert answer["is_error"] is False
        assert answer["result"]
        assert answer["usage"]["output_tokens"] == 12
        assert answer["usage"]["input_tokens"] > 100
        assert {(row["route"], row["dialect"], row["outcome"]) for row in user.rows(1)} == {
            ("messages", "anthropic", "ok")
        }


def test_claude_code_runs_a_tool_and_its_result_comes_back(processes: Processes) -> None:
    command = {"command": "echo it-was-run > proof", "description": "prove it"}
    knobs = {"tokens": 8, "tool_trigger": "please look", "tool_arguments": command}
    with somebody(processes, **knobs) as user:
        user.writes(".claude/settings.json", shown("Claude Code", "json"))
        options = "--output-format json --tools Bash --allowedTools Bash"
        answer = json.loads(user.types(f'claude -p "please look" {options}'))
        assert answer["is_error"] is False
        assert answer["num_turns"] == 2, answer
        assert answer["permission_denials"] == [], answer
        assert (user.home / "proof").read_text() == "it-was-run\n"
        assert len(user.rows(2)) == 2


def test_continue(user: User) -> None:
    user.writes("config.yaml", shown("Continue", "yaml"))
    user.types(command_in_text("cn "))


def test_aider(user: User) -> None:
    user.writes(".aider.model.metadata.json", shown("aider", "json"))
    alone = (
        "--no-git --yes-always --no-check-update --no-show-release-notes --analytics-disable"
    )
    user.types(f"{shown('aider', 'sh').rstrip()} {alone} --message 'say hi'")


def test_codex(user: User) -> None:
    user.writes(".codex/config.toml", shown("codex", "toml"))
    user.types('CORTEX_KEY=THE-KEY codex exec --skip-git-repo-check "say hi"')


def test_opencode(user: User) -> None:
    user.writes("opencode.json", shown("opencode", "json"))
    user.types('CORTEX_KEY=THE-KEY opencode run "say hi"')


def test_qwen_code(user: User) -> None:
    user.types(shown("qwen-code", "sh").rstrip() + ' -p "say hi"')


def test_cline(user: User) -> None:
    user.types(shown("Cline", "sh"))


@pytest.mark.parametrize("heading", ["OpenAI SDK", "AI SDK"])
def test_javascript(user: User, heading: str) -> None:
    (user.home / "node_modules").symlink_to(INSTALLED / "node_modules")
    user.writes("ask.mjs", shown(heading, "js"))
    user.types("node ask.mjs")


@pytest.mark.parametrize("heading", ["LangChain", "pydantic-ai"])
def test_python(user: User, heading: str) -> None:
    user.writes("ask.py", shown(heading, "python"))
    user.types("python ask.py")
