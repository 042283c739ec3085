import csv
import io
import json
import signal

import pytest

from cortex.adminapi import HistoryQuery
from cortex.cli import main
from tests.cli.conftest import Run, Terminal, start
from tests.cli.gateway import FakeGateway, history_row
from tests.cli.test_status import NASTY, assert_harmless, plain, until


def test_rows_come_newest_last(run: Run):
    lines = run("history").lines
    assert lines[0].split() == (
        [
            "TIME",
            "MODEL",
            "NODE",
            "CLIENT",
            "OUTCOME",
            "TOKENS",
            "TTFT",
            "TOK/S",
            "WAIT",
            "TOOK",
            "WHY",
        ]
    )
    assert [line[17:19] for line in lines[1:]] == sorted(line[17:19] for line in lines[1:])
    assert lines[1].split()[2:] == (
        ["acme/small", "gpu-b", "zed", "ok", "812/640/120", "183ms", "48.6", "0ms", "2.6s", "–"]
    )


def test_unknown_values_and_errors(run: Run, gateway: FakeGateway):
    row = history_row(1, outcome="error", error_code="node_timeout", node=None, client=None)
    row |= dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens", "ttft_ms"))
    row |= {"queue_ms": 1000, "load_wait_ms": 30_500, "tokens_per_s": None}
    row |= {"error_message": "the node sent nothing for 300 s"}
    gateway.answers["/cortex/v1/history"] = {"rows": [row]}
    assert run("history").lines[1].split(maxsplit=11)[2:] == [
        *["acme/small", "–", "–", "node_timeout", "–", "–", "–", "31.5s", "2.6s"],
        "the node sent nothing for 300 s",
    ]


def test_filters_travel_as_the_query(run: Run, gateway: FakeGateway):
    run(
        *[
            "history",
            "--model",
            "a/b",
            "--node",
            "n",
            "--client",
            "c",
            "--outcome",
            "ok",
            "--slow",
            "1m",
            "--limit",
            "7",
        ],
        *["--since", "2026-07-01T00:00Z", "--until", "2026-07-02T00:00Z"],
    )
    _, path, query, _ = gateway.requests[-1]
    assert path == "/cortex/v1/history"
    asked = HistoryQuery.model_validate(query)
    assert asked == HistoryQuery(
        model="a/b",
        node="n",
        client="c",
        outcome="ok",
        slow_ms=60_000,
        limit=7,
        since_ms=1_782_864_000_000,
        until_ms=1_782_950_400_000,
    )


def test_csv_quotes_what_needs_it(run: Run, gateway: FakeGateway):
    odd = 'has "quotes", a comma\nand a line'
    gateway.answers["/cortex/v1/history"] = {"rows": [history_row(1, client=odd, node=None)]}
    out = run("history", "--csv").out
    header, row = csv.reader(io.StringIO(out))
    found = dict(zip(header, row, strict=True))
    assert found["client"] == 'has "quotes", a comma\\x0aand a line'
    assert found["node"] == ""
    assert found["duration_ms"] == "2650.0"
    assert '"has ""quotes""' in out
    assert header[:3] == ["id", "request_id", "started_at_ms"]


@pytest.mark.parametrize("odd", ["=1+1", "+1", "-1", "@SUM(A1)", "=cmd|' /C calc'!A0"])
def test_csv_holds_no_formula(run: Run, gateway: FakeGateway, odd: str):
    gateway.answers["/cortex/v1/history"] = {"rows": [history_row(1, client=odd, model=odd)]}
    header, row = csv.reader(io.StringIO(run("history", "--csv").out))
    found = dict(zip(header, row, strict=True))
    assert (found["client"], found["model"]) == (f"'{odd}", f"'{odd}")


def test_csv_of_nothing_is_a_header(run: Run, gateway: FakeGateway):
    gateway.answers["/cortex/v1/history"] = {"rows": []}
    assert len(run("history", "--csv").lines) == 1
    assert run("history").out == ""


