import json
import signal

import pytest

from cortex.adminapi import EventQuery
from tests.cli.conftest import Run, start
from tests.cli.gateway import FakeGateway, event_row, sse
from tests.cli.test_status import NASTY, assert_harmless, until


def test_events_come_newest_last(run: Run, gateway: FakeGateway):
    gateway.answers["/cortex/v1/events"] = {
        "rows": [event_row(2, kind="load_failed", reason="out of memory"), event_row(1)]
    }
    lines = run("events").lines
    assert lines[0].split() == ["TIME", "KIND", "NODE", "MODEL", "REASON"]
    assert lines[1].split()[2:5] == ["loaded", "gpu-b", "acme/small"]
    assert lines[2].split()[2] == "load_failed"
    assert lines[2].endswith("out of memory")


def test_filters_travel_as_the_query(run: Run, gateway: FakeGateway):
    run(
        *[
            "events",
            "--kind",
            "load",
            "--node",
            "n",
            "--model",
            "m",
            "--since",
            "0d",
            "--limit",
            "3",
        ]
    )
    asked = EventQuery.model_validate(gateway.requests[-1][2])
    assert (asked.kind, asked.node, asked.model, asked.limit) == ("load", "n", "m", 3)
    assert asked.since_ms is not None


def test_json_has_the_detail(run: Run, gateway: FakeGateway):
    gateway.answers["/cortex/v1/events"] = {"rows": [event_row(1, detail={"free_mib": 5})]}
    assert json.loads(run("events", "--json").out)["rows"][0]["detail"] == {"free_mib": 5}


def test_a_kind_that_nobody_knows_is_still_asked_for(run: Run, gateway: FakeGateway):
    ran = run("events", "--kind", "lod")
    assert ran.code == 0
    assert "did you mean 'load'" in ran.err
    assert gateway.requests[-1][2]["kind"] == "lod"


def test_hostile_names(run: Run, gateway: FakeGateway):
    row = event_row(1, kind=NASTY, reason=NASTY, node=NASTY, model=NASTY)
    gateway.answers["/cortex/v1/events"] = {"rows": [row]}
    out = run("events").out
    assert "\x1b" not in out
    assert_harmless(out)


def following_ids(gateway: FakeGateway) -> list[str | None]:
    """`Last-Event-ID` of every connection to the stream."""
    return [
        headers.get("last-event-id")
        for (_, path, _, _), headers in zip(gateway.requests, gateway.headers, strict=True)
        if path.endswith("/stream")
    ]


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_follow_goes_on_from_the_last_event(gateway: FakeGateway, form: list[str]):
    gateway.streams = [
        [b": ping\n\n", sse(3, reason="third")[:20], sse(3, reason="third")[20:]],
        [sse(4, reason="fourth"), b"data: not json\n\n", sse(5, node="other"), sse(6)[:15]],
        [sse(6, reason="sixth")],
    ]
    seen: list[str] = []
    following = start("events", "--follow", "--node", "gpu-b", *form, "--endpoint", gateway.url)
    assert following.stdout is not None
    for reason in ("third", "fourth", "sixth"):
        until(following.stdout, reason, seen)
    following.send_signal(signal.SIGINT)
    out, err = following.communicate(timeout=10)
    assert (following.returncode, out, err) == (130, "", "")
    assert following_ids(gateway) == ["2", "3", "5"]
    assert not any("other" in line for line in seen)
    rows = [line for line in seen if "loaded" in line]
    assert len(rows) == 5


def test_follow_survives_a_restart():
    gateway, seen = FakeGateway(), []
    gateway.answers["/cortex/v1/events"] = {"rows": []}
    with gateway:
        gateway.streams = [[sse(1, reason="first")]]
        following = start("events", "--follow", "--endpoint", gateway.url)
        assert following.stdout is not None
        assert following.stderr is not None
        until(following.stdout, "first", seen)
    assert "trying again" in following.stderr.readline()
    gateway.streams = [[sse(2, reason="second")]]
    with gateway:
        assert "is back" in following.stderr.readline()
        until(following.stdout, "second", seen)
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=10)
    assert following_ids(gateway) == ["0", "1"]


def test_follow_of_a_reader_that_left(gateway: FakeGateway):
    gateway.streams = [[sse(number) for number in range(3, 400)]]
    following = start("events", "--follow", "--endpoint", gateway.url)
    assert following.stdout is not None
    following.stdout.readline()
    following.stdout.close()
    assert following.wait(10) == 141
    assert following.stderr is not None
    assert following.stderr.read() == ""
    following.stderr.close()
