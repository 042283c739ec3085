"""Each client of docs/clients.md asks a gateway, in a home folder of its own, with nothing but what the page tells.

`make clients` installs them beside the Python environment, in the versions that the files beside this one name.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL

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


def shown(heading: str, language: str, mark: str | None = None) -> str:
    """The first snippet of a language below a heading."""
    section = CLIENTS.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return snippets(language, section, mark=mark)[0]


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
        """What the commands print; they end well, the words of the model are among it, and the gateway counts them."""
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
        said = ran.stdout + ran.stderr
        assert ran.returncode == 0, said
        assert any(word.strip() in ran.stdout for word in WORDS), said
        eventually(self._was_served, f"a row of the request; it said: {said}")
        return said

    def _was_served(self) -> bool:
        url = f"{self.gateway.url}/cortex/v1/history?client=reader"
        rows = request(url, headers={"Authorization": "Bearer OWNERS-KEY"}).json["rows"]
        return any(row["outcome"] == "ok" and row["model"] == "org/model" for row in rows)

    def _here(self, text: str) -> str:
        return text.replace("http://gateway:8000", self.gateway.url)

    def end(self) -> None:
        """Kill what a client has left running."""
        ours = f"HOME={self.home}\0".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if ours in (process / "environ").read_bytes():
                    os.kill(int(process.name), SIGKILL)


@pytest.fixture
def user(processes: Processes, tmp_path: Path) -> Iterator[User]:
    someone = User(tmp_path / "home", processes.serve(processes.node("org/model"), toml=KEYS))
    try:
        yield someone
    finally:
        someone.end()


def test_claude_code(user: User) -> None:
    user.types(shown("Claude Code", "sh").rstrip() + ' -p "say hi"')


def test_claude_code_by_its_settings(user: User) -> None:
    user.writes(".claude/settings.json", shown("Claude Code", "json"))
    user.types('claude -p "say hi"')


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
