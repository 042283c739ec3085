"""HTTP as clients really speak it: slips of paths and headers, keys in two places, odd encodings."""

import gzip
import itertools
import json
import logging
import zlib
from pathlib import Path
from typing import Any

import pytest

from cortex.gateway.paths import canonical
from cortex.gateway.strict import ENCODINGS
from tests.gateway.conftest import chat_body, scripted
from tests.gateway.test_front import CHAT, connected, request
from tests.node.rawnode import RawNode
from tests.running import Running, running

KEYS = '[[auth.keys]]\nname = "a"\nkey = "sk-good"\n'
MESSAGES = "/v1/messages"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("//chat/completions", "/v1/chat/completions"),
        ("/v1//chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1/chat//completions", "/v1/chat/completions"),
        ("/messages", "/v1/messages"),
        ("/v1/v1/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/models", "/v1/models"),
        ("/v1/models/", "/v1/models"),
        ("/models/org/m", "/v1/models/org/m"),
        ("/v1//models/org//m", "/v1/models/org//m"),
        ("/responses/resp_1/cancel", "/v1/responses/resp_1/cancel"),
        ("/", "/"),
        ("/v1", "/v1"),
        ("/v1/", "/v1/"),
        ("/v2/models", "/v2/models"),
        ("/v1models", "/v1models"),
        ("/health", "/health"),
        ("/cortex/v1/models/load", "/cortex/v1/models/load"),
        ("/x/v1/models", "/x/v1/models"),
    ],
)
def test_the_path_that_is_meant(path: str, meant: str) -> None:
    assert canonical(path) == meant
    assert canonical(meant) == meant


async def test_slips_of_base_urls_are_answered(tmp_path: Path) -> None:
    async with scripted(["org/m"]) as node, running(tmp_path, [node], toml=KEYS) as gateway:
        key = {"Authorization": "Bearer sk-good"}
        body = chat_body("org/m", max_tokens=3)
        for path in ("/chat/completions", "/v1//chat/completions", "/v1/v1/chat/completions"):
            reply = await gateway.post(path, body, headers=key)
            assert (reply.status, reply.json["object"]) == (200, "chat.completion"), path
            streamed = await gateway.post(path, body | {"stream": True}, headers=key)
            assert streamed.body.endswith(b"data: [DONE]\n\n")
        for path in ("/messages", "/v1/v1/messages", "/v1/messages/"):
            reply = await gateway.post(path, body, headers=key)
            assert (reply.status, reply.json["type"]) == (200, "message"), path
            assert reply.headers["request-id"]
            counted = await gateway.post(f"{path.rstrip('/')}/count_tokens", body, headers=key)
            assert counted.json["input_tokens"] > 0
        for path in ("/models", "/v1/models/", "//v1/models"):
            assert (await gateway.get(path, headers=key)).json["data"][0]["id"] == "org/m"
        for path in ("/models/org/m", "/v1//models/org/m"):
            assert (await gateway.get(path, headers=key)).json["id"] == "org/m"
        # None of them is a way around the keys.
        for path in ("/chat/completions", "/v1/v1/messages"):
            reply = await gateway.post(path, body)
            assert reply.status == 401
            assert ("type" in reply.json) is path.endswith("messages")
        for path in ("/models", "/models/org/m", "/v1/models/"):
            assert (await gateway.get(path)).status == 401
        # What changes models has one path.
        for path in ("/models/unload", "/v1//models/unload"):
            reply = await gateway.post(path, {"model_id": "org/m"}, headers=key)
            assert reply.status in (404, 405)


async def test_a_stored_response_is_found_by_a_slip_too(shared: Running) -> None:
    body = {"model": "m1", "input": "hi", "max_output_tokens": 2}
    made = (await shared.post("/responses", body)).json["id"]
    for path in (f"/responses/{made}", f"/v1//responses/{made}", f"/v1/v1/responses/{made}"):
        reply = await shared.get(path)
        assert (reply.status, reply.json["id"]) == (200, made), path
    gone = await shared.send("DELETE", f"/responses/{made}")
    assert gone.status == 200
    for reply in (
        await shared.get(f"/responses/{made}"),
        await shared.post(f"/responses/{made}/cancel"),
    ):
        assert (reply.status, reply.code) == (404, "response_not_found")


async def test_a_question_of_a_stored_response_has_one_id_in_answer_and_history(
    shared: Running,
) -> None:
    body = {"model": "m1", "input": "hi", "max_output_tokens": 2}
    made = (await shared.post("/v1/responses", body)).json["id"]
    told = (await shared.get(f"/v1/responses/{made}")).headers["x-request-id"]
    assert told in [row["request_id"] for row in await shared.history()]


PRESENTED: list[tuple[dict[str, str], int]] = [
    ({"Authorization": "Bearer sk-good"}, 200),
    ({"Authorization": "bearer  sk-good "}, 200),
    ({"x-api-key": "sk-good"}, 200),
    ({"Authorization": "Bearer dummy", "x-api-key": "sk-good"}, 200),
    ({"Authorization": "Bearer sk-good", "x-api-key": "dummy"}, 200),
    ({"Authorization": "Basic eDp5", "x-api-key": "sk-good"}, 200),
    ({"Authorization": "Bearer dummy", "x-api-key": "other"}, 401),
    ({"Authorization": "Bearer dummy"}, 401),
    ({"Authorization": "Bearer "}, 401),
    ({}, 401),
]


