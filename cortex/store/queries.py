"""Every question put to the database, as functions of a connection; the gateway and `--db` ask the same."""

import sqlite3
from array import array
from collections.abc import Iterable, Sequence

from cortex.adminapi import (
    EventQuery,
    EventRow,
    EventsBody,
    HistoryBody,
    HistoryQuery,
    HistoryRow,
    StatsBody,
    StatsRow,
)
from cortex.core.ids import ModelId, NodeName
from cortex.core.percentile import nearest_rank
from cortex.core.records import NodeRecord, Recollection, ResidencyRecord
from cortex.store.past import past
from cortex.store.rows import INT_MAX, plain, to_event
from cortex.store.search import BY_TIME, Condition, filters_of, search, where_all

STATS_ROWS, STATS_SCATTERED = 10_000, 3_000
"""The newest rows that statistics are taken over, so that a question has a bounded cost: of all
requests, and of those that a filter picks, which lie apart."""
FOLLOWED_ROWS = 50_000
"""Rows that are looked at for one answer about what came after an id."""
EVENTS_SCATTERED, EVENTS_IN_A_ROW = 5_000, 200_000
"""Events looked at for one answer: through an index, or one after another."""

_COLUMNS = list(HistoryRow.model_fields)
_MEASURES = ("ttft_ms", "duration_ms", "tokens_per_s")
_COUNTED = "outcome = 'error', cold_start <> 0, prompt_tokens, completion_tokens"


def history(connection: sqlite3.Connection, query: HistoryQuery) -> HistoryBody:
    """Rows that pass, newest first, or after an id oldest first; one state of the file for all of it."""
    connection.execute("BEGIN")
    try:
        newest = connection.execute("SELECT max(id) FROM requests").fetchone()[0] or 0
        if query.after_id is not None:
            return _after(connection, query, newest)
        found = search(connection, query)
        sql, values = found.select(", ".join(_COLUMNS))
        rows = _history_rows(connection.execute(sql, [*values, query.limit]))
    finally:
        connection.rollback()
    return HistoryBody(rows=rows, next=_beyond(rows, query, found.floor_ms), last_id=newest)


def _beyond(
    rows: Sequence[HistoryRow], query: HistoryQuery, floor_ms: int | None
) -> str | None:
    if len(rows) == query.limit:
        return f"{rows[-1].started_at_ms}-{rows[-1].id}"
    return None if floor_ms is None else f"{floor_ms}-0"


def _after(connection: sqlite3.Connection, query: HistoryQuery, newest: int) -> HistoryBody:
    """What came after an id, found by the ids, few as it is for one who follows."""
    assert query.after_id is not None
    filters = filters_of(query)
    bounds: list[Condition] = [
        (text, value)
        for text, value in (
            ("started_at_ms >= ?", query.since_ms),
            ("started_at_ms < ?", query.until_ms),
        )
        if value is not None
    ]
    last = min(newest, query.after_id + FOLLOWED_ROWS) if bounds or len(filters) > 1 else newest
    where, values = where_all([*filters.values(), *bounds, ("id <= ?", last)])
    sql = f"SELECT {', '.join(_COLUMNS)} FROM requests NOT INDEXED {where} ORDER BY id LIMIT ?"  # noqa: S608
    rows = _history_rows(connection.execute(sql, [*values, query.limit]))
    full = len(rows) == query.limit
    return HistoryBody(rows=rows, last_id=rows[-1].id if full else max(last, query.after_id))


def _history_rows(found: Iterable[Sequence[object]]) -> list[HistoryRow]:
    return [HistoryRow.model_validate(dict(zip(_COLUMNS, row, strict=True))) for row in found]


