"""Tool calls out of fragments, as nodes of many makes send them."""

from typing import Any

import pytest

from cortex.core.translate.calls import Calls

Fragment = dict[str, Any]


def part(
    arguments: object = None,
    *,
    index: object = None,
    id: str | None = None,  # noqa: A002 - the protocol's word
    name: str | None = None,
) -> Fragment:
    function = {"name": name, "arguments": arguments}
    fields = {"index": index, "id": id, "function": function}
    return {key: value for key, value in fields.items() if value is not None}


OSLO, ROME = '{"city":"Oslo"}', '{"city":"Rome"}'
TWO = [("weather", OSLO), ("clock", ROME)]

KINDS: dict[str, tuple[list[Fragment], list[tuple[str, str]]]] = {
    "whole, as mistral.rs sends them": (
        [
            part(OSLO, index=0, id="a", name="weather"),
            part(ROME, index=1, id="b", name="clock"),
        ],
        TWO,
    ),
    "in fragments, interleaved": (
        [
            part("", index=0, id="a", name="weather"),
            part("", index=1, id="b", name="clock"),
            part('{"city":', index=0),
            part('{"city":', index=1),
            part('"Rome"}', index=1),
            part('"Oslo"}', index=0),
        ],
        TWO,
    ),
    "all of index 0, with ids of their own": (
        [
            part(OSLO, index=0, id="a", name="weather"),
            part(ROME, index=0, id="b", name="clock"),
        ],
        TWO,
    ),
    "all of index 0, in fragments": (
        [
            part("", index=0, id="a", name="weather"),
            part('{"city":"Os', index=0),
            part('lo"}', index=0),
            part("", index=0, id="b", name="clock"),
            part(ROME, index=0),
        ],
        TWO,
    ),
    "all of index 0, without ids": (
        [part(OSLO, index=0, name="weather"), part(ROME, index=0, name="clock")],
        TWO,
    ),
    "one function twice, without ids": (
        [part(OSLO, index=0, name="weather"), part(ROME, index=0, name="weather")],
        [("weather", OSLO), ("weather", ROME)],
    ),
    "without index": (
        [
            part("", id="a", name="weather"),
            part(OSLO),
            part("", id="b", name="clock"),
            part(ROME, id="b"),
        ],
        TWO,
    ),
    "without index and ids": ([part(OSLO, name="weather"), part(ROME, name="clock")], TWO),
    "a new id for each fragment": (
        [
            part("", index=0, id="a1", name="weather"),
            part('{"city":', index=0, id="a2"),
            part('"Oslo"}', index=0, id="a3"),
        ],
        [("weather", OSLO)],
    ),
    "the name in each fragment": (
        [
            part('{"city":', index=0, id="a", name="weather"),
            part('"Oslo"}', index=0, id="a", name="weather"),
        ],
        [("weather", OSLO)],
    ),
    "the name in each fragment, without ids": (
        [
            part('{"city":', index=0, name="weather"),
            part('"Oslo"}', index=0, name="weather"),
        ],
        [("weather", OSLO)],
    ),
    "arguments as an object": (
        [part({"city": "Oslo"}, index=0, id="a", name="weather")],
        [("weather", '{"city": "Oslo"}')],
    ),
    "the name comes late": (
        [part("", index=0, id="a"), part(OSLO, index=0, name="weather")],
        [("weather", OSLO)],
    ),
    "indices that begin at 1": (
        [
            part(OSLO, index=1, id="a", name="weather"),
            part(ROME, index=2, id="b", name="clock"),
        ],
        TWO,
    ),
    "odd shapes": (
        [
            part(5, index="0", id="a", name="weather"),
            {"function": 7},
            {"function": {"arguments": OSLO}},
        ],
        [("weather", OSLO)],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("together", [False, True])
def test_calls_come_apart(kind: str, together: bool) -> None:
    fragments, wanted = KINDS[kind]
    calls = Calls()
    for delta in [fragments] if together else [[fragment] for fragment in fragments]:
        calls.take(delta)
    assert [(call.name, call.arguments) for call in calls] == wanted
    ids = [call.id for call in calls if call.id]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("delta", [None, 5, "x", {}, [None, 5, "x"], []])
def test_what_is_no_call_is_passed_over(delta: object) -> None:
    calls = Calls()
    calls.take(delta)
    assert not calls
