"""`cortex key new`: a key that works once its table is pasted, and that nothing has stored."""

import hashlib
import tomllib
from pathlib import Path

import pytest

from cortex.cli import main
from cortex.config.load import load
from tests.gateway.conftest import chat_body, scripted
from tests.running import running


def made(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[str, str]:
    """The key and the table."""
    assert main(["key", "new", *argv]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    key, _, table = out.partition("\n\n")
    return key, table


def test_the_table_holds_the_digest_and_not_the_key(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key, table = made(
        capsys, "--name", "laptop", "--role", "admin", "--models", "acme/*", 'o"\\d'
    )
    assert key.startswith("cortex_")
    assert len(key) >= 40
    assert key not in table
    assert tomllib.loads(table)["auth"]["keys"] == [
        {
            "name": "laptop",
            "key_sha256": hashlib.sha256(key.encode()).hexdigest(),
            "role": "admin",
            "models": ["acme/*", 'o"\\d'],
        }
    ]
    assert list(tmp_path.iterdir()) == []


def test_two_keys_and_their_names_differ(capsys: pytest.CaptureFixture[str]) -> None:
    (first, first_table), (second, second_table) = made(capsys), made(capsys)
    assert first != second
    tables = [tomllib.loads(t)["auth"]["keys"][0] for t in (first_table, second_table)]
    assert tables[0]["name"] != tables[1]["name"]
    assert tables[0].keys() == {"name", "key_sha256"}


async def test_it_opens_the_gateway(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    key, table = made(capsys, "--name", "me")
    async with scripted(["m1"]) as node, running(tmp_path, [node], toml=table) as gateway:
        assert load(gateway.source, {}).auth.keys[0].name == "me"
        assert (await gateway.chat("m1")).status == 401
        reply = await gateway.post(
            "/v1/chat/completions", chat_body(), headers={"x-api-key": key}
        )
        assert reply.status == 200
