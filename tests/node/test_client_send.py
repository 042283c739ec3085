"""Inference through the client: bytes both ways, and the connection's fate."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cortex.core.errors import NodeProtocolError, NodeUnreachableError
from cortex.node.connection import Connection
from cortex.node.http1 import MAX_FIELDS, MAX_HEAD_BYTES, MAX_PROVISIONAL, BadAnswerError
from tests.node.rawnode import (
    LAST_CHUNK,
    STREAM_HEAD,
    Answer,
    Got,
    RawNode,
    chunk,
    hang_up,
    head,
    saying,
    whole,
)
from tests.node.test_client import MODEL, Said, client_of
from tests.running import free_port, until

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("parts", [(b'{"a":1}',), (b'{"a"', b":", b"1}"), (b"",)])
async def test_a_body_is_sent_with_its_length_and_nothing_is_added(
    parts: tuple[bytes, ...],
) -> None:
    async with RawNode() as node, client_of(node.url) as client:
        for _ in range(2):
            headers = (("Content-Type", "application/json"),)
            async with client.send(
                "POST", CHAT, headers, Said(*parts), own="x-request-id: r1\r\n"
            ) as answer:
                assert (answer.status, answer.node) == (200, "n0")
                assert await answer.read_at_most(100) == b"{}"
        for got in node.got:
            assert (got.method, got.path, got.body) == ("POST", CHAT, b"".join(parts))
            assert {name.lower() for name in got.headers} == {
                "host",
                "content-type",
                "content-length",
                "x-request-id",
            }


async def test_the_nodes_key_replaces_any_other() -> None:
    async with RawNode() as node, client_of(node.url, api_key="k1") as client:
        async with client.send("GET", "/x", (("authorization", "Bearer mine"),), None):
            pass
        assert node.got[0].headers.getall("Authorization") == ["Bearer k1"]


async def test_an_answer_is_read_as_it_comes_and_compressed_ones_stay_so() -> None:
    body = b"\x1f\x8b not really gzip"
    node = RawNode(answer=saying(whole(body, Content_Encoding="gzip")))
    async with node, client_of(node.url) as client:
        async with client.send("GET", "/x", (), None) as answer:
            assert await answer.read_at_most(5) == body[:5]
        async with client.send("GET", "/x", (), None) as answer:
            assert answer.headers["content-encoding"] == "gzip"
            assert await answer.read_some() == body
            assert await answer.read_some() == b""


@pytest.mark.parametrize("said", ["5", "nonsense", "5, 5"])
async def test_an_answer_without_content_has_no_length(said: str) -> None:
    """RFC 9110, 8.6: whatever a 204 says of it."""
    lines = f"HTTP/1.1 204 No Content\r\nContent-Length: {said}\r\n\r\n"
    async with RawNode(answer=saying(lines.encode())) as node, client_of(node.url) as client:
        for _ in range(2):
            async with client.send("GET", "/x", (), None) as answer:
                assert (answer.status, answer.length) == (204, None)
                assert await answer.read_some() == b""
        assert node.connections == 1


async def test_leaving_an_answer_early_cuts_the_connection() -> None:
    async def endless(_: Got, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        while True:
            writer.write(chunk(b"data: {}\n\n"))
            await writer.drain()
            await asyncio.sleep(0.001)

    async with RawNode(answer=endless) as node, client_of(node.url) as client:
        async with client.send("POST", CHAT, (), Said(b"{}")) as answer:
            assert await answer.read_some()
            assert node.closed == 0
        await until(lambda: node.closed == 1, "the node to notice")


async def test_an_answer_read_to_its_end_gives_the_connection_back() -> None:
    node = RawNode(answer=saying(STREAM_HEAD, chunk(b"data: {}\n\n"), LAST_CHUNK))
    async with node, client_of(node.url) as client:
        for _ in range(3):
            async with client.send("POST", CHAT, (), Said(b"{}")) as answer:
                while await answer.read_some():
                    pass
        assert node.connections == 1


def _plant(end: socket.socket) -> None:
    end.send(whole(b"planted"))


def _hang_up(end: socket.socket) -> None:
    end.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("afterwards", [_plant, _hang_up])
async def test_a_kept_connection_is_not_taken_where_something_waits(
    afterwards: Callable[[socket.socket], None],
) -> None:
    """Neither an answer that nobody asked for nor an end, though only the kernel has it yet."""
    writers: list[asyncio.StreamWriter] = []

    async def answer(_: Got, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(whole(b"asked"))

    async with RawNode(answer=answer) as node, client_of(node.url) as client:
        for asked in range(1, 4):
            async with client.send("POST", CHAT, (), Said(b"{}")) as got:
                assert await got.read_at_most(100) == b"asked"
            assert node.connections == asked
            # Past the event loop, so that it has not seen this when the next request comes.
            theirs = writers[-1].get_extra_info("socket").fileno()
            with socket.socket(fileno=os.dup(theirs)) as end:
                afterwards(end)


async def test_a_greeting_is_no_answer() -> None:
    """A node that speaks first has sent no answer, and its connection is not used."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with theirs:
        transport, connection = await loop.create_connection(
            lambda: Connection(loop), sock=ours
        )
        theirs.sendall(whole(b"planted"))
        await until(lambda: not connection.usable, "the greeting to come")
        connection.send("GET", b"GET /x HTTP/1.1\r\n\r\n", None)
        with pytest.raises(BadAnswerError, match="nobody asked for"):
            await connection.wait()
        transport.abort()


