"""Log lines: one JSON object each, or text; whatever is logged."""

import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cortex.core.errors import ConfigError
from cortex.telemetry.logs import JsonFormatter, TextFormatter, complain, configure
from tests.gateway.conftest import scripted
from tests.running import running


class Lines:
    """What a logger wrote, read as the journal would."""

    def __init__(self, name: str) -> None:
        self.logger = logging.getLogger(name)
        self._text = io.StringIO()
        self.handler = logging.StreamHandler(self._text)
        self.handler.setFormatter(JsonFormatter())

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._text.getvalue().splitlines()]


@pytest.fixture
def lines() -> Iterator[Lines]:
    lines = Lines("cortex")
    level = lines.logger.level
    lines.logger.addHandler(lines.handler)
    lines.logger.setLevel(logging.DEBUG)
    yield lines
    lines.logger.removeHandler(lines.handler)
    lines.logger.setLevel(level)


def test_a_line_is_an_object_with_its_fields_beside_the_message(lines: Lines) -> None:
    log = logging.getLogger("cortex.somewhere")
    log.warning("reload refused", extra={"fields": {"node": "n0", "mistakes": ["a", "b"]}})
    [line] = lines.read()
    at = datetime.fromisoformat(line.pop("at"))
    assert at.tzinfo is not None
    assert abs(datetime.now(UTC) - at) < timedelta(seconds=5)
    assert line == {
        "level": "warning",
        "logger": "cortex.somewhere",
        "message": "reload refused",
        "node": "n0",
        "mistakes": ["a", "b"],
    }


@pytest.mark.parametrize(
    "message", ["two\nlines", 'a "quoted" word', "snowman \u2603", "\x1b[31mred", "\u2028"]
)
def test_nothing_in_a_message_breaks_the_line(lines: Lines, message: str) -> None:
    logging.getLogger("cortex").info("%s", message)
    raw = lines.handler.stream.getvalue()
    assert raw.count("\n") == 1
    assert "\x1b" not in raw
    assert json.loads(raw)["message"] == message


def test_a_value_that_json_does_not_know_is_written_as_text(lines: Lines) -> None:
    logging.getLogger("cortex").info("x", extra={"fields": {"path": Path("/a/b")}})
    assert lines.read()[0]["path"] == "/a/b"


def test_a_traceback_is_a_field_of_its_line(lines: Lines) -> None:
    try:
        int("nonsense")
    except ValueError:
        logging.getLogger("cortex").exception("bug")
    [line] = lines.read()
    assert (line["level"], line["message"]) == ("error", "bug")
    assert line["traceback"].startswith("Traceback")
    assert line["traceback"].endswith('\n    int("nonsense")\nValueError')


def test_a_traceback_says_where_and_what_kind_but_repeats_nothing(lines: Lines) -> None:
    """What a parser complains about may be a prompt, or a header with a key in it."""
    mark = "PROMPT-of-somebody"
    try:
        try:
            raise KeyError(mark)
        except KeyError as first:
            raise ExceptionGroup(mark, [ValueError(mark), OSError(28, "disk full")]) from first
    except ExceptionGroup:
        logging.getLogger("cortex").exception("bug")
    [line] = lines.read()
    assert mark not in json.dumps(line)
    told = line["traceback"].splitlines()
    assert [entry for entry in told if not entry.startswith((" ", "Traceback"))] == [
        "KeyError",
        "",
        "which led to:",
        "",
        "ExceptionGroup",
        "ValueError",
        "OSError: [Errno 28] disk full",
    ]


def test_a_traceback_of_exceptions_that_caused_each_other_ends(lines: Lines) -> None:
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    logging.getLogger("cortex").error("bug", exc_info=first)
    [line] = lines.read()
    assert line["traceback"].count("ValueError") == 2


@pytest.fixture
def whole_process() -> Iterator[None]:
    """Puts the loggers back after `configure`."""
    root, ours = logging.getLogger(), logging.getLogger("cortex")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], level, own = before
    root.setLevel(level)
    ours.setLevel(own)


