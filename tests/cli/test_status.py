import json
import os
import pty
import signal
import time

import pytest

from cortex.cli import main
from cortex.cli.text import safe
from tests.cli.conftest import Ran, Run, Terminal, start
from tests.cli.gateway import FakeGateway, model, status

ESC = "\x1b"
NASTY = f"evil{ESC}]0;owned\x07{ESC}[2J\r\n[red]x[/red]\u202egpj\u200b\x9b31m"


def cells(ran: Ran, first: str) -> list[list[str]]:
    """Cells of the lines of a piped table that begin with `first`."""
    return [line.split() for line in ran.lines if line.startswith(first)]


def test_piped_status_is_plain_aligned_columns(run: Run):
    ran = run("status")
    assert ran.code == 0
    assert ESC not in ran.out
    assert not set(ran.out) & set("─│┃━●◐✗█░")
    assert all(line == line.rstrip() for line in ran.lines)
    assert (
        "NODE       HEALTH  MEMORY             IN-FLIGHT     CYCLES  VERSION  REASON"
        in ran.lines
    )
    assert cells(ran, "gpu-large") == [
        ["gpu-large", "up", "20.0+8.0/48.0", "GiB", "3/64", "12/50", "0.9.2"]
    ]
    assert cells(ran, "gpu-b")[0][:6] == ["gpu-b", "up", "–", "0", "50/50", "due"]
    assert "connection refused" in next(line for line in ran.lines if line.startswith("gpu-c"))
    assert ran.lines[:3] == [
        "cortex 0.1.0  degraded  up 3h04m",
        "3 in flight, 1 queued, 1234 requests, store 1.2 MiB",
        "  node gpu-c is down",
    ]


def test_piped_models(run: Run):
    ran = run("status")
    long = cells(ran, "acme/very")[0]
    assert long[:5] == [
        "acme/very-long-model-name-30B-A3B-Instruct", "gpu-large", "loaded", "pinned", "3/32",
    ]  # fmt: skip
    assert long[-5:] == ["48.2", "17.9", "GiB", "31.4s", "–"]
    assert [row[1:3] for row in cells(ran, "acme/small")] == [
        ["gpu-b", "unloaded"],
        ["gpu-large", "loading"],
    ]
    assert "open: out of memory" in ran.out


def test_a_terminal_of_80_columns_gets_colour_and_no_line_is_longer(
    gateway: FakeGateway, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CORTEX_ENDPOINT", gateway.url)
    assert main(["status"]) == 0
    shown = terminal.getvalue()
    assert f"{ESC}[" in shown
    lines = [plain(line) for line in shown.splitlines()]
    assert max(map(len, lines)) <= 80
    assert any("███▒░░░░ 20.0+8.0/48.0 GiB" in line for line in lines)
    assert "  gpu-c: connection refused" in lines
    assert "  acme/small on gpu-b: open: out of memory" in lines


def test_why_a_model_that_was_asked_for_is_not_there(run: Run, gateway: FakeGateway):
    told = status()
    told["nodes"][0]["models"][1] |= {"status": "unloaded", "last_failure": "out of memory"}
    queue = {"model": "acme/small", "reason": "gpu-b loads it", "load_eta_s": 20.4}
    gateway.answers["/cortex/v1/status"] = told | {
        "queues": [
            queue | {"waiting": 2, "oldest_at_ms": round((time.time() - 12.5) * 1000)},
            {"model": "other\x1b", "waiting": 1},
        ]
    }
    ran = run("status")
    said = ran.lines[3]
    assert said.startswith("  acme/small: 2 waiting, the oldest for 1")
    assert said.endswith("s: gpu-b loads it; its load takes about 20.4s")
    assert ran.lines[4] == "  other\\x1b: 1 waiting"
    assert cells(ran, "acme/small")[1][-4:] == ["–", "failed:", "out", "of", "memory"][-4:]


@pytest.mark.parametrize("columns", [80, 100, 119])
def test_nothing_wraps_on_a_narrow_terminal(
    gateway: FakeGateway, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, columns: int
):
    """A row is a line; of a long name the end stays, which says what it is."""
    told = status()
    names = [f"organisation-{n}/" + "Model-" * 8 + f"{n}B-Instruct" for n in (7, 70)]
    told["nodes"][0]["name"] = "gpu-large-in-the-cellar-of-the-old-house.example"
    told["nodes"][0]["models"] = [
        model(name, told["nodes"][0]["name"], in_flight=31, max_in_flight=32, size_mib=20_000)
        for name in names
    ]
    gateway.answers["/cortex/v1/status"] = told
    monkeypatch.setenv("CORTEX_ENDPOINT", gateway.url)
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["status"]) == 0
    lines = [plain(line) for line in terminal.getvalue().splitlines()]
    assert max(map(len, lines)) <= columns
    title = next(i for i, line in enumerate(lines) if line.startswith("model "))
    rows = lines[title + 2 : title + 5]
    assert "-7B-Instruct " in rows[1]
    assert "70B-Instruct " in rows[2]
    assert all(row.startswith("…") for row in rows[1:])
    assert all(" 31/32 " in row and " 19.5 GiB" in row for row in rows[1:])
    node = next(line for line in lines if line.startswith("gpu-larg"))
    assert "20.0+8.0/48.0 GiB" in node
    assert node.rstrip().endswith("0.9.2")


