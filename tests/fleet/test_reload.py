"""A reload takes over everything or nothing, and the service manager always hears of its end."""

import socket
from pathlib import Path

import pytest

from tests.fleet.conftest import held
from tests.gateway.conftest import scripted
from tests.node.rawnode import RawNode, saying, whole
from tests.running import Running, running, until


def rewritten(gateway: Running, old: str, new: str) -> None:
    """Change the file and have it read again."""
    text = gateway.source.read_text()
    assert old in text
    gateway.source.write_text(text.replace(old, new))
    gateway.daemon._reload()


async def last_word(gateway: Running) -> tuple[str, object]:
    row = [row for row in await gateway.events() if row["kind"] == "config"][-1]
    return row["reason"], row["detail"]


@pytest.mark.parametrize(
    ("mistake", "why"),
    [
        ('[agent]\ntoken_file = "{folder}/nope"\n', "No such file or directory"),
        ('api_key_file = "{folder}/two"\n', "more than one line"),
        ('[[nodes]]\nname = "n1"\nendpoint = "http://gpu..internal"\n', "the name or address"),
        ('[[nodes]]\nname = "n1"\nendpoint = "{node}/"\n', "that no other node has"),
    ],
)
async def test_a_reload_that_cannot_be_done_changes_nothing(
    tmp_path: Path, manager: socket.socket, mistake: str, why: str
) -> None:
    (tmp_path / "two").write_text("first\nsecond\n")
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        config, before = gateway.services.config, gateway.services.fleet.snapshot()
        while b"READY" not in manager.recv(4096):
            pass
        added = mistake.format(folder=tmp_path, node=node.url)
        text = gateway.source.read_text()
        gateway.source.write_text(
            text.replace("[polling]", "[limits]\nmax_queue = 7\n[polling]") + added
        )
        gateway.daemon._reload()
        assert manager.recv(4096).startswith(b"RELOADING=1")
        said = manager.recv(4096).decode()
        assert said.startswith("READY=1\nSTATUS=Reload refused: ")
        assert why in said
        assert gateway.services.config is config
        assert gateway.services.fleet._state.policy.max_queue == config.limits.max_queue
        assert gateway.services.fleet.snapshot().nodes.keys() == before.nodes.keys()
        reason, _ = await last_word(gateway)
        assert reason.startswith("reload refused: ")
        assert why in reason
        assert (await gateway.chat("m1")).status == 200


async def test_a_bug_in_a_reload_is_told_and_the_manager_hears_its_end(
    tmp_path: Path, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        while b"READY" not in manager.recv(4096):
            pass

        def broken(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("cortex.daemon.prepare", broken)
        gateway.daemon._reload()
        assert manager.recv(4096).startswith(b"RELOADING=1")
        assert manager.recv(4096) == b"READY=1\nSTATUS=Reload failed, see the log"
        health = (await gateway.get("/health")).json
        assert health["status"] == "degraded"
        assert health["reasons"][0].startswith("internal error in reload (ZeroDivisionError)")
        assert 'cortex_internal_errors_total{loop="reload"} 1.0' in await gateway.metrics()
        assert (await gateway.chat("m1")).status == 200


async def test_a_new_key_of_a_node_is_used_from_the_reload_on(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("old\n")
    node = RawNode(routes={"/v1/models": saying(whole(b'{"object":"list","data":[]}'))})
    async with (
        node,
        running(tmp_path, [node], node_toml=[f'api_key_file = "{key}"']) as gateway,
    ):
        assert {got.headers["Authorization"] for got in node.got} == {"Bearer old"}
        key.write_text("new\n")
        gateway.daemon._reload()
        node.got.clear()
        await until(lambda: bool(node.got), "a poll")
        assert {got.headers["Authorization"] for got in node.got} == {"Bearer new"}


async def test_another_connect_timeout_makes_another_client_and_cuts_nothing(
    tmp_path: Path,
) -> None:
    async with (
        scripted(["m1"], endless=True, token_interval_s=0.01) as node,
        running(tmp_path, [node]) as gateway,
        held(gateway, "m1"),
    ):
        before = gateway.services.nodes["n0"]
        gateway.daemon._reload()
        assert gateway.services.nodes["n0"] is before
        rewritten(gateway, "[polling]", "[limits]\nconnect_timeout_s = 1.5\n[polling]")
        assert gateway.services.nodes["n0"] is not before
        assert gateway.services.fleet.node("n0").in_flight == 1


async def test_pins_that_nothing_can_meet_and_an_alias_of_nothing(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as node,
        running(
            tmp_path,
            [node],
            toml='[aliases]\nsmall = "org/typo"\n',
            node_toml=['pinned = ["org/slip"]'],
        ) as gateway,
    ):
        health = (await gateway.get("/health")).json
        assert health["status"] == "degraded"
        assert health["reasons"] == ["model org/slip is pinned on n0, which does not list it"]
        reply = await gateway.chat("small")
        assert (reply.status, reply.code) == (404, "model_not_found")
        assert "'small', which is an alias of org/typo, does not exist" in reply.text
