"""A stream is judged the same however it is cut."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.stream import Fault, Usage, Watch


def chunk(text: str | None = None, finish: str | None = None, usage: object = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    body = {"id": "0", "choices": [choice], "usage": usage}
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 2},
}
WHOLE = (
    chunk("data: {\\")
    + b":\n\n"
    + chunk("é\n")
    + chunk("", "stop", USAGE)
    + b"data: [DONE]\n\n"
)
ERRORS = [
    b'data: {"error":{"message":"boom","type":"server_error"}}\n\n',
    b'data: { "error": "boom"}\n\n',
    b"data: boom\n\n",
    b"data:boom\n\n",
    b'event: error\ndata: {"message":"boom"}\n\n',
]
marks = st.lists(st.integers(0, 10_000), max_size=25)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False) if a < b]


def watched(chunks: list[bytes]) -> tuple[Watch, bytes, Fault | None]:
    """The watch, what was relayed, and the fault."""
    watch, relayed = Watch(sse=True), b""
    for piece in chunks:
        seen = watch.see(piece)
        if isinstance(seen, Fault):
            return watch, relayed + seen.relayable, seen
        relayed += seen
    return watch, relayed, None


@settings(max_examples=300, deadline=None)
@given(marks)
def test_a_good_stream_passes_unharmed(places: list[int]) -> None:
    watch, relayed, fault = watched(cut(WHOLE, places))
    assert fault is None
    assert relayed == WHOLE
    assert watch.finished()
    assert watch.usage() == Usage(5, 2, 7)


@settings(max_examples=300, deadline=None)
@given(marks, st.sampled_from(ERRORS), st.booleans())
def test_an_error_is_seen_and_nothing_of_it_passes(
    places: list[int], error: bytes, after_text: bool
) -> None:
    good = chunk("hello") if after_text else b""
    watch, relayed, fault = watched(cut(good + error, places))
    assert fault is not None
    assert relayed == good
    # A cut right behind the mark leaves no words to read; the fault is seen all the same.
    assert fault.said
    assert not watch.finished()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(WHOLE) - len(chunk("", "stop", USAGE)) - len(b"data: [DONE]\n\n")))
def test_a_stream_without_an_end_is_not_finished(length: int) -> None:
    watch, _, fault = watched([WHOLE[:length]])
    assert fault is None
    assert not watch.finished()


@pytest.mark.parametrize(
    ("data", "real"),
    [
        (b":\n\n", False),
        (b": ping\n\n:\n\n", False),
        (b"\n", False),
        (chunk("x"), True),
        (b":\n\n" + chunk("x"), True),
    ],
)
def test_keep_alives_are_no_progress(data: bytes, real: bool) -> None:
    watch = Watch(sse=True)
    watch.see(data)
    assert bool(watch.events) is real


def test_words_about_errors_in_an_answer_are_no_errors() -> None:
    for text in ('{"error": 1}', "data: boom", "event: error", "\n\ndata: boom\n\n"):
        data = chunk(text) + b"data: [DONE]\n\n"
        for width in (1, 3, len(data)):
            _, relayed, fault = watched(
                [data[i : i + width] for i in range(0, len(data), width)]
            )
            assert fault is None
            assert relayed == data


def test_a_response_has_its_id_and_its_end() -> None:
    data = (
        b'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_1f"}}\n\n'
        b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"resp_1f",'
        b'"usage":{"input_tokens":3,"output_tokens":4}}}\n\n'
    )
    watch, relayed, fault = watched([data])
    assert (relayed, fault) == (data, None)
    assert watch.response_id() == "resp_1f"
    assert watch.finished()
    assert watch.usage() == Usage(3, None, 4)


def test_a_whole_answer_is_bounded_by_http() -> None:
    watch = Watch(sse=False)
    assert watch.see(b'{"usage":{"prompt_tokens":1,"completion_tokens":2}}')
    assert watch.finished()
    assert watch.usage() == Usage(1, None, 2)
    assert Watch(sse=False).usage() == Usage()


def test_the_id_of_a_response_is_found_in_pieces():
    """However small the first of them is."""
    watch = Watch(sse=True)
    head = b'event: response.created\ndata: {"response":{"id":"resp_1"}}\n\n'
    for at in range(len(head)):
        watch.see(head[at : at + 1])
    assert watch.response_id() == "resp_1"


DEEP = b"[" * 15_000


def test_a_deep_usage_is_none():
    """A node can nest as it likes: what cannot be read is not reported."""
    watch = Watch(sse=True)
    watch.see(b'data: {"usage":{"prompt_tokens":' + DEEP + b"}}\n\n")
    assert watch.usage() == Usage()


def test_a_deep_complaint_is_a_complaint():
    fault = Watch(sse=True).see(b'data: {"error":' + DEEP + b"\n\n")
    assert isinstance(fault, Fault)


def choice(index: int, text: str | None = None, finish: str | None = None) -> bytes:
    one = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [one]}).encode() + b"\n\n"


ENDS: dict[str, tuple[int, bytes, bool]] = {
    "a terminator": (1, chunk("a") + b"data: [DONE]\n\n", True),
    "a terminator without its empty line": (1, chunk("a") + b"data: [DONE]", True),
    "a reason": (1, chunk("a") + chunk("", "stop"), True),
    "an empty reason": (1, chunk("a", ""), False),
    "no reason": (1, chunk("a"), False),
    "nothing": (1, b"", False),
    "comments": (1, b":\n\n:\n\n", False),
    "half of two choices": (2, choice(0, "a", "stop") + choice(1, "b"), False),
    "one of two choices alone": (2, choice(0, "a", "stop"), False),
    "both choices": (2, choice(1, "a", "length") + choice(0, "", "stop"), True),
    "a choice that ends twice": (2, choice(0, "a", "stop") + choice(0, "", "stop"), False),
    "half of two choices and a terminator": (
        2,
        choice(0, "a", "stop") + b"data: [DONE]\n\n",
        True,
    ),
    "a message": (1, b'event: message_stop\ndata: {"type":"message_stop"}\n\n', True),
    "a message without names": (1, b'data: {"type": "message_stop"}\n\n', True),
    "a message without its stop": (1, b'data: {"type":"message_delta"}\n\n', False),
    "a picture": (1, b'data: {"type":"image_generation.completed"}\n\n', True),
    "a part of a picture": (1, b'data: {"type":"image_generation.partial_image"}\n\n', False),
    "speech": (1, b'data: {"type":"speech.audio.done"}\n\n', True),
    "a piece of speech": (1, b'data: {"type":"speech.audio.delta"}\n\n', False),
    "a response": (1, b'data: {"type":"response.incomplete"}\n\n', True),
    "words about an end": (1, chunk('"finish_reason":"stop"'), False),
}


@pytest.mark.parametrize("name", ENDS)
@settings(max_examples=40, deadline=None)
@given(places=marks)
def test_only_an_end_is_an_end(name: str, places: list[int]) -> None:
    choices, data, wanted = ENDS[name]
    for pieces in ([data], cut(data, places), [data[i : i + 1] for i in range(len(data))]):
        watch, relayed = Watch(sse=True, choices=choices), b""
        for piece in pieces:
            seen = watch.see(piece)
            assert isinstance(seen, bytes)
            relayed += seen
        last = watch.last()
        assert isinstance(last, bytes)
        assert relayed + last == data
        assert watch.finished() is wanted


def test_the_terminator_is_noticed_at_once() -> None:
    for end in (b"data: [DONE]\n\n", b'event: message_stop\ndata: {"type":"message_stop"}\n\n'):
        watch = Watch(sse=True)
        watch.see(chunk("[DONE]"))
        assert not watch.over
        watch.see(end)
        assert watch.over


HARMLESS = {
    "an error that is null": b'data: {"error": null, "choices": []}\n\n',
    "an error that is null, packed": b'data: {"error":null,"choices":[]}\n\n',
    "empty data": b"data:\n\n",
    "empty data with a blank": b"data: \n\n",
    "a field without a colon": b"data\n\n",
    "a byte order mark": b'\xef\xbb\xbfdata: {"a":1}\n\n',
    "data on two lines": b'data: {"a":\ndata: 1}\n\n',
    "a list": b"data: [1]\n\n",
    "a ping": b'event: ping\ndata: {"type": "ping"}\n\n',
    "a name alone": b"event: error\n\n",
}


@pytest.mark.parametrize("name", HARMLESS)
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_what_is_legal_is_no_error(name: str, newline: bytes) -> None:
    data = (HARMLESS[name] + chunk("a")).replace(b"\n", newline)
    for width in (1, 5, len(data)):
        pieces = [data[i : i + width] for i in range(0, len(data), width)]
        assert watched(pieces)[1:] == (data, None)


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"data:\n\n", 0),
        (b'event: ping\ndata: {"type":"ping"}\n\n', 0),
        (b'data: {"type":"ping"}\n\n', 0),
        (b": keep-alive\r\n\r\n", 0),
        (b"event: x\n\n", 0),
        (chunk("a") + chunk("b"), 2),
        (b":\n\n" + chunk("a") + b"data:\n\n" + chunk("b"), 2),
    ],
)
def test_signs_of_life_are_no_events(data: bytes, events: int) -> None:
    watch = Watch(sse=True)
    watch.see(data)
    assert watch.events == events


def test_a_long_event_passes_before_it_is_whole() -> None:
    watch, long = Watch(sse=True), b'data: {"b64":"' + b"x" * 20_000
    assert watch.see(chunk("a")) == chunk("a")
    assert watch.see(long[:9000]) == b""
    assert watch.events == 1
    assert watch.see(long[9000:]) == long
    assert watch.in_event
    assert watch.see(b"y" * 100_000) == b"y" * 100_000
    assert watch.see(b'"}\n\n' + chunk("b")[:9]) == b'"}\n\n'
    assert not watch.in_event
    assert watch.see(chunk("b")[9:]) == chunk("b")


def test_a_long_error_is_one_before_it_is_whole() -> None:
    watch = Watch(sse=True)
    fault = watch.see(chunk("a") + b'data: {"error":{"message":"' + b"x" * 20_000)
    assert isinstance(fault, Fault)
    assert fault.relayable == chunk("a")
