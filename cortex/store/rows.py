"""From records to rows: the statements of the writer and the values they take. Pure."""

import json
import math
from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

from cortex.adminapi import EventRow
from cortex.core.records import (
    FleetEvent,
    NodeRecord,
    Outcome,
    RequestRecord,
    ResidencyRecord,
)

Values = tuple[object, ...]

_COLUMNS = (
    "request_id", "started_at_ms", "route", "dialect", "model", "node", "client", "stream",
    "status", "outcome", "error_code", "error_message", "prompt_tokens", "cached_tokens", "completion_tokens",
    "ttft_ms", "duration_ms", "tokens_per_s", "queue_ms", "load_wait_ms", "cold_start",
    "attempts", "response_id",
)  # fmt: skip
# Ids are given before the row is written, so that a transaction whose outcome was not learned (a
# cancelled flush) is written again without a row twice; OR IGNORE makes that, and it keeps a row
# that the schema refuses from holding up all others.
INSERT_REQUEST = (
    f"INSERT OR IGNORE INTO requests (id, {', '.join(_COLUMNS)})"  # noqa: S608
    f" VALUES (?{', ?' * len(_COLUMNS)})"
)
# SQLite lets go of the interpreter for each statement, and the event loop with it must take it back.
BLOCK_ROWS = 32
INSERT_REQUESTS = INSERT_REQUEST + f", (?{', ?' * len(_COLUMNS)})" * (BLOCK_ROWS - 1)
INSERT_EVENT = (
    "INSERT OR IGNORE INTO events (id, at_ms, kind, reason, node, model, detail)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
TOUCH = (
    "INSERT INTO residency (node, model, status, last_used_at_ms) VALUES (?, ?, 'loaded', ?)"
    " ON CONFLICT (node, model) DO UPDATE"
    " SET last_used_at_ms = max(last_used_at_ms, excluded.last_used_at_ms)"
)
SAVE_RESIDENCY = (
    "INSERT INTO residency"
    " (node, model, status, last_used_at_ms, loads, load_s, size_mib, read_at_mib, cold_load_s, warm_load_s)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (node, model) DO UPDATE"
    " SET status = excluded.status,"
    " last_used_at_ms = max(last_used_at_ms, excluded.last_used_at_ms),"
    " loads = excluded.loads, load_s = excluded.load_s, size_mib = excluded.size_mib,"
    " read_at_mib = excluded.read_at_mib, cold_load_s = excluded.cold_load_s,"
    " warm_load_s = excluded.warm_load_s, gone_at_ms = NULL"
)
MARK_GONE = "UPDATE residency SET gone_at_ms = ? WHERE node = ? AND gone_at_ms IS NULL"
# Who saves what was seen of a node may have looked at it before an operator's drain was committed,
# and be written after it: each has columns of its own.
SAVE_NODE = (
    "INSERT INTO nodes"
    " (name, cycles, boot_at_s, last_restart_at_ms, health, version, residue_mib, endpoint,"
    " vram_total_mib, ram_total_mib, read_mib)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE"
    " SET cycles = excluded.cycles, boot_at_s = excluded.boot_at_s,"
    " last_restart_at_ms = excluded.last_restart_at_ms, health = excluded.health,"
    " version = excluded.version, residue_mib = excluded.residue_mib,"
    " endpoint = excluded.endpoint, read_mib = excluded.read_mib,"
    # A node that is away says nothing of its size, which is still what it was.
    " vram_total_mib = coalesce(excluded.vram_total_mib, vram_total_mib),"
    " ram_total_mib = coalesce(excluded.ram_total_mib, ram_total_mib)"
)
# By way of names that no node can have, so that two may change theirs for each other's.
RENAME = tuple(
    f"UPDATE OR REPLACE {table} SET {column} = ? WHERE {column} = ?{only}"  # noqa: S608
    for table, column, only in (
        ("nodes", "name", ""),
        ("residency", "node", ""),
        ("pins", "node", ""),
        # The log keeps the names of then, but who holds a response must be found.
        ("requests", "node", " AND response_id IS NOT NULL"),
    )
)
SAVE_DRAINED = (
    "INSERT INTO nodes (name, health, drained) VALUES (?, 'unknown', ?)"
    " ON CONFLICT (name) DO UPDATE SET drained = excluded.drained"
)
SAVE_PIN = "INSERT OR REPLACE INTO pins (node, model) VALUES (?, ?)"
DELETE_PIN = "DELETE FROM pins WHERE node = ? AND model = ?"
PRUNE = {
    table: (
        f"DELETE FROM {table} WHERE id IN"  # noqa: S608
        f" (SELECT id FROM {table} WHERE {instant} < ? ORDER BY {instant} LIMIT ?)"
    )
    for table, instant in (("requests", "started_at_ms"), ("events", "at_ms"))
}
GONE_MS = 30 * 86_400_000
"""What was learned of a model is kept for so long after its node listed it last."""
FORGET_GONE = "DELETE FROM residency WHERE gone_at_ms < ?"
REMEMBERED = 10_000
"""Models of one node whose last use and sizes are kept, the most recently used ones: a node that
lists other names at every poll must not make the file, and the next start, grow.
"""
FORGET = (
    "DELETE FROM residency WHERE rowid IN (SELECT rowid FROM (SELECT rowid, row_number() OVER"
    " (PARTITION BY node ORDER BY last_used_at_ms DESC, loads DESC, rowid DESC) AS place"
    " FROM residency) WHERE place > ?)"
)

INT_MAX = 2**63 - 1
# The plain text of an outcome: an enumeration costs SQLite's adapters a detour.
_values_of = attrgetter(*_COLUMNS[:9], "outcome._value_", *_COLUMNS[10:])
_MODEL, _NODE, _STARTED, _DURATION, _OUTCOME, _STATUS = (
    1 + _COLUMNS.index(name)
    for name in ("model", "node", "started_at_ms", "duration_ms", "outcome", "status")
)
_ERROR = Outcome.ERROR.value


class Row(NamedTuple):
    """One row of the log, ready to be written."""

    sql: str
    values: Values


def request_row(row_id: int, record: RequestRecord) -> Row:
    values = (row_id, *_values_of(record))
    spent_ms = record.duration_ms + record.queue_ms + record.load_wait_ms
    known = math.isfinite(spent_ms + (record.ttft_ms or 0.0) + (record.tokens_per_s or 0.0))
    # What went wrong is told in others' words.
    if record.error_code is not None or not known:
        values = tuple(map(plain, values))
    return Row(INSERT_REQUEST, values)


def made_plain(row: Row) -> Row:
    """Its values as SQLite takes them, which itself refuses the others."""
    return Row(row.sql, tuple(map(plain, row.values)))


def request_inserts(rows: Sequence[Row]) -> list[tuple[str, list[Values]]]:
    """Statements with their values for the requests of a batch: as many at a time as can be."""
    values = [row.values for row in rows if row.sql is INSERT_REQUEST]
    whole = len(values) - len(values) % BLOCK_ROWS
    blocks = [
        tuple(chain.from_iterable(values[at : at + BLOCK_ROWS]))
        for at in range(0, whole, BLOCK_ROWS)
    ]
    return [(INSERT_REQUESTS, blocks), (INSERT_REQUEST, values[whole:])]


def event_row(row_id: int, event: FleetEvent) -> Row:
    try:
        # Not as ASCII: `plain` would not see half a surrogate pair, nor could a reader send it on.
        detail = json.dumps(dict(event.detail), default=str, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        detail = '{"lost": "the detail of this event could not be written as JSON"}'
    fields = (event.at_ms, event.kind.value, event.reason, event.node, event.model, detail)
    return Row(INSERT_EVENT, (row_id, *map(plain, fields)))


def events_among(rows: Sequence[Row]) -> list[EventRow]:
    """The events of a batch, as a reader of the table would get them."""
    return [to_event(row.values) for row in rows if row.sql is INSERT_EVENT]


def to_event(values: Sequence[object]) -> EventRow:
    """An event from its columns, in the order of the table."""
    names = ("id", "at_ms", "kind", "reason", "node", "model")
    fields = dict(zip(names, values, strict=False))
    return EventRow.model_validate({**fields, "detail": json.loads(str(values[6]))})


def last_used(rows: Sequence[Row]) -> list[Values]:
    """When the requests of a batch last used each (node, model): at their end.

    A request that its node failed is no use of the model; one that it refused is.
    """
    ends: dict[tuple[object, object], int] = {}
    for sql, values in rows:
        if sql is not INSERT_REQUEST:
            continue
        node, model = values[_NODE], values[_MODEL]
        failed = values[_OUTCOME] == _ERROR and not is_refusal(values[_STATUS])
        if node is not None and model is not None and not failed:
            started, duration = values[_STARTED], values[_DURATION]
            assert isinstance(started, int)
            ended = started + int(duration) if isinstance(duration, float) else started
            if ended > ends.get((node, model), 0):
                ends[node, model] = ended
    return [(node, model, plain(ended)) for (node, model), ended in ends.items()]


def is_refusal(status: object) -> bool:
    """A node's answer that the caller was wrong."""
    return isinstance(status, int) and 400 <= status < 500


def residency_values(record: ResidencyRecord) -> Values:
    r = record
    fields = (r.node, r.model, r.status, r.last_used_at_ms, r.loads, r.load_s)
    return tuple(map(plain, (*fields, r.size_mib, r.read_at_mib, r.cold_load_s, r.warm_load_s)))


def node_values(record: NodeRecord) -> Values:
    r = record
    fields = (r.name, r.cycles, r.boot_at_s, r.last_restart_at_ms, r.health, r.version)
    sizes = (r.vram_total_mib, r.ram_total_mib, r.read_mib)
    return tuple(map(plain, (*fields, r.residue_mib, r.endpoint or None, *sizes)))


def plain(value: object) -> int | float | str | None:
    """A value that SQLite takes, whatever a node or a client made it of."""
    if value is None:
        return None
    if isinstance(value, int):
        return max(-INT_MAX, min(INT_MAX, int(value)))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    text = str(value)
    # JSON may carry half a surrogate pair, which has no UTF-8 form.
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
