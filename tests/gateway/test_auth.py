"""Who may ask, who may change, and what nobody needs a key for."""

import hashlib
from pathlib import Path

import pytest
from aiohttp import web

from cortex.config.schema import Key
from cortex.core.errors import RequestError
from cortex.gateway.auth import KNOWN_BY_CHARS, KNOWN_CALLERS, Caller, Keyring, require_admin
from tests.gateway.conftest import chat_body, scripted
from tests.running import Running, running

CHAT = "/v1/chat/completions"
PIN = "/cortex/v1/models/pin"
READS = ("/cortex/v1/status", "/cortex/v1/history", "/cortex/v1/events")


def three_forms(folder: Path) -> str:
    (folder / "key").write_text("from-file\n")
    digest = hashlib.sha256(b"by-digest").hexdigest()
    return f"""
[auth]
keys = [
  {{ name = "plain", key = "in-clear" }},
  {{ name = "filed", key_file = "{folder / "key"}" }},
  {{ name = "hashed", key_sha256 = "{digest.upper()}" }},
  {{ name = "boss", key = "admin-key", role = "admin" }},
]
"""


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_a_key_works_in_each_of_its_forms_and_headers(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml=three_forms(tmp_path)) as gateway,
    ):
        for headers in (
            bearer("in-clear"),
            bearer("from-file"),
            bearer("by-digest"),
            {"x-api-key": "in-clear"},
            {"authorization": "bearer   in-clear "},
            bearer("admin-key"),
        ):
            reply = await gateway.post(CHAT, chat_body(), headers=headers)
            assert reply.status == 200, headers
        await gateway.flushed()
        rows = await gateway.get("/cortex/v1/history", headers=bearer("admin-key"))
        clients = [row["client"] for row in rows.json["rows"]]
        assert clients == ["boss", "plain", "plain", "hashed", "filed", "plain"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        bearer(""),
        {"Authorization": "Basic in-clear"},
        {"Authorization": "in-clear"},
        {"x-api-key": "wrong"},
        {"x-api-key": ""},
        {"Authorization": "Bearer \udcff\udcfe"},
        {"x-api-key": "\udcff"},
        bearer("from-file\t\tx"),
        bearer(hashlib.sha256(b"by-digest").hexdigest()),
        bearer("wrong") | {"x-api-key": "wrong too"},
    ],
)
async def test_anything_else_is_a_401(tmp_path: Path, headers: dict[str, str]) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml=three_forms(tmp_path)) as gateway,
    ):
        for path in (CHAT, "/v1/nothing", PIN):
            reply = await gateway.post(path, chat_body(), headers=headers)
            assert (reply.status, reply.code) == (401, "invalid_api_key")
            assert reply.json["error"]["type"] == "authentication_error"
            assert "in-clear" not in reply.text
        assert not node.stats.started


async def test_a_401_of_anthropics_routes_has_anthropics_envelope(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml=three_forms(tmp_path)) as gateway,
    ):
        reply = await gateway.post("/v1/messages", {})
        assert reply.status == 401
        assert reply.json["error"]["type"] == "authentication_error"
        assert reply.json["request_id"] == reply.headers["x-request-id"]


async def test_the_probes_need_no_key(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml=three_forms(tmp_path)) as gateway,
    ):
        for method, path in (
            ("GET", "/health"),
            ("GET", "/ready"),
            ("HEAD", "/"),
            ("HEAD", "/api/hello"),
        ):
            assert (await gateway.send(method, path)).status == 200, path


async def test_the_admin_api_wants_an_admin_key(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml=three_forms(tmp_path)) as gateway,
    ):
        for path in READS:
            refused = await gateway.get(path, headers=bearer("in-clear"))
            assert (refused.status, refused.code) == (403, "permission_denied")
            assert refused.json["error"]["type"] == "permission_error"
            assert (await gateway.get(path, headers=bearer("admin-key"))).status == 200
        refused = await gateway.post(PIN, {"model": "m1"}, headers=bearer("in-clear"))
        assert (refused.status, refused.code) == (403, "permission_denied")
        assert pinned(gateway) is False
        done = await gateway.post(PIN, {"model": "m1"}, headers=bearer("admin-key"))
        assert done.status == 200
        assert pinned(gateway) is True


def pinned(gateway: Running) -> bool:
    [node] = gateway.services.fleet.snapshot().nodes.values()
    [model] = node.models.values()
    return bool(model.pinned)


async def test_without_keys_this_machine_may_change_the_fleet(tmp_path: Path) -> None:
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        for path in READS:
            assert (await gateway.get(path)).status == 200
        assert (await gateway.post(PIN, {"model": "m1"})).status == 200
        assert pinned(gateway) is True


class From:
    """As much of a request as says where it came from."""

    def __init__(self, peer: object) -> None:
        self.transport = self
        self._peer = peer
        self.headers = {"User-Agent": "curl/8.0 (Linux)"}
        self.remote = "127.0.0.1"
        self.host = "localhost:8000"

    def get_extra_info(self, _: str) -> object:
        return self._peer


def test_who_asked_before_is_known_at_once_and_nobody_else_is() -> None:
    keyring = Keyring([Key(name="me", key="k")])
    request = From(("10.0.0.7", 5))

    def ask(**headers: str) -> Caller:
        request.headers = {name.replace("_", "-"): text for name, text in headers.items()}
        return keyring.caller(request)  # type: ignore[arg-type]

    me = ask(Authorization="Bearer k")
    assert me.name == "me"
    assert ask(Authorization="Bearer k") is me
    assert ask(x_api_key="k", Authorization="Bearer other") is me
    for wrong in (
        {"Authorization": "Bearer kk"},
        {"Authorization": "k"},
        {"x_api_key": "K"},
        {},
    ):
        for _ in range(2):
            with pytest.raises(RequestError):
                ask(**wrong)
    # However many programs ask where there are no keys, few are remembered.
    keyring = Keyring([])
    for number in range(3 * KNOWN_CALLERS):
        assert ask(User_Agent=f"curl/{number} x").name == f"curl/{number}"
    assert len(keyring._known) <= KNOWN_CALLERS
    known = len(keyring._known)
    assert ask(User_Agent="curl/1 " + "x" * KNOWN_BY_CHARS).name == "curl/1"
    assert len(keyring._known) == known
    request.remote = "10.0.0.8"
    assert ask(User_Agent="curl/0 x").who == "10.0.0.8"


def test_with_keys_loopback_alone_is_not_enough() -> None:
    request: web.BaseRequest = From(("127.0.0.1", 5))  # type: ignore[assignment]
    keyring = Keyring([Key(name="me", key="k")])
    with pytest.raises(RequestError, match="with an admin key"):
        require_admin(request, Caller("me", admin=False, share="me"), keyring, ())
    require_admin(request, Caller("me", admin=True, share="me"), keyring, ())


async def test_a_client_without_a_key_is_known_by_its_program(tmp_path: Path) -> None:
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        for agent in ("some-cli/2.0 (external)", "x" * 300):
            await gateway.post(CHAT, chat_body(), headers={"User-Agent": agent})
        assert [row["client"] for row in await gateway.history()] == ["x" * 64, "some-cli/2.0"]
