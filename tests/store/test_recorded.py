"""What a replay is told of a log: what was in memory when the span began, and what the span cost."""

from pathlib import Path

import pytest

from cortex.core.ids import ModelId, NodeName, RequestId
from cortex.core.records import (
    EventKind,
    FleetEvent,
    NodeRecord,
    RequestRecord,
    ResidencyRecord,
)
from cortex.store.offline import DatabaseFile
from tests.store.conftest import NOW_MS, opened

N, A = NodeName("n"), ModelId("a")
LOADED, UNLOAD, UNLOADED = EventKind.LOADED, EventKind.UNLOAD, EventKind.UNLOADED


def event(after_ms: int, kind: EventKind) -> FleetEvent:
    detail = {"load_s": 2.5} if kind is LOADED else {}
    return FleetEvent(
        at_ms=NOW_MS + after_ms, kind=kind, reason="", node=N, model=A, detail=detail
    )


def request(after_ms: int, node: str, *, cold: bool = False) -> RequestRecord:
    return RequestRecord(
        request_id=RequestId("r"),
        started_at_ms=NOW_MS + after_ms,
        route="chat",
        model=A,
        node=NodeName(node),
        duration_ms=1000.0,
        load_wait_ms=400.0 if cold else 0.0,
        cold_start=cold,
    )


@pytest.mark.parametrize(
    ("moves", "cold", "resident"),
    [
        ([], False, True),
        ([], True, False),
        ([(-50, LOADED)], False, True),
        ([(-50, LOADED), (-20, UNLOAD), (-10, UNLOADED)], True, False),
        # It was there since its node began, and went before anybody asked for it there.
        ([(50, UNLOAD), (60, UNLOADED)], True, True),
        # An operator brought it in before anybody asked for it there.
        ([(50, LOADED)], False, False),
    ],
)
async def test_what_was_in_memory_at_the_beginning(
    path: Path, moves: list[tuple[int, EventKind]], cold: bool, resident: bool
) -> None:
    async with opened(path) as store:
        await store.save(NodeRecord(name=N), ResidencyRecord(node=N, model=A, status="loaded"))
        for after_ms, kind in moves:
            store.record(event(after_ms, kind))
        store.request_done(request(0, "elsewhere"))
        store.request_done(request(100, N, cold=cold))
    with DatabaseFile(path) as file:
        span = file.recorded(NOW_MS)
    (node,) = span.nodes
    assert node.models[A].resident is resident
    waited_s = 0.4 if cold else 0.0
    assert [(ask.held_s, ask.waited_s) for ask in span.asks] == [
        (1.0, 0.0),
        (pytest.approx(1.0 - waited_s), waited_s),
    ]
    inside = [after_ms for after_ms, kind in moves if kind is LOADED and after_ms >= 0]
    assert (span.totals.loads, span.totals.load_s) == (len(inside), 2.5 * len(inside))
