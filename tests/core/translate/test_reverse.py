"""Chat clients of an Anthropic node: requests one way, streams the other, and there and back again."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.errors import RequestError
from cortex.core.translate.reading import ComplaintError, TruncatedError
from cortex.core.translate.request import read_messages_request
from cortex.core.translate.stream import MessageStream, encoded
from cortex.core.translate.to_chat import ChatStream, WholeChat
from cortex.core.translate.to_messages import messages_body

DONE = b"data: [DONE]\n\n"


def body(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return messages_body({"model": "m", "messages": list(messages)} | fields)


def anthropic_bytes(deltas: list[dict[str, Any]], finish: str) -> bytes:
    """What an Anthropic node would say, made by the translation the other way round."""
    stream = MessageStream("msg_1", "m")
    events = stream.start()
    for delta in [*deltas, None]:
        choice = {"index": 0, "delta": delta or {}, "finish_reason": None if delta else finish}
        chunk = {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
        events += stream.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    return encoded(events + stream.feed(DONE))


def run(data: bytes, sizes: list[int] | None = None) -> tuple[list[dict[str, Any]], ChatStream]:
    chat = ChatStream("chatcmpl-1", "m", created_s=5, with_usage=True)
    chunks: list[dict[str, Any]] = []
    at = 0
    for size in [*(sizes or []), len(data)]:
        chunks += chat.feed(data[at : at + size])
        at += size
    return chunks + chat.end(), chat


call = st.builds(
    lambda name, given: {"name": name, "arguments": json.dumps(given)},
    st.sampled_from(["f", "g"]),
    st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=2),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text(min_size=1, max_size=6), max_size=4),
    st.lists(st.text(min_size=1, max_size=6), max_size=2),
    st.lists(call, max_size=3),
    st.lists(st.integers(0, 30), max_size=30),
)
def test_there_and_back_again_keeps_the_meaning(
    texts: list[str], thoughts: list[str], calls: list[dict[str, str]], sizes: list[int]
) -> None:
    deltas: list[dict[str, Any]] = [{"reasoning_content": thought} for thought in thoughts]
    deltas += [{"content": text} for text in texts]
    deltas += [
        {"tool_calls": [{"index": n, "id": f"c{n}", "function": made}]}
        for n, made in enumerate(calls)
    ]
    data = anthropic_bytes(deltas, "tool_calls" if calls else "stop")
    chunks, chat = run(data)
    assert run(data, sizes)[0] == chunks
    whole = WholeChat()
    for chunk in chunks:
        whole.take(chunk)
    completion = whole.completion(chat.usage)
    choice = completion["choices"][0]
    assert (choice["message"]["content"] or "") == "".join(texts)
    assert choice["message"].get("reasoning_content", "") == "".join(thoughts)
    assert choice["finish_reason"] == ("tool_calls" if calls else "stop")
    back = [
        (made["id"], made["function"]["name"], json.loads(made["function"]["arguments"]))
        for made in choice["message"].get("tool_calls", [])
    ]
    assert back == [
        (f"c{n}", made["name"], json.loads(made["arguments"])) for n, made in enumerate(calls)
    ]
    assert completion["usage"]["prompt_tokens"] == 7
    assert completion["usage"]["completion_tokens"] == 3


def test_turns_alternate_and_results_come_first() -> None:
    calls = [{"id": "a:1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    made = body(
        {"role": "developer", "content": "rules"},
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a:1", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "and?"}]},
        {"role": "system", "content": "be brief"},
    )
    assert made["system"] == "rules"
    assert [turn["role"] for turn in made["messages"]] == ["user", "assistant", "user"]
    assert made["messages"][1]["content"] == [
        {"type": "tool_use", "id": "a_1", "name": "f", "input": {}}
    ]
    first, *rest = made["messages"][2]["content"]
    assert (first["type"], first["tool_use_id"]) == ("tool_result", "a_1")
    assert [block["text"] for block in rest] == ["and?", "be brief"]
    # What we make, we understand.
    again = read_messages_request(made | {"stream": False})
    assert [m["role"] for m in again.chat["messages"]] == [
        "system", "user", "assistant", "tool", "user",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({}, {"max_tokens": 4096}),
        ({"max_completion_tokens": 9, "max_tokens": 5}, {"max_tokens": 9}),
        ({"temperature": 1.7, "top_p": 0.5}, {"temperature": 1}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"stop": "x"}, {"stop_sequences": ["x"]}),
        ({"stop": [" ", "y"]}, {"stop_sequences": ["y"]}),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"reasoning_effort": "minimal"}, {"output_config": {"effort": "low"}}),
        ({"user": "u"}, {"metadata": {"user_id": "u"}}),
        ({"seed": 1, "logprobs": True, "frequency_penalty": 1}, {}),
    ],
)
def test_fields(fields: dict[str, Any], sent: dict[str, Any]) -> None:
    made = body({"role": "user", "content": "x"}, **fields)
    assert {key: made[key] for key in sent} == sent
    known = {"model", "messages", "max_tokens", "stream"}
    assert set(made) - known == set(sent) - known


def test_images_become_sources() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
        {"type": "image_url", "image_url": {"url": "https://a/b.png"}},
    ]
    blocks = body({"role": "user", "content": parts})["messages"][0]["content"]
    assert [block["source"] for block in blocks] == [
        {"type": "base64", "media_type": "image/png", "data": "QUJD"},
        {"type": "url", "url": "https://a/b.png"},
    ]


@pytest.mark.parametrize(
    ("message", "fields", "where"),
    [
        ({"role": "user", "content": [{"type": "input_audio"}]}, {}, "messages.0.content.0"),
        ({"role": "boss", "content": "x"}, {}, "messages.0.role"),
        ({"role": "tool", "content": "x"}, {}, "messages.0.tool_call_id"),
        ({"role": "user", "content": "x"}, {"n": 2}, "n"),
        (
            {"role": "user", "content": "x"},
            {"tools": [{"type": "function"}]},
            "tools.0.function",
        ),
    ],
)
def test_mistakes_name_their_place(
    message: dict[str, Any], fields: dict[str, Any], where: str
) -> None:
    with pytest.raises(RequestError) as refused:
        body(message, **fields)
    assert refused.value.param in {where, f"{where}.function"}


def test_an_end_that_was_not_told_and_an_error_are_told_apart() -> None:
    data = anthropic_bytes([{"content": "a"}], "stop")
    with pytest.raises(TruncatedError):
        run(data[: data.index(b"event: message_delta")])
    error = b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"boom"}}\n\n'
    with pytest.raises(ComplaintError, match="boom"):
        run(data[: data.index(b"event: message_delta")] + error)


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"max_completion_tokens": None, "max_tokens": 50}, 50),
        ({"max_completion_tokens": 60, "max_tokens": 50}, 60),
        ({"max_completion_tokens": 60, "max_tokens": None}, 60),
        ({"max_completion_tokens": None, "max_tokens": None}, 4096),
        ({"max_tokens": 0}, 0),
        ({}, 4096),
    ],
)
def test_null_is_no_limit(fields: dict[str, Any], limit: int) -> None:
    assert body({"role": "user", "content": "x"}, **fields)["max_tokens"] == limit


@pytest.mark.parametrize(
    ("url", "media_type"),
    [
        ("data:image/png;base64,QUJD", "image/png"),
        ("data:image/jpg;base64,QUJD", "image/jpeg"),
        ("data:image/jpg;charset=utf-8;base64,QUJD", "image/jpeg"),
        ("data:Image/JPEG;name=a.jpg;BASE64,QUJD", "image/jpeg"),
        ("DATA:image/x-png;base64,QUJD", "image/png"),
    ],
)
def test_a_data_url_is_a_source_of_a_proper_type(url: str, media_type: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    [block] = body({"role": "user", "content": [part]})["messages"][0]["content"]
    assert block["source"] == {"type": "base64", "media_type": media_type, "data": "QUJD"}


@pytest.mark.parametrize("url", ["https://x/a.png", "data:image/png,QUJD", "data:;base64,QUJD"])
def test_any_other_url_is_one(url: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    [block] = body({"role": "user", "content": [part]})["messages"][0]["content"]
    assert block["source"] == {"type": "url", "url": url}


def named(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


BEGIN = named("message_start", message={"usage": {"input_tokens": 1}})
TEXT = named("content_block_delta", index=0, delta={"type": "text_delta", "text": "a"})
STOP = named("message_stop")


@pytest.mark.parametrize(
    ("end", "finish"),
    [
        (named("message_delta", delta={"stop_reason": "max_tokens"}) + STOP, "length"),
        (named("message_delta", delta={"stop_reason": None}) + STOP, "stop"),
        (named("message_delta", usage={"output_tokens": 3}) + STOP, "stop"),
        (STOP, "stop"),
        (STOP.rstrip(b"\n"), "stop"),
        (b"data:\n\n: hi\n\n" + named("ping") + STOP, "stop"),
        (STOP + named("error", error={"message": "too late"}), "stop"),
    ],
)
def test_a_message_has_one_reason_to_end(end: bytes, finish: str) -> None:
    chunks, _ = run(BEGIN + TEXT + end)
    reasons = [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]]
    assert [reason for reason in reasons if reason] == [finish]


@pytest.mark.parametrize(
    "data",
    [
        BEGIN + TEXT,
        BEGIN + TEXT + named("message_delta", delta={"stop_reason": "end_turn"}),
        BEGIN + TEXT + named("message_delta", delta={"stop_reason": "error"}) + STOP,
        BEGIN + TEXT + STOP[:-20],
    ],
)
def test_a_message_that_was_cut_is_never_whole(data: bytes) -> None:
    with pytest.raises(TruncatedError):
        run(data)


def test_only_signs_of_life_are_not_heard() -> None:
    _, chat = run(BEGIN + TEXT + named("ping") + b": hi\n\ndata:\n\n" + STOP)
    assert chat.heard == 3