async def test_a_good_key_counts_wherever_it_is(tmp_path: Path) -> None:
    async with scripted(["m1"]) as node, running(tmp_path, [node], toml=KEYS) as gateway:
        for headers, status in PRESENTED:
            listed = await gateway.get("/v1/models", headers=headers)
            chat = await gateway.post(CHAT, chat_body(max_tokens=2), headers=headers)
            assert (listed.status, chat.status) == (status, status), headers


async def test_a_key_of_any_bytes_is_no_key(tmp_path: Path) -> None:
    node = RawNode(["m1"])
    keys = ("sk-\u0261ood", "sk-\xe9", "\xa0sk-good")
    forms = itertools.product(
        ("Authorization: Bearer ", "x-api-key: "), keys, ("utf-8", "latin-1")
    )
    async with node, running(tmp_path, [node], toml=KEYS) as gateway:
        for name, key, encoding in forms:
            sent = f"{name}{key}\r\n".encode(encoding, "replace")
            whole = request()
            at = whole.index(b"\r\n\r\n") + 2
            async with connected(gateway) as client:
                client.send(whole[:at], sent, whole[at:])
                assert (await client.answer())[0] == 401, sent
                client.send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n", sent, b"\r\n")
                assert (await client.answer())[0] == 401, sent
        assert node.got == []


LONG = "sk-very-secret-" + "x" * 9000
LOST = {
    "a long key": (f"Authorization: Bearer {LONG}", 431, "headers_too_large"),
    "a long cookie": ("Cookie: a=" + "y" * 20_000, 431, "headers_too_large"),
    "no colon": ("Authorization Bearer sk-very-secret-", 400, "invalid_request"),
    "a zero byte": ("Authorization: Bearer sk-very-secret-\0", 400, "invalid_request"),
    "a blank before the colon": ("x-api-key : sk-very-secret-", 400, "invalid_request"),
    "an odd coding": ("Content-Encoding: compress", 415, "unsupported_encoding"),
    "two codings": ("Content-Encoding: gzip, gzip", 415, "unsupported_encoding"),
}


@pytest.mark.parametrize("kind", LOST)
@pytest.mark.parametrize("path", [CHAT, MESSAGES, "/v1/models/x"])
async def test_what_cannot_be_read_is_told_in_an_envelope_and_logged_nowhere(
    tmp_path: Path, kind: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    field, status, code = LOST[kind]
    node = RawNode(["m1"])
    async with (
        node,
        running(tmp_path, [node]) as gateway,
        connected(gateway) as client,
    ):
        client.send(request(b"{}", field, path=path))
        told, headers, body = await client.answer()
        assert (told, headers["content-type"]) == (status, "application/json")
        assert headers["server"] == "cortex"
        assert headers["x-request-id"].startswith("req_")
        parsed = json.loads(body)
        if path == MESSAGES:
            assert parsed["type"] == "error"
        else:
            assert parsed["error"]["code"] == code
        assert b"aiohttp" not in body
        assert b"secret" not in body
        assert await client.closed() == b""
    assert node.got == []
    assert "sk-very-secret" not in caplog.text
    assert "Traceback" not in caplog.text


def packed(coding: str, data: bytes) -> bytes:
    match coding:
        case "gzip":
            return gzip.compress(data)
        case "deflate":
            return zlib.compress(data)
        case _:
            return data


@pytest.mark.parametrize("coding", ["gzip", "deflate", "GZIP", "identity", "br", "zstd"])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_a_packed_body_is_read_or_refused_by_name(
    tmp_path: Path, coding: str, path: str
) -> None:
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        data = json.dumps(chat_body(max_tokens=3)).encode()
        headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
        if coding in ("br", "zstd"):
            # Frames of them are made by libraries alone; without one, this is any byte.
            data = _by_library(coding, data)
        reply = await gateway.post(
            path, json=None, data=packed(coding.lower(), data), headers=headers
        )
        if coding.lower() in ENCODINGS:
            assert reply.status == 200, reply.text
        else:
            assert reply.status == 415
            assert "gzip" in reply.json["error"]["message"]


def _by_library(coding: str, data: bytes) -> bytes:
    if coding not in ENCODINGS:
        return b"(\xb5/\xfd" + data
    if coding == "br":
        import brotli

        return bytes(brotli.compress(data))
    try:
        from compression import zstd  # type: ignore[import-not-found]
    except ImportError:
        from backports import zstd
    return bytes(zstd.compress(data))


@pytest.mark.parametrize("path", [CHAT, MESSAGES, "/v1/messages/count_tokens"])
async def test_null_is_as_if_it_were_not_given(tmp_path: Path, path: str) -> None:
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        more: dict[str, Any] = {"stream": None, "max_tokens": 3, "stop": None, "tools": None}
        reply = await gateway.post(path, chat_body(**more))
        assert reply.status == 200, reply.text
        assert reply.headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_half_a_character_is_a_bad_request(tmp_path: Path, path: str) -> None:
    node = RawNode(["m1"])
    async with node, running(tmp_path, [node]) as gateway:
        for pad in (b"", b"x" * 300_000):
            body = b'{"pad":"' + pad + b'","model":"m1","max_tokens":1,"messages":'
            body += b'[{"role":"user","content":"\\ud83d"}]}'
            reply = await gateway.post(path, json=None, data=body)
            # A large body of one's own dialect is not read, and goes on as it is.
            passed = pad and path == CHAT
            assert reply.status == (200 if passed else 400), reply.text
