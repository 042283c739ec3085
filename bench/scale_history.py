"""A request log of millions of rows: how large it is, how long each question takes, what a row costs to write."""

import itertools
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from cortex.adminapi import EventQuery, HistoryQuery
from cortex.core.ids import ModelId, NodeName, RequestId
from cortex.core.records import Outcome, RequestRecord
from cortex.store import queries, rows
from cortex.store.db import connect, connect_read_only
from cortex.store.migrate import migrate, migrations

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
KEPT_MS = 30 * DAY_MS
"""The default retention: the rows are spread over it."""
EVENTS_SHARE = 10
"""Requests for each event."""
BATCH_ROWS = 500_000
TRIES = 5
MODEL, RARE_MODEL = "organisation/model-007-instruct", "organisation/model-199-instruct"
INDEXES = 3
"""The migration of 0003_history.sql."""

# Five numbers in [0, 1) for each row, without a pattern that two columns share.
_HASHED = """
    WITH RECURSIVE n (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last),
    h AS MATERIALIZED (
        SELECT i, ((i * 2654435761) % 1000003) / 1000003.0 AS u,
               ((i * 40503 + 7) % 999983) / 999983.0 AS v,
               ((i * 69069 + 1) % 999979) / 999979.0 AS w,
               ((i * 1103515245 + 12345) % 999961) / 999961.0 AS x,
               ((i * 22695477 + 1) % 999959) / 999959.0 AS y
        FROM n
    )
"""
# Few models have most of the requests; a hundredth is given up by the client, a fiftieth fails.
_REQUESTS = (
    _HASHED
    + """
    INSERT INTO requests SELECT i, 'req_' || printf('%024x', i * 2654435761),
        CAST(:now - (:rows - i) * :step AS INTEGER),
        CASE WHEN v < 0.05 THEN 'responses' ELSE 'chat' END,
        CASE WHEN w < 0.3 THEN 'anthropic' ELSE 'openai' END,
        'organisation/model-' || printf('%03d', CAST(u * u * u * 200 AS INTEGER)) || '-instruct',
        CASE WHEN x <= 0.995 THEN 'gpu-node-' || printf('%02d', CAST(v * 30 AS INTEGER)) END,
        'client-' || printf('%02d', CAST(w * w * 40 AS INTEGER)),
        y < 0.7,
        CASE WHEN x > 0.98 THEN 503 ELSE 200 END,
        CASE WHEN x > 0.98 THEN 'error' WHEN x > 0.97 THEN 'client_gone' ELSE 'ok' END,
        CASE WHEN x > 0.98 THEN
            CASE CAST((x - 0.98) * 200 AS INTEGER)
                WHEN 0 THEN 'node_timeout' WHEN 1 THEN 'queue_full' WHEN 2 THEN 'no_room'
                ELSE 'node_unreachable' END
        END,
        200 + CAST(u * 4000 AS INTEGER), CAST(u * 1000 AS INTEGER), 10 + CAST(y * 800 AS INTEGER),
        CASE WHEN y < 0.7 THEN 30 + 900.0 * v * w END,
        100.0 + 20000.0 * w * w * u + CASE WHEN y > 0.9999 THEN 600000.0 * v ELSE 0 END,
        CASE WHEN y < 0.7 THEN 10 + 100.0 * u END,
        v * 2.0, CASE WHEN u > 0.999 THEN 9000.0 ELSE 0.0 END, u > 0.999, 1,
        CASE WHEN v < 0.05 THEN 'resp_' || printf('%032x', i * 40503) END,
        CASE WHEN x > 0.98 THEN 'node gpu-node-07: out of memory: tried to allocate 2.0 GiB' END
    FROM h
"""
)
_EVENTS = (
    _HASHED
    + """
    INSERT INTO events SELECT i, CAST(:now - (:rows - i) * :step AS INTEGER),
        CASE CAST(u * 4 AS INTEGER)
            WHEN 0 THEN 'load' WHEN 1 THEN 'loaded' WHEN 2 THEN 'evict' ELSE 'unloaded' END,
        'to make room for organisation/model-007-instruct',
        'gpu-node-' || printf('%02d', CAST(v * 30 AS INTEGER)),
        'organisation/model-' || printf('%03d', CAST(w * w * w * 200 AS INTEGER)) || '-instruct',
        '{"need_mib": 24000, "evict": ["organisation/model-003-instruct"]}'
    FROM h
"""
)

FILTERS: dict[str, list[Any]] = {
    "model": [MODEL, RARE_MODEL, "none such"],
    "node": ["gpu-node-05", "none such"],
    "client": ["client-30", "none such"],
    "outcome": ["ok", "error", "client_gone", "queue_full", "none such"],
    "slow_ms": [15_000.0, 300_000.0, 1e9],
    "since_ms": [NOW_MS - DAY_MS],
    "until_ms": [NOW_MS - 25 * DAY_MS],
    "after_id": [0],
}
EVENT_FILTERS: dict[str, list[Any]] = {
    "kind": ["evict", "none such"],
    "node": ["gpu-node-05", "none such"],
    "model": [MODEL, RARE_MODEL, "none such"],
    "since_ms": [NOW_MS - DAY_MS],
    "until_ms": [NOW_MS - 25 * DAY_MS],
    "after_id": [0],
}