@pytest.mark.usefixtures("whole_process")
def test_everything_of_the_process_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    configure({"CORTEX_LOG_LEVEL": "warning"})
    logging.getLogger("some.library").warning("hello")
    logging.getLogger("cortex").info("too quiet")
    out, err = capsys.readouterr()
    assert out == ""
    assert [json.loads(line)["message"] for line in err.splitlines()] == ["hello"]


@pytest.mark.usefixtures("whole_process")
def test_debug_is_about_requests_and_not_about_what_libraries_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure({"CORTEX_LOG_LEVEL": "DEBUG"})
    logging.getLogger("aiosqlite").debug("every step")
    logging.getLogger("cortex.request").debug("request")
    assert "every step" not in (err := capsys.readouterr().err)
    assert json.loads(err)["message"] == "request"


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        (
            "CORTEX_LOG_LEVEL",
            "loud",
            "environment CORTEX_LOG_LEVEL: expected DEBUG, INFO, WARNING or ERROR, found 'loud'",
        ),
        (
            "CORTEX_LOG_FORMAT",
            "xml",
            "environment CORTEX_LOG_FORMAT: expected json or text, found 'xml'",
        ),
    ],
)
def test_a_slip_is_a_mistake_in_the_configuration(name: str, value: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configure({name: value})
    assert caught.value.lines == [line]


def text_of(message: str, fields: Mapping[str, object], error: Exception | None = None) -> str:
    level = logging.ERROR if error is not None else logging.WARNING
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("cortex", level, "x.py", 1, message, (), exc_info)
    record.fields = fields
    return TextFormatter(timed=False).format(record)


def test_text_is_for_people() -> None:
    fields = {"node": "n0", "model": None, "error": "CUDA: no memory", "ids": ["a b"], "n": 1.5}
    assert text_of("load_failed", fields) == (
        'warning load_failed node=n0 error="CUDA: no memory" ids=["a b"] n=1.5'
    )


def test_text_begins_with_the_time_of_day() -> None:
    record = logging.LogRecord("cortex", logging.INFO, "x.py", 1, "listening", (), None)
    time, _, rest = TextFormatter().format(record).partition(" ")
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}", time)
    assert rest == "info    listening"


@pytest.mark.parametrize(
    "odd", ["two\nlines", "\x1b[31mred", "\u2028", "\x9b1m", "\x7f", "a \x7f"]
)
def test_nothing_in_a_line_of_text_breaks_it_or_reaches_a_terminal(odd: str) -> None:
    written = text_of(odd, {"reason": odd, "list": [odd]})
    assert written.isprintable()


def test_a_traceback_follows_its_line_of_text() -> None:
    try:
        int("PROMPT")
    except ValueError as exc:
        first, *more = text_of("bug", {}, exc).split("\n")
    assert first == "error   bug"
    assert more[0] == "  Traceback (most recent call last):"
    assert more[-1] == "  ValueError"


@pytest.mark.parametrize("form", ["json", "text"])
def test_the_journal_is_told_priorities(
    form: str, whole_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "journal").open("w+") as journal:
        found = os.fstat(journal.fileno())
        monkeypatch.setattr(sys, "stderr", journal)
        stream = f"{found.st_dev}:{found.st_ino}"
        configure({"JOURNAL_STREAM": stream, "CORTEX_LOG_FORMAT": form})
        logging.getLogger("cortex").info("one")
        logging.getLogger("cortex").warning("two")
        try:
            int("nonsense")
        except ValueError:
            logging.getLogger("cortex").exception("three")
        monkeypatch.setenv("JOURNAL_STREAM", stream)
        complain(["cannot serve", "for two reasons"])
        journal.seek(0)
        lines = journal.read().splitlines()
    assert [line[:3] for line in lines[:3]] == ["<6>", "<4>", "<3>"]
    assert {line[:3] for line in lines[3:]} == {"<3>"}
    assert lines[-2:] == ["<3>cortex: cannot serve", "<3>cortex: for two reasons"]
    assert lines[0][3:].startswith("{" if form == "json" else "info    one")
    assert len(lines) > 5 if form == "text" else len(lines) == 5


