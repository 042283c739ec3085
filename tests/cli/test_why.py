"""The story of one request: of a log written by the gateway's own store, as a person and a script read it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cortex.adminapi import EventRow, HistoryRow
from cortex.cli import main
from cortex.cli.exit_codes import Exit
from cortex.cli.why_story import loads_awaited, story_of
from cortex.core.ids import ModelId, NodeName, RequestId
from cortex.core.records import EventKind, FleetEvent, Outcome, RequestRecord
from cortex.store.store import Store
from tests.cli.conftest import Run
from tests.cli.gateway import NOW_MS, FakeGateway, event_row, history_row
from tests.cli.test_history_file import StoppedClock
from tests.cli.test_status import NASTY, assert_harmless


def event(
    after_ms: int,
    kind: EventKind,
    node: str,
    model: str | None,
    reason: str = "",
    **detail: Any,
) -> FleetEvent:
    return FleetEvent(
        at_ms=NOW_MS + after_ms,
        kind=kind,
        reason=reason,
        node=NodeName(node) if node else None,
        model=None if model is None else ModelId(model),
        detail=detail,
    )


def request(request_id: str, after_ms: int, **more: Any) -> RequestRecord:
    fields: dict[str, Any] = {
        "request_id": RequestId(request_id),
        "started_at_ms": NOW_MS + after_ms,
        "route": "chat",
        "model": ModelId("big"),
        "node": NodeName("gpu-a"),
        "duration_ms": 9000.0,
    }
    return RequestRecord(**(fields | more))


LOG = [
    event(-60_000, EventKind.EVICT, "gpu-b", "big", "to make room for other", idle_s=30.0),
    event(-59_000, EventKind.UNLOAD, "gpu-b", "big", "drained"),
    event(-58_000, EventKind.UNLOADED, "gpu-b", "big", "the node confirmed it"),
    event(
        1,
        EventKind.LOAD,
        "gpu-a",
        "big",
        "needs 9000 MiB, free 10 MiB: small must go",
        evict=["small"],
        by="request",
        request_id="first",
        cost_s=42.0,
        alternatives=[
            {"node": "gpu-b", "evict": ["other", "third"], "cost_s": 90.0},
            {"node": "gpu-c", "evict": [], "cost_s": None},
        ],
    ),
    event(2, EventKind.EVICT, "gpu-a", "small", "to make room for big",
          in_flight=0, size_mib=2048, load_s=12.0, idle_s=600.0),
    event(3, EventKind.UNLOAD, "gpu-a", "small", "drained"),
    event(900, EventKind.UNLOADED, "gpu-a", "small", "the node confirmed it", freed_mib=2000),
    event(950, EventKind.EVICT, "gpu-b", "elsewhere", "to make room for another"),
    event(5000, EventKind.LOADED, "gpu-a", "big", "the node confirmed it",
          load_s=4.0, size_mib=9216, read_since_mib=20_480, warm=True),
    event(-2000, EventKind.START, "", None, "cortex"),
    event(5500, EventKind.START, "", None, "cortex 9"),
    event(6000, EventKind.NODE_DOWN, "gpu-a", None, "no answer in 4 s"),
    event(99_000, EventKind.NODE_UP, "gpu-a", None, "answered a poll"),
]  # fmt: skip


@pytest.fixture
async def database(tmp_path: Path) -> Path:
    path = tmp_path / "state" / "cortex.db"
    store = await Store.open(path, retention_days=30, clock=StoppedClock())
    for entry in LOG:
        store.record(entry)
    cold = {"cold_start": True, "load_wait_ms": 5000.0, "ttft_ms": 5100.0}
    store.request_done(request("first", 0, completion_tokens=7, prompt_tokens=3, **cold))
    store.request_done(request("second", 3000, queue_ms=40.0, **cold))
    store.request_done(request("warm", 20_000))
    store.request_done(
        request(
            "refused",
            30_000,
            model=ModelId("none"),
            node=None,
            outcome=Outcome.ERROR,
            error_code="no_room",
            error_message="no node has room",
            queue_ms=9000.0,
        )
    )
    store.request_done(request("twice", 40_000))
    store.request_done(request("twice", 50_000))
    await store.close()
    return path


def told(path: Path, capsys: pytest.CaptureFixture[str], request_id: str) -> list[str]:
    assert main(["why", request_id, "--db", str(path)]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_request_that_set_the_load_off(database: Path, capsys):
    out = told(database, capsys, "first")
    assert out[0].startswith("first  chat for big, ")
    assert out[1] == "  9.0s in all, 5.0s for a load"
    assert out[3].split() == ["AFTER", "WHAT", "NODE", "WHY"]
    lines = [" ".join(line.split()) for line in out[4:]]
    assert lines == [
        "-1m00s big goes gpu-b to make room for other, 30.0s after its last use",
        "+0ms asked – no copy in memory could serve it",
        "+1ms load gpu-a for this request; needs 9000 MiB, free 10 MiB: small must go; costs 42.0s of loads",
        "instead: gpu-b after unloading other, third, 1m30s of loads",
        "instead: gpu-c, where it would fit, of unknown cost",
        "+2ms evict gpu-a small: idle for 10m00s, 2.0 GiB, 12.0s to load again",
        "+3ms unload gpu-a small",
        "+900ms unloaded gpu-a small: 2.0 GiB came back",
        "+5.0s loaded gpu-a the load took 4.0s from the machine's memory, 9.0 GiB, 20.0 GiB of other weights read since its last",
        "+5.1s first token gpu-a –",
        "+5.5s start – cortex 9",
        "+6.0s node down gpu-a no answer in 4 s",
        "+9.0s ok gpu-a tokens 3/–/7",
    ]


def test_one_that_found_the_load_under_way_has_it_from_its_beginning(database: Path, capsys):
    out = [" ".join(line.split()) for line in told(database, capsys, "second")]
    assert out[1] == "9.0s in all, 5.0s for a load, 40ms for a slot"
    assert out[4].startswith("-1m03s big goes gpu-b")
    assert out[5].startswith("-3.0s load gpu-a for first; ")
    assert [line.split()[1] for line in out[8:]] == [
        "evict", "unload", "unloaded", "asked", "loaded", "start", "node", "first", "ok",
    ]  # fmt: skip


def test_one_that_waited_for_nothing_and_one_that_was_refused(database: Path, capsys):
    out = [" ".join(line.split()) for line in told(database, capsys, "warm")]
    assert out[4:] == ["+0ms asked – a copy was in memory", "+9.0s ok gpu-a –"]
    out = [" ".join(line.split()) for line in told(database, capsys, "refused")]
    assert out[1] == "9.0s in all, 9.0s in the queue"
    assert out[4:] == ["+0ms asked – –", "+9.0s no_room – no node has room"]


def test_an_id_that_a_client_used_twice(database: Path, capsys):
    out = told(database, capsys, "twice")
    assert out[0] == "2 requests have the id twice"
    assert len([line for line in out if line.startswith("twice  chat for big")]) == 2


def test_json_has_the_rows_behind_it(database: Path, capsys):
    assert main(["why", "first", "--json", "--db", str(database)]) == 0
    (body,) = json.loads(capsys.readouterr().out)["requests"]
    assert body["request"]["request_id"] == "first"
    assert body["left"]["kind"] == "evict"
    kinds = [row["kind"] for row in body["events"]]
    assert kinds == ["load", "evict", "unload", "unloaded", "loaded", "start", "node_down"]
    assert body["events"][0]["detail"]["alternatives"][0]["node"] == "gpu-b"


def test_an_id_that_is_in_no_log(database: Path, capsys):
    assert main(["why", "never", "--db", str(database)]) == Exit.FAILURE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cortex: the log has no request never: ")


def test_a_log_of_before_loads_had_a_detail(run: Run, gateway: FakeGateway):
    rows = [
        event_row(2, kind="loaded", at_ms=NOW_MS + 2000, node="n", model="m", detail={}),
        event_row(
            1, kind="load", at_ms=NOW_MS + 1, node="n", model="m", detail={"evict": None}
        ),
    ]
    asked = history_row(1) | {
        "started_at_ms": NOW_MS,
        "duration_ms": 3000.0,
        "model": "m",
        "node": "n",
    }
    gateway.answers["/cortex/v1/history"] = {"rows": [asked]}
    gateway.answers["/cortex/v1/events"] = {"rows": rows}
    gateway.streams = [[b'event: state\ndata: {"at_ms": 1}\n\n']]
    out = run("why", asked["request_id"]).out
    assert "it was under way" in out
    assert "loaded" in out


def test_hostile_words(run: Run, gateway: FakeGateway):
    detail = {
        "evict": [NASTY, 5],
        "alternatives": [{"node": NASTY, "evict": [NASTY], "cost_s": "x"}, "what"],
        "request_id": NASTY,
        "cost_s": NASTY,
        "idle_s": [],
    }
    kinds = ("load", "evict", "loaded", NASTY)
    rows = [
        event_row(9 - at, kind=kind, at_ms=NOW_MS, node=NASTY, model=NASTY, detail=detail)
        for at, kind in enumerate(kinds)
    ]
    asked = history_row(1) | dict.fromkeys(
        ("request_id", "model", "node", "client", "error_message"), NASTY
    )
    gateway.answers["/cortex/v1/history"] = {"rows": [asked | {"started_at_ms": NOW_MS}]}
    gateway.answers["/cortex/v1/events"] = {"rows": rows}
    gateway.streams = [[b'event: state\ndata: {"at_ms": 1}\n\n']]
    ran = run("why", "x")
    assert ran.code == 0
    assert_harmless(ran.out)


def row(**more: Any) -> HistoryRow:
    return HistoryRow.model_validate(
        history_row(1) | {"started_at_ms": 1000, "duration_ms": 100.0} | more
    )


def of_model(*kinds: tuple[int, str, str]) -> Sequence[EventRow]:
    return [
        EventRow.model_validate(event_row(at, kind=kind, at_ms=at, node=node))
        for at, kind, node in kinds
    ]


def test_only_loads_that_were_under_way_belong_to_it():
    events = of_model(
        (1, "load", "a"), (5, "loaded", "a"), (900, "load", "b"), (950, "load", "a"),
        (1050, "load_failed", "b"), (1090, "load", "c"), (1200, "load", "d"),
    )  # fmt: skip
    spans = loads_awaited(row(), events)
    assert [(span.begin.at_ms, span.end and span.end.at_ms) for span in spans] == [
        (900, 1050), (950, None), (1090, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("events", "left_at"),
    [
        ([(1, "evict", "a"), (2, "unload", "a"), (3, "unloaded", "a")], 1),
        ([(1, "evict", "a"), (2, "revived", "a")], None),
        ([(1, "evict", "a"), (9, "loaded", "a")], None),
        ([(1, "evict", "a"), (9, "loaded", "a"), (20, "drain", "a")], 20),
        ([(1, "drain", "b"), (5, "evict", "a"), (9, "loaded", "a")], 1),
    ],
)
def test_what_took_the_model_out_of_memory(
    events: list[tuple[int, str, str]], left_at: int | None
):
    story = story_of(row(), of_model(*events, (1001, "load", "c")), ())
    assert (story.left and story.left.at_ms) == left_at
