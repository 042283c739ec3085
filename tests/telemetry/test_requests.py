"""Every request has a line, those that went wrong a warning, and a flood of them leaves the journal to others."""

import logging
from typing import Any

import pytest

from cortex.core.ids import RequestId
from cortex.core.records import Outcome, RequestRecord
from cortex.telemetry.requests import LINES_PER_S, RequestLines
from tests.fleet.fakes import HandClock

OK, LEFT_OUT = "request", "requests left out of this log"


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    # Not `at_level`: what a test sets inside it would outlive it.
    caplog.set_level(logging.INFO, "cortex.request")
    return caplog


def done(status: int = 200, outcome: Outcome = Outcome.OK) -> RequestRecord:
    return RequestRecord(
        request_id=RequestId("r"),
        started_at_ms=1,
        route="chat",
        status=status,
        outcome=outcome,
        duration_ms=12.345,
    )


def fields(record: logging.LogRecord) -> dict[str, Any]:
    return dict(getattr(record, "fields", {}))


@pytest.mark.parametrize(
    ("status", "outcome", "level"),
    [
        (200, Outcome.OK, logging.INFO),
        (200, Outcome.CLIENT_GONE, logging.INFO),
        # The client's own mistake.
        (404, Outcome.ERROR, logging.INFO),
        (429, Outcome.ERROR, logging.INFO),
        (502, Outcome.ERROR, logging.WARNING),
        # In the middle of its answer.
        (200, Outcome.ERROR, logging.WARNING),
    ],
)
def test_a_request_is_a_line(
    heard: pytest.LogCaptureFixture, status: int, outcome: Outcome, level: int
) -> None:
    RequestLines(HandClock()).request_done(done(status, outcome))
    [line] = heard.records
    assert (line.levelno, line.message) == (level, OK)
    told = fields(line)
    assert (told["request_id"], told["status"], told["outcome"]) == ("r", status, outcome.value)
    assert told["duration_ms"] == 12.3


def test_beyond_so_many_a_second_they_are_counted(heard: pytest.LogCaptureFixture) -> None:
    clock = HandClock()
    lines = RequestLines(clock)
    for _ in range(LINES_PER_S + 7):
        lines.request_done(done())
    assert [line.message for line in heard.records] == [OK] * LINES_PER_S
    # One that failed is not crowded out.
    lines.request_done(done(503, Outcome.ERROR))
    assert heard.records[-1].levelno == logging.WARNING
    heard.clear()
    clock.pass_s(1)
    lines.request_done(done())
    lines.request_done(done())
    assert [line.message for line in heard.records] == [LEFT_OUT, OK, OK]
    assert fields(heard.records[0]) == {"requests": 7, "most_per_s": LINES_PER_S}


def test_at_level_debug_there_is_one_for_each(heard: pytest.LogCaptureFixture) -> None:
    heard.set_level(logging.DEBUG, "cortex.request")
    lines = RequestLines(HandClock())
    for _ in range(LINES_PER_S + 7):
        lines.request_done(done())
    assert [line.message for line in heard.records] == [OK] * (LINES_PER_S + 7)


def test_nothing_is_counted_where_nothing_would_be_written(
    heard: pytest.LogCaptureFixture,
) -> None:
    heard.set_level(logging.WARNING, "cortex.request")
    clock = HandClock()
    lines = RequestLines(clock)
    for _ in range(LINES_PER_S + 7):
        lines.request_done(done())
    heard.set_level(logging.INFO, "cortex.request")
    clock.pass_s(1)
    lines.request_done(done())
    assert [line.message for line in heard.records] == [OK]
