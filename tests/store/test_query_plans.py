"""How SQLite goes about the questions: by an index, without sorting a table to show its newest rows."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cortex.adminapi import EventQuery, HistoryQuery
from cortex.store import queries, rows
from cortex.store.db import connect
from cortex.store.migrate import migrate

BY_TIME = "SCAN requests USING INDEX requests_started_at"
"""Newest first along the index: it ends as soon as the limit is reached."""
BY_ID = "SEARCH requests USING INTEGER PRIMARY KEY (rowid>?)"
UP_TO_ID = "SEARCH requests USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"
FAILED = "SCAN requests USING INDEX requests_failed"
SAME_TIME = "USE TEMP B-TREE FOR RIGHT PART OF ORDER BY"
"""Sorts rows of one and the same millisecond, no more."""
HISTORY: list[tuple[dict[str, Any], list[str]]] = [
    ({}, [BY_TIME]),
    ({"outcome": "ok"}, [BY_TIME]),
    ({"outcome": "error"}, [FAILED, SAME_TIME]),
    ({"outcome": "queue_full"}, [FAILED, SAME_TIME]),
    ({"slow_ms": 100.0}, [BY_TIME]),
    ({"slow_ms": 60_000.0}, ["SCAN requests USING INDEX requests_slow"]),
    ({"model": "a"}, ["SEARCH requests USING INDEX requests_model (model=?)"]),
    ({"node": "a"}, ["SEARCH requests USING INDEX requests_node (node=?)"]),
    ({"client": "a"}, ["SEARCH requests USING INDEX requests_client (client=?)"]),
    ({"since_ms": 5}, ["SEARCH requests USING INDEX requests_started_at (started_at_ms>?)"]),
    ({"until_ms": 5}, ["SEARCH requests USING INDEX requests_started_at (started_at_ms<?)"]),
    ({"before": "5-7"}, ["SEARCH requests USING INDEX requests_started_at (started_at_ms<?)"]),
    (
        {"until_ms": 9, "before": "5-7"},
        ["SEARCH requests USING INDEX requests_started_at (started_at_ms<?)"],
    ),
    (
        {"model": "a", "since_ms": 5},
        ["SEARCH requests USING INDEX requests_model (model=? AND started_at_ms>?)"],
    ),
    (
        {"client": "a", "slow_ms": 1.0, "before": "5-7"},
        ["SEARCH requests USING INDEX requests_client (client=? AND started_at_ms<?)"],
    ),
]
FOLLOWED: list[tuple[dict[str, Any], list[str]]] = [
    ({"after_id": 5}, [UP_TO_ID]),
    # The command line follows with its filters.
    ({"after_id": 5, "model": "a"}, [UP_TO_ID]),
    (
        {"after_id": 5, "node": "a", "client": "a", "since_ms": 5, "outcome": "error"},
        [UP_TO_ID],
    ),
]
WITHIN = "rowid>? AND rowid<?"
EVENTS: list[tuple[dict[str, Any], str]] = [
    ({}, f"SEARCH events USING INTEGER PRIMARY KEY ({WITHIN})"),
    ({"since_ms": 5}, f"SEARCH events USING INTEGER PRIMARY KEY ({WITHIN})"),
    ({"kind": "a"}, f"SEARCH events USING INDEX events_kind (kind=? AND {WITHIN})"),
    ({"node": "a"}, f"SEARCH events USING INDEX events_node (node=? AND {WITHIN})"),
    ({"model": "a"}, f"SEARCH events USING INDEX events_model (model=? AND {WITHIN})"),
    (
        {"model": "a", "before_id": 5},
        f"SEARCH events USING INDEX events_model (model=? AND {WITHIN})",
    ),
    ({"after_id": 5}, f"SEARCH events USING INTEGER PRIMARY KEY ({WITHIN})"),
    ({"after_id": 5, "kind": "a"}, f"SEARCH events USING INTEGER PRIMARY KEY ({WITHIN})"),
]


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(path, 1.0)) as connection:
        migrate(connection)
        yield connection


def plan(connection: sqlite3.Connection, ask: Callable[[], object]) -> list[str]:
    """The steps of the statement that reads rows; those before it only look at how far to read."""
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    ask()
    connection.set_trace_callback(None)
    reads = [text for text in statements if text.startswith(("SELECT", "DELETE"))]
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {reads[-1]}")]


@pytest.mark.parametrize(("filters", "steps"), [*HISTORY, *FOLLOWED], ids=str)
def test_history_finds_its_rows_in_order(
    connection: sqlite3.Connection, filters: dict[str, Any], steps: list[str]
) -> None:
    query = HistoryQuery(**filters)
    assert plan(connection, lambda: queries.history(connection, query)) == steps


@pytest.mark.parametrize(("filters", "steps"), HISTORY, ids=str)
def test_stats_pick_their_rows_in_order(
    connection: sqlite3.Connection, filters: dict[str, Any], steps: list[str]
) -> None:
    query = HistoryQuery(**filters)
    assert plan(connection, lambda: queries.stats(connection, query)) == steps


@pytest.mark.parametrize("filters", [{"model": "a", "node": "b", "outcome": "error"}], ids=str)
def test_how_far_to_read_is_told_by_the_indexes_alone(
    connection: sqlite3.Connection, filters: dict[str, Any]
) -> None:
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    queries.history(connection, HistoryQuery(**filters))
    connection.set_trace_callback(None)
    looks = [text for text in statements if text.startswith("SELECT count(*)")]
    assert len(looks) == 3
    for look in looks:
        steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {look}")]
        assert any("USING COVERING INDEX" in step for step in steps), steps
        assert not any("TEMP B-TREE" in step for step in steps), steps


@pytest.mark.parametrize(("filters", "step"), EVENTS, ids=str)
def test_events_are_found_in_order(
    connection: sqlite3.Connection, filters: dict[str, Any], step: str
) -> None:
    query = EventQuery(**filters)
    assert plan(connection, lambda: queries.events(connection, query)) == [step]


def test_the_node_of_a_response_is_found_by_its_id(connection: sqlite3.Connection) -> None:
    steps = plan(connection, lambda: queries.node_of_response(connection, "resp_1"))
    assert steps == ["SEARCH requests USING INDEX requests_response (response_id=?)"]


@pytest.mark.parametrize(
    ("table", "index"),
    [("requests", "requests_started_at (started_at_ms<?)"), ("events", "events_at (at_ms<?)")],
)
def test_pruning_finds_old_rows_by_their_time(
    connection: sqlite3.Connection, table: str, index: str
) -> None:
    steps = plan(connection, lambda: connection.execute(rows.PRUNE[table], (5, 500)))
    assert f"SEARCH {table} USING COVERING INDEX {index}" in steps
    assert not any("SCAN" in step or "TEMP B-TREE" in step for step in steps)
