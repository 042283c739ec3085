"""A reload takes new keys as a whole, or nothing of it."""

import os
import signal
from pathlib import Path

import pytest

from tests.gateway.conftest import scripted
from tests.running import Running, running, until

ADMIN = {"Authorization": "Bearer boss"}


async def sighup(gateway: Running) -> str:
    """What the event of the reload says."""

    async def told() -> list[str]:
        await gateway.flushed()
        rows = await gateway.get("/cortex/v1/events?kind=config", headers=ADMIN)
        return [row["reason"] for row in rows.json["rows"]]

    before = len(await told())

    async def more() -> bool:
        return len(await told()) > before

    os.kill(os.getpid(), signal.SIGHUP)
    await until(more, "the event of a reload")
    return (await told())[0]


@pytest.mark.parametrize("lost", ["token", "key"])
async def test_a_file_that_is_gone_refuses_the_reload_and_changes_nothing(
    tmp_path: Path, lost: str
) -> None:
    (tmp_path / "token").write_text("t0ken")
    (tmp_path / "key").write_text("filed")
    toml = f"""
[agent]
token_file = "{tmp_path / "token"}"
[[auth.keys]]
name = "boss"
key = "boss"
role = "admin"
[[auth.keys]]
name = "filed"
key_file = "{tmp_path / "key"}"
"""
    async with scripted(["m1"]) as node, running(tmp_path, [node], toml=toml) as gateway:
        config = gateway.services.config
        gateway.source.write_text(
            gateway.source.read_text() + '\n[[auth.keys]]\nname = "new"\nkey = "new"\n'
        )
        (tmp_path / lost).unlink()
        told = await sighup(gateway)
        assert told.startswith("reload refused: ")
        assert str(tmp_path / lost) in told
        assert gateway.services.config is config
        for key, status in (("filed", 200), ("new", 401)):
            reply = await gateway.get("/v1/models", headers={"x-api-key": key})
            assert reply.status == status


async def test_a_key_that_leaves_the_file_is_refused_at_once(tmp_path: Path) -> None:
    table = '[[auth.keys]]\nname = "old"\nkey = "old"\n'
    toml = '[[auth.keys]]\nname = "boss"\nkey = "boss"\nrole = "admin"\n' + table
    async with scripted(["m1"]) as node, running(tmp_path, [node], toml=toml) as gateway:
        assert (await gateway.get("/v1/models", headers={"x-api-key": "old"})).status == 200
        new = table.replace('"old"', '"new"')
        gateway.source.write_text(gateway.source.read_text().replace(table, new))
        assert await sighup(gateway) == "reloaded"
        assert (await gateway.get("/v1/models", headers={"x-api-key": "old"})).status == 401
        assert (await gateway.get("/v1/models", headers={"x-api-key": "new"})).status == 200
