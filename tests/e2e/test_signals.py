"""How a gateway ends and how it takes a new configuration: signals to a real process."""

import json
import signal
import socket
import time
from pathlib import Path

from tests.e2e.processes import Gateway, Processes, eventually, request

SLOW = {"token_interval_s": 0.02}


def names_of(url: str) -> list[str]:
    return [node["name"] for node in request(url + "/cortex/v1/status").json["nodes"]]


def test_sigterm_lets_a_running_stream_finish_whole(processes: Processes) -> None:
    node = processes.node("a", **SLOW)
    gateway = processes.serve(node, toml="[limits]\ndrain_timeout_s = 20")
    stream = gateway.stream("a", max_tokens=40)
    assert stream.read()
    gateway.send(signal.SIGTERM)
    eventually(lambda: gateway.chat("a").status == 503, "new requests to be refused")
    refused = gateway.chat("a")
    assert refused.json["error"]["code"] == "draining"
    assert refused.headers["Retry-After"] == "5"
    assert request(gateway.url + "/ready").status == 503

    events = stream.rest()
    assert events[-1] == "[DONE]"
    assert not stream.cut
    pieces = [json.loads(event) for event in events[:-1]]
    assert (
        sum(bool(p["choices"] and p["choices"][0]["delta"].get("content")) for p in pieces)
        == 40
    )
    ended_s = time.monotonic()
    assert gateway.end() == 0
    assert time.monotonic() - ended_s < 5, "an idle gateway lingered until its drain timeout"
    assert request(node + "/_stats").json["cancelled"] == 0


def test_sigterm_refuses_those_who_wait_in_the_queue(processes: Processes) -> None:
    toml = "[limits]\nmax_in_flight_per_model = 1\ndrain_timeout_s = 20"
    gateway = processes.serve(processes.node("a", **SLOW), toml=toml)
    running = gateway.stream("a", max_tokens=50)
    assert running.read()
    with socket.create_connection(("127.0.0.1", gateway.port)) as waiting:
        body = json.dumps({"model": "a", "messages": [{"role": "user", "content": "hi"}]})
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        )
        waiting.sendall(f"{head}\r\n{body}".encode())
        eventually(
            lambda: request(gateway.url + "/cortex/v1/status").json["queued"] == 1, "a queue"
        )
        gateway.send(signal.SIGTERM)
        waiting.settimeout(10)
        assert waiting.recv(4096).startswith(b"HTTP/1.1 503 ")
    assert running.rest()[-1] == "[DONE]"
    assert gateway.end() == 0


def test_a_stream_longer_than_the_drain_ends_in_an_error_and_a_cut(
    processes: Processes,
) -> None:
    node = processes.node("a", endless=True, **SLOW)
    gateway = processes.serve(node, toml="[limits]\ndrain_timeout_s = 0.5")
    stream = gateway.stream("a")
    assert stream.read()
    told_s = time.monotonic()
    gateway.send(signal.SIGTERM)
    events = stream.rest()
    assert gateway.end() == 0
    assert 0.5 <= time.monotonic() - told_s < 8
    assert stream.cut, "HTTP said that the answer was complete"
    assert "[DONE]" not in events
    assert json.loads(events[-1])["error"]["code"] == "draining"
    again = processes.serve_file(gateway.source, gateway.port)
    (row,) = request(again.url + "/cortex/v1/history").json["rows"]
    assert (row["status"], row["outcome"], row["error_code"]) == (200, "error", "draining")
    assert [line["in_flight"] for line in gateway.log if line["message"] == "cut"] == [1]
    eventually(
        lambda: request(node + "/_stats").json["streams_stopped"] == 1, "the node to stop"
    )


def test_an_idle_gateway_ends_at_once_and_says_so_in_its_events(
    processes: Processes,
) -> None:
    gateway = processes.serve(processes.node("a"))
    for number in (signal.SIGTERM, signal.SIGINT):
        told_s = time.monotonic()
        gateway.send(number)
        assert gateway.end() == 0
        assert time.monotonic() - told_s < 5
        assert "Traceback" not in gateway.stderr
        gateway = processes.serve_file(gateway.source, gateway.port)
    assert [row["reason"] for row in gateway.events("stop")] == ["told to stop"] * 2
    eventually(lambda: len(gateway.events("start")) == 3, "the third start to be written")


