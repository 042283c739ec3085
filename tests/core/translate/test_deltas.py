"""Texts taken out of a stream by its shape are those that a reader of whole events finds."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.translate.deltas import Deltas
from cortex.core.translate.gather import ChatGather
from cortex.core.translate.reading import ComplaintError, TruncatedError
from cortex.core.translate.stream import MessageStream

HEAD = {"id": "7", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def event(
    text: str | None,
    *,
    ascii_only: bool = False,
    delta: dict[str, Any] | None = None,
    **more: Any,
) -> bytes:
    said = {"content": text, "role": "assistant"} | (delta or {})
    choice = {"finish_reason": more.pop("finish", None), "index": 0, "delta": said}
    chunk = HEAD | {"choices": [choice | more.pop("choice", {})]} | more
    separators = (",", ":")
    return b"data: %b\n\n" % json.dumps(
        chunk, ensure_ascii=ascii_only, separators=separators
    ).encode("utf-8", "surrogatepass")


def known(sample: bytes | None = None) -> Deltas:
    deltas = Deltas()
    for text in ("a", "b"):
        deltas.learn(sample or event(text))
    return deltas


def test_two_events_that_differ_in_their_text_alone_show_the_shape() -> None:
    deltas = Deltas()
    for text in ("a", "b"):
        assert deltas.texts(event("c")) is None
        deltas.learn(event(text))
    assert deltas.texts(event("c")) == ["c"]
    assert deltas.texts(event("") + event('q"\\\n\u00e9') + event("d")) == [
        "",
        'q"\\\n\u00e9',
        "d",
    ]
    deltas = Deltas()
    deltas.learn(event("a") + event("b"))
    assert deltas.texts(event("c")) == ["c"]


@pytest.mark.parametrize(
    "other",
    [
        event("a", finish="stop"),
        event("a", usage={"completion_tokens": 1}),
        event("a", created=2),
        event("a", delta={"reasoning_content": "hm"}),
        event("a", delta={"tool_calls": [{"index": 0}]}),
        event("a", choice={"index": 1}),
        event("a", choice={"logprobs": {"content": []}}),
        event("a", error="no"),
        event("a")[:-1],
        event("a") + b": a comment\n\n",
        b"data: [DONE]\n\n",
        b"\xff",
        b"",
    ],
)
def test_what_is_no_such_event_is_left_to_others_and_ends_what_was_known(other: bytes) -> None:
    deltas = known()
    for data in (other, event("c") + other, other + event("c")):
        if data != event("c"):
            assert deltas.texts(data) is None
    deltas.learn(other)
    assert deltas.texts(event("c")) is None


def test_one_quote_is_not_two() -> None:
    whole = event("")
    short = whole.replace(b'"content":""', b'"content":"')
    deltas = known()
    assert deltas.texts(whole) == [""]
    assert deltas.texts(short) is None
    assert deltas.texts(event("c") + short) is None


@pytest.mark.parametrize(
    "sample",
    [
        event("a", finish="stop"),
        event("a", usage={"completion_tokens": 1}),
        event("a", delta={"reasoning_content": "hm"}),
        event("a", choice={"index": 1}),
        event("a", type="x"),
        b'data: {"x":{"delta":{"content":"a"}},"choices":[{"delta":{"content":"b"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"a"}},{"delta":{"content":"b"}}]}\n\n',
        b'event: x\ndata: {"choices":[{"delta":{"content":"a"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"a"}}]\n\n',
    ],
)
def test_an_event_with_more_to_tell_is_no_sample(sample: bytes) -> None:
    deltas = known(sample)
    assert deltas.texts(sample) is None


@pytest.mark.parametrize(
    "inside", [b"\\ud83d", b"\\uDE00", b"\xff", b"a\x00b", b"\\x", b"\\", b'a","role":"b']
)
def test_a_text_that_means_something_else_beside_others_is_left_to_others(
    inside: bytes,
) -> None:
    odd = event("@@").replace(b"@@", inside)
    deltas = known()
    assert deltas.texts(odd) is None
    assert deltas.texts(event("c") + odd) is None
    assert deltas.texts(odd + event("c")) is None


texts = st.text(st.characters(codec="utf-8"), max_size=6)
plain = st.builds(event, texts, ascii_only=st.booleans())
odd = st.sampled_from(
    [
        event(" ", delta={"reasoning_content": "hm"}),
        event("x", system_fingerprint="y"),
        event("x", created=2),
        event(None),
        event("", delta={"role": None}),
        b": alive\n\n",
        event(
            "x",
            delta={
                "tool_calls": [
                    {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
                ]
            },
        ),
        event("x", usage={"prompt_tokens": 2, "completion_tokens": 1}),
        event("x", finish="stop"),
        event("x", finish="error"),
        event("x", error={"message": "no"}),
        b"data: [DONE]\n\n",
    ]
)


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(stream), *(at % (len(stream) + 1) for at in cuts)})
    return [stream[a:b] for a, b in itertools.pairwise(places)]


@given(
    st.lists(st.one_of(plain, plain, plain, plain, odd), max_size=14),
    st.lists(st.integers(0, 4000), max_size=6),
    st.booleans(),
)
def test_every_reader_reads_the_same_with_it_as_without(
    events: list[bytes], cuts: list[int], apart: bool
) -> None:
    pieces = events if apart else cut(b"".join(events), cuts)
    told = [gathered(pieces, short=short) for short in (True, False)]
    assert told[0] == told[1]
    told = [translated(pieces, short=short) for short in (True, False)]
    assert told[0] == told[1]


class _Nothing(Deltas):
    def learn(self, data: bytes) -> None:
        """Nothing."""


def gathered(pieces: list[bytes], *, short: bool) -> object:
    chat = ChatGather()
    if not short:
        chat._deltas = _Nothing()
    try:
        for piece in pieces:
            chat.feed(piece)
        chat.end()
    except (ComplaintError, TruncatedError) as exc:
        return type(exc), str(exc), chat.heard, chat.done
    return chat.whole(), chat.usage, chat.heard, chat.done


def translated(pieces: list[bytes], *, short: bool) -> object:
    message = MessageStream("msg_1", "m")
    if not short:
        message._deltas = _Nothing()
    told: list[Any] = []
    try:
        told.extend(message.feed(piece) for piece in pieces)
        told.append(message.end())
    except (ComplaintError, TruncatedError) as exc:
        told.append((type(exc), str(exc)))
    return told, message.usage, message.heard, message.done