def test_a_wide_terminal_gets_every_column(
    gateway: FakeGateway, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CORTEX_ENDPOINT", gateway.url)
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["status"]) == 0
    lines = [plain(line) for line in terminal.getvalue().splitlines()]
    assert any("reason" in line for line in lines)
    assert any("failures" in line for line in lines)
    assert not any(line.startswith("  gpu-c:") for line in lines)


def test_no_color(gateway: FakeGateway, terminal: Terminal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CORTEX_ENDPOINT", gateway.url)
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["status"]) == 0
    colours = {f"{ESC}[{code}m" for code in range(30, 38)}
    assert not any(colour in terminal.getvalue() for colour in colours)


def plain(line: str) -> str:
    while ESC in line:
        before, _, after = line.partition(ESC)
        line = before + after.partition("m")[2]
    return line


def hostile() -> dict[str, object]:
    node = status()["nodes"][0] | {"name": NASTY, "reason": NASTY, "version": NASTY}
    node |= {"no_load_reason": NASTY, "may_load": False}
    node["models"] = [
        model(NASTY, NASTY, status=NASTY, breaker_open=True, breaker_reason=NASTY)
    ]
    return status(
        nodes=[node],
        version=NASTY,
        health={"status": NASTY, "reasons": [NASTY]},
        store={"path": NASTY, "ok": False, "reason": NASTY},
    )


def assert_harmless(text: str) -> None:
    assert not any(char in text for char in "\x07\r\u202e\u200b\x9b")
    assert ESC not in plain(text)


