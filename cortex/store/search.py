"""How a question to the request log finds its rows: along one index, and only so far at a time.

A log keeps months of requests, and a filter may match none of them. So a search reads at most the
`scan` entries of its index that are newest; what lies beyond is for the next page, and the answer
says where that begins.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from cortex.adminapi import HistoryQuery
from cortex.store.rows import plain

SLOW_MS = 60_000
"""The bound of the index of slow requests (0003_history.sql)."""
# How many entries are read in about 20 ms: where each means a row somewhere in the table, where the
# rows stand side by side, and where the index alone tells.
SCATTERED, IN_A_ROW, INDEX_ONLY = 5_000, 50_000, 100_000
_OUTCOMES = frozenset({"ok", "client_gone", "error"})
BY_TIME = "requests_started_at"
NEWEST_FIRST = "ORDER BY started_at_ms DESC, id DESC"

Condition = tuple[str, object]


@dataclass(frozen=True, slots=True)
class Path:
    """One index, in the order of time under `conditions`, and how far it is read at a time."""

    index: str
    scan: int
    conditions: tuple[Condition, ...] = ()
    answers: str | None = None
    """The filter that `conditions` say all of; rows have to be looked at for the others."""


@dataclass(frozen=True, slots=True)
class Search:
    """A question made ready: where to read, under which conditions, and how far down."""

    path: Path
    conditions: tuple[Condition, ...]
    floor_ms: int | None
    """Nothing older is read; None = all that there is."""

    def select(self, columns: str) -> tuple[str, list[object]]:
        """The statement, newest first, and its values; the last, missing one is its limit."""
        where, values = where_all((*self.path.conditions, *self.conditions))
        source = f"requests INDEXED BY {self.path.index}"
        return f"SELECT {columns} FROM {source} {where} {NEWEST_FIRST} LIMIT ?", values  # noqa: S608


def search(connection: sqlite3.Connection, query: HistoryQuery) -> Search:
    """Choose the index that ends soonest; where none does within its scan, the one that reaches furthest."""
    filters = filters_of(query)
    paths = _paths(query)
    if filters.keys() <= {paths[0].answers}:
        return Search(paths[0], _bounds(query), None)
    reaches = [(*_reach(connection, path, query), path) for path in paths]
    floor_ms, _, path = min(reaches, key=lambda reach: (reach[0] is not None, reach[:2]))
    others = [condition for name, condition in filters.items() if name != path.answers]
    return Search(path, (*others, *_bounds(query, floor_ms)), floor_ms)


def filters_of(query: HistoryQuery) -> dict[str, Condition]:
    """The conditions on what a request was, by the name of the filter."""
    by_code = query.outcome is not None and query.outcome not in _OUTCOMES
    every = {
        "model": ("model = ?", query.model),
        "node": ("node = ?", query.node),
        "client": ("client = ?", query.client),
        "outcome": ("error_code = ?" if by_code else "outcome = ?", query.outcome),
        "request_id": ("request_id = ?", query.request_id),
        "slow_ms": ("duration_ms >= ?", query.slow_ms),
        "after_id": ("id > ?", query.after_id),
    }
    return {name: (text, value) for name, (text, value) in every.items() if value is not None}


def where_all(conditions: Sequence[Condition]) -> tuple[str, list[object]]:
    """The clause and its values; a tuple stands for several, a condition without a `?` has none."""
    if not conditions:
        return "", []
    given = [value for text, value in conditions if "?" in text]
    values: list[object] = []
    for value in given:
        values += map(plain, value if isinstance(value, tuple) else (value,))
    return "WHERE " + " AND ".join(text for text, _ in conditions), values


def _paths(query: HistoryQuery) -> list[Path]:
    """Every index that may serve, the one over all rows last."""
    paths = [
        Path(f"requests_{name}", SCATTERED, ((f"{name} = ?", value),), name)
        for name, value in (
            ("model", query.model),
            ("node", query.node),
            ("client", query.client),
        )
        if value is not None
    ]
    if query.outcome is not None and query.outcome != "ok":
        paths.append(Path("requests_failed", INDEX_ONLY, (("outcome <> 'ok'", None),)))
    if query.slow_ms is not None and query.slow_ms >= SLOW_MS:
        slow = (f"duration_ms >= {SLOW_MS}", None)
        paths.append(Path("requests_slow", SCATTERED, (slow,)))
    return paths or [Path(BY_TIME, IN_A_ROW)]


def _reach(
    connection: sqlite3.Connection, path: Path, query: HistoryQuery
) -> tuple[int | None, float]:
    """The time down to which `path` may be read at once, None = to its end, and the work of it."""
    where, values = where_all((*path.conditions, *_bounds(query)))
    sql = (
        "SELECT count(*), min(started_at_ms) FROM (SELECT started_at_ms FROM requests"  # noqa: S608
        f" INDEXED BY {path.index} {where} ORDER BY started_at_ms DESC LIMIT ?)"
    )
    count, oldest_ms = connection.execute(sql, [*values, path.scan]).fetchone()
    return (oldest_ms if count == path.scan else None), count / path.scan


def _bounds(query: HistoryQuery, floor_ms: int | None = None) -> tuple[Condition, ...]:
    """The span of time as at most one bound on each side, which is all that an index can begin from."""
    bounds: list[Condition] = []
    oldest = [at_ms for at_ms in (query.since_ms, floor_ms) if at_ms is not None]
    if oldest:
        bounds.append(("started_at_ms >= ?", max(oldest)))
    before = query.position
    if before is None or (query.until_ms is not None and query.until_ms <= before[0]):
        if query.until_ms is not None:
            bounds.append(("started_at_ms < ?", query.until_ms))
    else:
        bounds.append(("(started_at_ms, id) < (?, ?)", before))
    return tuple(bounds)
