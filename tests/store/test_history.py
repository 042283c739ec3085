"""The filters of history and events: each, combined, followed, and without a sort of the whole table."""

import itertools
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from cortex.adminapi import EventQuery, EventRow, HistoryQuery, HistoryRow
from cortex.core.records import EventKind, FleetEvent, Outcome, RequestRecord
from cortex.store import queries, search
from cortex.store.store import Store
from tests.store.conftest import NOW_MS, event, flushed, opened, request

ENDS = [
    (Outcome.OK, None),
    (Outcome.CLIENT_GONE, None),
    (Outcome.ERROR, "node_timeout"),
    (Outcome.ERROR, "queue_full"),
]


def some_requests() -> list[RequestRecord]:
    """Of every kind, many at the same instant, written in another order than they began."""
    rng = random.Random(1)
    return [
        request(
            number,
            started_at_ms=NOW_MS + rng.randrange(20),
            model=rng.choice(["a", "b", None]),
            node=rng.choice(["n1", "n2", None]),
            client=rng.choice(["x", "y", None]),
            duration_ms=float(rng.randrange(1000)),
            outcome=outcome,
            error_code=code,
        )
        for number, (outcome, code) in enumerate(ENDS * 75)
    ]


def some_events() -> list[FleetEvent]:
    rng = random.Random(2)
    return [
        event(
            number,
            at_ms=NOW_MS + rng.randrange(20),
            kind=rng.choice([EventKind.LOAD, EventKind.EVICT]),
            node=rng.choice(["n1", "n2", None]),
            model=rng.choice(["a", "b", None]),
        )
        for number in range(200)
    ]


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Store]:
    async with opened(path) as store:
        for record in some_requests():
            store.request_done(record)
        for happened in some_events():
            store.record(happened)
        await flushed(store)
        yield store


REQUEST_FILTERS: dict[str, list[Any]] = {
    "model": ["a", "none such"],
    "node": ["n1"],
    "client": ["y"],
    "since_ms": [NOW_MS + 7],
    "until_ms": [NOW_MS + 12],
    "outcome": ["ok", "client_gone", "error", "queue_full", "no_such_code"],
    "slow_ms": [500.0],
    "after_id": [0, 100, 10**6],
}
EVENT_FILTERS: dict[str, list[Any]] = {
    "kind": ["evict", "none such"],
    "node": ["n2"],
    "model": ["a"],
    "since_ms": [NOW_MS + 7],
    "until_ms": [NOW_MS + 12],
    "after_id": [0, 100, 10**6],
}


def combinations(filters: dict[str, list[Any]], most: int) -> list[dict[str, Any]]:
    """Every choice of up to `most` filters, and all of them at once."""
    sizes = [*range(most + 1), len(filters)]
    return [
        dict(zip(names, values, strict=True))
        for size in sizes
        for names in itertools.combinations(filters, size)
        for values in itertools.product(*(filters[name] for name in names))
    ]


def passes(row: Any, name: str, value: Any) -> bool:
    """What a filter means, said again."""
    match name:
        case "since_ms":
            return bool(instant(row) >= value)
        case "until_ms":
            return bool(instant(row) < value)
        case "slow_ms":
            return bool(row.duration_ms >= value)
        case "after_id":
            return bool(row.id > value)
        case "outcome":
            return value in (row.outcome, row.error_code)
    return bool(getattr(row, name) == value)


def instant(row: Any) -> int:
    return int(row.started_at_ms if isinstance(row, HistoryRow) else row.at_ms)


async def test_every_combination_of_filters_gives_the_rows_that_pass_them_all(
    store: Store,
) -> None:
    everything = (await store.history(HistoryQuery(limit=10_000))).rows
    assert len(everything) == 300
    connection = sqlite3.connect(store._path)
    with closing(connection):
        for wanted in combinations(REQUEST_FILTERS, 3):
            got = queries.history(connection, HistoryQuery(limit=10_000, **wanted)).rows
            expected = [
                row
                for row in everything
                if all(passes(row, name, value) for name, value in wanted.items())
            ]
            if "after_id" in wanted:
                expected.sort(key=lambda row: row.id)
            assert got == expected, wanted


async def test_every_combination_of_filters_gives_the_events_that_pass_them_all(
    store: Store,
) -> None:
    everything = (await store.events(EventQuery(limit=10_000))).rows
    assert [row.id for row in everything] == list(range(200, 0, -1))
    connection = sqlite3.connect(store._path)
    with closing(connection):
        for wanted in combinations(EVENT_FILTERS, 3):
            got = queries.events(connection, EventQuery(limit=10_000, **wanted)).rows
            expected = [
                row
                for row in everything
                if all(passes(row, name, value) for name, value in wanted.items())
            ]
            if "after_id" in wanted:
                expected.reverse()
            assert got == expected, wanted


async def test_history_is_newest_first_and_the_later_row_of_one_instant_before_the_earlier(
    store: Store,
) -> None:
    rows = (await store.history(HistoryQuery(limit=10_000))).rows
    assert [(row.started_at_ms, row.id) for row in rows] == sorted(
        ((row.started_at_ms, row.id) for row in rows), reverse=True
    )
    assert (await store.history(HistoryQuery(limit=7))).rows == rows[:7]
    assert len((await store.history(HistoryQuery())).rows) == 50


