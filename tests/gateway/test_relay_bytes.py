"""Bytes pass as they are: towards the node, and back."""

import asyncio
import json
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import pytest

from tests.gateway.conftest import chat_body, scripted, stream
from tests.node.rawnode import (
    LAST_CHUNK,
    STREAM_HEAD,
    Got,
    RawNode,
    chunk,
    head,
    saying,
    streaming,
    whole,
)
from tests.running import running, until

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
ODD_BODY = (
    b' {"n":1.0, "messages" :[{"role":"user","content":"\\u00e9 \xc3\xa9 \\"model\\":\\"m9\\""}],'
    b'\n\t"x":{"model":"inner"},"big":12345678901234567890.10, "model" : "m1" ,"stream":false}\n'
)


async def test_a_body_reaches_the_node_byte_for_byte(tmp_path: Path) -> None:
    async with RawNode(["m1"]) as node, running(tmp_path, [node]) as gateway:
        reply = await gateway.post(CHAT, json=None, data=ODD_BODY, headers=JSON)
        assert reply.status == 200
        assert [got.body for got in node.got] == [ODD_BODY]


@pytest.mark.parametrize("filler", [0, 700_000], ids=["parsed", "scanned"])
async def test_an_alias_changes_the_bytes_of_the_model_and_no_others(
    tmp_path: Path, filler: int
) -> None:
    toml = '[aliases]\n"petit \\u00e9" = "m1"'
    pad = b'"pad":"' + b"\\\\ \xc3\xa9\\u00e9" * (filler // 11) + b'",'
    before = b'{"messages":[{"model":"not me"}],' + pad + b' "model"  :\t'
    after = b' , "z":"petit", "stream":false, "more":' + pad[6:-1] + b"}"
    async with (
        RawNode(["m1"]) as node,
        running(tmp_path, [node], toml=toml) as gateway,
    ):
        for spelled in (b'"petit \xc3\xa9"', b'"petit \\u00e9"', b'"\\u0070etit \\u00E9"'):
            sent = before + spelled + after
            reply = await gateway.post(CHAT, json=None, data=BytesIO(sent), headers=JSON)
            assert reply.status == 200, reply.text
        assert [got.body for got in node.got] == [before + b'"m1"' + after] * 3


@pytest.mark.parametrize("piece", [1, 7, 100_000])
async def test_an_alias_is_found_wherever_the_body_is_cut(tmp_path: Path, piece: int) -> None:
    pad = b"x" * (300_000 if piece > 7 else 30)
    sent = b'{"pad":"' + pad + b'","model":"petit","messages":[]}'

    async def in_pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(sent), piece):
            yield sent[at : at + piece]
            await asyncio.sleep(0)

    async with (
        RawNode(["m1"]) as node,
        running(tmp_path, [node], toml='[aliases]\npetit = "m1"') as gateway,
    ):
        reply = await gateway.post(CHAT, json=None, data=in_pieces(), headers=JSON)
        assert reply.status == 200, reply.text
        assert node.got[0].body == sent.replace(b'"petit"', b'"m1"')


async def test_a_whole_answer_comes_back_byte_for_byte(tmp_path: Path) -> None:
    answer = (
        b'\n {"choices": [ ],"odd":"\\u00e9\xc3\xa9\x7f" , "usage":{"prompt_tokens": 3}}\r\n'
    )
    async with (
        RawNode(["m1"], answer=saying(whole(answer))) as node,
        running(tmp_path, [node]) as gateway,
    ):
        reply = await gateway.chat("m1")
        assert reply.body == answer
        assert reply.headers["Content-Length"] == str(len(answer))
        [row] = await gateway.history()
        assert (row["prompt_tokens"], row["completion_tokens"]) == (3, None)


async def test_an_answer_that_is_no_text_comes_back_byte_for_byte(tmp_path: Path) -> None:
    sound = bytes(range(256)) * 1000 + b'data: {"error": no\n\n'
    answer = saying(whole(sound, Content_Type="audio/wav"))
    async with RawNode(["m1"], answer=answer) as node, running(tmp_path, [node]) as gateway:
        reply = await gateway.post("/v1/audio/speech", {"model": "m1", "input": "hi"})
        assert reply.body == sound
        assert reply.headers["Content-Type"] == "audio/wav"


