import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cortex import __version__
from cortex.cli import main
from cortex.cli.exit_codes import MEANINGS, Exit
from cortex.cli.parser import build_parser
from tests.command import ROOT

VERBS = [
    "init",
    "serve",
    "chat",
    "status",
    "top",
    "history",
    "why",
    "models",
    "events",
    "pin",
    "unpin",
    "load",
    "unload",
    "explain",
    "drain",
    "undrain",
    "defrag",
    "replay",
    "backup",
    "doctor",
    "check-config",
    "keys",
    "agent",
    "demo",
    "completion",
]
HEAVY = {"aiohttp", "aiosqlite", "pydantic", "rich", "prometheus_client", "sqlite3"}


def imported_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running `code`."""
    program = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_parser_imports_the_standard_library_only():
    before = imported_by("")
    names = imported_by("from cortex.cli.parser import build_parser; build_parser()") - before
    foreign = {n.partition(".")[0] for n in names} - set(sys.stdlib_module_names) - {"cortex"}
    assert not foreign
    assert not any(name.startswith("cortex.") and "cli" not in name for name in names)


@pytest.mark.parametrize(
    "argv",
    [
        ["--version"],
        ["status", "--help"],
        ["completion", "bash"],
        ["completion", "--values", "models"],
    ],
)
def test_quick_commands_import_nothing_heavy(argv, monkeypatch):
    monkeypatch.setenv("CORTEX_ENDPOINT", "http://127.0.0.1:1")
    names = imported_by(f"from cortex.cli import main; main({argv!r})")
    assert not {name.partition(".")[0] for name in names} & HEAVY


def test_version(capsys):
    assert main(["--version"]) == 0
    said = capsys.readouterr().out
    assert re.fullmatch(
        re.escape(f"cortex {__version__} (revision ") + r"([0-9a-f]{12}(-dirty)?|unknown)\)\n",
        said,
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    assert main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) > 5
    assert "%(" not in out


def test_help_names_every_verb_and_exit_code(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for verb in VERBS:
        assert f"    {verb} " in out
    for code, meaning in MEANINGS.items():
        assert f"  {code:<4} {meaning}" in out
    assert set(MEANINGS) == set(Exit)


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "required: COMMAND"),
        (["stauts"], "stauts"),
        (["history", "--limit", "0"], "'0' is not a whole number from 1 to 10000"),
        (["history", "--limit", "٣"], "is not a whole number"),
        (["history", "--since", "yesterday"], "'yesterday' is neither a duration"),
        (["history", "--slow", "5"], "'5' is not a duration; write 90s"),
        (["status", "--watch", "0"], "too short"),
        (["history", "--lim", "5"], "unrecognized arguments: --lim 5"),
        (["completion", "tcsh"], "tcsh"),
        (["history", "--csv", "--json"], "--json and --csv exclude each other"),
        (["history", "--follow", "--until", "1h"], "--follow and --until"),
        (["events", "--follow", "--until", "1h"], "--follow and --until"),
        (["check-config", "a.toml", "--config", "b.toml"], "exclude each other"),
        (["status", "--endpoint", "ftp://x"], "--endpoint: 'ftp://x' is not a URL"),
        (["completion"], "which shell"),
        (["history", "--by", "client"], "--by is for --stats"),
        (["history", "--stats", "--by", "route"], "invalid choice: 'route'"),
        (["keys"], "required: ACTION"),
        (["keys", "old"], "invalid choice: 'old'"),
        (["keys", "add", "a", "--role", "root"], "invalid choice: 'root'"),
        (["keys", "add", 'a"b'], "letters, digits, dots"),
        (["keys", "add"], "expected NAME"),
        (["keys", "list", "a"], "expected no NAME"),
        (["keys", "revoke", "a", "--role", "admin"], "only keys add makes a key"),
        (["keys", "add", "a", "--tokens-per-day", "0"], "not a whole number from 1"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(argv, complaint, capsys):
    assert main(argv) == Exit.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
    assert len(err.splitlines()) == 1


def test_every_verb_has_a_module_with_run():
    from cortex.cli import MODULES

    for verb in VERBS:
        file = ROOT / "cortex" / "cli" / f"{MODULES.get(verb, verb)}.py"
        tree = ast.parse(Path(file).read_text())
        assert "run" in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, verb
    assert set(VERBS) == set(_choices())


def _choices() -> list[str]:
    (verbs,) = (a for a in build_parser()._actions if isinstance(a.choices, dict))
    return list(verbs.choices)
