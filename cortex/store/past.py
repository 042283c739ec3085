"""What the log tells of demand, for a start: when each model was asked for, and how long idle ones stayed."""

import sqlite3

from cortex.core.ids import ModelId
from cortex.core.records import Past

ASKED_MOST = 640
"""Requests of a model. Counters are halved every 64 gaps, so those before would count less than a thousandth."""
STAYED_MOST = 100
"""Models that had to go. Each new one counts a twentieth, so those before would count less than a hundredth."""
ENDLESS_MS = 1 << 62

_MODELS = "SELECT DISTINCT model FROM residency WHERE gone_at_ms IS NULL"
_ASKED = """
    SELECT started_at_ms FROM requests WHERE model = ? AND started_at_ms < ?
    ORDER BY started_at_ms DESC LIMIT ?
"""
_STAYED = """
    SELECT json_extract(detail, '$.idle_s') FROM events WHERE kind = 'evict' AND at_ms < ?
    ORDER BY id DESC LIMIT ?
"""


def past(connection: sqlite3.Connection, before_ms: int = ENDLESS_MS) -> Past:
    """Of the models that nodes list, as far back as it matters, and no later than `before_ms`."""
    models = [ModelId(model) for (model,) in connection.execute(_MODELS)]
    asked = {
        model: [
            at_ms for (at_ms,) in connection.execute(_ASKED, (model, before_ms, ASKED_MOST))
        ]
        for model in models
    }
    stayed = connection.execute(_STAYED, (before_ms, STAYED_MOST))
    return Past(
        asked_at_ms={model: tuple(times[::-1]) for model, times in asked.items() if times},
        stayed_s=tuple(idle_s for (idle_s,) in stayed if idle_s is not None)[::-1],
    )