async def test_a_stream_comes_back_byte_for_byte(tmp_path: Path) -> None:
    events = (
        b": a comment\n\n",
        b'data: {"choices":[{"delta":{"content":"\\u00e9\xc3\xa9 data: error"}}]}\n\n',
        b'data: {"a"',
        b": 1}\n",
        b"\n\n",
        b'event: odd\r\nid: 7\r\ndata: {"b": 2}\r\n\r\n',
        b'data:{"usage":{"prompt_tokens":3,"completion_tokens":4},"finish_reason":"stop"}\n\n',
        b"data: [DONE]\n\n",
    )
    async with (
        RawNode(["m1"], answer=streaming(*events)) as node,
        running(tmp_path, [node]) as gateway,
    ):
        seen = await stream(gateway.http, gateway.url)
        assert seen.body == b"".join(events)
        assert seen.complete
        [row] = await gateway.history()
        assert (row["prompt_tokens"], row["completion_tokens"]) == (3, 4)
        assert row["outcome"] == "ok"


async def test_a_stream_is_the_same_however_the_node_cuts_it(tmp_path: Path) -> None:
    said = (
        b': hi\n\ndata: {"choices":[{"delta":{"content":"error"}}]}\n\n'
        b'data: {"finish_reason":"stop"}\n\ndata: [DONE]\n\n'
    )
    node = RawNode(["m1"])
    async with node, running(tmp_path, [node]) as gateway:
        for size in (1, 2, 3, 5, 8, 21, 200):
            node.answer = streaming(*(said[at : at + size] for at in range(0, len(said), size)))
            seen = await stream(gateway.http, gateway.url)
            assert (seen.body, seen.complete) == (said, True), size
        assert {row["outcome"] for row in await gateway.history()} == {"ok"}


async def test_an_answer_through_the_gateway_is_the_one_the_node_gives(tmp_path: Path) -> None:
    kinds = {"e1": "embedding", "i1": "image"}
    async with (
        scripted(["e1", "i1"], category=kinds) as node,
        running(tmp_path, [node]) as gateway,
    ):
        for path, body in (
            ("/v1/embeddings", {"model": "e1", "input": ["a", "b"]}),
            (
                "/v1/images/generations",
                {"model": "i1", "prompt": "a", "response_format": "B64Json"},
            ),
        ):
            direct = await stream(gateway.http, node.url, body, path)
            through = await stream(gateway.http, gateway.url, body, path)
            assert through.status == 200
            assert _timeless(through.body) == _timeless(direct.body)


def _timeless(body: bytes) -> dict[str, object]:
    return json.loads(body) | {"created": 0}


async def test_headers_pass_except_those_of_the_connection(tmp_path: Path) -> None:
    answer = whole(
        b"{}",
        X_Request_Id="node-made",
        X_Own="kept",
        Set_Cookie="a=b",
        Keep_Alive="timeout=5",
        Server="mistral.rs",
        Access_Control_Allow_Origin="*",
        Strict_Transport_Security="max-age=63072000",
        Clear_Site_Data='"*"',
        Refresh="0; url=http://elsewhere.invalid/",
        Link="</x>; rel=preload",
        Connection="keep-alive, X-Hop",
        X_Hop="for the next only",
    )
    node = RawNode(["m1"], answer=saying(answer))
    async with node, running(tmp_path, [node]) as gateway:
        reply = await gateway.post(
            CHAT,
            chat_body(),
            headers={
                "Authorization": "Bearer secret",
                "x-api-key": "secret",
                "Cookie": "a=b",
                "OpenAI-Beta": "new=1",
                "x-request-id": "mine",
                "Accept-Encoding": "gzip",
            },
        )
        assert reply.headers["X-Own"] == "kept"
        assert reply.headers["x-request-id"] == "mine"
        assert reply.headers["Server"] == "cortex"
        lower = {name.lower() for name in reply.headers}
        assert not lower & {"set-cookie", "keep-alive", "access-control-allow-origin"}
        assert not lower & {"strict-transport-security", "clear-site-data", "refresh", "link"}
        assert not lower & {"x-hop", "connection"}
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        [got] = node.got
        assert got.headers["x-request-id"] == "mine"
        assert got.headers["OpenAI-Beta"] == "new=1"
        assert got.headers["Accept-Encoding"] == "identity"
        assert got.headers["Content-Type"] == "application/json"
        assert not {"authorization", "x-api-key", "cookie"} & {
            name.lower() for name in got.headers
        }