def test_json(run: Run):
    rows = json.loads(run("history", "--json").out)["rows"]
    assert [row["id"] for row in rows] == [2, 1]


def test_stats(run: Run, gateway: FakeGateway):
    row = {"model": "acme/small", "requests": 10, "errors": 1, "cold_starts": 2}
    row |= {"ttft_p50_ms": 120.0, "ttft_p95_ms": 900.0, "duration_p50_ms": 2000.0}
    gateway.answers["/cortex/v1/history/stats"] = {"rows": [row]}
    ran = run("history", "--stats", "--model", "acme/small")
    assert ran.lines[1].split() == (
        ["acme/small", "10", "1", "2", "–", "–", "120ms/900ms", "2.0s/–", "–/–"]
    )
    assert gateway.requests[-1][2]["model"] == "acme/small"
    assert json.loads(run("history", "--stats", "--json").out)["rows"][0]["requests"] == 10
    assert "by" not in gateway.requests[-1][2]


def test_stats_by_client(run: Run, gateway: FakeGateway):
    row = {"model": None, "client": "laptop", "requests": 10, "errors": 1}
    gateway.answers["/cortex/v1/history/stats"] = {"rows": [row]}
    ran = run("history", "--stats", "--by", "client", "--client", "laptop")
    assert ran.lines[0].split()[0] == "CLIENT"
    assert ran.lines[1].split()[:3] == ["laptop", "10", "1"]
    assert gateway.requests[-1][2]["by"] == "client"


@pytest.mark.parametrize("columns", [80, 100, 125, 200])
@pytest.mark.parametrize("follow", [False, True])
def test_a_terminals_lines_are_not_longer_than_it(
    columns: int,
    follow: bool,
    gateway: FakeGateway,
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
):
    long = history_row(1, model="m" * 70, node="n" * 40, client="c" * 40, outcome="error")
    long |= {"error_code": "model_never_fits"}
    gateway.answers["/cortex/v1/history"] = {"rows": [long]}
    monkeypatch.setenv("CORTEX_ENDPOINT", gateway.url)
    monkeypatch.setenv("COLUMNS", str(columns))
    if follow:
        monkeypatch.setattr("time.sleep", _interrupt)
        assert main(["history", "--follow"]) == 130
    else:
        assert main(["history"]) == 0
    lines = [plain(line) for line in terminal.getvalue().splitlines()]
    assert max(map(len, lines)) <= columns
    assert "model_never_fits" in "".join(lines)


def _interrupt(_seconds: float) -> None:
    raise KeyboardInterrupt


def test_hostile_names(run: Run, gateway: FakeGateway):
    row = history_row(1, model=NASTY, node=NASTY, client=NASTY, outcome=NASTY)
    row |= {"error_message": NASTY}
    gateway.answers["/cortex/v1/history"] = {"rows": [row]}
    for argv in (["history"], ["history", "--csv"], ["history", "--json"]):
        out = run(*argv).out
        assert "\x1b" not in out
        assert_harmless(out)


class Log:
    """A request log that grows: answers `after_id` as the gateway does."""

    def __init__(self) -> None:
        self.rows = [history_row(n) for n in (1, 2, 3)]

    def __call__(self, query: dict[str, str], _body: object) -> tuple[int, object]:
        if "after_id" not in query:
            return 200, {"rows": self.rows[::-1][: int(query["limit"])]}
        return 200, {"rows": [row for row in self.rows if row["id"] > int(query["after_id"])]}


