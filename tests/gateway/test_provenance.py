"""Where a request comes from, which is all that a gateway without keys can go by."""

import json
import socket
from pathlib import Path

import pytest

from cortex.core.errors import RequestError
from cortex.gateway.provenance import (
    FORWARDED_BY,
    is_own_name,
    require_own_page,
    require_this_machine,
)
from tests.gateway.conftest import chat_body, scripted
from tests.running import Running, running

CHAT = "/v1/chat/completions"
STATUS = "/cortex/v1/status"
PIN = "/cortex/v1/models/pin"
HERE = ("127.0.0.1", 5)


class From:
    """As much of a request as says where it came from."""

    def __init__(self, peer: object, host: str = "localhost:8000", **headers: str) -> None:
        self.transport = self
        self._peer = peer
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.headers["Host"] = self.host = host

    def get_extra_info(self, _: str) -> object:
        return self._peer


def why_not(request: From, *hosts: str) -> str | None:
    try:
        require_this_machine(request, hosts)  # type: ignore[arg-type]
    except RequestError as exc:
        assert exc.code == "permission_denied"
        assert "no keys are configured" in exc.message
        return exc.message
    return None


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        (("127.0.0.1", 5), True),
        (("127.8.9.1", 5), True),
        (("::1", 5, 0, 0), True),
        (("::ffff:127.0.0.1", 5, 0, 0), True),
        (("10.0.0.7", 5), False),
        (("::ffff:10.0.0.7", 5, 0, 0), False),
        (("fe80::1%eth0", 5, 0, 2), False),
        (("localhost.evil", 5), False),
        ("", True),
        (None, False),
    ],
    ids=repr,
)
def test_only_loopback_and_unix_sockets_are_this_machine(peer: object, allowed: bool) -> None:
    why = why_not(From(peer))
    assert (why is None) is allowed
    assert allowed or "from this machine only" in str(why)


@pytest.mark.parametrize(
    "name",
    [*sorted(FORWARDED_BY), "X-Forwarded-For", "X-FORWARDED-PORT", "x-forwarded-anything"],
)
def test_what_a_proxy_adds_is_for_somebody_else(name: str) -> None:
    # Whatever it claims: the header itself says that somebody else asks.
    for value in ("127.0.0.1", "", "for=[::1]"):
        assert "through a proxy" in str(why_not(From(HERE, **{name: value})))
    assert "through a proxy" in str(why_not(From("", **{name: "x"})))


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("gateway.localhost:8000", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("192.168.1.5:8000", True),
        (socket.gethostname(), True),
        ("gateway.lan", True),
        ("Gateway.LAN:8000", True),
        ("sub.gateway.lan", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example@localhost", False),
        ("localhost/x", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_a_name_that_anybody_could_own_is_not_this_machines(host: str, allowed: bool) -> None:
    assert is_own_name(host, ("gateway.lan",)) is allowed
    why = why_not(From(HERE, host), "gateway.lan")
    assert (why is None) is allowed
    assert allowed or "not allowed under the name" in str(why)
    # A Unix socket has no name that could be rebound.
    assert why_not(From("", host)) is None


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"Origin": "http://localhost:8000"}, True),
        ({"Origin": "http://localhost:8000", "Sec_Fetch_Site": "same-origin"}, True),
        ({"Sec_Fetch_Site": "none"}, True),
        ({"Origin": "http://localhost:3000"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Sec_Fetch_Site": "cross-site"}, False),
        ({"Sec_Fetch_Site": "same-site"}, False),
        ({"Sec_Fetch_Site": "none, cross-site"}, False),
        ({"Origin": "http://localhost:8000", "Sec_Fetch_Site": "cross-site"}, False),
    ],
)
def test_a_page_of_another_site_is_not_this_machines_user(
    headers: dict[str, str], allowed: bool
) -> None:
    why = why_not(From(HERE, **headers))
    assert (why is None) is allowed
    assert allowed or "page of another site" in str(why)


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Host": "evil.example"}, True),
        ({"Host": "10.0.0.5:8000", "Origin": "http://10.0.0.5:8000"}, True),
        ({"Host": "gateway.lan", "Origin": "http://gateway.lan"}, True),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, False),
        ({"Host": "localhost:8000", "Origin": "http://evil.example"}, False),
        ({"Host": "localhost:8000", "Origin": "null"}, False),
        ({"Host": "localhost:8000", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Host": "localhost:8000", "Sec-Fetch-Site": "none"}, True),
    ],
)
def test_whose_page_may_have_a_browser_post(headers: dict[str, str], allowed: bool) -> None:
    if allowed:
        require_own_page(headers, ("gateway.lan",))
        return
    with pytest.raises(RequestError, match="cors_origins"):
        require_own_page(headers, ("gateway.lan",))


