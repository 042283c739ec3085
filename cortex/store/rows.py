"""From records to rows: the statements of the writer and the values they take. Pure."""

import json
import math
from collections.abc import Sequence
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
    "status", "outcome", "error_code", "prompt_tokens", "cached_tokens", "completion_tokens",
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
    "INSERT INTO residency (node, model, status, last_used_at_ms, loads, load_s, size_mib)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (node, model) DO UPDATE"
    " SET status = excluded.status,"
    " last_used_at_ms = max(last_used_at_ms, excluded.last_used_at_ms),"
    " loads = excluded.loads, load_s = excluded.load_s, size_mib = excluded.size_mib"
)
SAVE_NODE = (
    "INSERT OR REPLACE INTO nodes (name, cycles, boot_at_s, last_restart_at_ms, health, version,"
    " drained, residue_mib) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
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

_INT_MAX = 2**63 - 1
_MODEL, _NODE, _STARTED, _DURATION, _OUTCOME, _STATUS = (
    1 + _COLUMNS.index(name)
    for name in ("model", "node", "started_at_ms", "duration_ms", "outcome", "status")
)


class Row(NamedTuple):
    """One row of the log, ready to be written."""

    sql: str
    values: Values


def request_row(row_id: int, record: RequestRecord) -> Row:
    values = [plain(getattr(record, column)) for column in _COLUMNS]
    return Row(INSERT_REQUEST, (row_id, *values))


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
    for row in rows:
        if row.sql is not INSERT_REQUEST:
            continue
        key = row.values[_NODE], row.values[_MODEL]
        failed = row.values[_OUTCOME] == Outcome.ERROR and not is_refusal(row.values[_STATUS])
        if None not in key and not failed:
            ended = _number(row.values[_STARTED]) + _number(row.values[_DURATION])
            ends[key] = max(ends.get(key, 0), int(ended))
    return [(node, model, plain(ended)) for (node, model), ended in ends.items()]


def is_refusal(status: object) -> bool:
    """A node's answer that the caller was wrong."""
    return isinstance(status, int) and 400 <= status < 500


def residency_values(record: ResidencyRecord) -> Values:
    r = record
    fields = (r.node, r.model, r.status, r.last_used_at_ms, r.loads, r.load_s, r.size_mib)
    return tuple(map(plain, fields))


def node_values(record: NodeRecord) -> Values:
    r = record
    seen = (r.name, r.cycles, r.boot_at_s, r.last_restart_at_ms, r.health, r.version)
    return tuple(map(plain, (*seen, r.drained, r.residue_mib)))


def plain(value: object) -> int | float | str | None:
    """A value that SQLite takes, whatever a node or a client made it of."""
    if value is None:
        return None
    if isinstance(value, int):
        return max(-_INT_MAX, min(_INT_MAX, int(value)))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    text = str(value)
    # JSON may carry half a surrogate pair, which has no UTF-8 form.
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _number(value: object) -> int | float:
    return value if isinstance(value, int | float) else 0
