"""With orjson and without: the same values, the same refusals."""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from cortex.core import jsontext

BOTH = pytest.mark.parametrize("fast", [True, False], ids=["orjson", "json"], indirect=True)


@pytest.fixture
def fast(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        pytest.importorskip("orjson", reason="the extra `speed` is not installed")
    else:
        monkeypatch.setattr(jsontext, "orjson", None)


@BOTH
@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a": [1, 2.5, null, true, "\xc3\xa9"]}', {"a": [1, 2.5, None, True, "\xe9"]}),
        (b'"\\ud800"', "\ud800"),
        (b'{"a": 1, "a": 2}', {"a": 2}),
    ],
)
def test_what_is_taken(fast: None, text: bytes, value: Any) -> None:
    assert jsontext.loads(text) == value
    assert jsontext.loads(jsontext.dumps(value)) == value
    assert b" " not in jsontext.dumps(value)


class Colour(StrEnum):
    RED = "red"


@dataclass
class Point:
    x: int


@BOTH
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, None], "b": "é \n"}, '{"a":[1,null],"b":"é \\n"}'),
        ({"at": Path("/x"), "colour": Colour.RED}, '{"at":"/x","colour":"red"}'),
        (datetime(2026, 1, 2, tzinfo=UTC), '"2026-01-02 00:00:00+00:00"'),
        ([Point(1), b"x"], """["Point(x=1)","b'x'"]"""),
        (Counter("aa"), '{"a":2}'),
        ({1: "\ud800", 2: 2**70}, '{"1":"\ud800","2":1180591620717411303424}'),
    ],
)
def test_anything_can_be_told(fast: None, value: Any, text: str) -> None:
    assert jsontext.dumps_anything(value) == text


def test_a_large_integer_is_kept_where_it_is_written_again() -> None:
    assert (
        jsontext.loads_exactly(b"123456789012345678901234567890")
        == 123456789012345678901234567890
    )
    assert jsontext.dumps(123456789012345678901234567890) == b"123456789012345678901234567890"


@BOTH
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{} {}",
        b"{'a': 1}",
        b'{"a": 1,}',
        b'"\xff"',
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        b'{"a": 1}\x00',
    ],
)
def test_what_is_refused(fast: None, text: bytes) -> None:
    with pytest.raises(ValueError):
        jsontext.loads(text)


@BOTH
def test_what_is_nested_too_deeply(fast: None) -> None:
    with pytest.raises(RecursionError):
        jsontext.loads(b"[" * 100_000 + b"]" * 100_000)