def stats(connection: sqlite3.Connection, query: HistoryQuery) -> StatsBody:
    """Per model, client or node, most requests first, over the newest that pass the filter.

    Counted here and not in SQL, whose window functions take four times as long; there are few
    enough rows that whoever else runs hardly waits for this thread.
    """
    found = search(connection, query)
    by = query.by or "model"
    sql, values = found.select(f"{by}, {_COUNTED}, {', '.join(_MEASURES)}, started_at_ms")
    most = STATS_ROWS if found.path.index == BY_TIME else STATS_SCATTERED
    groups: dict[str | None, _Group] = {}
    count, oldest_ms = 0, None
    for name, *counted, started_at_ms in connection.execute(sql, [*values, most]):
        count, oldest_ms = count + 1, started_at_ms
        group = groups.get(name)
        if group is None:
            group = groups[name] = _Group()
        group.take(*counted)
    ordered = sorted(groups.items(), key=lambda item: (-item[1].requests, item[0] or ""))
    return StatsBody(
        rows=[group.row(by, name) for name, group in ordered],
        since_ms=oldest_ms if count == most else found.floor_ms,
    )


class _Group:
    """What is kept of the rows of one name: counts, and the measures as plain numbers."""

    __slots__ = ("cold_starts", "completion", "errors", "measures", "prompt", "requests")

    def __init__(self) -> None:
        self.requests = self.errors = self.cold_starts = 0
        self.prompt: int | None = None
        self.completion: int | None = None
        self.measures = tuple(array("d") for _ in _MEASURES)

    def take(
        self,
        failed: int,
        cold: int,
        prompt: int | None,
        completion: int | None,
        *measures: float | None,
    ) -> None:
        """One row."""
        self.requests += 1
        self.errors += failed
        self.cold_starts += cold
        if prompt is not None:
            self.prompt = (self.prompt or 0) + prompt
        if completion is not None:
            self.completion = (self.completion or 0) + completion
        for kept, measure in zip(self.measures, measures, strict=True):
            if measure is not None:
                kept.append(measure)

    def row(self, by: str, name: str | None) -> StatsRow:
        ttft, duration, pace = map(sorted, self.measures)
        return StatsRow(
            **{by: name},
            requests=self.requests,
            errors=self.errors,
            cold_starts=self.cold_starts,
            prompt_tokens=_bounded(self.prompt),
            completion_tokens=_bounded(self.completion),
            ttft_p50_ms=nearest_rank(ttft, 50),
            ttft_p95_ms=nearest_rank(ttft, 95),
            duration_p50_ms=nearest_rank(duration, 50),
            duration_p95_ms=nearest_rank(duration, 95),
            tokens_per_s_p50=nearest_rank(pace, 50),
            tokens_per_s_p95=nearest_rank(pace, 95),
        )


def _bounded(total: int | None) -> int | None:
    return None if total is None else min(total, INT_MAX)


def events(connection: sqlite3.Connection, query: EventQuery) -> EventsBody:
    """Events that pass, newest first, or after an id oldest first; see `HistoryBody` for `next`."""
    filters = [
        (f"{name} = ?", value)
        for name, value in (("kind", query.kind), ("node", query.node), ("model", query.model))
        if value is not None
    ]
    span = [
        (text, value)
        for text, value in (("at_ms >= ?", query.since_ms), ("at_ms < ?", query.until_ms))
        if value is not None
    ]
    newest = connection.execute("SELECT max(id) FROM events").fetchone()[0] or 0
    if query.after_id is not None:
        # As far as fits; the rest is for whoever goes on from `last_id`.
        last = min(newest, query.after_id + EVENTS_IN_A_ROW)
        within = [("id > ?", query.after_id), ("id <= ?", last)]
        conditions = [*filters, *span, *within]
        rows = _event_rows(connection, "NOT INDEXED", conditions, "ASC", query.limit)
        full = len(rows) == query.limit
        return EventsBody(rows=rows, last_id=rows[-1].id if full else max(last, query.after_id))
    top = newest if query.before_id is None else min(newest, query.before_id - 1)
    index, floor = _events_reach(
        connection, top, filters, bounded=bool(span) or len(filters) > 1
    )
    conditions = [*filters, *span, ("id <= ?", top), ("id >= ?", floor or 0)]
    rows = _event_rows(connection, index, conditions, "DESC", query.limit)
    full = len(rows) == query.limit
    return EventsBody(rows=rows, next=rows[-1].id if full else floor, last_id=newest)