async def test_following_an_id_sees_every_row_once(store: Store) -> None:
    seen: list[str] = []
    last = 0
    while rows := (await store.history(HistoryQuery(after_id=last, limit=37))).rows:
        seen += [row.request_id for row in rows]
        last = rows[-1].id
    assert seen == [f"r{number}" for number in range(300)]
    # A row that comes later is found, though it began before all others.
    store.request_done(request(300, started_at_ms=1))
    await flushed(store)
    rows = (await store.history(HistoryQuery(after_id=last))).rows
    assert [row.request_id for row in rows] == ["r300"]


@pytest.fixture
def short_sighted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is large compared with what one question reads."""
    for name in ("SCATTERED", "IN_A_ROW", "INDEX_ONLY"):
        monkeypatch.setattr(search, name, 7)
    for name in ("EVENTS_SCATTERED", "EVENTS_IN_A_ROW", "FOLLOWED_ROWS"):
        monkeypatch.setattr(queries, name, 7)


@pytest.mark.usefixtures("short_sighted")
async def test_pages_have_every_row_once_however_little_each_reads(store: Store) -> None:
    connection = sqlite3.connect(store._path, isolation_level=None)
    everything = queries.history(connection, HistoryQuery(limit=10_000)).rows
    assert len(everything) == 300
    filters = {name: values for name, values in REQUEST_FILTERS.items() if name != "after_id"}
    with closing(connection):
        for wanted in combinations(filters, 2):
            for limit in (3, 1000):
                query = HistoryQuery(limit=limit, **wanted)
                body = queries.history(connection, query)
                got = list(body.rows)
                while body.next is not None:
                    query = query.model_copy(update={"before": body.next})
                    body = queries.history(connection, query)
                    got += body.rows
                assert got == [
                    row
                    for row in everything
                    if all(passes(row, name, value) for name, value in wanted.items())
                ], (wanted, limit)


@pytest.mark.usefixtures("short_sighted")
async def test_pages_of_events_have_every_event_once(store: Store) -> None:
    everything = (await store.events(EventQuery(limit=10_000))).rows
    filters = {name: values for name, values in EVENT_FILTERS.items() if name != "after_id"}
    connection = sqlite3.connect(store._path, isolation_level=None)
    with closing(connection):
        for wanted in combinations(filters, 2):
            query = EventQuery(limit=5, **wanted)
            body = queries.events(connection, query)
            got = list(body.rows)
            while body.next is not None:
                body = queries.events(
                    connection, query.model_copy(update={"before_id": body.next})
                )
                got += body.rows
            assert got == [
                row
                for row in everything
                if all(passes(row, name, value) for name, value in wanted.items())
            ], wanted


@pytest.mark.usefixtures("short_sighted")
async def test_following_events_of_a_kind_gets_to_the_end(store: Store) -> None:
    seen: list[int] = []
    last = 0
    while last < 200:
        body = await store.events(EventQuery(after_id=last, kind="evict", limit=2))
        assert body.last_id > last
        seen += [row.id for row in body.rows]
        last = body.last_id
    everything = (await store.events(EventQuery(limit=1000))).rows
    assert seen == sorted(row.id for row in everything if row.kind == "evict")


@pytest.mark.usefixtures("short_sighted")
async def test_following_a_filter_sees_every_row_once_and_gets_to_the_end(store: Store) -> None:
    seen: list[int] = []
    last = 0
    while last < 300:
        body = await store.history(HistoryQuery(after_id=last, model="a", limit=2))
        assert body.last_id > last
        seen += [row.id for row in body.rows]
        last = body.last_id
    everything = (await store.history(HistoryQuery(limit=1000))).rows
    assert seen == sorted(row.id for row in everything if row.model == "a")


async def test_an_answer_tells_whether_there_is_more(store: Store) -> None:
    body = await store.history(HistoryQuery(limit=300))
    assert body.last_id == 300
    assert body.next is not None
    after = await store.history(HistoryQuery(before=body.next))
    assert (after.rows, after.next) == ([], None)
    assert (await store.history(HistoryQuery(limit=301))).next is None


async def test_a_row_comes_back_as_it_was_written(path: Path) -> None:
    full = RequestRecord(
        request_id="r", started_at_ms=NOW_MS, route="responses", dialect="anthropic",
        model="m/ü", node="n", client="c 'x' \0 \"y\"", stream=True, status=504,
        outcome=Outcome.ERROR, error_code="node_timeout", prompt_tokens=0, cached_tokens=2,
        completion_tokens=3, ttft_ms=4.25, duration_ms=5.5, tokens_per_s=6.125, queue_ms=7.5,
        load_wait_ms=8.5, cold_start=True, attempts=2, response_id="resp_1",
    )  # fmt: skip
    empty = RequestRecord(request_id="e", started_at_ms=NOW_MS - 1, route="chat")
    happened = event(1, node="n", model="m", detail={"a": [1, None, {"b": 0.5}], "ü": "é"})
    async with opened(path) as store:
        store.request_done(full)
        store.request_done(empty)
        store.record(happened)
        await flushed(store)
        first, second = (await store.history(HistoryQuery())).rows
        (told,) = (await store.events(EventQuery())).rows
    names = {field.name for field in fields(RequestRecord)} & set(HistoryRow.model_fields)
    assert len(names) == len(HistoryRow.model_fields) - 1
    for record, row in ((full, first), (empty, second)):
        assert {n: getattr(row, n) for n in names} == {n: getattr(record, n) for n in names}
    assert second.prompt_tokens is None
    assert second.ttft_ms is None
    assert told == EventRow(
        id=1, at_ms=NOW_MS + 1, kind="loaded", reason="e1", node="n", model="m",
        detail={"a": [1, None, {"b": 0.5}], "ü": "é"},
    )  # fmt: skip
