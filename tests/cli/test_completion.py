import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cortex.cli import main
from cortex.cli.completion import HARMLESS
from tests.cli.conftest import Run
from tests.cli.gateway import FakeGateway, status
from tests.command import ROOT

BASH = shutil.which("bash")
ZSH = shutil.which("zsh")
FISH = shutil.which("fish")
INJECTIONS = (
    "$(touch pwned)",
    "`touch pwned`",
    "a;touch pwned",
    "--flag",
    "a b",
    "a\nb",
    "'",
    "",
)
PATIENT = """\
import sys
from cortex.cli import completion, main

completion.PATIENCE_S = 20.0
sys.exit(main(sys.argv[1:]))
"""
"""The command of somebody who waits for a busy machine."""
MODELS = ("acme/small:4b", "acme/small:8b", "other", *INJECTIONS)


@pytest.fixture
def shell_environment(gateway: FakeGateway, tmp_path: Path) -> dict[str, str]:
    """A PATH with `cortex` on it, and a gateway behind it."""
    gateway.answers["/v1/models"] = {"data": [{"id": model} for model in MODELS]}
    command = tmp_path / "bin" / "cortex"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\n{PATIENT}")
    command.chmod(0o755)
    return os.environ | {
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "CORTEX_ENDPOINT": gateway.url,
        "HOME": str(tmp_path),
    }


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


CASES = [
    ("cortex st", {"status"}),
    ("cortex check", {"check-config"}),
    ("cortex --v", {"--version"}),
    ("cortex status --w", {"--watch"}),
    ("cortex history --s", {"--since", "--slow", "--stats"}),
    ("cortex completion ", {"bash", "zsh", "fish"}),
    ("cortex events --kind lo", {"load", "loaded", "load_failed", "load_abandoned"}),
    ("cortex history --outcome ", {"ok", "client_gone", "error"}),
    ("cortex history --model ", {"acme/small:4b", "acme/small:8b", "other"}),
    ("cortex history --csv --node gpu-", {"gpu-large", "gpu-b", "gpu-c"}),
    ("cortex pin o", {"other"}),
    ("cortex unpin --node gpu-l", {"gpu-large"}),
    ("cortex status --endpoint ", set()),
    ("cortex nonsense ", set()),
]


@pytest.mark.skipif(BASH is None, reason="bash is not installed")
class TestBash:
    def complete(
        self, line: str, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
    ) -> set[str]:
        """What bash would offer with the cursor at the end of `line`."""
        program = (
            script("bash", capsys)
            + 'COMP_LINE=$1 COMP_POINT=${#1}; _cortex; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        assert BASH is not None
        done = subprocess.run(
            [BASH, "--norc", "-c", program, "bash", line],
            capture_output=True,
            text=True,
            env=environ,
            check=True,
        )
        assert done.stderr == ""
        return set(done.stdout.splitlines()) - {""}

    @pytest.mark.parametrize(("line", "expected"), CASES)
    def test_words(self, line, expected, shell_environment, capsys):
        offered = self.complete(line, shell_environment, capsys)
        flags = {word for word in offered if word.startswith("-")}
        assert offered - flags == expected - flags
        assert expected <= offered

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("cortex pin acme/small:", {"4b", "8b"}),
            ("cortex history --model=acme/small:4", {"4b"}),
            ("cortex history --model=o", {"other"}),
        ],
    )
    def test_only_what_follows_a_word_break_is_replaced(
        self, line, expected, shell_environment, capsys
    ):
        offered = self.complete(line, shell_environment, capsys)
        assert {word for word in offered if not word.startswith("-")} == expected

    def test_files(self, shell_environment, capsys):
        Path("with space.toml").touch()
        offered = self.complete("cortex serve --config with", shell_environment, capsys)
        assert offered == {"with space.toml"}

    def test_without_a_gateway_nothing_is_offered_and_nothing_said(
        self, shell_environment, gateway, capsys
    ):
        gateway.key = "wanted"
        assert self.complete("cortex history --model ", shell_environment, capsys) == set()

    def test_names_from_elsewhere_run_nothing(self, shell_environment, capsys):
        self.complete("cortex history --model ", shell_environment, capsys)
        assert not Path("pwned").exists()

    def test_words_alone_are_enough(self, shell_environment, capsys):
        program = script("bash", capsys) + (
            'COMP_WORDS=(cortex sta) COMP_CWORD=1; _cortex; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        assert BASH is not None
        done = subprocess.run(
            [BASH, "-c", program],
            capture_output=True,
            text=True,
            env=shell_environment,
            check=True,
        )
        assert done.stdout.split() == ["status"]


def test_zsh_reads_its_script(capsys, tmp_path: Path):
    text = script("zsh", capsys)
    assert text.startswith("#compdef cortex\n")
    if ZSH is None:
        pytest.skip("zsh is not installed")
    file = tmp_path / "_cortex"
    file.write_text(text)
    done = subprocess.run([ZSH, "-n", str(file)], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.skipif(FISH is None, reason="fish is not installed")
@pytest.mark.parametrize(("line", "expected"), CASES)
def test_fish(line, expected, shell_environment, capsys, tmp_path: Path):
    file = tmp_path / "cortex.fish"
    file.write_text(script("fish", capsys))
    assert FISH is not None
    done = subprocess.run(
        [FISH, "--no-config", "-c", f"source {file}; complete -C '{line}'"],
        capture_output=True,
        text=True,
        env=shell_environment,
        check=True,
    )
    offered = {entry.partition("\t")[0] for entry in done.stdout.splitlines()}
    assert expected <= offered
    assert not Path("pwned").exists()


def test_every_verb_and_option_is_in_every_script(capsys):
    main(["history", "--help"])
    options = {
        word.strip("[],") for word in capsys.readouterr().out.split() if "--" in word[:3]
    }
    for shell in ("bash", "zsh", "fish"):
        text = script(shell, capsys)
        for verb in ("serve", "check-config", "unpin", "demo"):
            assert verb in text
        for option in options:
            assert option.lstrip("-") in text
        assert "==SUPPRESS==" not in text
        assert "--values" not in text.replace("completion --values", "")


class TestValues:
    def test_models_and_nodes(self, run: Run, gateway: FakeGateway):
        gateway.answers["/v1/models"] = {"data": [{"id": model} for model in MODELS]}
        assert run("completion", "--values", "models").lines == [
            "acme/small:4b",
            "acme/small:8b",
            "other",
        ]
        assert run("completion", "--values", "nodes").lines == ["gpu-b", "gpu-c", "gpu-large"]

    @pytest.mark.parametrize(
        "answer", [{}, [], {"nodes": 1}, {"nodes": [1]}, {"nodes": [{}]}, b"\xff", None]
    )
    def test_never_fails(self, answer, run: Run, gateway: FakeGateway):
        gateway.answers["/cortex/v1/status"] = answer
        ran = run("completion", "--values", "nodes")
        assert (ran.code, ran.out, ran.err) == (0, "", "")

    def test_never_fails_without_a_gateway(self, capsys, monkeypatch):
        for url in ("http://127.0.0.1:1", "nonsense://", "http://\x1b"):
            monkeypatch.setenv("CORTEX_ENDPOINT", url)
            assert main(["completion", "--values", "models"]) == 0
        assert capsys.readouterr() == ("", "")

    @pytest.mark.parametrize("name", INJECTIONS)
    def test_names_that_a_shell_could_misread_are_left_out(self, name):
        assert not HARMLESS.fullmatch(name)

    def test_nodes_of_the_canned_fleet_are_harmless(self):
        assert all(HARMLESS.fullmatch(node["name"]) for node in status()["nodes"])