def test_names_from_elsewhere_cannot_reach_the_terminal(
    gateway: FakeGateway, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CORTEX_ENDPOINT", gateway.url)
    gateway.answers["/cortex/v1/status"] = hostile()
    for columns in ("80", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(["status"]) == 0
    for line in terminal.getvalue().splitlines():
        assert_harmless(line)
    assert "[red]" in plain(terminal.getvalue()).replace("\n", "")


def test_names_from_elsewhere_cannot_reach_a_pipe(run: Run, gateway: FakeGateway):
    gateway.answers["/cortex/v1/status"] = hostile()
    for argv in (["status"], ["status", "--json"]):
        ran = run(*argv)
        assert ESC not in ran.out
        assert_harmless(ran.out)
    assert "evil\\x1b]0;owned" in run("status").out


def test_safe_shows_what_it_hides():
    assert safe(NASTY).startswith(
        "evil\\x1b]0;owned\\x07\\x1b[2J\\x0d\\x0a[red]x[/red]\\u202egpj"
    )
    assert safe("Qwen/Qwen3 日本語 é") == "Qwen/Qwen3 日本語 é"
    assert len(safe("x" * 10_000)) == 500


def test_json_is_the_gateways_body(run: Run):
    assert json.loads(run("status", "--json").out) == status()


def test_json_keeps_fields_of_a_newer_gateway(run: Run, gateway: FakeGateway):
    gateway.answers["/cortex/v1/status"] = status(shiny=1)
    assert json.loads(run("status", "--json").out)["shiny"] == 1


@pytest.mark.parametrize("argv", [["status"], ["status", "--json"]])
def test_impaired_is_exit_code_1(run: Run, gateway: FakeGateway, argv: list[str]):
    gateway.answers["/cortex/v1/status"] = status(
        health={"status": "impaired", "reasons": ["model x cannot be served"]}
    )
    assert run(*argv).code == 1


def test_an_empty_fleet(run: Run, gateway: FakeGateway):
    gateway.answers["/cortex/v1/status"] = status(nodes=[])
    assert "no nodes are configured" in run("status").out


def test_a_failing_store_is_shown(run: Run, gateway: FakeGateway):
    gateway.answers["/cortex/v1/status"] = status(
        store={"path": "/v/c.db", "ok": False, "reason": "disk full", "dropped_rows": 7}
    )
    out = run("status").out
    assert "store /v/c.db: disk full" in out
    assert "7 rows were dropped" in out


def test_watch_survives_a_gateway_that_goes_away_and_comes_back():
    gateway = FakeGateway()
    seen: list[str] = []
    with gateway:
        gateway.answers["/cortex/v1/status"] = status(version="first")
        watching = start("status", "--watch", "0.1", "--endpoint", gateway.url)
        assert watching.stdout is not None
        until(watching.stdout, "cortex first", seen)
    until(watching.stdout, "no answer for", seen)
    until(watching.stdout, "cortex first", seen)
    gateway.answers["/cortex/v1/status"] = status(version="second")
    with gateway:
        until(watching.stdout, "cortex second", seen)
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=10)
    assert watching.returncode == 130
    assert err == ""


def until(lines: object, wanted: str, seen: list[str]) -> None:
    for line in lines:  # type: ignore[attr-defined]
        seen.append(line)
        if wanted in line:
            return
    raise AssertionError(f"{wanted!r} never came: {''.join(seen[-50:])}")


def test_watch_ends_when_the_key_is_refused(run: Run, gateway: FakeGateway):
    gateway.key = "right"
    assert run("status", "--watch", "0.1").code == 77


def test_watch_on_a_terminal_uses_its_own_screen_and_gives_it_back(gateway: FakeGateway):
    ours, theirs = pty.openpty()
    environ = {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    watching = start(
        "status", "--watch", "0.1", "--endpoint", gateway.url, stdout=theirs, environ=environ
    )
    os.close(theirs)
    shown = read_until(ours, b"gpu-large")
    assert b"\x1b[?1049h" in shown
    watching.terminate()
    assert b"\x1b[?1049l" in read_until(ours, b"\x1b[?1049l")
    watching.communicate(timeout=10)
    assert watching.returncode == 128 + signal.SIGTERM
    os.close(ours)


def read_until(descriptor: int, wanted: bytes) -> bytes:
    shown = b""
    while wanted not in shown:
        try:
            piece = os.read(descriptor, 65_536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    return shown


def test_another_rule_than_the_configured_one_is_told_with_its_reason(
    run: Run, gateway: FakeGateway
):
    told = "what goes is decided by lru and not by forecast: 12 of 50 gaps between requests"
    assert not any("what goes is decided" in line for line in run("status").lines)
    body = status()
    body["eviction"] = {
        "strategy": "forecast",
        "deciding": "lru",
        "reason": "12 of 50 gaps between requests are known",
    }
    gateway.answers["/cortex/v1/status"] = body
    assert any(told in line for line in run("status").lines)
