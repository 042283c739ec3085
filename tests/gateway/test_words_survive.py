"""A node's words and codes reach whoever can use them: the client, the history and the log."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import chat_body, stream
from tests.node.rawnode import Answer, RawNode, saying, streaming, whole
from tests.running import running

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
PROMPT = "the secret recipe of the house"
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'


def body(path: str, *, streamed: bool) -> dict[str, Any]:
    more = {"max_tokens": 9} if path == MESSAGES else {}
    messages = [{"role": "user", "content": PROMPT}]
    return chat_body(stream=streamed, messages=messages, **more)


def refusing(status: str, error: object, **headers: str) -> Answer:
    return saying(whole(json.dumps({"error": error}).encode(), status, **headers))


def failing_later(error: object) -> Answer:
    return streaming(WORD, b"data: " + json.dumps({"error": error}).encode() + b"\n\n")


OOM = {
    "message": "CUDA out of memory: tried to allocate 2 GiB\nat /srv/engine.rs:7",
    "code": None,
}


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("streamed", [False, True])
async def test_the_first_line_reaches_client_history_and_log(
    tmp_path: Path, path: str, streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="cortex.request")
    node = RawNode(["m1"], answer=refusing("500 Internal Server Error", OOM))
    async with node, running(tmp_path, [node]) as gateway:
        reply = await gateway.post(path, body(path, streamed=streamed))
        said = "node n0: CUDA out of memory: tried to allocate 2 GiB"
        assert (reply.status, reply.json["error"]["message"]) == (502, said)
        assert reply.headers["Retry-After"]
        [row] = await gateway.history()
        assert row["error_message"] == said
    [record] = [r for r in caplog.records if r.name == "cortex.request"]
    assert record.__dict__["fields"]["error"] == said


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_so_they_do_in_the_middle_of_a_stream(tmp_path: Path, path: str) -> None:
    node = RawNode(["m1"], answer=failing_later(OOM))
    async with node, running(tmp_path, [node]) as gateway:
        seen = await stream(gateway.http, gateway.url, body(path, streamed=True), path)
        said = "node n0: CUDA out of memory: tried to allocate 2 GiB"
        assert said.encode() in seen.body
        assert b"engine.rs" not in seen.body
        [row] = await gateway.history()
        assert row["error_message"] == said


@pytest.mark.parametrize(
    "answer",
    [
        refusing("400 Bad Request", {"message": f"cannot read: {PROMPT}"}),
        refusing("500 Internal Server Error", {"message": f"cannot read: {PROMPT}"}),
        failing_later({"message": f"cannot read: {PROMPT}"}),
    ],
    ids=["refused", "failed", "failed later"],
)
async def test_what_they_repeat_of_the_request_is_for_its_client_alone(
    tmp_path: Path, answer: Answer
) -> None:
    node = RawNode(["m1"], answer=answer)
    async with node, running(tmp_path, [node]) as gateway:
        seen = await stream(gateway.http, gateway.url, body(CHAT, streamed=True))
        assert PROMPT.encode() in seen.body
        [row] = await gateway.history()
        assert row["error_message"].endswith("cannot read: …")


async def test_of_a_large_request_only_known_words_are_written_down(tmp_path: Path) -> None:
    node = RawNode(["m1"])
    async with node, running(tmp_path, [node]) as gateway:
        for message, said in (("CUDA out of memory: x", ": out of memory"), ("odd words", "")):
            node.answer = refusing("500 Internal Server Error", {"message": message})
            reply = await gateway.chat("m1", pad="x" * 300_000)
            assert reply.json["error"]["message"] == f"node n0: {message}"
            row = (await gateway.history())[0]
            assert row["error_message"] == f"node n0: the node answered HTTP 500{said}"


@pytest.mark.parametrize("streamed", [False, True])
async def test_code_and_field_of_a_callers_mistake_survive(
    tmp_path: Path, streamed: bool
) -> None:
    error = {
        "message": "top_logprobs must be at most 20",
        "type": "invalid_request_error",
        "param": "top_logprobs",
        "code": "integer_above_max_value",
    }
    node = RawNode(["m1"], answer=refusing("400 Bad Request", error))
    async with node, running(tmp_path, [node]) as gateway:
        reply = await gateway.post(CHAT, body(CHAT, streamed=streamed))
        assert (reply.status, reply.json["error"]) == (400, error)
        assert reply.headers["x-should-retry"] == "false"
        [row] = await gateway.history()
        # Not a word of a node's: who counts errors counts ours.
        assert row["error_code"] == "invalid_request"
        # The first event of a stream is as good as a status.
        node.answer = streaming(b"data: " + json.dumps({"error": error}).encode() + b"\n\n")
        reply = await gateway.post(CHAT, body(CHAT, streamed=True))
        assert (reply.status, reply.json["error"]) == (400, error)


@pytest.mark.parametrize("odd", [5, {"a": 1}, "two words", "x" * 101, "", "<b>"])
async def test_a_code_that_is_none_is_not_passed_on(tmp_path: Path, odd: object) -> None:
    error = {"message": "n must be 1", "param": odd, "code": odd}
    node = RawNode(["m1"], answer=refusing("400 Bad Request", error))
    async with node, running(tmp_path, [node]) as gateway:
        told = (await gateway.chat("m1")).json["error"]
        assert (told["param"], told["code"]) == (None, "invalid_request")


WAITS = [("17", "17"), ("0", "1"), ("99999", "3600"), (None, "5"), ("soon", "5"), ("-1", "5")]


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_busy_node_says_when_to_come_again(
    tmp_path: Path, path: str, streamed: bool
) -> None:
    error = {"message": "12 of 12 slots are taken", "code": "slots"}
    # A model each: three refusals in a row would open its breaker.
    models = [f"m{number}" for number in range(len(WAITS))]
    node = RawNode(models)
    async with node, running(tmp_path, [node]) as gateway:
        for model, (header, told) in zip(models, WAITS, strict=True):
            headers = {} if header is None else {"Retry-After": header}
            node.answer = refusing("429 Too Many Requests", error, **headers)
            reply = await gateway.post(path, body(path, streamed=streamed) | {"model": model})
            assert (reply.status, reply.headers["Retry-After"]) == (429, told), header
            assert reply.json["error"]["message"] == "node n0: 12 of 12 slots are taken"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (saying(whole(b"", "500 Internal Server Error")), 502),
        (saying(whole(b"", "503 Service Unavailable")), 502),
        (saying(whole(b"<html>Bad gateway</html>", "502 Bad Gateway")), 502),
        (saying(b"no HTTP at all\r\n\r\n"), 502),
        (saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"), 502),
        (streaming(), 502),
        (streaming(b"data: {"), 502),
    ],
)
async def test_what_is_worth_another_try_says_when(
    tmp_path: Path, answer: Answer, status: int
) -> None:
    node = RawNode(["m1"], answer=answer)
    async with node, running(tmp_path, [node]) as gateway:
        for path in (CHAT, MESSAGES):
            reply = await gateway.post(path, body(path, streamed=True))
            assert (reply.status, reply.headers["Retry-After"]) == (status, "5")
            message = reply.json["error"]["message"]
            assert "Error" not in message
            assert "http" not in message
            assert len(message) <= 320
