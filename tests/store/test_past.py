"""What a start is told of demand."""

from pathlib import Path

from cortex.core.ids import ModelId, NodeName, RequestId
from cortex.core.records import EventKind, FleetEvent, RequestRecord, ResidencyRecord
from cortex.store.offline import DatabaseFile
from cortex.store.past import ASKED_MOST, STAYED_MOST
from tests.store.conftest import NOW_MS, opened

N, A, B, GONE = NodeName("n"), ModelId("a"), ModelId("b"), ModelId("gone")


def asked(model: ModelId | None, at_ms: int) -> RequestRecord:
    return RequestRecord(
        request_id=RequestId("r"), started_at_ms=at_ms, route="chat", model=model
    )


def evicted(at_ms: int, idle_s: float | None) -> FleetEvent:
    return FleetEvent(
        at_ms=at_ms, kind=EventKind.EVICT, reason="", node=N, model=A, detail={"idle_s": idle_s}
    )


async def test_the_latest_requests_of_what_is_listed_and_how_long_victims_stayed(
    path: Path,
) -> None:
    count = ASKED_MOST + 30
    async with opened(path) as store:
        await store.save(
            ResidencyRecord(node=N, model=A, status="loaded"),
            ResidencyRecord(node=NodeName("m"), model=A, status="loaded"),
            ResidencyRecord(node=N, model=B, status="unloaded"),
        )
        # They end, and are written, in another order than they came.
        for number in reversed(range(count)):
            store.request_done(asked(A, NOW_MS + number))
        store.request_done(asked(GONE, NOW_MS))
        store.request_done(asked(None, NOW_MS))
        for number in range(STAYED_MOST + 5):
            store.record(evicted(NOW_MS + number, None if number == STAYED_MOST else number))
    async with opened(path) as store:
        past = (await store.recall()).past
    newest = tuple(NOW_MS + number for number in range(30, count))
    assert past.asked_at_ms == {A: newest}
    assert past.stayed_s == (*range(5, STAYED_MOST), *range(STAYED_MOST + 1, STAYED_MOST + 5))


async def test_a_replay_is_told_of_what_was_before_it(path: Path) -> None:
    async with opened(path) as store:
        await store.save(ResidencyRecord(node=N, model=A, status="loaded"))
        for number in range(9):
            record = asked(A, NOW_MS + 10 * number)
            record.node = N
            store.request_done(record)
            store.record(evicted(NOW_MS + 10 * number, float(number)))
    with DatabaseFile(path) as file:
        recorded = file.recorded(NOW_MS + 35)
    assert [ask.at_ms for ask in recorded.asks] == [NOW_MS + 10 * n for n in range(4, 9)]
    assert recorded.past.asked_at_ms == {A: tuple(NOW_MS + 10 * number for number in range(4))}
    assert recorded.past.stayed_s == (0.0, 1.0, 2.0, 3.0)


async def test_an_empty_file_tells_nothing(path: Path) -> None:
    async with opened(path) as store:
        past = (await store.recall()).past
    assert (past.asked_at_ms, past.stayed_s) == ({}, ())
