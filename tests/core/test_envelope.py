"""What is read of a request body, whole or scanned in pieces, against Python's own JSON parser."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.envelope import (
    NEAR_TOKENS,
    WANTED,
    Envelope,
    Scanner,
    find_span,
    parse_whole,
)
from cortex.core.errors import RequestError
from cortex.core.jsontext import loads_exactly

text = st.text(st.characters(exclude_categories=()), max_size=12)
scalar = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
)
anything = st.recursive(
    scalar,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(text | st.sampled_from(sorted(WANTED)), inner, max_size=4)
    ),
    max_leaves=15,
)
bodies = st.fixed_dictionaries(
    {"model": st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20)},
    optional={
        "stream": st.booleans(),
        "previous_response_id": st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
        "messages": st.lists(anything, max_size=3),
        "metadata": anything,
        'a "quoted" key\\': anything,
    },
)


def cut(body: bytes, marks: list[int]) -> list[bytes]:
    places = sorted({mark % (len(body) + 1) for mark in marks})
    return [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]


def pieces(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


def scanned(chunks: list[bytes]) -> Envelope:
    scanner = Scanner()
    for chunk in chunks:
        scanner.feed(chunk)
    return scanner.finish()


@settings(max_examples=400, deadline=None)
@given(
    bodies,
    st.lists(st.integers(0, 10_000), max_size=20),
    st.sampled_from([None, 1, "\t"]),
    st.booleans(),
)
def test_a_scan_in_pieces_reads_what_a_parser_reads(
    fields: dict[str, Any], marks: list[int], indent: Any, ascii_only: bool
) -> None:
    body = json.dumps(fields, indent=indent, ensure_ascii=ascii_only).encode(
        errors="surrogatepass" if ascii_only else "replace"
    )
    envelope = scanned(cut(body, marks))
    parsed = json.loads(body)
    assert envelope.model == parsed["model"]
    assert envelope.stream == bool(parsed.get("stream"))
    assert envelope.previous_response_id == parsed.get("previous_response_id")
    assert envelope.model_span is not None
    start, end = envelope.model_span
    assert json.loads(body[start:end]) == parsed["model"]
    assert find_span(body, "model") == (start, end)
    # Another model in its place changes nothing else.
    other = json.loads(body[:start] + b'"other"' + body[end:])
    assert other == {**parsed, "model": "other"}


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | anything.map(lambda v: json.dumps(v).encode()))
def test_no_body_breaks_the_scanner(body: bytes) -> None:
    try:
        scanned([body[i : i + 1] for i in range(len(body))])
    except RequestError as error:
        assert error.code in {"invalid_json", "invalid_request"}


@pytest.mark.parametrize("read", [parse_whole, lambda body: scanned([body])])
@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "not valid JSON"),
        (b"[]", "object"),
        (b'"model"', "object"),
        (b"{}", "model"),
        (b'{"model": 5}', "non-empty string"),
        (b'{"model": ""}', "non-empty string"),
        (b'{"model": null}', "model"),
        (b'{"model": "m", "stream": "yes"}', "stream must be a boolean"),
        (b'{"model": "m", "previous_response_id": 1}', "previous_response_id"),
        (b'{"model": "m"', "not valid JSON"),
        (b'{"model": "m"}}', "not valid JSON"),
        (b'{"model": "m"} {}', "not valid JSON"),
        (b'{"messages": {"model": "m"}}', "model"),
        (
            b'{"model": "m", "messages": ' + b"[" * 5000 + b"]" * 5000 + b"}",
            "nested too deeply",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes | str) else "",
)
def test_mistakes_are_named(read: Any, body: bytes, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint):
        read(body)


def test_only_the_top_level_counts() -> None:
    body = b'{"a": {"model": "inner", "stream": true}, "b": ["model"], "model": "outer"}'
    assert scanned([body]).model == "outer"
    assert not scanned([body]).stream


def test_a_model_given_twice_is_refused() -> None:
    with pytest.raises(RequestError, match="twice"):
        scanned([b'{"model": "a", "model": "b"}'])


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b"}',
        b'{"model":"a","model":"a"}',
        b'{"model":"a","\\u006dodel":"b"}',
        b'{"mod\\u0065l":"a","mode\\u006c":"b"}',
        b'{"model":null,"x":{"model":"c"},"model":"b"}',
    ],
)
def test_two_models_are_refused(body: bytes):
    """Readers differ on which counts: the node must not serve another than was allowed and counted."""
    with pytest.raises(RequestError, match="twice"):
        parse_whole(body)


@pytest.mark.parametrize(
    "body", [b'{"x":{"model":"b"},"model":"a"}', b'{"model":"a","x":"\\u006d \\"model\\":"}']
)
def test_a_model_elsewhere_is_no_second_one(body: bytes):
    assert parse_whole(body).model == "a"


@pytest.mark.parametrize(
    "body",
    [
        '{"model":"a"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"model":"a"}',
        b'{"model":"a","x":NaN}',
        b'{"model":"a","x":-Infinity}',
        b'{"model":"a","x":1e400}',
        b'{"model":"a","x":"\\ud800"}',
        b'{"model":"a","x":"\\uDC00\\uD800"}',
    ],
)
def test_without_the_fast_parser_json_is_as_strict(body: bytes):
    """What could not be written again, or no node reads, is refused at the door."""
    with pytest.raises(ValueError):
        loads_exactly(body)


@pytest.mark.parametrize(
    "word",
    [b"NaN", b"Infinity", b"-Infinity", b"True", b"undefined", b"0x1", b"\x00", b"/**/1"],
)
@pytest.mark.parametrize(
    "where",
    [
        b'{"model":"a","x":%b}',
        b'{"model":"a","n":%b}',
        b'{"model":"a","x":[%b]}',
        b'{"model":"a","x":[' + b"0," * NEAR_TOKENS + b"%b]}",
        b'{"model":"a","x":[' + b'"",' * 500 + b"%b," + b"0," * 500 + b"0]}",
    ],
    ids=["field", "wanted", "nested", "behind-near", "far"],
)
@pytest.mark.parametrize("piece", [1, 7, 16 * 1024])
def test_a_scanned_body_has_no_words_that_json_does_not_know(
    where: bytes, word: bytes, piece: int
):
    """Some nodes read them: which ones would then depend on how large the body is."""
    body = where % word
    with pytest.raises(RequestError, match="not valid JSON"):
        scanned(pieces(body, piece))


@pytest.mark.parametrize("value", [b"-1.5e+3", b" \r\n\tnull", b"true", b'"NaN \\u0041 /**/"'])
@pytest.mark.parametrize("piece", [1, 7, 16 * 1024])
def test_a_scanned_body_has_all_that_json_does_know(value: bytes, piece: int):
    for where in (b'{"model":"a","x":%b}', b'{"model":"a","x":[' + b'0,"",' * 500 + b"%b]}"):
        assert scanned(pieces(where % value, piece)).model == "a"


def test_half_a_surrogate_pair_is_no_text():
    scanner = Scanner()
    with pytest.raises(RequestError, match="surrogate"):
        scanner.feed(b'{"model":"m\\ud800"}')