def test_a_sighup_in_the_first_moments_is_a_reload(processes: Processes) -> None:
    source, port = processes.write(processes.node("a"))
    child = processes.command("serve", "--config", str(source))

    def blocked() -> bool:
        """The process has begun, and says so to its kernel."""
        status = Path(f"/proc/{child.pid}/status").read_text()
        (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigBlk"))
        return bool(int(mask, 16) >> (signal.SIGHUP - 1) & 1)

    eventually(blocked, "the command to begin")
    child.send(signal.SIGHUP)
    gateway = Gateway(child.process, child.out, child.err, port, source)
    eventually(gateway.is_ready, "the gateway to be ready", 30)
    eventually(lambda: len(gateway.events("config")) == 1, "the reload")
    assert gateway.events("config")[0]["reason"] == "reloaded"
    assert gateway.chat("a").status == 200


def test_sighup_adds_and_removes_nodes_without_cutting_a_stream(processes: Processes) -> None:
    first, second = processes.node("a", **SLOW), processes.node("a", "b")
    gateway = processes.serve(first)
    stream = gateway.stream("a", max_tokens=70)
    assert stream.read()
    assert gateway.chat("b").status == 404

    processes.write(first, second, port=gateway.port)
    gateway.send(signal.SIGHUP)
    eventually(lambda: gateway.chat("b").status == 200, "the new node to serve")
    assert names_of(gateway.url) == ["n0", "n1"]

    # The first goes while a stream runs on it: it is drained, and leaves with its last request.
    config = gateway.source.read_text().replace(f'name = "n0"\nendpoint = "{first}"\n', "", 1)
    gateway.source.write_text(config.replace("[[nodes]]\n[[nodes]]", "[[nodes]]"))
    gateway.send(signal.SIGHUP)
    eventually(
        lambda: [row["reason"] for row in gateway.events("config")] == ["reloaded"] * 2,
        "the second reload",
    )
    assert names_of(gateway.url) == ["n0", "n1"]
    assert {gateway.chat("a").headers["x-cortex-node"] for _ in range(4)} == {"n1"}
    assert stream.rest()[-1] == "[DONE]"
    assert not stream.cut
    eventually(lambda: names_of(gateway.url) == ["n1"], "the drained node to go")
    assert request(first + "/_stats").json["unload_posts"] == {}


def test_sighup_with_a_bad_file_changes_nothing(processes: Processes) -> None:
    gateway = processes.serve(processes.node("a"))
    good = gateway.source.read_text()
    gateway.source.write_text(good.replace("[[nodes]]", "[[nodes]]\npined = []", 1))
    gateway.send(signal.SIGHUP)
    eventually(lambda: len(gateway.events("config")) == 1, "a refusal")
    (event,) = gateway.events("config")
    assert event["reason"] == (
        f'reload refused: {gateway.source}: nodes[0].pined: unknown key, did you mean "pinned"?'
    )
    assert gateway.chat("a").status == 200
    assert names_of(gateway.url) == ["n0"]

    gateway.source.write_text(good)
    gateway.send(signal.SIGHUP)
    eventually(lambda: len(gateway.events("config")) == 2, "the reload of the mended file")
    assert gateway.events("config")[-1]["reason"] == "reloaded"


def test_sighup_changes_limits_for_requests_that_come_after(processes: Processes) -> None:
    gateway = processes.serve(processes.node("a"))
    config = gateway.source.read_text()
    gateway.source.write_text("[limits]\nmax_body_mb = 0.0001\n" + config)
    gateway.send(signal.SIGHUP)
    eventually(lambda: gateway.chat("a", user="u" * 200).status == 413, "the new limit")
    assert gateway.chat("a").status == 200
