"""The statistics of history are those that Python finds over the same rows; the unknown is no zero."""

import math
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.adminapi import HistoryQuery, StatsRow
from cortex.core.records import Outcome, RequestRecord
from cortex.store import queries, rows
from cortex.store.migrate import migrate
from tests.store.conftest import NOW_MS, flushed, opened, request

MEASURES = st.none() | st.floats(0, 1e6) | st.sampled_from([1.0, 2.0])
COUNTS = st.none() | st.integers(0, 10**6)
REQUESTS = st.lists(
    st.builds(
        RequestRecord,
        request_id=st.just("r"),
        started_at_ms=st.integers(NOW_MS, NOW_MS + 5),
        route=st.just("chat"),
        model=st.sampled_from(["a", "b", None]),
        node=st.sampled_from(["n1", "n2"]),
        client=st.sampled_from(["me", "you", None]),
        outcome=st.sampled_from(Outcome),
        prompt_tokens=COUNTS,
        completion_tokens=COUNTS,
        ttft_ms=MEASURES,
        duration_ms=st.floats(0, 1e6),
        tokens_per_s=MEASURES,
        cold_start=st.booleans(),
    ),
    max_size=60,
)


def nearest_rank(values: Sequence[float | None], share: int) -> float | None:
    known = sorted(value for value in values if value is not None)
    return known[math.ceil(len(known) * share / 100) - 1] if known else None


def total(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def said_again(records: Sequence[RequestRecord], by: str = "model") -> list[StatsRow]:
    """What the statistics mean."""
    groups: defaultdict[str | None, list[RequestRecord]] = defaultdict(list)
    for record in records:
        groups[getattr(record, by)].append(record)
    return [
        StatsRow(
            **{by: group},
            requests=len(grouped),
            errors=sum(r.outcome is Outcome.ERROR for r in grouped),
            cold_starts=sum(r.cold_start for r in grouped),
            prompt_tokens=total([r.prompt_tokens for r in grouped]),
            completion_tokens=total([r.completion_tokens for r in grouped]),
            ttft_p50_ms=nearest_rank([r.ttft_ms for r in grouped], 50),
            ttft_p95_ms=nearest_rank([r.ttft_ms for r in grouped], 95),
            duration_p50_ms=nearest_rank([r.duration_ms for r in grouped], 50),
            duration_p95_ms=nearest_rank([r.duration_ms for r in grouped], 95),
            tokens_per_s_p50=nearest_rank([r.tokens_per_s for r in grouped], 50),
            tokens_per_s_p95=nearest_rank([r.tokens_per_s for r in grouped], 95),
        )
        for group, grouped in sorted(
            groups.items(), key=lambda item: (-len(item[1]), item[0] or "")
        )
    ]


@pytest.fixture(scope="module")
def connection() -> sqlite3.Connection:
    """An empty database without a file; every example leaves it empty."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    return connection


@settings(max_examples=150, deadline=None, derandomize=True)
@given(records=REQUESTS)
def test_stats_are_those_of_python(
    connection: sqlite3.Connection, records: list[RequestRecord]
) -> None:
    connection.execute("BEGIN")
    for number, record in enumerate(records, start=1):
        connection.execute(*rows.request_row(number, record))
    try:
        assert queries.stats(connection, HistoryQuery()).rows == said_again(records)
        for by in ("client", "node"):
            told = queries.stats(connection, HistoryQuery(by=by))
            assert told.rows == said_again(records, by)
        chosen = [r for r in records if r.node == "n1" and r.started_at_ms < NOW_MS + 4]
        query = HistoryQuery(node="n1", until_ms=NOW_MS + 4)
        assert queries.stats(connection, query).rows == said_again(chosen)
    finally:
        connection.rollback()


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 39, 40, 41, 99, 100, 101])
async def test_percentiles_of_any_number_of_rows_are_exact(path: Path, count: int) -> None:
    async with opened(path, runs=False) as store:
        for number in range(count):
            value = float((number * 37) % count + 1)
            store.request_done(request(number, ttft_ms=value, tokens_per_s=value))
            store.request_done(request(number))  # one of which nothing is known
        while store.status().queued_rows:
            await store._flush()
        (row,) = (await store.stats(HistoryQuery(model="m"))).rows
    p50, p95 = float(math.ceil(count / 2)), float(math.ceil(count * 95 / 100))
    assert (row.ttft_p50_ms, row.ttft_p95_ms) == (p50, p95)
    assert (row.tokens_per_s_p50, row.tokens_per_s_p95) == (p50, p95)
    assert row.requests == 2 * count


async def test_what_no_row_tells_is_unknown_and_a_told_zero_is_zero(path: Path) -> None:
    async with opened(path) as store:
        store.request_done(request(1, model="silent"))
        store.request_done(request(2, model="silent"))
        store.request_done(
            request(3, model="zero", prompt_tokens=0, completion_tokens=0, ttft_ms=0.0)
        )
        await flushed(store)
        silent, zero = (await store.stats(HistoryQuery())).rows
        assert (await store.stats(HistoryQuery(model="none such"))).rows == []
    assert (silent.model, silent.requests) == ("silent", 2)
    assert (silent.prompt_tokens, silent.completion_tokens) == (None, None)
    assert (silent.ttft_p50_ms, silent.tokens_per_s_p95) == (None, None)
    assert silent.duration_p50_ms == 10.0
    assert (zero.prompt_tokens, zero.completion_tokens, zero.ttft_p50_ms) == (0, 0, 0.0)


async def test_counts_too_large_for_a_sum_do_not_fail_the_question(path: Path) -> None:
    async with opened(path) as store:
        for number in range(3):
            store.request_done(request(number, prompt_tokens=2**70, completion_tokens=5))
        await flushed(store)
        (row,) = (await store.stats(HistoryQuery())).rows
    assert row.prompt_tokens == 2**63 - 1
    assert row.completion_tokens == 15


async def test_stats_are_of_the_newest_rows_where_there_are_too_many(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "STATS_ROWS", 10)
    monkeypatch.setattr(queries, "STATS_SCATTERED", 5)
    async with opened(path, runs=False) as store:
        for number in range(25):
            store.request_done(request(number, ttft_ms=float(number)))
    with closing(sqlite3.connect(path)) as connection:
        body = queries.stats(connection, HistoryQuery())
        # The limit is of the rows shown, not of those the statistics are taken over.
        assert queries.stats(connection, HistoryQuery(limit=1)) == body
        of_model = queries.stats(connection, HistoryQuery(model="m"))
        whole = queries.stats(connection, HistoryQuery(since_ms=NOW_MS + 20))
    (row,) = body.rows
    assert (row.requests, row.ttft_p50_ms, row.ttft_p95_ms) == (10, 19.0, 24.0)
    assert body.since_ms == NOW_MS + 15
    assert (of_model.rows[0].requests, of_model.since_ms) == (5, NOW_MS + 20)
    assert (whole.rows[0].requests, whole.since_ms) == (5, None)