def test_another_stream_than_the_journals_gets_none(
    whole_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The variable is passed on to whatever a service starts, with its streams elsewhere."""
    configure({"JOURNAL_STREAM": "9:9"})
    logging.getLogger("cortex").warning("two")
    assert capsys.readouterr().err.startswith("{")


async def test_a_request_that_failed_for_us_is_a_warning_with_its_figures(
    tmp_path: Path, lines: Lines
) -> None:
    error = {"status": 500, "message": "CUDA_ERROR", "times": None}
    async with (
        scripted(["a"], http_error=error) as node,
        running(tmp_path, [node]) as gateway,
    ):
        body = {"model": "a", "messages": []}
        agent = {"User-Agent": "zed/1.2 (linux)"}
        reply = await gateway.post("/v1/chat/completions", body, headers=agent)
        assert reply.status == 502
        [line] = [line for line in lines.read() if line["logger"] == "cortex.request"]
        duration_ms = line.pop("duration_ms")
        assert 0 < duration_ms < 5000
        # Asking for a second node, and being refused, takes next to nothing.
        assert 0 <= line.pop("queue_ms") < 50
        line.pop("at")
        assert line == {
            "level": "warning",
            "logger": "cortex.request",
            "message": "request",
            "request_id": reply.headers["x-request-id"],
            "route": "chat",
            "model": "a",
            "node": "n0",
            "client": "zed/1.2",
            "outcome": "error",
            "error_code": "node_error",
            "error": "node n0: CUDA_ERROR",
            "status": 502,
            "load_wait_ms": 0.0,
            "ttft_ms": None,
            "prompt_tokens": None,
            "completion_tokens": None,
        }


async def test_a_request_that_went_well_or_was_the_callers_fault_is_no_warning(
    tmp_path: Path, lines: Lines
) -> None:
    async with scripted(["a"]) as node, running(tmp_path, [node]) as gateway:
        assert (await gateway.chat("a")).status == 200
        assert (await gateway.chat("b")).status == 404
        levels = [line["level"] for line in lines.read() if line["logger"] == "cortex.request"]
        assert levels == ["info", "info"]


async def test_what_clients_send_is_not_logged(tmp_path: Path, lines: Lines) -> None:
    async with scripted(["a"]) as node, running(tmp_path, [node]) as gateway:
        secret = {"role": "user", "content": "a-secret-of-mine"}
        headers = {"Authorization": "Bearer a-secret-of-mine"}
        for model in ("a", "nowhere"):
            body = {"model": model, "messages": [secret]}
            await gateway.post("/v1/chat/completions", body, headers=headers)
        assert lines.read()
        assert "a-secret-of-mine" not in json.dumps(lines.read())


async def test_a_change_of_the_fleet_is_logged_with_its_reason(
    tmp_path: Path, lines: Lines
) -> None:
    async with (
        scripted(["a"], unloaded=["a"], load_fail="no weights") as node,
        running(tmp_path, [node]) as gateway,
    ):
        await gateway.chat("a")
        told = {
            line["message"]: line for line in lines.read() if line["logger"] == "cortex.daemon"
        }
        assert (told["load"]["level"], told["load"]["model"]) == ("info", "a")
        failed = told["load_failed"]
        assert (failed["level"], failed["node"], failed["model"], failed["reason"]) == (
            "warning",
            "n0",
            "a",
            "no weights",
        )


async def test_every_line_of_a_load_names_the_request_that_it_is_for(
    tmp_path: Path, lines: Lines
) -> None:
    async with (
        scripted(["a", "b"], unloaded=["b"], size_mib=6000, vram_total_mib=10_000) as node,
        running(tmp_path, [node]) as gateway,
    ):
        assert (await gateway.chat("a")).status == 200
        reply = await gateway.chat("b")
        assert reply.status == 200
        told = {
            line["message"]: line.get("request_id")
            for line in lines.read()
            if line["logger"] == "cortex.daemon"
        }
        for kind in ("load", "evict", "unload", "unloaded", "loaded"):
            assert told[kind] == reply.headers["x-request-id"], kind
        assert told["node_up"] is None