async def test_a_node_that_hangs_up_instead_of_answering_is_unreachable() -> None:
    async with RawNode(answer=hang_up) as node, client_of(node.url) as client:
        with pytest.raises(NodeUnreachableError) as caught:
            async with client.send("POST", CHAT, (), Said(b"{}")):
                raise AssertionError("there is no answer")
        assert caught.value.message.startswith("n0: ")
        # A request is never sent twice by the client itself.
        assert len(node.got) == 1


@pytest.mark.parametrize(
    "start",
    [
        head(Content_Length="100") + b"abc",
        head(Transfer_Encoding="chunked") + chunk(b"abc"),
        head(Transfer_Encoding="chunked") + chunk(b"abc") + b"5\r\nab",
    ],
    ids=["short of its length", "without a last chunk", "in a chunk"],
)
@pytest.mark.parametrize("reset", [False, True])
async def test_a_body_that_breaks_off_is_an_error_and_no_end(start: bytes, reset: bool) -> None:
    async def cut(_: Got, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        await read.wait()
        if reset:
            writer.transport.abort()
        else:
            writer.close()

    read = asyncio.Event()
    async with (
        RawNode(answer=cut) as node,
        client_of(node.url) as client,
        client.send("POST", CHAT, (), Said(b"{}")) as answer,
    ):
        assert (await answer.read_some()).startswith(b"a")
        read.set()
        with pytest.raises(NodeUnreachableError, match="n0: connection lost"):
            await answer.read_at_most(1 << 20)


async def test_an_answer_that_is_not_http_is_a_protocol_error() -> None:
    node = RawNode(answer=saying(b"garbage\r\n\r\n"))
    async with node, client_of(node.url) as client:
        with pytest.raises(NodeProtocolError) as caught:
            async with client.send("GET", "/x", (), None):
                pass
        assert "http://" not in caught.value.message


@pytest.mark.parametrize(
    "framing", [b"Content-Length: many", b"Content-Length: 1\r\nContent-Length: 2"]
)
async def test_an_answer_whose_end_cannot_be_known_is_a_protocol_error(framing: bytes) -> None:
    node = RawNode(answer=saying(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\nx"))
    async with node, client_of(node.url) as client:
        with pytest.raises(NodeProtocolError, match="a bad length of the body"):
            async with client.send("POST", CHAT, (), Said(b"{}")) as answer:
                await answer.read_some()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_PROVISIONAL + 1), "provisional"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * MAX_HEAD_BYTES, "without end"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n", "without end"),
        (head("101 Switching Protocols", Upgrade="h2c", Connection="Upgrade"), "protocol"),
        (head(Content_Length="2", content_length="3") + b"{} ", "length"),
        (head(Content_Length="2", Transfer_Encoding="chunked") + b"{}", "framing"),
        (head(**{f"A{number}": "b" for number in range(MAX_FIELDS + 1)}), "header fields"),
    ],
    ids=["1xx", "endless", "too long", "upgrade", "two lengths", "length and chunks", "fields"],
)
@pytest.mark.parametrize("whole_at_once", [True, False])
async def test_heads_have_an_end(answer: bytes, why: str, whole_at_once: bool) -> None:
    size = len(answer) if whole_at_once else 1000
    parts = [answer[at : at + size] for at in range(0, len(answer), size)]
    async with RawNode(answer=saying(*parts)) as node, client_of(node.url) as client:
        with pytest.raises(NodeProtocolError, match=why):
            async with asyncio.timeout(5), client.send("GET", "/x", (), None):
                pass


async def test_some_provisional_answers_are_read_over() -> None:
    said = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * MAX_PROVISIONAL + whole(b"{}")
    async with RawNode(answer=saying(said)) as node, client_of(node.url) as client:
        for _ in range(2):
            async with client.send("GET", "/x", (), None) as answer:
                assert await answer.read_at_most(100) == b"{}"


async def test_redirects_and_cookies_are_not_followed() -> None:
    moved = head("302 Found", Location="/y", Set_Cookie="a=b; Path=/", Content_Length="0")
    node = RawNode(answer=saying(moved), port=free_port())
    # By name: of a mere number no client would keep cookies anyway.
    async with node, client_of(f"http://localhost:{node.port}") as client:
        for _ in range(2):
            async with client.send("POST", "/x", (), Said(b"{}")) as answer:
                assert answer.status == 302
        assert [got.path for got in node.got] == ["/x", "/x"]
        assert "Cookie" not in node.got[1].headers


