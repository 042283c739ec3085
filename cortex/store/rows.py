"""Records as rows and rows as records: every statement that writes, and what `recall` reads back."""

import sqlite3

from cortex.core.ids import ModelId, NodeName
from cortex.core.records import Memory, NodeRecord, RequestRecord, ResidencyRecord

_REQUEST_COLUMNS = (
    "request_id", "started_at_ms", "route", "dialect", "model", "node", "client", "stream",
    "status", "outcome", "error_code", "prompt_tokens", "cached_tokens", "completion_tokens",
    "ttft_ms", "duration_ms", "tokens_per_s", "queue_ms", "load_wait_ms", "cold_start",
    "attempts", "response_id",
)  # fmt: skip
INSERT_REQUEST = (
    f"INSERT INTO requests ({', '.join(_REQUEST_COLUMNS)})"  # noqa: S608
    f" VALUES ({', '.join('?' * len(_REQUEST_COLUMNS))})"
)
INSERT_EVENT = (
    "INSERT INTO events (at_ms, kind, reason, node, model, detail) VALUES (?,?,?,?,?,?)"
)
TOUCH = (
    "INSERT INTO residency (node, model, status, last_used_at_ms) VALUES (?, ?, 'loaded', ?)"
    " ON CONFLICT (node, model) DO UPDATE"
    " SET last_used_at_ms = max(last_used_at_ms, excluded.last_used_at_ms)"
)
SAVE_RESIDENCY = (
    "INSERT INTO residency (node, model, status, last_used_at_ms, loads, load_s, size_mib)"
    " VALUES (?,?,?,?,?,?,?) ON CONFLICT (node, model) DO UPDATE SET status = excluded.status,"
    " last_used_at_ms = max(last_used_at_ms, excluded.last_used_at_ms), loads = excluded.loads,"
    " load_s = excluded.load_s, size_mib = excluded.size_mib"
)
SAVE_NODE = (
    "INSERT OR REPLACE INTO nodes (name, cycles, boot_at_s, last_restart_at_ms, health, version)"
    " VALUES (?,?,?,?,?,?)"
)


def request_row(record: RequestRecord) -> tuple[object, ...]:
    return tuple(getattr(record, column) for column in _REQUEST_COLUMNS)


def recall(connection: sqlite3.Connection) -> Memory:
    nodes = connection.execute(
        "SELECT name, cycles, boot_at_s, last_restart_at_ms, health, version FROM nodes"
    )
    residency = connection.execute(
        "SELECT node, model, status, last_used_at_ms, loads, load_s, size_mib FROM residency"
    )
    pins = connection.execute("SELECT node, model FROM pins")
    return Memory(
        nodes=tuple(
            NodeRecord(
                name=NodeName(row[0]),
                cycles=row[1],
                boot_at_s=row[2],
                last_restart_at_ms=row[3],
                health=row[4],
                version=row[5],
            )
            for row in nodes
        ),
        residency=tuple(
            ResidencyRecord(
                node=NodeName(row[0]),
                model=ModelId(row[1]),
                status=row[2],
                last_used_at_ms=row[3],
                loads=row[4],
                load_s=row[5],
                size_mib=row[6],
            )
            for row in residency
        ),
        pins=frozenset((NodeName(row[0]) or None, ModelId(row[1])) for row in pins),
    )
