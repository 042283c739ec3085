"""Server-sent events by the text of the standard, and however the bytes are cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.sse import EventTooLongError, SseReader

STREAMS: dict[str, tuple[bytes, list[tuple[str, str]]]] = {
    "a byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [("", "a")]),
    "a byte order mark inside": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [("", "a")]),
    "line ends of three kinds": (
        b"data: a\r\n\r\ndata: b\n\ndata: c\r\rdata: d\r\n\n",
        [("", "a"), ("", "b"), ("", "c"), ("", "d")],
    ),
    "data on several lines": (b"data: a\ndata:b\ndata:  c\n\n", [("", "a\nb\n c")]),
    "empty data": (b"data:\n\ndata\n\ndata: \n\n", [("", ""), ("", ""), ("", "")]),
    "comments": (b": first\n:\n\ndata: a\n: between\ndata: b\n\n:\n\n", [("", "a\nb")]),
    "a name": (b"event: x\ndata: a\n\ndata: b\n\n", [("x", "a"), ("", "b")]),
    "a name without data": (b"event: x\n\ndata: b\n\n", [("", "b")]),
    "other fields": (b"id: 7\nretry: 10\nfoo: bar\ndata: a\n\n", [("", "a")]),
    "an end without an empty line": (b"data: a\n\ndata: b\n", [("", "a")]),
    "bytes that are no text": (b"data: \xff\xc3\n\n", [("", "\ufffd\ufffd")]),
}


def read(pieces: list[bytes]) -> list[tuple[str, str]]:
    reader = SseReader()
    return [(e.name, e.data) for piece in pieces for e in reader.feed(piece)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize("name", STREAMS)
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 10_000), max_size=25))
def test_a_stream_is_read_as_the_standard_says(name: str, places: list[int]) -> None:
    data, wanted = STREAMS[name]
    assert read([data]) == wanted
    assert read(cut(data, places)) == wanted
    assert read([data[at : at + 1] for at in range(len(data))]) == wanted


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([data for data, _ in STREAMS.values()]), max_size=4),
    st.lists(st.integers(0, 10_000), max_size=25),
)
def test_what_is_settled_is_what_nothing_depends_on(
    streams: list[bytes], places: list[int]
) -> None:
    """Reading on from a settled place with a new reader gives the same events."""
    data = b"".join(streams)
    reader, pieces = SseReader(), cut(data, places)
    events: list[tuple[str, str]] = []
    at = 0
    for piece in pieces:
        events += [(e.name, e.data) for e in reader.feed(piece)]
        if reader.settled:
            rest = data[at + reader.settled :]
            # A line end that is cut in two belongs to what was settled.
            if data[: at + reader.settled].endswith(b"\r"):
                rest = rest.removeprefix(b"\n")
            assert events + read([b"\n", rest]) == read([data])
        at += len(piece)


def test_an_event_knows_where_it_begins() -> None:
    reader = SseReader()
    good, odd = b": hi\n\ndata: a\n\n", b"event: x\ndata: b\n\n"
    assert [e.start for e in reader.feed(good + odd)] == [6, len(good)]
    reader.feed(b"data: c\n")
    assert [e.start for e in reader.feed(b"\ndata: d\n\n")] == [0, 1]


def test_what_has_come_of_an_event_can_be_looked_at() -> None:
    reader = SseReader()
    assert reader.rest() is None
    reader.feed(b"event: x\ndata: a\ndata: [DO")
    assert reader.under_way
    rest = reader.rest()
    assert rest is not None
    assert (rest.name, rest.data) == ("x", "a\n[DO")
    assert read([b": [DONE]"]) == []


def test_a_comment_is_nothing_that_is_under_way() -> None:
    reader = SseReader()
    for piece in (b": keep", b"-alive", b"\n", b"\n:\n\n"):
        reader.feed(piece)
        assert not reader.under_way


def test_an_event_of_any_length_costs_what_is_kept_of_it() -> None:
    reader = SseReader(keep_bytes=100)
    for _ in range(1000):
        assert reader.feed(b"data: " + b"x" * 10_000) == []
        assert reader.feed(b"x\n") == []
    [event] = reader.feed(b"\n")
    assert event.data.startswith("xxx")
    assert len(event.data) < 1000
    with pytest.raises(EventTooLongError):
        SseReader().feed(b"data: " + b"x" * (5 << 20))
