"""Pages of other origins: they may ask for answers, where the gateway says so, and change nothing."""

from pathlib import Path

import pytest

from cortex.gateway.cors import allowed, shared
from tests.gateway.conftest import chat_body, scripted
from tests.running import running

CHAT = "/v1/chat/completions"
LIST = "CORTEX_GATEWAY__CORS_ORIGINS"
PAGE = "http://chat.example:3000"
KEYS = '[[auth.keys]]\nname = "a"\nkey = "sk-good"\n'
GOOD = {"Authorization": "Bearer sk-good"}


@pytest.mark.parametrize(
    ("origin", "without_keys"),
    [
        (PAGE, False),
        ("https://192.168.1.7", False),
        ("http://localhost.example.com", False),
        ("http://localhost", True),
        ("http://localhost:5173", True),
        ("https://tauri.localhost", True),
        ("http://127.0.0.1:8080", True),
        ("http://127.8.9.10", True),
        ("http://[::1]:3000", True),
        ("http://[::1", False),
        ("app://obsidian.md", True),
        ("file://", True),
        ("tauri://localhost", True),
        ("vscode-webview://1a2b", True),
        ("chrome-extension://abc", True),
        ("moz-extension://abc", True),
        ("null", False),
        ("", False),
        ("ftp://localhost", False),
    ],
)
def test_without_keys_this_machines_own_pages_and_apps_may(
    origin: str, without_keys: bool
) -> None:
    assert allowed(origin, None, keyed=False) is without_keys
    assert allowed(origin, None, keyed=True) is bool(origin)
    for keyed in (True, False):
        assert not allowed(origin, (), keyed=keyed)
        assert allowed(origin, ("*",), keyed=keyed) is bool(origin)


@pytest.mark.parametrize("origin", ["http://\xe9", "http://x\udcff", "a\tb", "a\x7f"])
def test_an_origin_that_is_none_is_not_echoed(origin: str) -> None:
    for keyed in (True, False):
        for origins in (None, ("*",), ("http://*",)):
            assert not allowed(origin, origins, keyed=keyed)


@pytest.mark.parametrize(
    ("origin", "wanted"),
    [
        ("https://a.example.com", True),
        ("https://example.com", False),
        ("http://a.example.com", False),
        ("http://localhost", False),
    ],
)
def test_a_list_overrides(origin: str, wanted: bool) -> None:
    for keyed in (True, False):
        assert allowed(origin, ("https://*.example.com",), keyed=keyed) is wanted


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (CHAT, True),
        ("/v1/messages/count_tokens", True),
        ("/v1/responses/resp_1/cancel", True),
        ("/v1/models", True),
        ("/v1/models/org/m", True),
        ("/v1/models/unload", False),
        ("/v1/models/reload", False),
        ("/v1/models/status", False),
        ("/v1/models/status/x", True),
        ("/cortex/v1/status", False),
        ("/cortex/v1/models/load", False),
        ("/metrics", False),
        ("/", False),
    ],
)
def test_only_inference_is_shared(path: str, wanted: bool) -> None:
    assert shared(path) is wanted


def asking(origin: str = PAGE, method: str = "POST") -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type",
    }


async def test_a_page_with_a_key_asks_and_reads(tmp_path: Path) -> None:
    async with scripted(["m1"]) as node, running(tmp_path, [node], toml=KEYS) as gateway:
        for path in (CHAT, "/v1/messages", "/v1/models", "/v1/models/m1", "/chat/completions"):
            # A browser asks without the key.
            reply = await gateway.send("OPTIONS", path, headers=asking())
            assert (reply.status, reply.body) == (204, b"")
            assert reply.headers["Access-Control-Allow-Origin"] == PAGE
            assert reply.headers["Access-Control-Allow-Headers"] == "authorization,content-type"
            assert "POST" in reply.headers["Access-Control-Allow-Methods"]
            assert "Access-Control-Allow-Credentials" not in reply.headers
        origin = {"Origin": PAGE}
        for stream in (False, True):
            body = chat_body(max_tokens=3, stream=stream)
            reply = await gateway.post(CHAT, body, headers=origin | GOOD)
            assert (reply.status, reply.headers["Access-Control-Allow-Origin"]) == (200, PAGE)
            assert "x-request-id" in reply.headers["Access-Control-Expose-Headers"]
        # Errors too: a page is to show them.
        refused = await gateway.post(CHAT, chat_body(), headers=origin)
        assert (refused.status, refused.headers["Access-Control-Allow-Origin"]) == (401, PAGE)
        listed = await gateway.get("/v1/models", headers=origin | GOOD)
        assert listed.headers["Access-Control-Allow-Origin"] == PAGE
        assert listed.headers["Vary"] == "Origin"


@pytest.mark.parametrize(("toml", "environ"), [("", {}), (KEYS, {LIST: "[]"})])
async def test_a_page_that_may_not_is_told_so_by_silence(
    tmp_path: Path, toml: str, environ: dict[str, str]
) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml=toml, environ=environ) as gateway,
    ):
        for path in (CHAT, "/v1/models"):
            reply = await gateway.send("OPTIONS", path, headers=asking())
            assert (reply.status, reply.code) == (403, "permission_denied")
            assert "Access-Control-Allow-Origin" not in reply.headers
        reply = await gateway.get("/v1/models", headers=GOOD | {"Origin": PAGE})
        assert "Access-Control-Allow-Origin" not in reply.headers
        assert reply.headers["Vary"] == "Origin"


@pytest.mark.parametrize(("toml", "environ"), [("", {}), (KEYS, {}), ("", {LIST: '["*"]'})])
async def test_the_fleet_is_never_shared(
    tmp_path: Path, toml: str, environ: dict[str, str]
) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml=toml, environ=environ) as gateway,
    ):
        for path in (
            "/v1/models/unload",
            "/v1//models/unload",
            "/cortex/v1/status",
            "/cortex/v1/models/load",
            "/health",
        ):
            for origin in (PAGE, "http://localhost:3000"):
                reply = await gateway.send("OPTIONS", path, headers=asking(origin))
                assert reply.status == 403
                assert "Access-Control-Allow-Origin" not in reply.headers
        reply = await gateway.get("/cortex/v1/status", headers=GOOD | {"Origin": PAGE})
        assert "Access-Control-Allow-Origin" not in reply.headers


async def test_headers_that_are_none_are_not_echoed(tmp_path: Path) -> None:
    every = {LIST: '["*"]'}
    async with scripted(["m1"]) as node, running(tmp_path, [node], environ=every) as gateway:
        odd = asking() | {
            "Access-Control-Request-Headers": "x y; z",
            "Access-Control-Request-Private-Network": "true",
        }
        reply = await gateway.send("OPTIONS", CHAT, headers=odd)
        assert reply.status == 204
        assert "Access-Control-Allow-Headers" not in reply.headers
        assert reply.headers["Access-Control-Allow-Private-Network"] == "true"
        # Not a question of a browser's.
        assert (await gateway.send("OPTIONS", CHAT)).status == 405
