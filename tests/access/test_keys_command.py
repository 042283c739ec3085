"""`cortex keys`: a key that works after a reload, that no file holds, and that can be taken back."""

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cortex.cli import main
from cortex.config.keyfile import without
from cortex.config.load import load
from cortex.core.errors import ConfigError
from tests.command import ROOT
from tests.e2e.processes import Processes, chat_body, eventually, request
from tests.gateway.conftest import chat_body as a_chat
from tests.gateway.conftest import scripted
from tests.running import running

CONFIG = '[[nodes]]\nname = "n0"\nendpoint = "http://127.0.0.1:9"\n'


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CORTEX_CONFIG", raising=False)
    file = Path("cortex.toml")
    file.write_text(CONFIG)
    file.chmod(0o640)
    return file


def keys(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> tuple[str, str]:
    """What the command prints, and what it says beside that."""
    assert main(["keys", *argv]) == code, capsys.readouterr()
    out, err = capsys.readouterr()
    return out, err


def stored(config: Path) -> list[dict[str, Any]]:
    file = tomllib.loads(config.with_name("keys.toml").read_text())
    found: list[dict[str, Any]] = file["auth"]["keys"]
    return found


def test_the_file_holds_the_digest_and_not_the_key(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, err = keys(
        capsys, "add", "laptop", "--role", "admin", "--max-concurrent", "4",
        "--tokens-per-day", "1000000", "--models", "acme/*", 'o"\\d',
    )  # fmt: skip
    key = out.strip()
    assert key.startswith("cortex_")
    assert len(key) >= 40
    assert "only now" in err
    assert "SIGHUP" in err
    assert stored(config) == [
        {
            "name": "laptop",
            "key_sha256": hashlib.sha256(key.encode()).hexdigest(),
            "role": "admin",
            "models": ["acme/*", 'o"\\d'],
            "max_concurrent": 4,
            "tokens_per_day": 1_000_000,
        }
    ]
    file = config.with_name("keys.toml")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cortex.toml", "keys.toml"]
    assert config.read_text() == CONFIG
    [read] = load(None, {}).auth.keys
    assert (read.name, read.tokens_per_day) == ("laptop", 1_000_000)


def test_the_first_key_and_a_fleet_without_an_admin_are_told_of(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, err = keys(capsys, "add", "a")
    assert "so far everybody may ask" in err
    assert "--role admin" in err
    _, err = keys(capsys, "add", "b", "--role", "admin")
    assert "everybody" not in err
    assert "--role" not in err
    assert "--role" not in keys(capsys, "add", "c")[1]
    as_json, _ = keys(capsys, "add", "d", "--json")
    made = json.loads(as_json)
    assert (made["name"], made["file"]) == ("d", "keys.toml")
    assert hashlib.sha256(made["key"].encode()).hexdigest() == stored(config)[-1]["key_sha256"]


def test_list_tells_both_places_and_no_secret(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "everybody who reaches the gateway may ask" in keys(capsys, "list")[1]
    config.write_text(CONFIG + '[[auth.keys]]\nname = "old"\nkey = "in-clear"\n')
    key = keys(capsys, "add", "new", "--requests-per-minute", "5", "--models", "m*")[0].strip()
    out, _ = keys(capsys, "list")
    head, *rows = [line.split() for line in out.splitlines()]
    assert head == ["NAME", "ROLE", "MODELS", "LIMITS", "IN"]
    assert rows == [
        ["old", "client", "all", "–", "cortex.toml"],
        ["new", "client", "m*", "requests_per_minute", "5", "keys.toml"],
    ]
    as_json, _ = keys(capsys, "list", "--json")
    [old, new] = json.loads(as_json)["keys"]
    assert (old["name"], old["models"], old["tokens_per_day"]) == ("old", None, None)
    assert (new["models"], new["requests_per_minute"]) == (["m*"], 5)
    digest = hashlib.sha256(key.encode()).hexdigest()
    for secret in (key, digest, "in-clear"):
        assert secret not in out + as_json


def test_revoke_takes_one_out_and_leaves_the_rest_as_it_was(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        keys(capsys, "add", name)
    file = config.with_name("keys.toml")
    text = file.read_text().replace('name = "c"', 'name = "c"  # my phone')
    before, _, last = text.rpartition("[[auth.keys]]")
    file.write_text(f"{before}# Lost in May.\n[[auth.keys]]{last}")
    before = file.read_text()
    out, err = keys(capsys, "revoke", "b")
    assert "b is out of keys.toml" in out
    assert "last" not in err
    assert [key["name"] for key in stored(config)] == ["a", "c"]
    assert "# Lost in May.\n[[auth.keys]]" in file.read_text()
    assert "# my phone" in file.read_text()
    assert set(file.read_text().splitlines()) < set(before.splitlines())
    for name in ("c", "a"):
        _, err = keys(capsys, "revoke", name)
    assert "nobody gets in" in err
    assert load(None, {}).auth.keys == ()
    assert load(None, {}).auth.file == file
    assert "nobody gets in" in keys(capsys, "list")[1]
    # Begun anew, the file looks as if it had never been empty.
    keys(capsys, "add", "d")
    assert [key["name"] for key in stored(config)] == ["d"]
    assert "\n\n\n" not in file.read_text()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("add", "mine"), "mine has a key already"),
        (("revoke", "who"), "who has no key"),
        (("revoke", "mine"), "take it out there"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    config: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], said: str
) -> None:
    config.write_text(CONFIG + '[[auth.keys]]\nname = "mine"\nkey = "k"\n')
    before = config.read_text()
    out, err = keys(capsys, *argv, code=1)
    assert out == ""
    [line] = err.splitlines()
    assert said in line
    assert config.read_text() == before
    assert not config.with_name("keys.toml").exists()


def test_a_file_written_otherwise_is_left_to_its_author(config: Path) -> None:
    text = '[auth]\nkeys = [{name = "a", key = "x"}, {name = "b", key = "y"}]\n'
    with pytest.raises(ConfigError, match="edit it by hand"):
        without(text, config, "a")
    with pytest.raises(KeyError):
        without(text, config, "c")
    lines = '[[auth.keys]]\nname = "a"\nkey = "x"\nmodels = [\n  # all\n  "m*",\n]\n'
    with pytest.raises(ConfigError, match="edit it by hand"):
        without(lines, config, "a")
    assert without(lines.replace("  # all\n", ""), config, "a") == "\n"
    # A string that only looks like the head of a table.
    sly = '[[auth.keys]]\nname = "a"\nkey = """\n[[auth.keys]]\n"""\n'
    with pytest.raises(ConfigError, match="edit it by hand"):
        without(sly, config, "a")


def test_a_mistake_in_the_file_names_the_file(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config.with_name("keys.toml")
    for text, said in (
        ('[[auth.keys]]\nname = "a"\nkey = "x"\nrole = "root"', "auth.keys[0].role: expected"),
        (
            '[[auth.keys]]\nname = "a"\nkey_sha256 = "secret"',
            "auth.keys[0].key_sha256: expected",
        ),
        ('[gateway]\nlisten = "0.0.0.0:1"', "gateway: unknown key"),
        ('[auth]\nfile = "x"', "auth.file: not in the file that it names"),
        ("[[auth.keys]", "not valid TOML"),
    ):
        file.write_text(text)
        _, err = keys(capsys, "list", code=78)
        assert f"{file}: {said}" in err
        assert "secret" not in err
    file.write_text('[[auth.keys]]\nname = "a"\nkey = "x"\n')
    file.chmod(0o666)
    assert "everybody may write it" in keys(capsys, "list", code=78)[1]
    file.chmod(0o600)
    config.write_text(CONFIG + '[[auth.keys]]\nname = "a"\nkey = "y"\n')
    assert (
        f'{file}: auth.keys[0].name: expected a name of its own, found "a"'
        in (keys(capsys, "list", code=78)[1])
    )


def test_print_writes_nothing(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = keys(capsys, "add", "me", "--print", "--models", "x")
    key, _, table = out.partition("\n\n")
    [told] = tomllib.loads(table)["auth"]["keys"]
    assert told == {
        "name": "me",
        "key_sha256": hashlib.sha256(key.encode()).hexdigest(),
        "models": ["x"],
    }
    assert not config.with_name("keys.toml").exists()


def test_a_named_file_that_is_not_there_lets_nobody_in_and_add_makes_it(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text('[auth]\nfile = "clients.toml"\n' + CONFIG)
    file = config.with_name("clients.toml")
    assert load(None, {}).auth.file == file
    assert not file.exists()
    keys(capsys, "add", "a")
    assert [key.name for key in load(None, {}).auth.keys] == ["a"]
    assert file.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_ones_own(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    try:
        assert "sudo" in keys(capsys, "add", "a", code=1)[1]
    finally:
        tmp_path.chmod(0o700)


def test_many_at_once_lose_none(config: Path, tmp_path: Path) -> None:
    """Each reads the file, adds to it and replaces it."""
    children = [
        subprocess.Popen(
            (sys.executable, "-m", "cortex", "keys", "add", f"k{number}"),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for number in range(6)
    ]
    made = {child.communicate(timeout=60)[0].decode().strip() for child in children}
    digests = {hashlib.sha256(key.encode()).hexdigest() for key in made}
    assert {key["key_sha256"] for key in stored(config)} == digests
    assert len(digests) == len(children)


async def test_the_printed_table_opens_the_gateway(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    key, _, table = keys(capsys, "add", "me", "--print")[0].partition("\n\n")
    async with scripted(["m1"]) as node, running(tmp_path, [node], toml=table) as gateway:
        assert (await gateway.chat("m1")).status == 401
        reply = await gateway.post("/v1/chat/completions", a_chat(), headers={"x-api-key": key})
        assert reply.status == 200


def test_from_open_to_closed_and_not_open_again(processes: Processes) -> None:
    """A gateway in a process, as its operator meets it."""
    gateway = processes.serve(processes.node("a"))
    url = gateway.url + "/v1/chat/completions"
    body = chat_body("a", max_tokens=1)
    config = ("--config", str(gateway.source))

    def asked(key: str | None) -> int:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return request(url, body, headers=headers).status

    assert asked(None) == 200
    made = processes.cortex("keys", "add", "laptop", *config)
    assert made.process.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert asked(None) == 200, "not before the reload"
    gateway.send(signal.SIGHUP)
    eventually(lambda: asked(None) == 401, "the reload")
    assert (asked(key), asked("wrong")) == (200, 401)
    assert processes.cortex("keys", "revoke", "laptop", *config).process.returncode == 0
    gateway.send(signal.SIGHUP)
    eventually(lambda: asked(key) == 401, "the key to be taken back")
    assert asked(None) == 401, "the last key is gone, and nobody is let in for that"
    assert [line for line in gateway.log if "nobody gets in" in line["message"]]
