"""Nested content is skimmed: what it leaves of the brackets is what reading each of them leaves."""

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.envelope import MAX_TOP_TOKENS, Scanner
from cortex.core.errors import RequestError
from cortex.core.nesting import Nesting, NestingError, nesting, whole_escapes

PAIRS = {"]": "[", "}": "{"}


def by_hand(piece: str, *, in_string: bool) -> Nesting | None:
    """Character by character; None = no JSON."""
    closed, opened, escaped = "", "", False
    for char in piece:
        if in_string:
            in_string = escaped or char != '"'
            escaped = not escaped and char == "\\"
        elif char == '"':
            in_string = True
        elif char == "\\":
            return None
        elif char in "[{":
            opened += char
        elif char in PAIRS and opened:
            if opened[-1] != PAIRS[char]:
                return None
            opened = opened[:-1]
        elif char in PAIRS:
            closed += char
    return Nesting(closed.encode(), opened.encode(), in_string)


@given(
    st.text(st.sampled_from('[]{}"\\a,'), max_size=40),
    st.booleans(),
)
def test_a_piece_leaves_what_reading_it_leaves(piece: str, in_string: bool) -> None:
    stop = whole_escapes(piece.encode(), 0, len(piece))
    piece = piece[:stop]
    expected = by_hand(piece, in_string=in_string)
    if expected is None:
        with pytest.raises(NestingError):
            nesting(piece.encode(), in_string=in_string, deepest=50)
    else:
        assert nesting(piece.encode(), in_string=in_string, deepest=50) == expected


def anything(rng: random.Random, depth: int) -> Any:
    kind = rng.randrange(6 if depth < 8 else 3)
    if kind == 0:
        return rng.choice([None, True, 1.5e3, -1])
    if kind < 3:
        return rng.choice(
            ["", 'a"b', "\\", '\\"]}', "[[{", "\u00e9\n", "x" * rng.randrange(300)]
        )
    inside = [anything(rng, depth + 1) for _ in range(rng.randrange(9))]
    return inside if kind == 3 else {f"k{n}": value for n, value in enumerate(inside)}


def pieces(rng: random.Random, body: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(body):
        size = rng.choice([1, 3, 50, 700, 5000, 10**6])
        yield body[at : at + size]
        at += size


@pytest.mark.parametrize("seed", range(60))
def test_a_skimmed_body_has_the_fields_it_has(seed: int) -> None:
    rng = random.Random(seed)
    # Every sixth is some megabytes, the others some hundred kilobytes.
    most = 60 if seed % 6 == 0 else 6
    fields = {f"f{n}": [anything(rng, 0) for _ in range(rng.randrange(most))] for n in range(9)}
    fields |= {"model": "m", "stream": True, "prompt_cache_key": "k"}
    order = list(fields)
    rng.shuffle(order)
    body = json.dumps(
        {name: fields[name] for name in order}, indent=rng.choice([None, 1])
    ).encode()
    scanner = Scanner()
    for piece in pieces(rng, body):
        scanner.feed(piece)
    envelope = scanner.finish()
    assert (envelope.model, envelope.stream, envelope.prompt_cache_key) == ("m", True, "k")
    assert envelope.model_span is not None
    start, stop = envelope.model_span
    assert body[start:stop] == b'"m"'
    assert scanner.names == set(fields)


class Counting(Scanner):
    """Knows how many tokens it looked at."""

    tokens = 0

    def _token(self, data: bytes, match: re.Match[bytes], base: int) -> int:
        self.tokens += 1
        return super()._token(data, match, base)


UNITS = [b"[],", b"1,", b'"",', b'{"a":1},', b'"\\"\\\\",', b"[" * 90 + b"]" * 90 + b","]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit[:8].decode())
def test_few_tokens_of_a_large_body_are_read_one_by_one(unit: bytes) -> None:
    body = b'{"model":"m","messages":[' + unit * (300_000 // len(unit)) + b'1],"stream":true}'
    scanner = Counting()
    for at in range(0, len(body), 50_000):
        scanner.feed(body[at : at + 50_000])
    assert scanner.finish().stream
    assert 10 < scanner.tokens < 500


@pytest.mark.parametrize(
    "inside",
    [b'"f":[],', b",", b'"a""b"', b"[]", b"{}"],
    ids=repr,
)
def test_a_body_of_nothing_but_fields_is_refused_soon(inside: bytes) -> None:
    scanner = Scanner()
    with pytest.raises(RequestError, match="too many fields"):
        scanner.feed(b'{"model":"m",' + inside * (MAX_TOP_TOKENS + 1))


@pytest.mark.parametrize("end", [b"]]", b"}", b"\\", b"]}}"])
def test_what_does_not_match_far_inside_is_refused(end: bytes) -> None:
    scanner = Scanner()
    with pytest.raises(RequestError):
        scanner.feed(b'{"model":"m","x":[' + b"[]," * 5000 + end + b"[]," * 5000 + b"1]}")
        scanner.finish()