def fill(path: Path, count: int) -> None:
    """A log of so many requests, written in the order of time as the gateway does."""
    with closing(connect(path, 1.0)) as connection:
        migrate(connection)
        connection.execute("PRAGMA synchronous = OFF")
        for sql, of_kind in ((_REQUESTS, count), (_EVENTS, count // EVENTS_SHARE)):
            given = {"now": NOW_MS, "rows": of_kind, "step": KEPT_MS / max(1, of_kind)}
            for first in range(1, of_kind + 1, BATCH_ROWS):
                last = min(first + BATCH_ROWS - 1, of_kind)
                connection.execute("BEGIN")
                connection.execute(sql, given | {"first": first, "last": last})
                connection.execute("COMMIT")


def combined(filters: dict[str, list[Any]], most: int) -> Iterator[dict[str, Any]]:
    """Every choice of up to so many filters, and of each one's values."""
    for size in range(most + 1):
        for names in itertools.combinations(filters, size):
            for values in itertools.product(*(filters[name] for name in names)):
                yield dict(zip(names, values, strict=True))


Question = Callable[[sqlite3.Connection], object]


def questions(most: int) -> Iterator[tuple[str, str, Question]]:
    for wanted in combined(FILTERS, most):
        asked = HistoryQuery(**wanted)
        said = " ".join(f"{name}={value}" for name, value in wanted.items()) or "nothing"
        yield "history", said, lambda file, q=asked: queries.history(file, q)
        yield "stats", said, lambda file, q=asked: queries.stats(file, q)
    for wanted in combined(EVENT_FILTERS, most):
        events = EventQuery(**wanted)
        said = " ".join(f"{name}={value}" for name, value in wanted.items()) or "nothing"
        yield "events", said, lambda file, q=events: queries.events(file, q)
    for limit in (1000, 10_000):
        rows_asked = HistoryQuery(limit=limit)
        yield f"{limit:,} rows", "nothing", lambda file, q=rows_asked: queries.history(file, q)


def ask_ms(path: Path, question: Question, enough_ms: float) -> float:
    """As the gateway asks: on a connection of its own, opened for it.

    The best of up to `TRIES`, since whatever else the machine does can only add to it; the first
    that takes no more than `enough_ms` ends them.
    """
    best = float("inf")
    for _ in range(TRIES):
        began_s = time.perf_counter()
        with closing(connect_read_only(path)) as connection:
            question(connection)
        best = min(best, (time.perf_counter() - began_s) * 1e3)
        if best <= enough_ms:
            break
    return best


def asking(path: Path, most: int, enough_ms: float) -> dict[str, list[tuple[float, str]]]:
    """Milliseconds and filters of every question, slowest first, by what is asked for."""
    found: dict[str, list[tuple[float, str]]] = {}
    for kind, said, question in questions(most):
        found.setdefault(kind, []).append((ask_ms(path, question, enough_ms), said))
    return {kind: sorted(each, reverse=True) for kind, each in found.items()}


def _records(count: int) -> list[rows.Values]:
    return [
        rows.request_row(
            number,
            RequestRecord(
                request_id=RequestId(f"req_{number:024x}"),
                started_at_ms=NOW_MS + number,
                route="chat",
                model=ModelId(f"organisation/model-{number * 7919 % 200:03}-instruct"),
                node=NodeName(f"gpu-node-{number % 30:02}"),
                client=f"client-{number % 40:02}",
                status=200,
                outcome=Outcome.ERROR if number % 50 == 0 else Outcome.OK,
                error_code="node_timeout" if number % 50 == 0 else None,
                duration_ms=70_000.0 if number % 20 == 0 else 3000.0,
            ),
        ).values
        for number in range(1, count + 1)
    ]


def writing(folder: Path, count: int) -> dict[str, float]:
    """CPU µs of a row in transactions of 500, without the indexes of history and with them."""
    given = _records(count)
    found: dict[str, float] = {}
    for attempt in range(3):
        without = (*migrations()[: INDEXES - 1], *migrations()[INDEXES:])
        for name, steps in (("before", without), ("now", migrations())):
            path = folder / f"write-{name}-{attempt}.db"
            with closing(connect(path, 1.0)) as connection:
                migrate(connection, steps)
                began_s = time.thread_time()
                for first in range(0, count, 500):
                    connection.execute("BEGIN IMMEDIATE")
                    connection.executemany(rows.INSERT_REQUEST, given[first : first + 500])
                    connection.commit()
                us = (time.thread_time() - began_s) / count * 1e6
            found[name] = min(found.get(name, us), us)
            path.unlink()
    return found
