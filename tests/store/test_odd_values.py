"""Whatever a node or a client makes of a value, it is written, read and sent on without harm."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.adminapi import EventQuery, EventsBody, HistoryBody, HistoryQuery
from cortex.core.ids import ModelId, NodeName
from cortex.core.records import NodeRecord, Outcome, ResidencyRecord
from cortex.store import rows
from tests.store.conftest import NOW_MS, event, flushed, opened, request, written

HALF = "half \ud83d of a pair"
SCRUBBED = "half ? of a pair"
MAX = 2**63 - 1


async def test_half_a_surrogate_pair_is_replaced(path: Path) -> None:
    async with opened(path) as store:
        odd = dict.fromkeys(("model", "client", "node", "error_code"), HALF)
        store.request_done(request(1, outcome=Outcome.ERROR, **odd))
        await flushed(store)
        (row,) = (await store.history(HistoryQuery())).rows
        assert (row.model, row.client, row.node, row.error_code) == (SCRUBBED,) * 4
        # And in a question, so that the row is found by what its writer called it.
        for query in (HistoryQuery(model=HALF), HistoryQuery(outcome=HALF)):
            assert (await store.history(query)).rows == [row]
        assert json.loads(HistoryBody(rows=[row]).model_dump_json())["rows"][0]["id"] == 1


@pytest.mark.parametrize(
    ("detail", "comes_back"),
    [
        ({"a": HALF, HALF: [HALF]}, {"a": SCRUBBED, SCRUBBED: [SCRUBBED]}),
        ({"a": "whole 😀 \0 é"}, {"a": "whole 😀 \0 é"}),
        ({"a": 2**70, "b": -(2**70)}, {"a": 2**70, "b": -(2**70)}),
        ({"a": math.inf, "b": math.nan}, {"a": None, "b": None}),
        (
            {1: NodeName("n"), None: {"deep": [ModelId("m")]}},
            {"1": "n", "null": {"deep": ["m"]}},
        ),
        ({"a": Path("/x")}, {"a": "/x"}),
    ],
    ids=["half a pair", "unicode", "large", "no number", "keys", "no JSON"],
)
async def test_any_detail_of_an_event_can_be_sent_on(
    path: Path, detail: dict[Any, Any], comes_back: dict[str, Any]
) -> None:
    async with opened(path) as store:
        follower = store.subscribe()
        store.record(event(1, detail=detail, reason=HALF))
        (row,) = await told_events(store)
        live = await anext(follower)
    assert row.reason == SCRUBBED
    for sent in (row.model_dump_json(), live.model_dump_json()):
        assert json.loads(sent)["detail"] == comes_back


async def told_events(store: Any) -> list[Any]:
    await flushed(store)
    found = (await store.events(EventQuery())).rows
    EventsBody(rows=found).model_dump_json()
    return list(found)


def endless() -> dict[str, Any]:
    detail: dict[str, Any] = {}
    detail["detail"] = detail
    return detail


def deep() -> dict[str, Any]:
    detail: dict[str, Any] = {}
    for _ in range(100_000):
        detail = {"detail": detail}
    return detail


@pytest.mark.parametrize(
    "detail",
    [endless(), deep(), {("a", "b"): 1}, {"a": 10**5000}],
    ids=["endless", "deep", "key", "digits"],
)
async def test_a_detail_that_cannot_be_written_costs_no_event(
    path: Path, detail: dict[Any, Any]
) -> None:
    async with opened(path) as store:
        store.record(event(1, detail=detail))
        store.record(event(2))
        second, first = await told_events(store)
        assert store.status().ok
    assert (first.reason, second.reason) == ("e1", "e2")
    assert first.detail == {"lost": "the detail of this event could not be written as JSON"}


async def test_numbers_that_are_none_are_unknown(path: Path) -> None:
    async with opened(path) as store:
        store.request_done(request(1, ttft_ms=math.nan, tokens_per_s=math.inf))
        store.request_done(request(2, ttft_ms=-math.inf))
        await flushed(store)
        rows_told = (await store.history(HistoryQuery())).rows
        (stats,) = (await store.stats(HistoryQuery())).rows
        assert (await store.history(HistoryQuery(slow_ms=math.nan))).rows == []
    assert [(row.ttft_ms, row.tokens_per_s) for row in rows_told] == [(None, None)] * 2
    assert (stats.requests, stats.ttft_p50_ms, stats.tokens_per_s_p50) == (2, None, None)


async def test_numbers_too_large_are_as_large_as_can_be(path: Path) -> None:
    huge = 2**70
    async with opened(path, runs=False) as store:
        store.request_done(
            request(1, started_at_ms=huge, prompt_tokens=huge, cached_tokens=-huge)
        )
        store.request_done(request(2, started_at_ms=-huge, duration_ms=1e300))
        await store._flush()
        first, second = (await store.history(HistoryQuery(since_ms=-huge))).rows
        memory = await store.recall()
        assert (await store.history(HistoryQuery(after_id=huge))).rows == []
        assert store.status().ok
    assert (first.started_at_ms, first.prompt_tokens, first.cached_tokens) == (MAX, MAX, -MAX)
    assert (second.started_at_ms, second.duration_ms) == (-MAX, 1e300)
    assert [record.last_used_at_ms for record in memory.residency] == [MAX]


async def test_a_duration_that_is_no_number_costs_its_own_row_only(path: Path) -> None:
    async with opened(path) as store:
        store.request_done(request(1))
        store.request_done(request(2, duration_ms=math.nan))
        store.request_done(request(3))
        await flushed(store)
        assert store.status().ok
        (used,) = (await store.recall()).residency
        assert used.last_used_at_ms == NOW_MS + 13
    assert written(path) == ["r1", "r3"]


async def test_odd_memory_comes_back(path: Path) -> None:
    async with opened(path) as store:
        await store.save(
            ResidencyRecord(
                node=NodeName(HALF), model=ModelId("m\0'"), status=HALF, load_s=math.nan,
                loads=2**70, last_used_at_ms=2**70,
            )
        )  # fmt: skip
        await store.save(NodeRecord(name=NodeName("n"), cycles=2**70, boot_at_s=-(2**70)))
        await store.save_pin(ModelId(HALF), None)
        assert (await store.recall()).pins == {(None, SCRUBBED)}
        await store.delete_pin(ModelId(HALF), None)
        memory = await store.recall()
    (record,) = memory.residency
    assert record == ResidencyRecord(
        node=NodeName(SCRUBBED), model=ModelId("m\0'"), status=SCRUBBED, load_s=None,
        loads=MAX, last_used_at_ms=MAX,
    )  # fmt: skip
    assert memory.nodes == (NodeRecord(name=NodeName("n"), cycles=MAX, boot_at_s=-MAX),)
    assert memory.pins == frozenset()


ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.binary(max_size=20)
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(value=ANYTHING)
def test_a_plain_value_is_one_that_sqlite_takes_and_json_carries(value: object) -> None:
    plain = rows.plain(value)
    if isinstance(value, int):
        assert plain == sorted((-MAX, int(value), MAX))[1]
    elif value is None or isinstance(value, float):
        assert plain == (value if value is not None and math.isfinite(value) else None)
    else:
        assert isinstance(plain, str)
        assert plain.encode().decode() == plain
        whole = isinstance(value, str) and not any(0xD800 <= ord(c) < 0xE000 for c in value)
        assert not whole or plain == value