async def test_a_slow_reader_holds_the_node_back() -> None:
    sent = 0

    async def flood(_: Got, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(head(Content_Length=str(1 << 30)))
        while True:
            writer.write(bytes(1 << 16))
            await writer.drain()
            sent += 1 << 16

    async with (
        RawNode(answer=flood) as node,
        client_of(node.url) as client,
        client.send("GET", "/x", (), None) as answer,
    ):
        held = -1
        while held != sent:
            held = sent
            await asyncio.sleep(0.05)
        assert 0 < held < 32 << 20
        # What is read comes in pieces of about the buffer's size.
        assert 0 < len(await answer.read_some()) <= 1 << 20


async def test_a_body_that_fails_on_its_way_is_not_taken_for_the_nodes_failure() -> None:
    class Broken(Said):
        async def _iterate(self) -> AsyncIterator[bytes]:
            yield b"{"
            raise KeyError("a bug")

    async with RawNode() as node, client_of(node.url) as client:
        with pytest.raises((NodeUnreachableError, KeyError)):
            async with client.send("POST", CHAT, (), Broken(b"{", b"}")):
                pass
        assert node.got == []


def closing_when_reused(requests: list[str], *, after: bytes = b"") -> Answer:
    """Answers the first request of each connection, and hangs up at the next."""
    seen: dict[asyncio.StreamWriter, int] = {}

    async def answer(got: Got, writer: asyncio.StreamWriter) -> None:
        seen[writer] = seen.get(writer, 0) + 1
        requests.append(got.path)
        if seen[writer] == 1:
            writer.write(whole(b"{}"))
        else:
            writer.write(after)
            await writer.drain()
            writer.transport.abort()

    return answer


async def test_a_request_on_a_stale_connection_is_sent_again_on_a_new_one() -> None:
    requests: list[str] = []
    async with (
        RawNode(answer=closing_when_reused(requests)) as node,
        client_of(node.url) as client,
    ):
        for _ in range(5):
            async with client.send("POST", CHAT, (), Said(b"a", b"b")) as answer:
                assert await answer.read_at_most(10) == b"{}"
        assert {got.body for got in node.got} == {b"ab"}
        # The first, and each other twice: on the connection kept, and on a new one.
        assert len(requests) == 9


async def test_a_new_connection_that_closes_is_the_nodes_failure() -> None:
    async with RawNode(answer=hang_up) as node, client_of(node.url) as client:
        with pytest.raises(NodeUnreachableError):
            async with client.send("POST", CHAT, (), Said(b"a")):
                pass
        assert len(node.got) == 1


@pytest.mark.parametrize(
    ("after", "stale_s"), [(b"HTTP/1.1 2", 5.0), (b"", 0.0)], ids=["in part", "too late"]
)
async def test_what_may_have_been_read_is_not_sent_again(
    after: bytes, stale_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was answered in part; or its connection closed later than a node's own time-out would."""
    monkeypatch.setattr("cortex.node.upstream.STALE_S", stale_s)
    requests: list[str] = []
    node = RawNode(answer=closing_when_reused(requests, after=after))
    async with node, client_of(node.url) as client:
        async with client.send("POST", CHAT, (), Said(b"a")) as answer:
            await answer.read_at_most(10)
        with pytest.raises(NodeUnreachableError):
            async with client.send("POST", CHAT, (), Said(b"a")):
                pass
        assert len(requests) == 2


async def test_a_load_and_an_unload_are_asked_for_once() -> None:
    requests: list[str] = []
    answer = closing_when_reused(requests)
    paths = ("/v1/models/reload", "/v1/models/unload")
    async with (
        RawNode(answer=answer, routes=dict.fromkeys(paths, hang_up)) as node,
        client_of(node.url) as client,
    ):
        for ask, path in zip((client.reload, client.unload), paths, strict=True):
            async with client.send("POST", CHAT, (), Said(b"a")) as first:
                await first.read_at_most(10)
            with pytest.raises(NodeUnreachableError):
                await ask(MODEL)
            assert [got.path for got in node.got].count(path) == 1


async def test_a_node_may_listen_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(whole(b"here"))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        gone.set()

    gone = asyncio.Event()
    async with client_of(f"unix:{path}") as client:
        with pytest.raises(NodeUnreachableError, match="No such file"):
            async with client.send("GET", "/x", (), None):
                pass
        async with await asyncio.start_unix_server(answer, path):
            for _ in range(2):
                async with client.send("GET", "/x", (), None) as got:
                    assert await got.read_at_most(10) == b"here"
            assert heads == [b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n"] * 2
            await client.close()
            async with asyncio.timeout(5):
                await gone.wait()


async def test_a_node_may_have_an_address_of_ipv6() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(whole(head.split(b"\r\n")[1]))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        gone.set()

    gone = asyncio.Event()
    try:
        server = await asyncio.start_server(answer, "::1", 0)
    except OSError as exc:
        pytest.skip(f"no IPv6 here: {exc}")
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with (
            client_of(f"http://[::1]:{port}") as client,
            client.send("GET", "/x", (), None) as got,
        ):
            assert await got.read_at_most(100) == f"Host: [::1]:{port}".encode()
        async with asyncio.timeout(5):
            await gone.wait()