async def test_a_nodes_own_key_is_sent_and_the_clients_is_not(tmp_path: Path) -> None:
    (tmp_path / "node.key").write_text("of-the-node\n")
    async with (
        RawNode(["m1"]) as node,
        running(
            tmp_path, [node], node_toml=[f'api_key_file = "{tmp_path / "node.key"}"']
        ) as gateway,
    ):
        await gateway.post(CHAT, chat_body(), headers={"Authorization": "Bearer mine"})
        assert node.got[0].headers.getall("Authorization") == ["Bearer of-the-node"]


async def test_the_first_chunk_arrives_while_the_node_still_generates(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    first = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'

    async def answer(_: Got, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(first))
        await go_on.wait()
        writer.write(chunk(b"data: [DONE]\n\n") + LAST_CHUNK)

    async with (
        RawNode(["m1"], answer=answer) as node,
        running(tmp_path, [node]) as gateway,
        gateway.http.post(gateway.url + CHAT, json=chat_body(stream=True)) as response,
    ):
        async with asyncio.timeout(5):
            assert await response.content.readany() == first
        assert response.headers["X-Accel-Buffering"] == "no"
        assert response.headers["Content-Type"] == "text/event-stream"
        assert (await gateway.status())["in_flight"] == 1
        go_on.set()
        assert await response.read() == b"data: [DONE]\n\n"


async def test_a_redirect_of_a_node_is_not_followed(tmp_path: Path) -> None:
    elsewhere = RawNode(["m1"])
    async with elsewhere:
        moved = head("307 Temporary Redirect", Location=elsewhere.url, Content_Length="0")
        node = RawNode(["m1"], answer=saying(moved))
        async with node, running(tmp_path, [node]) as gateway:
            async with gateway.http.post(
                gateway.url + CHAT, json=chat_body(), allow_redirects=False
            ) as response:
                assert response.status == 502
            await until(lambda: len(node.got) == 1, "the request")
        assert elsewhere.connections == 0


@pytest.mark.parametrize(
    "answer",
    [
        whole(b"<script>1</script>", Content_Type="text/html; charset=utf-8"),
        whole(b"<svg/>", Content_Type="Image/SVG+xml"),
        head(
            Content_Type="text/event-stream",
            Content_Encoding="gzip",
            Transfer_Encoding="chunked",
        )
        + chunk(b"\x1f\x8b")
        + LAST_CHUNK,
        *(
            b"HTTP/1.1 %d Odd\r\nContent-Length: 2\r\n\r\n{}" % status
            for status in (203, 206, 226, 299, 304, 399)
        ),
    ],
    ids=["a page", "a picture that runs", "a compressed stream", *map(str, range(6))],
)
async def test_what_no_engine_answers_is_not_relayed(tmp_path: Path, answer: bytes) -> None:
    async with (
        RawNode(["m1"], answer=saying(answer)) as node,
        running(tmp_path, [node]) as gateway,
    ):
        reply = await gateway.chat("m1")
        assert (reply.status, reply.code) == (502, "node_protocol")


async def test_a_header_of_any_bytes_is_relayed(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nX-Odd: \xff\xe9\r\nContent-Length: 2\r\n\r\n{}"
    async with (
        RawNode(["m1"], answer=saying(answer)) as node,
        running(tmp_path, [node]) as gateway,
    ):
        assert (await gateway.chat("m1")).status == 200
