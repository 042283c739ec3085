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
HISTORY: list[tuple[dict[str, Any], str]] = [
    ({}, BY_TIME),
    ({"outcome": "error"}, BY_TIME),
    ({"outcome": "queue_full"}, BY_TIME),
    ({"slow_ms": 100.0}, BY_TIME),
    ({"model": "a"}, "SEARCH requests USING INDEX requests_model (model=?)"),
    ({"node": "a"}, "SEARCH requests USING INDEX requests_node (node=?)"),
    ({"client": "a"}, "SEARCH requests USING INDEX requests_client (client=?)"),
    ({"since_ms": 5}, "SEARCH requests USING INDEX requests_started_at (started_at_ms>?)"),
    ({"until_ms": 5}, "SEARCH requests USING INDEX requests_started_at (started_at_ms<?)"),
    (
        {"model": "a", "since_ms": 5},
        "SEARCH requests USING INDEX requests_model (model=? AND started_at_ms>?)",
    ),
    ({"after_id": 5}, BY_ID),
    # The command line follows with its filters.
    ({"after_id": 5, "model": "a"}, BY_ID),
    ({"after_id": 5, "node": "a", "client": "a", "since_ms": 5, "outcome": "error"}, BY_ID),
]
EVENTS: list[tuple[dict[str, Any], str]] = [
    ({}, "SCAN events"),  # along the ids, down from the newest
    ({"kind": "a"}, "SCAN events"),
    ({"node": "a"}, "SCAN events"),
    ({"model": "a"}, "SCAN events"),
    ({"after_id": 5}, "SEARCH events USING INTEGER PRIMARY KEY (rowid>?)"),
]


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(path, 1.0)) as connection:
        migrate(connection)
        yield connection


def plan(connection: sqlite3.Connection, ask: Callable[[], object]) -> list[str]:
    """The steps of the one statement that a question puts."""
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    ask()
    connection.set_trace_callback(None)
    (statement,) = statements
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]


@pytest.mark.parametrize(("filters", "step"), HISTORY, ids=str)
def test_history_finds_its_rows_in_order(
    connection: sqlite3.Connection, filters: dict[str, Any], step: str
) -> None:
    query = HistoryQuery(**filters)
    assert plan(connection, lambda: queries.history(connection, query)) == [step]


@pytest.mark.parametrize(("filters", "step"), HISTORY[:-3], ids=str)
def test_stats_pick_their_rows_in_order(
    connection: sqlite3.Connection, filters: dict[str, Any], step: str
) -> None:
    query = HistoryQuery(**filters)
    steps = plan(connection, lambda: queries.stats(connection, query))
    of_table = [s for s in steps if " requests" in s]
    assert of_table == [step]
    # Ranking sorts what was picked; the picking itself, before it, does not.
    assert not any("TEMP B-TREE" in s for s in steps[: steps.index(step) + 1])


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
