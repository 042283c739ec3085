"""Every question put to the database, as functions of a connection; the gateway and `--db` ask the same."""

import sqlite3

from cortex.adminapi import EventQuery, EventRow, HistoryQuery, HistoryRow, StatsRow
from cortex.core.ids import ModelId, NodeName
from cortex.core.records import Memory, NodeRecord, ResidencyRecord
from cortex.store.rows import plain, to_event

STATS_ROWS = 200_000
"""The newest rows that statistics are taken over, so that a question has a bounded cost."""

_OUTCOMES = frozenset({"ok", "client_gone", "error"})
_COLUMNS = list(HistoryRow.model_fields)
_NEWEST_FIRST = "ORDER BY started_at_ms DESC, id DESC"
# Exact nearest-rank percentiles, in SQL because Python's lock is free meanwhile.
_MEASURES = ("ttft_ms", "duration_ms", "tokens_per_s")
_RANKED = ", ".join(
    f"row_number() OVER (PARTITION BY model ORDER BY {m} IS NULL, {m}) AS {m}_rank,"
    f" count({m}) OVER (PARTITION BY model) AS {m}_n"
    for m in _MEASURES
)
_PERCENTILES = ", ".join(
    f"max(CASE WHEN {m}_rank = ({m}_n * {share} + 99) / 100 THEN {m} END)"
    for m in _MEASURES
    for share in (50, 95)
)
_STATS_FIELDS = (
    "model", "requests", "errors", "cold_starts", "prompt_tokens", "completion_tokens",
    "ttft_p50_ms", "ttft_p95_ms", "duration_p50_ms", "duration_p95_ms",
    "tokens_per_s_p50", "tokens_per_s_p95",
)  # fmt: skip


def history(connection: sqlite3.Connection, query: HistoryQuery) -> list[HistoryRow]:
    where, values = _request_filter(query)
    order = _NEWEST_FIRST if query.after_id is None else "ORDER BY id"
    sql = f"SELECT {', '.join(_COLUMNS)} FROM requests {where} {order} LIMIT ?"  # noqa: S608
    rows = connection.execute(sql, [*values, query.limit])
    return [HistoryRow.model_validate(dict(zip(_COLUMNS, row, strict=True))) for row in rows]


def stats(connection: sqlite3.Connection, query: HistoryQuery) -> list[StatsRow]:
    """Per model, most requests first, over the newest `STATS_ROWS` that pass the filter."""
    where, values = _request_filter(query)
    sql = f"""
        WITH picked AS (
            SELECT model, outcome, cold_start, prompt_tokens, completion_tokens,
                   {", ".join(_MEASURES)}
            FROM requests {where} {_NEWEST_FIRST} LIMIT ?
        ), ranked AS (SELECT *, {_RANKED} FROM picked)
        SELECT model, count(*), sum(outcome = 'error'), sum(cold_start <> 0),
               {_known_total("prompt_tokens")}, {_known_total("completion_tokens")},
               {_PERCENTILES}
        FROM ranked GROUP BY model ORDER BY count(*) DESC, model
    """  # noqa: S608
    rows = connection.execute(sql, [*values, STATS_ROWS])
    return [StatsRow.model_validate(dict(zip(_STATS_FIELDS, row, strict=True))) for row in rows]


def events(connection: sqlite3.Connection, query: EventQuery) -> list[EventRow]:
    where, values = _where(
        ("kind = ?", query.kind),
        ("node = ?", query.node),
        ("model = ?", query.model),
        ("at_ms >= ?", query.since_ms),
        ("at_ms < ?", query.until_ms),
        ("id > ?", query.after_id),
    )
    order = "DESC" if query.after_id is None else "ASC"
    sql = (
        "SELECT id, at_ms, kind, reason, node, model, detail"  # noqa: S608
        f" FROM events {where} ORDER BY id {order} LIMIT ?"
    )
    return [to_event(row) for row in connection.execute(sql, [*values, query.limit])]


def node_of_response(connection: sqlite3.Connection, response_id: str) -> NodeName | None:
    """The node that made a `resp_…`, while the request log reaches back to it."""
    sql = (
        "SELECT node FROM requests WHERE response_id = ? AND node IS NOT NULL"
        " ORDER BY id DESC LIMIT 1"
    )
    row = connection.execute(sql, (plain(response_id),)).fetchone()
    return None if row is None else NodeName(row[0])


def recall(connection: sqlite3.Connection) -> Memory:
    """What the fleet knew when the last process ended."""
    nodes = connection.execute(
        "SELECT name, cycles, boot_at_s, last_restart_at_ms, health, version, drained,"
        " residue_mib FROM nodes"
    )
    residency = connection.execute(
        "SELECT node, model, status, last_used_at_ms, loads, load_s, size_mib FROM residency"
    )
    pins = connection.execute("SELECT node, model FROM pins")
    return Memory(
        nodes=tuple(
            NodeRecord(
                name=NodeName(name),
                cycles=cycles,
                boot_at_s=boot_at_s,
                last_restart_at_ms=restarted,
                health=health,
                version=version,
                drained=bool(drained),
                residue_mib=residue,
            )
            for name, cycles, boot_at_s, restarted, health, version, drained, residue in nodes
        ),
        residency=tuple(
            ResidencyRecord(
                node=NodeName(node),
                model=ModelId(model),
                status=status,
                last_used_at_ms=used,
                loads=loads,
                load_s=load_s,
                size_mib=size,
            )
            for node, model, status, used, loads, load_s, size in residency
        ),
        pins=frozenset((NodeName(node) or None, ModelId(model)) for node, model in pins),
    )


def _request_filter(query: HistoryQuery) -> tuple[str, list[object]]:
    by_code = query.outcome is not None and query.outcome not in _OUTCOMES
    # `--follow` asks every second for what came after an id: few rows, found by that id. The plus
    # keeps SQLite from reading all of a model's rows through its index instead.
    col = "" if query.after_id is None else "+"
    return _where(
        (f"{col}model = ?", query.model),
        (f"{col}node = ?", query.node),
        (f"{col}client = ?", query.client),
        (f"{col}started_at_ms >= ?", query.since_ms),
        (f"{col}started_at_ms < ?", query.until_ms),
        ("error_code = ?" if by_code else "outcome = ?", query.outcome),
        ("duration_ms >= ?", query.slow_ms),
        ("id > ?", query.after_id),
    )


def _where(*conditions: tuple[str, object]) -> tuple[str, list[object]]:
    given = [(text, plain(value)) for text, value in conditions if value is not None]
    if not given:
        return "", []
    return "WHERE " + " AND ".join(text for text, _ in given), [value for _, value in given]


def _known_total(column: str) -> str:
    """A sum that is NULL where nothing is known, and that cannot overflow as sum() can."""
    return f"CASE WHEN count({column}) THEN CAST(total({column}) AS INTEGER) END"