@pytest.mark.parametrize("form", ["--csv", "--json"])
def test_follow_prints_every_row_once_over_a_restart(form: str):
    gateway, log, seen = FakeGateway(), Log(), []
    gateway.answers["/cortex/v1/history"] = log
    with gateway:
        following = start(
            "history", "--follow", form, "--limit", "2", "--endpoint", gateway.url
        )
        assert following.stdout is not None
        until(following.stdout, "req-3", seen)
        log.rows.append(history_row(4))
        until(following.stdout, "req-4", seen)
    assert following.stderr is not None
    assert "waiting for it" in following.stderr.readline()
    log.rows += [history_row(5), history_row(6)]
    with gateway:
        until(following.stdout, "req-6", seen)
        assert "is back" in following.stderr.readline()
        following.send_signal(signal.SIGINT)
        out, err = following.communicate(timeout=10)
    assert following.returncode == 130
    assert (out, err) == ("", "")
    rows = [line for line in seen if "req-" in line]
    assert [row.split("req-")[1][0] for row in rows] == list("23456")


def test_followed_rows_line_up_in_a_pipe(gateway: FakeGateway):
    log, seen = Log(), []
    gateway.answers["/cortex/v1/history"] = log
    following = start("history", "--follow", "--endpoint", gateway.url)
    assert following.stdout is not None
    until(following.stdout, "26:43", seen)
    log.rows.append(history_row(4, tokens_per_s=None))
    until(following.stdout, "26:44", seen)
    following.send_signal(signal.SIGINT)
    following.communicate(timeout=10)
    assert seen[-1].index("gpu-b") == seen[-2].index("gpu-b") == seen[0].index("NODE")
    assert len(seen[-1]) == len(seen[-2])


class Paged(Log):
    """A long log, searched two ids at a time: most pages of a filter have nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = [history_row(number) for number in (1, 2, 8, 9)]
        self.asked: list[dict[str, str]] = []

    def __call__(self, query: dict[str, str], body: object) -> tuple[int, object]:
        self.asked.append(query)
        if "after_id" in query:
            return super().__call__(query, body)
        top = int(query.get("before", "0-10").partition("-")[2])
        rows = [row for row in self.rows if top - 2 <= row["id"] < top][::-1]
        beyond = f"0-{top - 2}" if top > 2 else None
        return 200, {"rows": rows[: int(query["limit"])], "next": beyond, "last_id": 9}


def test_a_search_goes_on_until_it_has_enough_rows(run: Run, gateway: FakeGateway):
    gateway.answers["/cortex/v1/history"] = log = Paged()
    found = json.loads(run("history", "--json", "--limit", "3").out)
    assert [row["id"] for row in found["rows"]] == [9, 8, 2]
    assert [query.get("before") for query in log.asked] == [None, "0-8", "0-6", "0-4"]
    assert [query["limit"] for query in log.asked] == ["3", "1", "1", "1"]
    # Nothing is told of where the gateway's own pages ended.
    assert found.keys() == {"rows"}
    assert len(run("history", "--csv").lines) == 1 + 4


def test_follow_begins_behind_the_newest_row_not_behind_the_last_match(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
):
    log = Paged()
    log.rows = [history_row(1)]
    gateway.answers["/cortex/v1/history"] = log
    monkeypatch.setenv("CORTEX_ENDPOINT", gateway.url)
    pauses = iter([None, None])

    def pause(_seconds: float) -> None:
        if next(pauses, "end") == "end":
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", pause)
    assert main(["history", "--follow", "--model", "rare"]) == 130
    assert [query["after_id"] for query in log.asked if "after_id" in query] == ["9", "9"]


def test_statistics_say_since_when(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    body = {"rows": [{"model": "a", "requests": 1, "errors": 0}], "since_ms": 1_782_864_000_000}
    gateway.answers["/cortex/v1/history/stats"] = body
    monkeypatch.setenv("CORTEX_ENDPOINT", gateway.url)
    assert main(["history", "--stats"]) == 0
    assert "older ones are left out" in capsys.readouterr().err
    gateway.answers["/cortex/v1/history/stats"] = body | {"since_ms": None}
    assert main(["history", "--stats"]) == 0
    assert capsys.readouterr().err == ""
