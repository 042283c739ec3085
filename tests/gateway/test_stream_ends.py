"""Where an answer ends: at its terminator, whatever the node's body does, and nowhere before."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import Streamed, chat_body, stream
from tests.node.rawnode import LAST_CHUNK, STREAM_HEAD, Answer, Got, RawNode, chunk, streaming
from tests.running import Running, running, until

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
DONE = b"data: [DONE]\n\n"


def said(text: str = "a", finish: str | None = None, index: int = 0) -> bytes:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": 3, "completion_tokens": 4} if finish else None
    return b"data: " + json.dumps({"choices": [choice], "usage": usage}).encode() + b"\n\n"


def named(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


MESSAGE = (
    named("message_start", message={"usage": {"input_tokens": 3}})
    + named("content_block_delta", index=0, delta={"type": "text_delta", "text": "a"})
    + named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 4})
    + named("message_stop")
)

ROUTES = {
    "chat": ("openai", CHAT, said() + said("", "stop") + DONE),
    "messages": ("openai", MESSAGES, said() + said("", "stop") + DONE),
    "chat of an Anthropic node": ("anthropic", CHAT, MESSAGE),
    "messages of an Anthropic node": ("anthropic", MESSAGES, MESSAGE),
}


def body(path: str, *, streamed: bool) -> dict[str, Any]:
    more = {"max_tokens": 9} if path == MESSAGES else {}
    return chat_body(stream=streamed, **more)


def staying_open(events: bytes, gone: asyncio.Event) -> Answer:
    """The body goes on, without a byte, until the other side hangs up."""

    async def answer(got: Got, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(events))
        await got.rest.read()
        gone.set()

    return answer


# A whole answer that is passed on comes in one piece, which HTTP bounds.
GATHERED = ["messages", "chat of an Anthropic node"]


@pytest.mark.parametrize(
    ("route", "streamed"),
    [(route, True) for route in ROUTES] + [(route, False) for route in GATHERED],
)
async def test_an_answer_ends_with_its_terminator(
    tmp_path: Path, route: str, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cortex.node.connection.LINGER_S", 0.1)
    dialect, path, events = ROUTES[route]
    gone = asyncio.Event()
    node = RawNode(["m1"], answer=staying_open(events, gone))
    own = [f'dialect = "{dialect}"']
    async with node, running(tmp_path, [node], node_toml=own) as gateway:
        async with asyncio.timeout(5):
            seen = await stream(gateway.http, gateway.url, body(path, streamed=streamed), path)
        assert (seen.status, seen.complete) == (200, True), seen.body
        assert b"error" not in seen.body
        [row] = await gateway.history()
        assert (row["outcome"], row["completion_tokens"]) == ("ok", 4)
        # Neither a lease nor a connection is left behind.
        await until(lambda: not gateway.services.fleet.node("n0").in_flight, "the lease")
        async with asyncio.timeout(5):
            await gone.wait()


async def test_a_body_that_ends_a_moment_late_keeps_its_connection(tmp_path: Path) -> None:
    """As it nearly always does: the terminator and the last chunk are two writes of an engine."""
    seen = asyncio.Event()

    async def answer(_: Got, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(said("a", "stop") + DONE))
        await seen.wait()
        seen.clear()
        writer.write(LAST_CHUNK)

    node = RawNode(["m1"], answer=answer)
    toml = "[polling]\ninterval_s = 60"
    async with node, running(tmp_path, [node], toml=toml) as gateway:
        pool = gateway.services.nodes["n0"]._pool
        for _ in range(4):
            assert (await stream(gateway.http, gateway.url)).complete
            seen.set()
            await until(lambda: not pool._busy, "the connection back")
            assert len(pool._idle) == 1
        assert node.connections == 1


async def ended(tmp_path: Path, *events: bytes, path: str = CHAT, **more: Any) -> Streamed:
    node = RawNode(["m1"], answer=streaming(*events))
    async with node, running(tmp_path, [node]) as gateway:
        return await stream(gateway.http, gateway.url, body(path, streamed=True) | more, path)


CUT: dict[str, tuple[str, dict[str, Any], list[bytes]]] = {
    "one of two choices": (CHAT, {"n": 2}, [said("a", "stop"), said("b", index=1)]),
    "the second choice never began": (CHAT, {"n": 2}, [said("a", "stop")]),
    "an empty reason": (CHAT, {}, [said("a", "")]),
    "half an event": (CHAT, {}, [said(), b'data: {"choices": [{"delta":']),
    "nothing after half of one": (CHAT, {}, [b'data: {"choices": [{"delta":']),
    "given up": (MESSAGES, {}, [said(), said("", "error"), DONE]),
    "canceled": (MESSAGES, {}, [said("a", "canceled"), DONE]),
    "no reason": (MESSAGES, {}, [said()]),
}


@pytest.mark.parametrize("kind", CUT)
async def test_a_cut_answer_never_looks_complete(tmp_path: Path, kind: str) -> None:
    path, more, events = CUT[kind]
    seen = await ended(tmp_path, *events, path=path, **more)
    assert seen.status != 200 or not seen.complete
    assert b"message_stop" not in seen.body
    assert b"[DONE]" not in seen.body
    last = seen.events[-1].split(b"data: ")[-1]
    assert json.loads(last)["error"]["message"]


LEGAL: dict[str, list[bytes]] = {
    "empty data": [said(), b"data:\n\n", b"data: \n\n", b"data\n\n"],
    "an error that is null": [
        b'data: {"error": null, "choices": [{"index":0,"delta":{"content":"a"}}]}\n\n'
    ],
    "comments first": [b": hi\n\n", b":\n\n", said()],
    "a byte order mark": [b"\xef\xbb\xbf" + said()],
    "carriage returns": [said().replace(b"\n", b"\r\n")],
    "data on two lines": [
        b'data: {"choices":\ndata: [{"index":0,"delta":{"content":"a"}}]}\n\n'
    ],
    "other fields": [b"id: 1\nretry: 5\n" + said()],
}


@pytest.mark.parametrize("kind", LEGAL)
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_what_the_standard_allows_is_understood(
    tmp_path: Path, kind: str, path: str
) -> None:
    seen = await ended(tmp_path, *LEGAL[kind], said("", "stop"), DONE, path=path)
    assert (seen.status, seen.complete) == (200, True), seen.body
    assert b'"a"' in seen.body
    if path == CHAT:
        assert seen.body == b"".join(LEGAL[kind]) + said("", "stop") + DONE


async def test_a_long_event_that_breaks_off_does_not_spoil_the_error(tmp_path: Path) -> None:
    seen = await ended(tmp_path, said(), b'data: {"b64": "' + b"x" * 100_000)
    assert not seen.complete
    assert json.loads(seen.events[-1].removeprefix(b"data: "))["error"]["code"]


POISONED = b'data: {"error":{"message":"engine state lock is poisoned"}}\n\n'


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_a_node_that_fails_in_mid_stream_again_and_again_is_left_alone(
    tmp_path: Path, path: str
) -> None:
    node = RawNode(["m1"], answer=streaming(said(), POISONED))
    async with node, running(tmp_path, [node]) as gateway:
        for _ in range(3):
            seen = await stream(gateway.http, gateway.url, body(path, streamed=True), path)
            # 502 where the error came with the first words, and nothing had been passed on.
            assert (seen.status, seen.complete) in {(200, False), (502, True)}
        refused = await gateway.post(path, body(path, streamed=True))
        assert refused.status == 503
        assert len(node.got) == 3


async def test_a_stale_node_in_mid_stream_is_believed_and_not_held_to_have_failed(
    tmp_path: Path,
) -> None:
    gone = b"data: Requested model 'm1' is not available. Available models: m2\n\n"
    node = RawNode(["m1"], answer=streaming(said(), gone))
    async with node, running(tmp_path, [node]) as gateway:
        for _ in range(4):
            assert not (await stream(gateway.http, gateway.url)).complete
            await until(lambda: _loaded(gateway), "the next poll")
        view = gateway.services.fleet.model("n0", "m1")
        assert view.breaker.failures == 0


def _loaded(gateway: Running) -> bool:
    view = gateway.services.fleet.model("n0", "m1")
    return view is not None and view.status.value == "loaded"
