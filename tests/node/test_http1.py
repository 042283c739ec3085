"""Answers out of bytes: any cut gives the same content, and what could be read in two ways is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.node import http1
from cortex.node.http1 import (
    CACHED_HEAD_BYTES,
    CACHED_HEADS,
    MAX_FIELDS,
    MAX_LINE_BYTES,
    BadAnswerError,
    Chunked,
    Length,
    UntilClose,
    decoder_for,
    read_head,
)
from tests.node.rawnode import LAST_CHUNK, chunk

OK = b"HTTP/1.1 200 OK"


def fed(decoder: Chunked | Length, data: bytes, cuts: list[int]) -> bytes:
    content, at = b"", 0
    for cut in [*sorted(cuts), len(data)]:
        if cut > at and not decoder.ended:
            content += decoder.feed(data[at:cut])
            at = cut
    return content


@given(
    parts=st.lists(st.binary(min_size=1, max_size=300), max_size=8),
    cuts=st.lists(st.integers(0, 2000), max_size=12),
    extension=st.sampled_from([b"", b";a=b", b' ; name="x"']),
    trailers=st.sampled_from([b"", b"X-Time: 3\r\n", b"A: 1\r\nB: 2\r\n"]),
)
def test_chunks_are_the_same_however_they_are_cut(
    parts: list[bytes], cuts: list[int], extension: bytes, trailers: bytes
) -> None:
    data = b"".join(
        f"{len(part):x}".encode() + extension + b"\r\n" + part + b"\r\n" for part in parts
    )
    data += b"0\r\n" + trailers + b"\r\n"
    decoder = Chunked()
    assert fed(decoder, data, [cut for cut in cuts if cut < len(data)]) == b"".join(parts)
    assert decoder.ended
    assert decoder.eof()
    assert decoder.rest == b""


@given(data=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400), max_size=6))
def test_no_bytes_make_a_decoder_fail_in_another_way(data: bytes, cuts: list[int]) -> None:
    outcomes = []
    for cut in ([], [cut for cut in cuts if cut < len(data)]):
        decoder = Chunked()
        try:
            outcomes.append((fed(decoder, data, cut), decoder.ended))
        except BadAnswerError:
            outcomes.append((b"", False))
    # A cut may only put off the moment at which a broken chunk is noticed.
    assert outcomes[0][1] == outcomes[1][1]


@pytest.mark.parametrize(
    "data",
    [
        b"x\r\n",
        b"-1\r\n",
        b"0x5\r\nhello\r\n",
        b"5\nhello\r\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"\r\n",
        b"fffffffffffffffff\r\n",
        b"5" * (MAX_LINE_BYTES + 1),
        b"5;" + b"x" * MAX_LINE_BYTES + b"\r\nhello\r\n",
        b"0\r\nA: " + b"x" * MAX_LINE_BYTES + b"\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\n" + b"A: 1\r\n" * 100,
    ],
)
def test_broken_chunks_are_noticed(data: bytes) -> None:
    with pytest.raises(BadAnswerError):
        Chunked().feed(data)


def test_what_follows_the_last_chunk_is_not_content() -> None:
    decoder = Chunked()
    assert decoder.feed(chunk(b"a") + LAST_CHUNK + OK) == b"a"
    assert (decoder.ended, decoder.rest) == (True, OK)


def test_a_length_is_kept_to() -> None:
    decoder = Length(3)
    assert decoder.feed(b"ab") == b"ab"
    assert not decoder.eof()
    assert (decoder.feed(b"cd"), decoder.ended, decoder.rest) == (b"c", True, b"d")


def test_a_head_is_read() -> None:
    head = read_head(OK + b"\r\nContent-Type: text/plain\r\nX:  a b \r\nx: \xc3\xa9\r\nEmpty:")
    assert (head.status, head.keep_alive) == (200, True)
    assert head.headers.getall("X") == ["a b", "\u00e9"]
    assert head.headers["empty"] == ""


@pytest.mark.parametrize("value", [b"\xff\xfe", b"a\xe9b", b"\xed\xa0\x80"])
def test_a_field_of_any_bytes_can_be_sent_on(value: bytes) -> None:
    assert read_head(OK + b"\r\nA: " + value).headers["A"].encode()


def test_heads_that_differ_in_length_and_date_alone_share_what_was_read() -> None:
    raw = (
        OK + b"\r\nA: %d\r\nDate: Sun, 29 Nov 2026 18:30:0%d GMT\r\nContent-Length: %d\r\nB: c"
    )
    one, other = read_head(raw % (1, 1, 5)), read_head(raw % (1, 2, 70))
    assert (one.length, other.length) == (5, 70)
    assert one.headers is other.headers
    assert one.derived is other.derived
    assert list(one.headers.items()) == [("A", "1"), ("B", "c")]
    third = read_head(raw % (2, 2, 70))
    assert third.headers["A"] == "2"
    assert third.derived is not one.derived


def test_of_the_heads_that_were_read_a_few_short_ones_are_kept() -> None:
    for number in range(2 * CACHED_HEADS):
        read_head(OK + b"\r\nA: %d" % number)
    assert len(http1._known) <= CACHED_HEADS
    long = OK + b"\r\nA: " + b"b" * CACHED_HEAD_BYTES
    assert read_head(long).headers is not read_head(long).headers


@pytest.mark.parametrize(
    "fields",
    [
        b"A: b\r\nDate: now\nEvil: 1",
        b"A: b\r\nDate: \x00",
        b"A: b\nDate: now",
        b"A: b\r\nContent-Length: 5\nEvil: 1",
        b"A\r\nContent-Length: 5",
    ],
)
def test_what_is_left_out_of_a_head_hides_nothing(fields: bytes) -> None:
    with pytest.raises(BadAnswerError):
        read_head(OK + b"\r\n" + fields)


def test_a_head_of_many_fields_is_read() -> None:
    assert len(read_head(OK + b"\r\nA: b" * MAX_FIELDS).headers) == MAX_FIELDS


@pytest.mark.parametrize(
    ("raw", "keep_alive"),
    [
        (OK, True),
        (OK + b"\r\nConnection: Close", False),
        (b"HTTP/1.0 200 OK", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive", True),
        (b"HTTP/1.1 200", True),
    ],
)
def test_a_connection_is_kept_when_both_may(raw: bytes, keep_alive: bool) -> None:
    assert read_head(raw).keep_alive is keep_alive


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"garbage",
        b"HTTP/2 200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1  200 OK",
        OK + b"\r\nno colon",
        OK + b"\r\n: empty name",
        OK + b"\r\nA : space",
        OK + b"\r\n folded: x",
        OK + b"\r\nA: b\r\n c",
        OK + b"\r\nA: b\x00c",
        OK + b"\r\nA: b\rC: d",
        OK + b"\r\nA: b\nC: d",
        OK + b"\r\nA: \x1b[31m",
        OK + b"\r\nA: \x7f",
        OK + b"\r\nA: b" * (MAX_FIELDS + 1),
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket",
    ],
)
def test_what_is_no_head_is_refused(raw: bytes) -> None:
    with pytest.raises(BadAnswerError):
        read_head(raw)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        (b"Content-Length: 5", Length),
        (b"Content-Length: 5\r\nContent-Length: 5", Length),
        (b"Transfer-Encoding: Chunked", Chunked),
        (b"A: b", UntilClose),
    ],
)
def test_a_body_is_framed_by_its_head(fields: bytes, kind: type) -> None:
    assert type(decoder_for(read_head(OK + b"\r\n" + fields), "GET")) is kind


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5\r\ncontent-length:6",
        b"content-length: 5\r\nA: b\r\nTransfer-Encoding: chunked",
        b"Content-Length: -1",
        b"Content-Length: +1",
        b"Content-Length: 1, 1",
        b"Content-Length: ",
        b"Content-Length: \xd9\xa1",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: identity",
    ],
)
def test_a_framing_that_can_be_read_in_two_ways_is_refused(fields: bytes) -> None:
    with pytest.raises(BadAnswerError):
        decoder_for(read_head(OK + b"\r\n" + fields), "GET")


@pytest.mark.parametrize(
    ("status", "method"), [("204 x", "GET"), ("304 x", "GET"), ("200 x", "HEAD")]
)
def test_some_answers_have_no_body(status: str, method: str) -> None:
    head = read_head(f"HTTP/1.1 {status}\r\nContent-Length: 5".encode())
    assert decoder_for(head, method).ended
