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
    assert fault.message
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
