"""An engine that breaks is its node's failure: on every route, by status or by event, at once or later."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import stream
from tests.gateway.test_retry import FirstFails
from tests.node.rawnode import Answer, RawNode, saying, streaming, whole
from tests.running import running

HI = [{"role": "user", "content": "hi"}]
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"

WORDS = [
    "unexpected dtype, expected: I64, got: I32",
    "DriverError(CUDA_ERROR_OUT_OF_MEMORY, out of memory)",
    "engine state lock is poisoned",
]
ROUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": HI}),
    "chat, streamed": ("/v1/chat/completions", {"messages": HI, "stream": True}),
    "messages": ("/v1/messages", {"messages": HI, "max_tokens": 5}),
    "messages, streamed": ("/v1/messages", {"messages": HI, "max_tokens": 5, "stream": True}),
    "completions": ("/v1/completions", {"prompt": "hi"}),
    "completions, streamed": ("/v1/completions", {"prompt": "hi", "stream": True}),
    "responses, streamed": ("/v1/responses", {"input": "hi", "stream": True}),
    "embeddings": ("/v1/embeddings", {"input": "hi"}),
}


def by_status(words: str) -> Answer:
    body = {"message": words, "partial_response": {"choices": []}}
    return saying(whole(json.dumps(body).encode(), "500 Internal Server Error"))


def by_event(words: str) -> Answer:
    error = {"error": {"message": words, "type": "server_error", "param": None, "code": None}}
    return streaming(b"data: " + json.dumps(error).encode() + b"\n\n", DONE)


def by_bare_event(words: str) -> Answer:
    return streaming(b"data: " + words.encode() + b"\n\n", DONE)


def later(words: str) -> Answer:
    return streaming(WORD, b"data: " + words.encode() + b"\n\n", DONE)


# What is answered whole and not gathered from a stream fails by its status alone.
STREAMS = [route for route in ROUTES if "streamed" in route] + ["chat", "messages"]


@pytest.mark.parametrize(
    ("route", "told"),
    [(route, by_status) for route in ROUTES]
    + [(route, told) for route in STREAMS for told in (by_event, by_bare_event)],
)
async def test_a_healthy_twin_answers_instead(tmp_path: Path, route: str, told: Any) -> None:
    path, asked = ROUTES[route]
    streams = bool(asked.get("stream")) or path == "/v1/messages"
    models = [f"m{number}" for number in range(len(WORDS))]
    good = streaming(WORD, END, DONE) if streams else saying(whole(b'{"choices":[]}'))
    one, other = RawNode(models), RawNode(models)
    async with one, other, running(tmp_path, [one, other]) as gateway:
        for model, words in zip(models, WORDS, strict=True):
            one.answer = other.answer = FirstFails(told(words), good)
            reply = await gateway.post(path, {"model": model, **asked})
            assert reply.status == 200, (words, reply.text)
            row = (await gateway.history())[0]
            assert (row["attempts"], row["outcome"]) == (2, "ok"), words
        # Each failed once, and once is no reason to leave it out.
        assert len(one.got) + len(other.got) == 2 * len(WORDS)


@pytest.mark.parametrize("route", [route for route in ROUTES if "streamed" in route])
async def test_after_the_first_words_the_client_is_told_and_the_node_blamed(
    tmp_path: Path, route: str
) -> None:
    path, asked = ROUTES[route]
    models = [f"m{number}" for number in range(len(WORDS))]
    node = RawNode(models)
    async with node, running(tmp_path, [node]) as gateway:
        for model, words in zip(models, WORDS, strict=True):
            node.answer = later(words)
            seen = await stream(gateway.http, gateway.url, {"model": model, **asked}, path)
            assert seen.status != 200 or not seen.complete
            assert (
                json.dumps(words.splitlines()[0])[1:-1].split("src/")[0].encode() in seen.body
            )
            view = gateway.services.fleet.model("n0", model)
            assert view.breaker.failures == 1, words