def _events_reach(
    connection: sqlite3.Connection, top: int, filters: Sequence[Condition], *, bounded: bool
) -> tuple[str, int | None]:
    """The index that reaches furthest back, and the id down to which it may be read at once."""
    paths = [(f"INDEXED BY {_index_of(each)}", [each]) for each in filters]
    paths = paths or [("NOT INDEXED", [])]
    if not bounded:
        return paths[0][0], None
    scan = EVENTS_SCATTERED if filters else EVENTS_IN_A_ROW
    reached = []
    for index, conditions in paths:
        where, values = where_all([*conditions, ("id <= ?", top)])
        sql = f"SELECT id FROM events {index} {where} ORDER BY id DESC LIMIT 1 OFFSET {scan}"  # noqa: S608
        found = connection.execute(sql, values).fetchone()
        reached.append((index, None if found is None else int(found[0])))
    return min(reached, key=lambda pair: (pair[1] is not None, pair[1] or 0))


def _index_of(condition: Condition) -> str:
    return "events_" + condition[0].partition(" ")[0]


def _event_rows(
    connection: sqlite3.Connection,
    index: str,
    conditions: Sequence[Condition],
    order: str,
    limit: int,
) -> list[EventRow]:
    where, values = where_all(conditions)
    sql = (
        "SELECT id, at_ms, kind, reason, node, model, detail"  # noqa: S608
        f" FROM events {index} {where} ORDER BY id {order} LIMIT ?"
    )
    return [to_event(row) for row in connection.execute(sql, [*values, limit])]


def node_of_response(connection: sqlite3.Connection, response_id: str) -> NodeName | None:
    """The node that made a `resp_…`, while the request log reaches back to it."""
    sql = (
        "SELECT node FROM requests WHERE response_id = ? AND node IS NOT NULL"
        " ORDER BY id DESC LIMIT 1"
    )
    row = connection.execute(sql, (plain(response_id),)).fetchone()
    return None if row is None else NodeName(row[0])


_TOKENS_SINCE = """
    SELECT client, SUM(COALESCE(prompt_tokens, 0) + COALESCE(completion_tokens, 0)) FROM requests
    WHERE started_at_ms >= ? AND client IS NOT NULL GROUP BY client
"""


def tokens_since(connection: sqlite3.Connection, since_ms: int) -> dict[str, int]:
    """What nodes reported of each client's requests that began at `since_ms` or later."""
    return dict(connection.execute(_TOKENS_SINCE, (since_ms,)))


def recall(connection: sqlite3.Connection) -> Recollection:
    """What the fleet knew when the last process ended."""
    nodes = connection.execute(
        "SELECT name, cycles, boot_at_s, last_restart_at_ms, health, version, residue_mib,"
        " endpoint, vram_total_mib, ram_total_mib, read_mib FROM nodes"
    )
    drained = connection.execute("SELECT name FROM nodes WHERE drained")
    residency = connection.execute(
        "SELECT node, model, status, last_used_at_ms, loads, load_s, size_mib, read_at_mib,"
        " cold_load_s, warm_load_s, gone_at_ms IS NOT NULL FROM residency"
    )
    pins = connection.execute("SELECT node, model FROM pins")
    return Recollection(
        nodes=tuple(
            NodeRecord(
                name=NodeName(name),
                cycles=cycles,
                boot_at_s=boot_at_s,
                last_restart_at_ms=restarted,
                health=health,
                version=version,
                residue_mib=residue,
                endpoint=endpoint or "",
                vram_total_mib=vram,
                ram_total_mib=ram,
                read_mib=read,
            )
            for name, cycles, boot_at_s, restarted, health, version, residue, endpoint, vram, ram, read in nodes
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
                read_at_mib=read_at,
                cold_load_s=cold_s,
                warm_load_s=warm_s,
                gone=bool(gone),
            )
            for (
                node,
                model,
                status,
                used,
                loads,
                load_s,
                size,
                read_at,
                cold_s,
                warm_s,
                gone,
            ) in residency
        ),
        drained=frozenset(NodeName(name) for (name,) in drained),
        pins=frozenset((NodeName(node) or None, ModelId(model)) for node, model in pins),
        past=past(connection),
    )
