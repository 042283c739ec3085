"""What is read of a body: the scanner and a parser agree, and only `RequestError` is raised."""

import json
from typing import Any

from cortex.core.envelope import (
    MAX_DEPTH,
    WANTED,
    Envelope,
    Scanner,
    find_span,
    parse_whole,
    read_envelope,
)
from cortex.core.errors import RequestError
from cortex.core.jsontext import loads_exactly
from tests.fuzz.cutting import pieces

SEEDS = [
    b'\x00{"model":"m1","stream":true,"messages":[{"role":"user","content":"hi"}]}',
    b'\x01{"\\u006dodel" : "a\\u00e9", "x": [1, {"model": "no"}], "stream": null}',
    b'\x05{"x":{"y":[[],{},"\\\\\\""]},"previous_response_id":"resp_1","model":"m","t":1.5e3}',
    b'\x03{"model":"a","model":"b"}',
    b'\x02 { "prompt_cache_key" : "k" , "model" : "m" } ',
    b'\x04{"model":"m","x":"\\ud83d\\ude00","stream":false}',
    b'\x04{"model":{"model":"m"},"stream":1}',
    b'\x01{"model":"m","stream":"x\\',
]


def one(data: bytes) -> None:
    cut, body = data[0] if data else 0, data[1:]
    parsed = _parsed(body)
    whole = _envelope(lambda: parse_whole(body))
    scanned = _envelope(lambda: _scan(pieces(body, cut)))
    if parsed is None:
        assert whole is None, "what is no JSON was taken"
        return
    fields, names, deep = parsed
    wanted = [name for name in names if name in WANTED]
    twice = len(set(wanted)) < len(wanted)
    if twice and names.count("model") > 1:
        assert whole is None, "two models were taken"
    if twice or deep:
        assert scanned is None or not twice, "a field was taken twice"
        return
    expected = _envelope(lambda: read_envelope(fields))
    assert _routed(whole) == _routed(expected), (whole, expected)
    assert _routed(scanned) == _routed(expected), (scanned, expected)
    if whole is not None:
        start, end = find_span(body, "model")
        assert json.loads(body[start:end]) == whole.model


def _parsed(body: bytes) -> tuple[dict[str, Any], list[str], bool] | None:
    """The object, its own keys in order, and whether it is too deep to be scanned."""
    try:
        fields = loads_exactly(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    names: list[str] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        names[:] = [name for name, _ in found]
        return dict(found)

    json.loads(body, object_pairs_hook=pairs)
    return fields, names, _depth(fields) > MAX_DEPTH


def _depth(value: object) -> int:
    inside: list[Any] = []
    if isinstance(value, dict):
        inside = list(value.values())
    elif isinstance(value, list):
        inside = value
    else:
        return 0
    return 1 + max(map(_depth, inside), default=0)


def _scan(parts: list[bytes]) -> Envelope:
    scanner = Scanner()
    for part in parts:
        scanner.feed(part)
    return scanner.finish()


def _envelope(read: Any) -> Envelope | None:
    try:
        found: Envelope = read()
    except RequestError:
        return None
    return found


def _routed(envelope: Envelope | None) -> tuple[object, ...] | None:
    if envelope is None:
        return None
    return (
        envelope.model,
        envelope.stream,
        envelope.previous_response_id,
        envelope.prompt_cache_key,
    )
