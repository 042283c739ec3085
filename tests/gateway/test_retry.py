"""Until its first byte a node may be given up for another; the client never notices."""

import asyncio
import json
from io import BytesIO
from pathlib import Path

import pytest

from tests.gateway.conftest import chat_body, scripted, stream
from tests.node.rawnode import Answer, Got, RawNode, hang_up, saying, silence, streaming, whole
from tests.running import Running, running, until

CHAT = "/v1/chat/completions"
HEAVY = {"message": 'DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, "illegal address")'}
GOOD = streaming(b'data: {"choices":[]}\n\n', b"data: [DONE]\n\n")
OOM = b'{"message":"CUDA out of memory"}'
STALE = b'{"message":"Requested model \'m1\' is not available"}'


async def head_only(got: Got, writer: asyncio.StreamWriter) -> None:
    """A promise of a stream, and nothing of it."""
    await saying(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")(got, writer)
    writer.close()


class FirstFails:
    """Shared by several nodes: the first that is asked fails, the others succeed."""

    def __init__(self, failure: Answer, good: Answer = GOOD) -> None:
        self._first: object = None
        self._failure, self._good = failure, good

    async def __call__(self, got: Got, writer: asyncio.StreamWriter) -> None:
        node = writer.get_extra_info("sockname")
        self._first = self._first or node
        await (self._failure if node == self._first else self._good)(got, writer)


@pytest.mark.parametrize(
    "failure",
    [
        hang_up,
        head_only,
        silence,
        saying(b"HTTP/1.1 666\r\n\r\n"),
        saying(whole(OOM, "500 Internal Server Error")),
        saying(whole(b"busy", "429 Too Many Requests")),
        saying(whole(b"", "401 Unauthorized")),
        saying(whole(STALE, "500 Internal Server Error")),
        streaming(b'data: {"error":{"message":"CUDA out of memory"}}\n\n', b"data: [DONE]\n\n"),
    ],
    ids=[
        "reset", "head only", "silent", "odd status", "out of memory", "busy", "no key",
        "not held", "error in the first event",
    ],
)  # fmt: skip
async def test_another_node_gets_the_same_body(tmp_path: Path, failure: Answer) -> None:
    answer = FirstFails(failure)
    sent = b'{ "model":"m1", "stream":true , "messages":[{"role":"user","content":"\xc3\xa9"}]}'
    async with (
        RawNode(["m1"], answer=answer) as one,
        RawNode(["m1"], answer=answer) as other,
        running(tmp_path, [one, other], toml="[limits]\nidle_timeout_s = 0.3") as gateway,
    ):
        reply = await gateway.post(CHAT, json=None, data=sent)
        assert (reply.status, reply.body[-14:]) == (200, b"data: [DONE]\n\n")
        assert {got.body for got in (*one.got, *other.got)} == {sent}
        # The connection of the polls was closed: that alone says nothing yet of the node.
        asked = 2 if failure is hang_up else 1
        assert [len(one.got), len(other.got)] == [asked, 1]
        [row] = await gateway.history()
        assert (row["outcome"], row["attempts"], row["error_code"]) == ("ok", 2, None)
        assert reply.headers["x-cortex-node"] == row["node"]
        assert f'cortex_retries_total{{node="{row["node"]}"}} 1.0' in await gateway.metrics()


async def test_a_large_body_is_sent_again_whole(tmp_path: Path) -> None:
    answer = FirstFails(hang_up, saying(whole(b"{}")))
    sent = json.dumps(chat_body(pad="x" * 3_000_000)).encode()
    async with (
        RawNode(["m1"], answer=answer) as one,
        RawNode(["m1"], answer=answer) as other,
        running(tmp_path, [one, other]) as gateway,
    ):
        assert (await gateway.post(CHAT, json=None, data=BytesIO(sent))).status == 200
        assert one.got[0].body == sent
        assert other.got[0].body == sent


async def test_a_node_that_refuses_connections_is_left_out_until_it_answers_a_poll(
    tmp_path: Path,
) -> None:
    async with (
        scripted(["m1"]) as one,
        scripted(["m1"]) as other,
        running(tmp_path, [one, other], toml="[polling]\ninterval_s = 0.4") as gateway,
    ):
        await one.set(refuse=True)
        one._sever()
        for _ in range(6):
            assert (await gateway.chat("m1")).headers["x-cortex-node"] == "n1"
        assert (await gateway.status())["nodes"][0]["health"] in {"suspect", "down"}
        await one.set(refuse=False)

        async def up() -> bool:
            return bool((await gateway.status())["nodes"][0]["health"] == "up")

        await until(up, "the node to come back")
        rows = await gateway.history()
        assert [row["outcome"] for row in rows] == ["ok"] * 6
        assert max(row["attempts"] for row in rows) <= 2


async def test_the_first_failure_is_the_answer_when_every_node_fails(tmp_path: Path) -> None:
    oom = saying(whole(OOM, "500 Internal Server Error"))
    answer = FirstFails(oom, hang_up)
    async with (
        RawNode(["m1"], answer=answer) as one,
        RawNode(["m1"], answer=answer) as other,
        running(tmp_path, [one, other]) as gateway,
    ):
        reply = await gateway.chat("m1")
        assert (reply.status, reply.code) == (502, "node_error")
        assert "CUDA out of memory" in reply.json["error"]["message"]
        [row] = await gateway.history()
        assert (row["outcome"], row["attempts"], row["status"]) == ("error", 2, 502)


async def test_three_nodes_are_tried_and_no_more(tmp_path: Path) -> None:
    answer = FirstFails(saying(whole(OOM, "500 Internal Server Error")), hang_up)
    nodes = [RawNode(["m1"], answer=answer) for _ in range(4)]
    async with (
        nodes[0],
        nodes[1],
        nodes[2],
        nodes[3],
        running(tmp_path, nodes) as gateway,
    ):
        assert (await gateway.chat("m1")).code == "node_error"
        assert sorted(len(node.got) for node in nodes) == [0, 1, 2, 2]


async def test_nothing_is_retried_after_the_first_byte(tmp_path: Path) -> None:
    async with (
        scripted(["m1"], drop_after_chunks=1) as one,
        scripted(["m1"], drop_after_chunks=1) as other,
        running(tmp_path, [one, other]) as gateway,
    ):
        assert not (await stream(gateway.http, gateway.url)).complete
        assert one.stats.started + other.stats.started == 1


async def failing(gateway: Running) -> tuple[int, str]:
    reply = await gateway.chat("m1")
    return reply.status, reply.code


async def test_a_node_that_keeps_failing_is_left_alone_for_a_while(tmp_path: Path) -> None:
    error = {"status": 500, "message": HEAVY["message"], "times": None}
    async with (
        scripted(["m1", "m2"], http_error=error) as node,
        running(tmp_path, [node]) as gateway,
    ):
        assert [await failing(gateway) for _ in range(3)] == [(502, "node_error")] * 3
        reply = await gateway.chat("m1")
        assert (reply.status, reply.code) == (503, "model_failing")
        assert 1 <= int(reply.headers["Retry-After"]) <= 6
        assert node.stats.injected == 3
        # The breaker is of the pair: the node's other models are not concerned.
        await node.set(http_error=None)
        assert (await gateway.chat("m2")).status == 200


@pytest.mark.parametrize("piece", [b"", b'data: {"choices":[{"index":0,"delta":{"content":"lo'])
async def test_a_translated_answer_has_nothing_of_the_node_that_failed(
    tmp_path: Path, piece: bytes
) -> None:
    said = [
        b'data: {"choices":[{"index":0,"delta":{"content":"hel"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":"stop"}]}\n\n',
        b"data: [DONE]\n\n",
    ]
    answer = FirstFails(streaming(said[0], *filter(None, [piece])), streaming(*said))
    body = chat_body(max_tokens=5)
    async with (
        RawNode(["m1"], answer=answer) as first,
        RawNode(["m1"], answer=answer) as second,
        running(tmp_path, [first, second]) as gateway,
    ):
        reply = await gateway.post("/v1/messages", body)
        assert reply.status == 200, reply.text
        assert [block["text"] for block in reply.json["content"]] == ["hello"]
        assert len(first.got) + len(second.got) == 2
