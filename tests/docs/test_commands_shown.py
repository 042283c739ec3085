"""Every command and every configuration that README and docs show: read by the real parsers, and the way of a new user run."""

import argparse
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cortex.cli.parser import build_parser
from cortex.config.load import load
from tests.access.certificates import make
from tests.cli.test_parser import VERBS
from tests.command import CORTEX, ROOT
from tests.docs.test_snippets import snippets
from tests.e2e.processes import Processes, eventually, request
from tests.monitoring.files import commands
from tests.running import free_ports

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
SYSTEMS = {
    "aider": "tests/clients",
    "cat": "writes a file of settings",
    "claude": "tests/clients",
    "cline": "tests/clients",
    "cp": "copies a file",
    "curl": "below, and tests/docs/test_snippets.py",
    "dnf": "tests/packaging/test_machine.py",
    "export": "the shell's own",
    "git": "a checkout",
    "install": "below, with folders of its own",
    "make": "these very tests, and CI",
    "mistralrs": "tests/real, where a server is named",
    "pip": "tests/packaging/test_wheel.py",
    "pre-commit": "hooks of a checkout",
    "promtool": "tests/monitoring",
    "qwen": "tests/clients",
    "rm": "removes a file",
    "systemctl": "tests/packaging/test_machine.py",
}
"""What is not of cortex, by where it is run instead of being parsed here."""
NO_VERB = {"cortex --version", "cortex --help"}
OTHERS = {"docs/clients.md", "docs/node-contract.md"}
"""Their TOML is that of clients and of mistral.rs."""
NODE = '\n[[nodes]]\nname = "some"\nendpoint = "http://some:1234"\n'


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands_of(block: str) -> Iterator[list[str]]:
    """The words of each command of a shell block; of a here-document only its command."""
    whole = re.sub(r"<<(\w+)\n.*?^\1$", "", block, flags=re.MULTILINE | re.DOTALL)
    for line in whole.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and (words[0] == "sudo" or re.fullmatch(r"\w+=\S*", words[0])):
            del words[0]
        if words:
            yield words


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_commands_of_blocks_are_known(page: Path) -> None:
    for block in snippets("sh", page.read_text()):
        for words in commands_of(block):
            if words[0] == "cortex":
                assert parsed(words[1:]).verb
            else:
                assert words[0] in SYSTEMS, " ".join(words)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_commands_in_the_text_are_known(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for command in commands(text):
        if command in NO_VERB:
            continue
        # Optional parts stand in brackets, and what may be several in three dots.
        plain = re.sub(r"\[([^\]]*)\]", r"\1", command).replace("…", "")
        words = shlex.split(plain)[1:]
        # By its name alone a command is only spoken of.
        assert words[0] in VERBS if len(words) == 1 else parsed(words).verb, command


def parsed(words: list[str]) -> argparse.Namespace:
    try:
        return build_parser().parse_args(words)
    except SystemExit:
        pytest.fail(f"the parser does not know: cortex {' '.join(words)}")


@pytest.mark.parametrize("page", [p for p in PAGES if relative(p) not in OTHERS], ids=relative)
def test_configurations_shown_can_be_served(page: Path, tmp_path: Path) -> None:
    made = make(tmp_path)
    token = tmp_path / "token"
    token.write_text("t0ken")
    for block in snippets("toml", page.read_text()):
        text = block.replace("/etc/cortex/tls.pem", str(made.certificate))
        text = text.replace("/etc/cortex/tls.key", str(made.key))
        text = re.sub(r'"/etc/[\w./-]*token"', f'"{token}"', text)
        source = tmp_path / "cortex.toml"
        source.write_text(text if "[[nodes]]" in text else text + NODE)
        source.chmod(0o600)
        load(source, {})


@dataclass
class User:
    """Somebody who types what a page says, on a machine whose system tools are stand-ins."""

    folder: Path
    ports: tuple[int, int]
    nodes: dict[str, str]
    """Their real addresses by the names that the pages give them."""
    replaced: dict[str, str] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bin, self.etc = self.folder / "bin", self.folder / "etc"
        self.bin.mkdir()
        self.etc.mkdir()
        listen, metrics = self.ports
        self.url = f"http://127.0.0.1:{listen}"
        self.pid = self.folder / "pid"
        self.environ |= {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "CORTEX_CONFIG": str(self.etc / "cortex.toml"),
            "CORTEX_GATEWAY__LISTEN": f"127.0.0.1:{listen}",
            "CORTEX_GATEWAY__METRICS_LISTEN": f"127.0.0.1:{metrics}",
            "CORTEX_STATE__PATH": str(self.folder / "state.db"),
        }
        self.replaced |= {
            "/etc/cortex": str(self.etc),
            "http://gateway:8000": self.url,
            "http://localhost:8000": self.url,
            "localhost:8000": self.url,
        }
        self.tool("cortex", f'exec {shlex.join(CORTEX)} "$@"')
        self.tool("sudo", 'exec "$@"')
        self.tool("dnf", "exit 0")
        self.tool("claude", "exit 0")
        # There is no group cortex here.
        self.tool("install", 'cp "${@: -2:1}" "${@: -1}"; chmod 600 "${@: -1}"')
        serve = f"cortex serve >{self.folder}/log 2>&1 </dev/null & echo $! >{self.pid}"
        self.tool(
            "systemctl",
            f'case "$1" in enable) {serve} ;; reload) kill -HUP "$(cat {self.pid})" ;; esac',
        )

    def tool(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def here(self, text: str) -> str:
        for shown, real in self.replaced.items():
            text = text.replace(shown, real)
        for name, real in self.nodes.items():
            text = re.sub(rf"http://{name}(\.internal)?:\d+", real, text)
        return text

    def with_nodes(self, command: str) -> str:
        """The same where nodes are named without more, as in a command."""
        for name, real in self.nodes.items():
            command = re.sub(rf"(?<![\w/.-]){name}(\.internal)?(?![\w.:-])", real, command)
        return command

    def write(self, name: str, block: str) -> None:
        path = self.etc / name
        path.write_text(self.here(block))
        path.chmod(0o600)

    def types(self, block: str, given: str = "") -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.here(block)],
            cwd=self.etc,
            env=self.environ,
            input=given,
            capture_output=True,
            text=True,
            timeout=40,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        return done.stdout

    def answered(self, status: int) -> None:
        """Wait until the gateway answers so."""

        def answers() -> bool:
            try:
                return request(self.url + "/v1/models").status == status
            except OSError:
                return False

        eventually(answers, f"an answer {status}", timeout_s=20)

    def end(self) -> None:
        if self.pid.exists():
            os.kill(int(self.pid.read_text()), signal.SIGKILL)


@pytest.fixture
def user(processes: Processes, tmp_path: Path) -> Iterator[User]:
    nodes = {
        "gpu-large": processes.node("org/model", "org/qwen-8b"),
        "gpu-small": processes.node("org/other"),
    }
    folder = tmp_path / "user"
    folder.mkdir()
    listen, metrics = free_ports(2)
    someone = User(folder, (listen, metrics), nodes)
    try:
        yield someone
    finally:
        someone.end()


def test_five_minutes_to_a_first_answer(user: User) -> None:
    """docs/start.md, from `cortex init` to `cortex history`."""
    page = (ROOT / "docs/start.md").read_text()
    _, install, init, service, keys, ask = snippets("sh", page)
    [by_hand] = snippets("toml", page)
    user.types(install)
    user.types(user.with_nodes(init))
    assert "[[nodes]]" in (user.etc / "cortex.toml").read_text()
    user.write("cortex.toml", by_hand)
    # A doctor that finds something says so by its exit code, and there is no unit here.
    began, doctor = service.split("sudo cortex doctor")
    assert doctor.strip().startswith("#")
    enable, status = began.split("cortex status")[0], "cortex status"
    assert "ok: " in user.types(enable)
    user.answered(200)
    assert "gpu-large" in user.types(status)
    add, reload = keys.strip().splitlines()
    [key] = re.findall(r"\bctx_\w+|sk-\S+|\b[A-Za-z0-9_-]{32,}\b", user.types(add))[:1]
    user.types(reload)
    user.answered(401)
    user.environ["CORTEX_API_KEY"] = key
    curl, chat, history = (
        ask.partition("\ncortex chat")[0],
        "cortex chat small",
        "cortex history",
    )
    assert all(shown in ask for shown in (chat, history))
    assert '"choices"' in user.types(curl.replace("THE-KEY", key))
    assert user.types(chat, "hi").strip()
    assert user.types(history).count("org/model") >= 2


def test_the_readme_works(user: User) -> None:
    page = (ROOT / "README.md").read_text()
    _, install, use, claude = snippets("sh", page)
    [config], [python] = snippets("toml", page), snippets("python", page)
    init = next(line for line in install.splitlines() if line.startswith("cortex init"))
    assert "next: cortex doctor" in user.types(user.with_nodes(init))
    user.write("cortex.toml", config)
    check, serve, status, curl = use.strip().splitlines()
    assert "ok: " in user.types(check)
    assert serve == "cortex serve --config cortex.toml"
    user.types("systemctl enable --now cortex")
    user.answered(200)
    assert "gpu-small" in user.types(status.removesuffix(" --watch"))
    assert '"choices"' in user.types(curl)
    done = subprocess.run(
        [sys.executable, "-c", user.here(python) + "\nprint(client.models.list().data[0].id)"],
        capture_output=True,
        text=True,
        timeout=40,
        env=user.environ,
    )
    assert done.stdout.strip(), done.stderr
    user.types(claude)
