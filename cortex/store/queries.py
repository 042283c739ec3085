"""The questions that `history` and `events` ask, as SQL and parameters; used on any connection."""

import json
import sqlite3
from collections.abc import Iterable

from cortex.adminapi import EventQuery, EventRow, HistoryQuery, HistoryRow, StatsRow

_OUTCOMES = frozenset({"ok", "client_gone", "error"})
STATS_ROWS = 200_000
"""The newest rows that percentiles are taken over, so that a question has a bounded cost."""
_COLUMNS = list(HistoryRow.model_fields)


def history(connection: sqlite3.Connection, query: HistoryQuery) -> list[HistoryRow]:
    where, values = _request_filter(query)
    # Ordered by id, which is the order of completion: what `--follow` resumes from.
    order = "ASC" if query.after_id is not None else "DESC"
    sql = f"SELECT {', '.join(_COLUMNS)} FROM requests{where} ORDER BY id {order} LIMIT ?"  # noqa: S608
    rows = connection.execute(sql, [*values, query.limit]).fetchall()
    return [HistoryRow.model_validate(dict(zip(_COLUMNS, row, strict=True))) for row in rows]


def stats(connection: sqlite3.Connection, query: HistoryQuery) -> list[StatsRow]:
    """Per model, over the newest `STATS_ROWS` requests that pass the filter."""
    where, values = _request_filter(query)
    sql = (
        "SELECT model, outcome, prompt_tokens, completion_tokens, ttft_ms, duration_ms,"  # noqa: S608
        f" tokens_per_s, cold_start FROM requests{where} ORDER BY id DESC LIMIT ?"
    )
    grouped: dict[str | None, list[tuple[object, ...]]] = {}
    for row in connection.execute(sql, [*values, STATS_ROWS]):
        grouped.setdefault(row[0], []).append(row)
    return [
        _stats_of(model, rows)
        for model, rows in sorted(grouped.items(), key=lambda g: -len(g[1]))
    ]


def events(connection: sqlite3.Connection, query: EventQuery) -> list[EventRow]:
    where, values = _where(
        ("kind = ?", query.kind),
        ("node = ?", query.node),
        ("model = ?", query.model),
        ("at_ms >= ?", query.since_ms),
        ("at_ms < ?", query.until_ms),
        ("id > ?", query.after_id),
    )
    order = "ASC" if query.after_id is not None else "DESC"
    sql = f"SELECT id, at_ms, kind, reason, node, model, detail FROM events{where} ORDER BY id {order} LIMIT ?"  # noqa: S608
    return [
        EventRow(
            id=row[0],
            at_ms=row[1],
            kind=row[2],
            reason=row[3],
            node=row[4],
            model=row[5],
            detail=json.loads(row[6]),
        )
        for row in connection.execute(sql, [*values, query.limit])
    ]


def percentile(ordered: list[float], share: float) -> float | None:
    """The nearest-rank percentile of sorted values."""
    if not ordered:
        return None
    return ordered[max(0, -(-len(ordered) * int(share * 100) // 100) - 1)]


def _request_filter(query: HistoryQuery) -> tuple[str, list[object]]:
    by_code = query.outcome is not None and query.outcome not in _OUTCOMES
    return _where(
        ("model = ?", query.model),
        ("node = ?", query.node),
        ("client = ?", query.client),
        ("started_at_ms >= ?", query.since_ms),
        ("started_at_ms < ?", query.until_ms),
        ("error_code = ?" if by_code else "outcome = ?", query.outcome),
        ("duration_ms >= ?", query.slow_ms),
        ("id > ?", query.after_id),
    )


def _where(*conditions: tuple[str, object]) -> tuple[str, list[object]]:
    given = [(text, value) for text, value in conditions if value is not None]
    if not given:
        return "", []
    return " WHERE " + " AND ".join(text for text, _ in given), [value for _, value in given]


def _stats_of(model: str | None, rows: list[tuple[object, ...]]) -> StatsRow:
    ttft, duration, rate = (_sorted(row[column] for row in rows) for column in (4, 5, 6))
    return StatsRow(
        model=model,
        requests=len(rows),
        errors=sum(row[1] == "error" for row in rows),
        prompt_tokens=_sum(row[2] for row in rows),
        completion_tokens=_sum(row[3] for row in rows),
        ttft_p50_ms=percentile(ttft, 0.5),
        ttft_p95_ms=percentile(ttft, 0.95),
        duration_p50_ms=percentile(duration, 0.5),
        duration_p95_ms=percentile(duration, 0.95),
        tokens_per_s_p50=percentile(rate, 0.5),
        tokens_per_s_p95=percentile(rate, 0.95),
        cold_starts=sum(bool(row[7]) for row in rows),
    )


def _sorted(values: Iterable[object]) -> list[float]:
    return sorted(value for value in values if isinstance(value, int | float))


def _sum(values: Iterable[object]) -> int | None:
    known = [value for value in values if isinstance(value, int)]
    return sum(known) if known else None
