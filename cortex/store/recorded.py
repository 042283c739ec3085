"""The question of a replay: a span of the log with the fleet that lived it."""

import json
import sqlite3
from collections.abc import Mapping
from statistics import median
from typing import Any

from cortex.core.ids import ModelId, NodeName
from cortex.core.recorded import Ask, Recorded, RecordedModel, RecordedNode, Totals
from cortex.store.past import past

LOST = frozenset({"no_room", "queue_full", "queue_timeout", "model_never_fits"})
"""Error codes of requests that another fleet, or another rule, might have served."""

_ASKS = """
    SELECT started_at_ms, model, coalesce(client, ''), node, outcome, error_code, duration_ms,
        queue_ms, load_wait_ms, cold_start
    FROM requests WHERE started_at_ms >= ? AND model IS NOT NULL ORDER BY started_at_ms, id
"""
_CONFIGURED = """
    SELECT detail FROM events WHERE kind IN ('start', 'config') AND detail LIKE '%"eviction"%'
    ORDER BY id DESC LIMIT 1
"""
_LOADED = """
    SELECT node, model, count(*), total(json_extract(detail, '$.load_s')) FROM events
    WHERE kind = 'loaded' AND at_ms >= ? AND json_extract(detail, '$.load_s') IS NOT NULL
    GROUP BY node, model
"""
_MOVES = """
    SELECT at_ms, kind, node, model FROM events
    WHERE kind IN ('loaded', 'unload', 'unloaded') AND model IS NOT NULL ORDER BY id
"""


def recorded(connection: sqlite3.Connection, since_ms: int) -> Recorded:
    """All from `since_ms` on; one state of the file for all of it."""
    connection.execute("BEGIN")
    try:
        asks, first_seen = _asks(connection, since_ms)
        begin_ms = asks[0].at_ms if asks else since_ms
        resident, unload_s = _residents(connection, begin_ms, first_seen)
        loaded = {
            (node, model): (loads, load_s)
            for node, model, loads, load_s in connection.execute(_LOADED, (begin_ms,))
        }
        return Recorded(
            since_ms=begin_ms,
            until_ms=asks[-1].at_ms if asks else since_ms,
            asks=asks,
            nodes=_nodes(connection, resident, {place: n for place, (n, _) in loaded.items()}),
            configured=_configured(connection),
            past=past(connection, begin_ms),
            pins=frozenset(
                (NodeName(node) or None, ModelId(model))
                for node, model in connection.execute("SELECT node, model FROM pins")
            ),
            totals=Totals(
                loads=sum(loads for loads, _ in loaded.values()),
                load_s=sum(load_s for _, load_s in loaded.values()),
                unload_s=unload_s,
            ),
        )
    finally:
        connection.rollback()


Place = tuple[str, str]
"""Node and model."""


def _asks(
    connection: sqlite3.Connection, since_ms: int
) -> tuple[tuple[Ask, ...], dict[Place, bool]]:
    """Requests that reached the fleet, and of each place whether its first one was cold."""
    asks: list[Ask] = []
    first: dict[Place, bool] = {}
    for at_ms, model, client, node, outcome, code, took_ms, *waits, cold in connection.execute(
        _ASKS, (since_ms,)
    ):
        lost = code if outcome == "error" and code in LOST else ""
        if node is None and not lost:
            continue  # it never came so far as to want a node
        if node is not None:
            first.setdefault((node, model), bool(cold))
        waited_ms = sum(waits)
        held_ms = took_ms - waited_ms
        asks.append(
            Ask(
                at_ms,
                ModelId(model),
                client,
                held_ms / 1000 if node is not None and held_ms >= 0 else None,
                waited_ms / 1000,
                bool(cold),
                lost,
            )
        )
    return tuple(asks), first


def _residents(
    connection: sqlite3.Connection, begin_ms: int, first_cold: Mapping[Place, bool]
) -> tuple[set[Place], float | None]:
    """What was in memory when the first request came, and how long unloads took."""
    held: dict[Place, bool] = {}
    began: dict[Place, int] = {}
    took: list[int] = []
    for at_ms, kind, node, model in connection.execute(_MOVES):
        place = node, model
        if kind == "unload":
            began[place] = at_ms
        elif kind == "unloaded" and place in began:
            took.append(at_ms - began.pop(place))
        if at_ms < begin_ms:
            held[place] = kind == "loaded"
        else:
            # What is unloaded first was there, what is loaded first was not.
            held.setdefault(place, kind != "loaded")
    # Of what never moved, as where a node loaded it at its own start, the first request tells.
    for place, cold in first_cold.items():
        held.setdefault(place, not cold)
    resident = {place for place, there in held.items() if there}
    return resident, median(took) / 1000 if took else None


def _nodes(
    connection: sqlite3.Connection, resident: set[Place], loaded: Mapping[Place, int]
) -> tuple[RecordedNode, ...]:
    models: dict[str, dict[ModelId, RecordedModel]] = {}
    for node, model, size_mib, load_s, cold_s, warm_s, loads in connection.execute(
        "SELECT node, model, size_mib, load_s, cold_load_s, warm_load_s, loads FROM residency"
        " ORDER BY node, model"
    ):
        models.setdefault(node, {})[ModelId(model)] = RecordedModel(
            size_mib=size_mib,
            load_s=load_s,
            cold_load_s=cold_s,
            warm_load_s=warm_s,
            loads=loads,
            loads_before=max(0, loads - loaded.get((node, model), 0)),
            resident=(node, model) in resident,
        )
    return tuple(
        RecordedNode(
            name=NodeName(name),
            vram_mib=vram,
            ram_mib=ram,
            version=version,
            models=models.get(name, {}),
        )
        for name, vram, ram, version in connection.execute(
            "SELECT name, vram_total_mib, ram_total_mib, version FROM nodes ORDER BY name"
        )
    )


def _configured(connection: sqlite3.Connection) -> dict[str, Any]:
    row = connection.execute(_CONFIGURED).fetchone()
    found = json.loads(row[0]) if row is not None else {}
    return found if isinstance(found, dict) else {}
