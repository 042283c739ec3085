"""What a killed gateway leaves behind, and what the next one makes of it."""

import json
import signal
import time
from pathlib import Path
from typing import Any

from cortex.core.records import ResidencyRecord
from cortex.store.offline import DatabaseFile
from tests.e2e.processes import Processes, request

FLUSH_S = 0.4
"""Rows are written every 250 ms; the rest is for a busy machine."""


def rows(processes: Processes, *argv: str) -> list[Any]:
    """Of `cortex history --json`, oldest first."""
    ran = processes.cortex("history", "--json", "--limit", "1000", *argv)
    assert ran.process.returncode == 0, ran.stderr
    return list(json.loads(ran.stdout)["rows"])[::-1]


def test_a_gateway_answers_and_tells_its_status(processes: Processes) -> None:
    gateway = processes.serve(processes.node("a", "b", unloaded=("b",)))
    whole = gateway.chat("a", max_tokens=3)
    assert whole.status == 200
    assert whole.json["usage"]["completion_tokens"] == 3
    stream = gateway.stream("a", max_tokens=3)
    assert stream.rest()[-1] == "[DONE]"
    assert not stream.cut

    ran = processes.cortex("status", "--json", "--endpoint", gateway.url)
    assert ran.process.returncode == 0, ran.stderr
    status = json.loads(ran.stdout)
    assert status["health"] == {
        "status": "ok",
        "reasons": [],
        "warnings": [],
        "version": status["version"],
    }
    assert status["requests_total"] == 2
    (node,) = status["nodes"]
    assert (node["name"], node["health"], node["in_flight"]) == ("n0", "up", 0)
    assert {row["model"]: row["status"] for row in node["models"]} == {
        "a": "loaded",
        "b": "unloaded",
    }


def kept_of(processes: Processes, model: str) -> ResidencyRecord:
    with DatabaseFile(processes.folder / "cortex.db") as file:
        return next(row for row in file.recall().residency if row.model == model)


def test_what_a_load_taught_is_kept_though_the_gateway_is_told_to_end(
    processes: Processes,
) -> None:
    """It still asks how much memory is left, which takes the node a while."""
    node = processes.node("a", "b", unloaded=("b",), load_s=0.5, info_delay_s=1.0)
    gateway = processes.serve(node)
    assert gateway.chat("b").status == 200
    gateway.send(signal.SIGTERM)
    assert gateway.end() == 0
    kept = kept_of(processes, "b")
    assert (kept.status, kept.loads) == ("loaded", 1)
    assert kept.load_s is not None
    assert kept.load_s >= 0.5


def test_a_killed_gateway_has_kept_every_request_older_than_a_flush(
    processes: Processes, tmp_path: Path
) -> None:
    gateway = processes.serve(processes.node("a"))
    done = [gateway.chat("a").headers["x-request-id"] for _ in range(30)]
    streams = [gateway.stream("a") for _ in range(3)]
    for stream in streams:
        assert stream.rest()[-1] == "[DONE]"
    time.sleep(FLUSH_S)
    gateway.kill()

    # With the gateway gone, from the file itself.
    offline = rows(processes, "--db", str(tmp_path / "cortex.db"))
    assert [row["request_id"] for row in offline[:30]] == done
    assert [(row["outcome"], row["stream"]) for row in offline] == [("ok", False)] * 30 + [
        ("ok", True)
    ] * 3

    again = processes.serve_file(gateway.source, gateway.port)
    done.append(again.chat("a").headers["x-request-id"])
    time.sleep(FLUSH_S)
    online = rows(processes, "--endpoint", again.url)
    assert online[:33] == offline
    assert online[33]["request_id"] == done[-1]
    assert online[33]["id"] > offline[-1]["id"]


def test_the_file_can_be_read_while_the_gateway_writes_it(
    processes: Processes, tmp_path: Path
) -> None:
    gateway = processes.serve(processes.node("a"))
    gateway.chat("a")
    time.sleep(FLUSH_S)
    beside = rows(processes, "--db", str(tmp_path / "cortex.db"))
    assert beside == rows(processes, "--endpoint", gateway.url)
    assert len(beside) == 1


def test_pins_use_order_and_load_counts_survive_a_kill(processes: Processes) -> None:
    node = processes.node("a", "b", "c", unloaded=("b",))
    gateway = processes.serve(node)
    for model in ("c", "b", "a", "c"):
        assert gateway.chat(model).status == 200
    pin = processes.cortex("pin", "b", "--endpoint", gateway.url)
    assert pin.process.returncode == 0, pin.stderr
    time.sleep(FLUSH_S)
    before = {row["model"]: row for row in gateway.models()}
    assert sorted(before, key=lambda m: before[m]["last_used_at_ms"]) == ["b", "a", "c"]
    assert {model: row["loads"] for model, row in before.items()} == {"a": 0, "b": 1, "c": 0}
    assert {model: row["pinned"] for model, row in before.items()} == {
        "a": False,
        "b": True,
        "c": False,
    }
    gateway.kill()

    again = processes.serve_file(gateway.source, gateway.port)
    after = {row["model"]: row for row in again.models()}
    for key in ("loads", "load_s", "pinned", "status"):
        assert {m: r[key] for m, r in after.items()} == {m: r[key] for m, r in before.items()}
    assert sorted(after, key=lambda m: after[m]["last_used_at_ms"]) == ["b", "a", "c"]
    assert request(node + "/_stats").json["loads"] == {"b": 1}


def test_a_kill_in_mid_stream_leaves_the_state_file_usable(processes: Processes) -> None:
    gateway = processes.serve(processes.node("a", token_interval_s=0.02))
    stream = gateway.stream("a", max_tokens=200)
    assert stream.read()
    gateway.kill()
    assert stream.rest()[-1] != "[DONE]"
    again = processes.serve_file(gateway.source, gateway.port)
    assert again.chat("a", max_tokens=1).status == 200
    assert again.models()[0]["in_flight"] == 0