REFUSED = (
    {"X-Forwarded-For": "127.0.0.1"},
    {"Forwarded": "for=127.0.0.1"},
    {"Host": "rebound.example"},
    {"Origin": "http://evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
)


async def test_who_is_not_this_machines_user_neither_reads_nor_changes_the_fleet(
    tmp_path: Path,
) -> None:
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        for headers in REFUSED:
            reply = await gateway.get(STATUS, headers=headers)
            assert (reply.status, reply.code) == (403, "permission_denied"), headers
            for path, body in (
                (PIN, {"model": "m1"}),
                ("/cortex/v1/models/unload", {"model": "m1"}),
                ("/v1/models/unload", {"model_id": "m1"}),
                ("/v1/models/reload", {"model_id": "m1"}),
            ):
                reply = await gateway.post(path, body, headers=headers)
                assert (reply.status, reply.code) == (403, "permission_denied"), (path, headers)
        assert (await gateway.get(STATUS)).status == 200
        status = await gateway.get(STATUS, headers={"Host": "127.0.0.1"})
        [copy] = status.json["nodes"][0]["models"]
        assert (copy["status"], copy["pinned"]) == ("loaded", False)


async def test_a_foreign_page_cannot_have_a_model_loaded(tmp_path: Path) -> None:
    """A browser lets any page send text without asking; nobody could read the answer, but still."""
    text = {"Content-Type": "text/plain"}
    async with (
        scripted(["m1"], unloaded=["m1"]) as node,
        running(tmp_path, [node]) as gateway,
    ):
        for foreign in (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://evil.example", "Host": "evil.example"},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            for path in (
                CHAT,
                "/v1/messages",
                "/v1/messages/count_tokens",
                "/v1/responses/x/cancel",
            ):
                body = json.dumps(chat_body() | {"max_tokens": 3}).encode()
                reply = await gateway.send("POST", path, data=body, headers=text | foreign)
                assert reply.status == 403, (path, foreign)
        assert not node.stats.started
        assert loaded(gateway) == []
        # Those with a reason to, as ever: a program, a page that is shared with, the gateway's own.
        for allowed in ({}, {"Origin": "http://localhost:3000"}, {"Origin": gateway.url}):
            reply = await gateway.post(CHAT, chat_body(), headers=allowed)
            assert reply.status == 200, allowed


async def test_a_page_under_a_name_of_its_own_reads_no_metrics(tmp_path: Path) -> None:
    toml = '[auth]\nkeys = [{ name = "boss", key = "k", role = "admin" }]'
    async with scripted(["m1"]) as node, running(tmp_path, [node], toml=toml) as gateway:
        url = f"{gateway.metrics_url}/metrics"
        async with gateway.http.get(url, headers={"Host": "rebound.example"}) as reply:
            assert reply.status == 403
            assert "rebound.example" in await reply.text()
        async with gateway.http.get(url, headers={"Host": "localhost:9100"}) as reply:
            assert reply.status == 200


async def test_with_keys_a_key_is_enough(tmp_path: Path) -> None:
    toml = '[auth]\nkeys = [{ name = "boss", key = "k", role = "admin" }]'
    async with scripted(["m1"]) as node, running(tmp_path, [node], toml=toml) as gateway:
        for odd in REFUSED:
            headers = odd | {"Authorization": "Bearer k"}
            assert (await gateway.get(STATUS, headers=headers)).status == 200, odd
            assert (await gateway.post(CHAT, chat_body(), headers=headers)).status == 200, odd


async def test_a_configured_name_is_one_of_this_machine(tmp_path: Path) -> None:
    named = {"Host": "gateway.lan:8000", "Origin": "http://gateway.lan:8000"}
    environ = {"CORTEX_GATEWAY__HOSTS": '["Gateway.lan"]'}
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], environ=environ) as gateway,
    ):
        assert (await gateway.get(STATUS, headers=named)).status == 200
        assert (await gateway.post(CHAT, chat_body(), headers=named)).status == 200


def loaded(gateway: Running) -> list[str]:
    [node] = gateway.services.fleet.snapshot().nodes.values()
    return [model.id for model in node.models.values() if model.resident]
