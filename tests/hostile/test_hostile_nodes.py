"""A node that means harm costs a gateway process no memory beyond a bound, and the others nothing.

Each case floods, lies or breaks the rules for as long as it is let; then the peak of the process is
read from the kernel, and a healthy node must still answer at once.
"""

import gzip
import http.client
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Gateway, Processes, eventually, request
from tests.hostile.memory import MIB, open_files, peak_bytes, reset_peak, rss_bytes
from tests.hostile.node import (
    HostileNode,
    Send,
    chunked,
    event,
    floods,
    hang_up,
    head,
    listing,
    sends,
    stream_head,
    whole,
)

FLOOD_BYTES = 96 * MIB
BOUND_BYTES = 64 * MIB
"""What any one of these may add to the peak; a flood that was kept would be far beyond it."""
CHAT = "/v1/chat/completions"
PIECE = b"x" * (256 * 1024)
ESC = "\x1b]0;owned\x07\x1b[2J"


@dataclass
class World:
    node: HostileNode
    gateway: Gateway
    processes: Processes

    def status(self) -> Any:
        return request(self.gateway.url + "/cortex/v1/status").json

    def hostile(self) -> Any:
        return self.status()["nodes"][0]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    processes = Processes(tmp_path_factory.mktemp("hostile"))
    with HostileNode("m1") as node:
        try:
            good = processes.node("good")
            toml = "[limits]\nidle_timeout_s = 3\n[polling]\ninterval_s = 0.2\ntimeout_s = 4.0"
            gateway = processes.serve(node.url, good, toml=toml)
            # What the first requests load and build is not what a flood takes.
            for model in ("good", "m1", "good"):
                gateway.chat(model)
            yield World(node, gateway, processes)
        finally:
            processes.end()


@pytest.fixture(autouse=True)
def _harmless(world: World) -> Iterator[None]:
    """Bounds and well-being, whatever the case was."""
    world.node.behave()
    before = rss_bytes(world.gateway.pid)
    reset_peak(world.gateway.pid)
    yield
    grown = peak_bytes(world.gateway.pid) - before
    print(f"peak +{grown / MIB:.1f} MiB")
    assert grown < BOUND_BYTES, f"{grown / MIB:.0f} MiB"
    # A flood takes the machine as well: a poll of the other node may have been late for it.
    eventually(lambda: world.gateway.chat("good").status == 200, "the other node to serve", 15)
    assert not [line for line in world.gateway.log if line.get("message") == "bug"]
    assert "Traceback" not in world.gateway.stderr
    # What the case wedged or broke off must not be held against the next.
    world.node.behave()
    eventually(lambda: _serves(world), "the node to be believed again", 15)


def _serves(world: World) -> bool:
    models = [m for m in world.hostile()["models"] if m["model"] == "m1"]
    up = world.hostile()["health"] == "up" and world.hostile()["reason"] == ""
    if not up or not models or models[0]["breaker_open"] or models[0]["status"] != "loaded":
        return False
    return world.gateway.chat("m1").status == 200


@dataclass
class Seen:
    status: int
    size: int
    whole: bool
    tail: bytes


