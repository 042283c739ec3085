"""Memory, descriptors and connections run out; the file is read anew under load."""

import contextlib
import json
import resource
import signal
import socket
import threading
import time
from collections import Counter

import pytest

from tests.e2e.processes import Processes, chat_body, eventually, request
from tests.faults.load import OK, Load
from tests.faults.report import tell
from tests.faults.world import World, lost, now_s
from tests.hostile.memory import (
    MIB,
    cpu_s,
    open_files,
    peak_bytes,
    reset_peak,
    rss_bytes,
    size_bytes,
)

BODY_BYTES = 30 * MIB
SENDERS = 16
BODIES_MIB = 96
"""`max_bodies_mb` of the world."""
IDLE = 10_000


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def test_ten_thousand_idle_connections(world: World) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < IDLE + 500:
        pytest.skip(f"the hard limit of open files is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gateway = world.gateway
    with world.load("a") as load:
        before, broken_s = rss_bytes(gateway.pid), now_s()
        idle: list[socket.socket] = []
        try:
            idle += (connected(gateway.port) for _ in range(IDLE))
            eventually(lambda: open_files(gateway.pid) > IDLE, "all to be accepted", 20)
            each = (rss_bytes(gateway.pid) - before) / IDLE / 1024
            there_s = now_s()
            time.sleep(1.0)
            slowest_s = load.slowest_s(there_s, "a")
            seen = load.saw(broken_s)
        finally:
            for peer in idle:
                peer.close()
        mended_s = now_s()
        eventually(lambda: open_files(gateway.pid) < 100, "all to be let go", 20)
        took_s = now_s() - mended_s
    assert set(seen) == {OK}, seen
    assert 0 < slowest_s < 1.0
    assert each < 40, f"{each:.1f} KiB a connection"
    gone = lost(gateway, world.database, load)
    assert gone.startswith("nothing")
    words = f"{_words(seen)}; slowest {slowest_s * 1000:.0f} ms; {each:.1f} KiB a connection"
    tell(f"{IDLE} idle connections", words, gone, took_s)


def storm(port: int) -> Counter[str]:
    """Large bodies, all at once; the statuses."""
    body = json.dumps(chat_body("a", max_tokens=1, pad="x" * BODY_BYTES)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    seen: Counter[str] = Counter()

    def send() -> None:
        word = "no answer"
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=40) as peer:
                # Refused before all of it was sent: the answer is there.
                with contextlib.suppress(OSError):
                    peer.sendall(head.encode() + body)
                word = peer.recv(12).decode()[9:] or word
        except OSError:
            pass
        seen[word] += 1

    threads = [threading.Thread(target=send) for _ in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    return seen


@pytest.mark.timeout(120)
def test_a_storm_of_large_bodies_with_little_memory(world: World) -> None:
    gateway = world.gateway
    # A busy machine takes longer than two seconds for all of it.
    with world.with_idle_timeout(30), world.load("a") as load:
        # Less than half of what the storm brings.
        limit = size_bytes(gateway.pid) + 2 * BODIES_MIB * MIB
        _, hard = resource.prlimit(gateway.pid, resource.RLIMIT_AS)
        resource.prlimit(gateway.pid, resource.RLIMIT_AS, (limit, hard))
        reset_peak(gateway.pid)
        before, broken_s = rss_bytes(gateway.pid), now_s()
        try:
            large = storm(gateway.port)
        finally:
            resource.prlimit(gateway.pid, resource.RLIMIT_AS, (hard, hard))
        mended_s = now_s()
        took_s = load.recovered_in_s(mended_s)
        small = load.saw(broken_s)
    grown = (peak_bytes(gateway.pid) - before) / MIB
    assert grown < 1.5 * BODIES_MIB, f"{grown:.0f} MiB"
    assert set(small) == {OK}, small
    assert set(large) == {"200", "503"}, large
    assert "bug" not in {line["message"] for line in gateway.log}
    gone = lost(gateway, world.database, load)
    assert gone.startswith("nothing")
    seen = f"small ones {_words(small)}; large ones {_words(large)}; peak +{grown:.0f} MiB"
    tell(f"{SENDERS} bodies of 30 MiB, memory limited", seen, gone, took_s)


def _words(seen: Counter[str]) -> str:
    return ", ".join(f"{number} {word}" for word, number in seen.most_common())


def test_descriptors_that_run_out(processes: Processes) -> None:
    node = processes.node("a", token_interval_s=0.01)
    source, port = processes.write(node)
    processes.prefix = ("sh", "-c", 'ulimit -n 64 && exec "$@"', "sh")
    gateway = processes.serve_file(source, port)
    (warned,) = [line for line in gateway.log if "limit of open files" in line["message"]]
    assert warned["limit"] == 64 < warned["wanted"]
    idle: list[socket.socket] = []
    with Load(port, "a") as load:
        stream = gateway.stream("a", max_tokens=200)
        assert stream.read()
        broken_s, used_s = now_s(), cpu_s(gateway.pid)
        try:
            idle += (connected(port) for _ in range(200))
            time.sleep(1.5)
            spent_s = cpu_s(gateway.pid) - used_s
            seen = load.saw(broken_s)
            assert open_files(gateway.pid) <= 64
        finally:
            for peer in idle:
                peer.close()
        mended_s = now_s()
        took_s = load.recovered_in_s(mended_s)
    assert spent_s < 1.0, "accepting in vain must not spin"
    assert stream.rest()[-1] == "[DONE]"
    # Who was connected is served on, or told that there is no descriptor for its node.
    assert seen[OK] > 0
    assert set(seen) <= {OK, "503 no_capacity"}, seen
    assert request(gateway.url + "/cortex/v1/events?kind=node_down").json["rows"] == []
    gone = lost(gateway, processes.folder / "cortex.db", load, pinned=None)
    assert gone.startswith("nothing")
    assert took_s < 5
    tell("64 descriptors, 200 idle connections", seen, gone, took_s)


def test_reloads_under_load(world: World) -> None:
    text = world.gateway.source.read_text()
    before = len(world.gateway.events("config"))
    with world.load() as load:
        broken_s = now_s()
        for number in range(8):
            fresh = text.replace("queue_timeout_s = 10", f"queue_timeout_s = {11 + number}")
            # Every third one is refused.
            world.gateway.source.write_text(fresh if number % 3 else f"{fresh}\n[nonsense]\n")
            world.gateway.send(signal.SIGHUP)
            eventually(
                lambda: len(world.gateway.events("config")) == before + number + 1,  # noqa: B023
                "a reload",
            )
        world.gateway.source.write_text(text)
        load.steady()
        seen = load.saw(broken_s)
    assert set(seen) == {OK}, seen
    gone = lost(world.gateway, world.database, load)
    assert gone.startswith("nothing")
    tell("SIGHUP, 8 times under load", seen, gone, "nothing to recover from")