def ask(gateway: Gateway, path: str = CHAT, **more: Any) -> Seen:
    """One request for `m1`, read and thrown away as it comes."""
    # A flood takes what processors there are; the test's own limit is not much more than this.
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=45)
    body = {"model": "m1", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    size, tail, complete = 0, b"", True
    try:
        connection.request(
            "POST", path, json.dumps(body | more), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        try:
            while piece := response.read1(1 << 20):
                size, tail = size + len(piece), (tail + piece)[-400:]
        except (http.client.IncompleteRead, ConnectionError):
            complete = False
        if response.length:
            complete = False
        return Seen(response.status, size, complete, tail)
    finally:
        connection.close()


# What streams through is the client's to stop: cortex keeps nothing of it.
PASSED = {
    "an endless stream": (True, floods(stream_head(), chunked(event(content="x" * 60_000)), FLOOD_BYTES)),
    "tiny chunks": (True, floods(stream_head(), chunked(b"data: {}\n\n") * 4000, FLOOD_BYTES // 8)),
    "one byte a chunk": (True, floods(stream_head() + chunked(b"data: "), chunked(b"x") * 20_000, 8 * MIB)),
    "a gigantic chunk": (True, floods(stream_head() + b"fffffffffffffff\r\ndata: ", PIECE, FLOOD_BYTES)),
    "a line without end": (True, floods(stream_head(), chunked(PIECE), FLOOD_BYTES)),
    "an endless body": (False, floods(head("200 OK", "Content-Type: application/json", "Transfer-Encoding: chunked"), chunked(PIECE), FLOOD_BYTES)),
    "a length that is a lie": (False, floods(head("200 OK", "Content-Length: 999999999999999999"), PIECE, FLOOD_BYTES)),
    "trailers without end": (True, floods(stream_head() + chunked(event(content="x")) + b"0\r\n", b"A: b\r\n" * 10_000, FLOOD_BYTES)),
    "a trailer without end": (True, floods(stream_head() + chunked(event(content="x")) + b"0\r\nA: ", PIECE, FLOOD_BYTES)),
    "a chunk extension without end": (True, floods(stream_head() + chunked(event(content="x")) + b"5;", PIECE, FLOOD_BYTES)),
}  # fmt: skip


@pytest.mark.parametrize("case", PASSED)
def test_what_passes_through_is_not_kept_and_never_looks_complete(
    world: World, case: str
) -> None:
    stream, world.node.answer = PASSED[case]
    seen = ask(world.gateway, stream=stream)
    assert seen.status in (200, 502)
    # Broken off by the node or by cortex: no case ends as an answer ends.
    assert not seen.whole or seen.status == 502


# What must be kept has a bound, and an honest end.
KEPT = {
    "a line without end": (True, floods(stream_head(), chunked(PIECE), FLOOD_BYTES)),
    "a small-cut line without end": (True, floods(stream_head() + chunked(b"data: "), chunked(b"x" * 500) * 100, FLOOD_BYTES)),
    "an event without end": (True, floods(stream_head(), chunked(b"data:\n" * 10_000), FLOOD_BYTES)),
    "comments without end, whole": (False, floods(stream_head(), chunked(b": x\n\n" * 10_000), FLOOD_BYTES)),
    "an answer without end, whole": (False, floods(stream_head(), chunked(event(content="word ") * 500), FLOOD_BYTES)),
    "a tool call without end": (True, floods(stream_head(), chunked(event(tool_calls=[{"index": 0, "function": {"arguments": "x" * 900}}]) * 50), FLOOD_BYTES)),
    "tool calls without end": (True, floods(stream_head(), chunked(b"".join(event(tool_calls=[{"index": n, "id": f"c{n}"}]) for n in range(3000))), FLOOD_BYTES)),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_what_a_translation_keeps_has_an_end(world: World, case: str) -> None:
    stream, world.node.answer = KEPT[case]
    seen = ask(world.gateway, "/v1/messages", stream=stream)
    assert b"error" in seen.tail
    # Comments are no progress: where they come slowly, `idle_timeout_s` is first.
    assert seen.status in (502, 504) or (stream and not seen.whole)
    assert b"message_stop" not in seen.tail
    assert seen.size < MIB


NO_ANSWERS = {
    "a head without end": floods(b"HTTP/1.1 200 OK\r\nA: ", PIECE, FLOOD_BYTES),
    "header fields without end": floods(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 10_000, FLOOD_BYTES),
    "1xx without end": floods(b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 4000, FLOOD_BYTES),
    "an upgrade": sends(head("101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade")),
    "a redirect": sends(head("307 Temporary Redirect", "Location: http://127.0.0.1:1/", "Content-Length: 0")),
    "an error body without end": floods(head("500 No", "Transfer-Encoding: chunked"), chunked(PIECE), FLOOD_BYTES),
    "an error of deep nesting": sends(whole(b"[" * 200_000, status="500 No")),
    "two lengths": sends(head("200 OK", "Content-Length: 2", "Content-Length: 3") + b"{} "),
    "length and chunks": sends(head("200 OK", "Content-Length: 2", "Transfer-Encoding: chunked") + b"{}"),
    "a page": sends(whole(b"<script>alert(1)</script>", "Content-Type: text/html")),
    "a compressed stream": sends(stream_head("Content-Encoding: gzip") + chunked(gzip.compress(bytes(MIB)))),
    "an error event of deep nesting": sends(stream_head() + chunked(b'event: error\ndata: {"error":' + b"[" * 100_000 + b"\n\n")),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_ANSWERS)
def test_what_is_no_answer_is_told_as_the_nodes_failure(world: World, case: str) -> None:
    world.node.answer = NO_ANSWERS[case]
    seen = ask(world.gateway, stream="stream" in case)
    assert seen.status in (502, 503), seen
    assert seen.whole
    assert seen.size < 4096


def test_an_answer_shorter_than_its_length_does_not_look_complete(world: World) -> None:
    def short(peer: socket.socket) -> None:
        peer.sendall(
            head("200 OK", "Content-Length: 1000", "Content-Type: application/json") + b"{"
        )
        hang_up(peer)

    world.node.answer = short
    seen = ask(world.gateway)
    assert not seen.whole or seen.status == 502


def test_a_second_answer_is_given_to_nobody(world: World) -> None:
    """Neither to this request nor to the next on the same connection."""
    planted = whole(b'{"planted":true}', "Content-Type: application/json")
    world.node.answer = sends(whole(b'{"first":1}') + planted)
    for _ in range(3):
        seen = ask(world.gateway)
        assert (seen.status, seen.tail) == (200, b'{"first":1}')


def test_an_answer_to_a_request_that_was_not_sent_is_given_to_nobody(world: World) -> None:
    planted = whole(b'{"planted":true}', "Content-Type: application/json")
    kept: list[socket.socket] = []

    def first(peer: socket.socket) -> None:
        kept.append(peer)
        # Else the kernel holds back what follows until the gateway's next request confirms this.
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.sendall(whole(b'{"first":1}', "Content-Type: application/json"))

    world.node.answer = first
    for _ in range(10):
        seen = ask(world.gateway)
        assert (seen.status, seen.tail) == (200, b'{"first":1}')
        # On the connection that is kept for the next request, and before that is made.
        kept[-1].sendall(planted)


def test_a_compressed_answer_is_never_unpacked(world: World) -> None:
    bomb = gzip.compress(bytes(FLOOD_BYTES), 1)
    world.node.answer = sends(
        whole(bomb, "Content-Encoding: gzip", "Content-Type: application/json")
    )
    seen = ask(world.gateway)
    assert (seen.status, seen.size) == (200, len(bomb))


def test_cookies_and_words_to_a_browser_stay_here(world: World) -> None:
    fields = (
        "Set-Cookie: a=b",
        "Strict-Transport-Security: max-age=1",
        "Refresh: 0; url=/",
        "X: \xe9",
    )
    world.node.answer = sends(whole(b"{}", "Content-Type: application/json", *fields))
    reply = world.gateway.chat("m1")
    lower = {name.lower() for name in reply.headers}
    assert not lower & {"set-cookie", "strict-transport-security", "refresh"}
    assert reply.status == 200


def test_a_client_that_reads_nothing_holds_its_node_back(world: World) -> None:
    world.node.answer = floods(stream_head(), chunked(event(content="x" * 60_000)), FLOOD_BYTES)
    body = json.dumps(
        {"model": "m1", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    )
    with socket.create_connection(("127.0.0.1", world.gateway.port)) as lazy:
        lazy.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        eventually(lambda: world.status()["in_flight"] == 0, "the stall to be noticed", 10)


LISTINGS: dict[str, tuple[Callable[[], Send], str]] = {
    "10,000 models": (lambda: sends(whole(listing(*(f"m{n}" for n in range(10_000))))), "listed more than 500 models"),
    "ids of 1 MB": (lambda: sends(whole(listing("x" * 900_000, "m1"))), "1 of its model ids is not believed"),
    "control characters": (lambda: sends(whole(listing("m1", ESC, "a\nb", "\u202egpj", "a\u0000"))), "4 of its model ids are not believed"),
    "an endless listing": (lambda: floods(head("200 OK", "Transfer-Encoding: chunked"), chunked(PIECE), FLOOD_BYTES), "answered without end"),
    "a million objects": (lambda: sends(whole(b'{"data":[' + b"{}," * 300_000 + b"{}]}")), "unexpected answer"),
    "deep nesting": (lambda: sends(whole(b'{"data":' + b"[" * 500_000)), "unexpected answer"),
    "a page": (lambda: sends(whole(b"<html>" + ESC.encode())), "unexpected answer"),
    "a head without end": (lambda: floods(b"HTTP/1.1 200 OK\r\nA: ", PIECE, FLOOD_BYTES), "a head without end"),
    "silence": (lambda: lambda _: None, "no answer in 4 s"),
}  # fmt: skip


@pytest.mark.parametrize("case", LISTINGS)
def test_a_lie_about_models_is_bounded_and_has_a_reason(world: World, case: str) -> None:
    made, reason = LISTINGS[case]
    world.node.routes["/v1/models"] = made()
    eventually(lambda: reason in world.hostile()["reason"], f"the reason: {reason}", 20)
    hostile = world.hostile()
    assert len(hostile["reason"]) < 250
    shown = world.processes.cortex("status", "--endpoint", world.gateway.url).stdout
    assert reason in " ".join(shown.split())
    assert "\x1b" not in shown


def test_other_models_at_every_poll_leave_nothing_behind(world: World) -> None:
    rounds = 0

    def fresh(peer: socket.socket) -> None:
        nonlocal rounds
        rounds += 1
        peer.sendall(whole(listing("m1", *(f"r{rounds}-{'x' * 200}-{n}" for n in range(490)))))

    world.node.routes["/v1/models"] = fresh
    eventually(lambda: rounds > 8, "some rounds", 20)
    assert len(world.hostile()["models"]) <= 500


def test_models_listed_twice_and_numbers_that_are_none_are_survived(world: World) -> None:
    entries = [{"id": "m1", "created": 10**30, "status": ESC}] * 400
    world.node.routes["/v1/models"] = sends(whole(json.dumps({"data": entries}).encode()))
    device = {"kind": "cuda", "total_memory_bytes": 10**30, "available_memory_bytes": -5}
    info = {"devices": [device] * 1000, "build": {"version": ESC * 1000, "git_revision": ESC}}
    world.node.routes["/v1/system/info"] = sends(whole(json.dumps(info).encode()))
    eventually(
        lambda: any(m["status"] == "wedged" for m in world.hostile()["models"]),
        "the duplicates",
    )
    hostile = world.hostile()
    assert (hostile["vram_total_mib"], hostile["version"]) in ((None, None), (None, "0.9.2"))
    # It stays wedged until the node restarts.
    world.node.behave()
    world.node.routes["/v1/models"] = sends(whole(listing("m1", created=77)))
    eventually(
        lambda: all(
            m["status"] == "loaded" for m in world.hostile()["models"] if m["model"] == "m1"
        ),
        "the restart",
    )


def test_counts_that_are_none_break_neither_metrics_nor_history(world: World) -> None:
    for count in (-1, 10**30, 10**4000):
        usage = f'{{"usage":{{"prompt_tokens":{count},"completion_tokens":3}}}}'.encode()
        world.node.answer = sends(whole(usage, "Content-Type: application/json"))
        assert ask(world.gateway).status == 200
    row = request(world.gateway.url + "/cortex/v1/history?model=m1&limit=1").json["rows"]
    assert [r["prompt_tokens"] for r in row] in ([None], [])


@pytest.mark.parametrize("verb", ["status", "reload"])
def test_an_endless_control_answer_is_given_up(world: World, verb: str) -> None:
    world.node.routes["/v1/models"] = sends(whole(listing("m1", "cold", status="unloaded")))
    world.node.routes["/v1/models/status"] = sends(whole(b'{"status":"unloaded"}'))
    world.node.routes[f"/v1/models/{verb}"] = floods(
        head("200 OK", "Transfer-Encoding: chunked"), chunked(PIECE), FLOOD_BYTES
    )
    eventually(lambda: "cold" in {m["model"] for m in world.hostile()["models"]}, "the listing")
    assert world.gateway.chat("cold").status in (502, 503)


def test_no_word_of_a_node_reaches_a_terminal_or_a_label_as_it_is(world: World) -> None:
    name = '<img src=x onerror="document.title=1">\\'
    refusal = json.dumps({"status": "unloaded", "error": ESC + "\n" + "e" * 500_000})
    world.node.routes["/v1/models"] = sends(whole(listing("m1", name, status="unloaded")))
    world.node.routes["/v1/models/status"] = sends(whole(b'{"status":"unloaded"}'))
    world.node.routes["/v1/models/reload"] = sends(whole(refusal.encode()))
    eventually(lambda: name in {m["model"] for m in world.hostile()["models"]}, "the listing")
    assert world.gateway.chat(name).status in (502, 503)
    failed = world.gateway.events("load_failed")[-1]
    assert len(failed["reason"]) <= 1000
    for verb in (
        ["status"],
        ["events"],
        ["history"],
        ["models"],
        ["top", "--once"],
        ["explain", name],
    ):
        ran = world.processes.cortex(*verb, "--endpoint", world.gateway.url)
        assert ran.process.returncode in (0, 1), (verb, ran.stderr)
        for text in (ran.stdout, ran.stderr):
            assert "\x1b" not in text, verb
            assert "\x07" not in text, verb
    assert (
        "\\x1b]0;owned"
        in world.processes.cortex("events", "--endpoint", world.gateway.url).stdout
    )
    scrape = _metrics(world.gateway.source)
    assert '<img src=x onerror=\\"document.title=1\\">\\\\' in scrape
    assert "\x1b" not in scrape
    assert len(scrape) < 4 * MIB


def _metrics(source: Path) -> str:
    line = next(line for line in source.read_text().splitlines() if "metrics_listen" in line)
    return request(f"http://{line.split(chr(34))[1]}/metrics").body.decode()


def test_nothing_is_left_open_after_all_this(world: World) -> None:
    eventually(lambda: open_files(world.gateway.pid) < 60, "the connections to be closed", 10)
    assert rss_bytes(world.gateway.pid) < 400 * MIB
