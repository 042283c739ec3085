"""A node dies, freezes, or resets its connections: its streams say so, everything else goes elsewhere."""

import socket
import struct
import time

from tests.e2e.processes import Processes, request
from tests.faults.load import OK, Load
from tests.faults.report import tell
from tests.faults.world import TOML, World, lost, now_s
from tests.hostile.node import HostileNode, Send, chunked, event, sends, stream_head

ELSEWHERE = {OK, "cut: node_unreachable", "cut: node_timeout"}
"""What a client of a model that another node has too may see."""


def test_a_node_that_is_killed(world: World) -> None:
    with world.load() as load:
        broken_s = now_s()
        world.kill_first()
        time.sleep(1.5)
        seen_a, seen_b = load.saw(broken_s, "a"), load.saw(broken_s, "b")
        world.restart_first()
        mended_s = now_s()
        took_s = load.recovered_in_s(mended_s)
    assert seen_a.keys() <= ELSEWHERE, seen_a
    assert seen_a["cut: node_unreachable"] <= 2, "more than the streams that ran there"
    assert seen_b.keys() <= {
        OK,
        "cut: node_unreachable",
        "502 node_unreachable",
        "503 no_healthy_node",
    }
    assert seen_b["503 no_healthy_node"] > 0
    assert took_s < 3
    gone = lost(world.gateway, world.database, load)
    assert gone.startswith("nothing")
    tell("node killed (SIGKILL), model elsewhere too", seen_a, gone, "at once")
    tell("node killed (SIGKILL), model nowhere else", seen_b, gone, took_s)


def test_a_node_that_is_frozen(world: World) -> None:
    with world.load() as load:
        broken_s = now_s()
        with world.first_frozen():
            time.sleep(4.5)
            seen_a, seen_b = load.saw(broken_s, "a"), load.saw(broken_s, "b")
        mended_s = now_s()
        took_s = load.recovered_in_s(mended_s)
    # What the node had begun, and was to answer whole, is not begun once more beside it.
    assert seen_a.keys() <= ELSEWHERE | {"504 node_timeout"}, seen_a
    assert seen_a["504 node_timeout"] <= 2
    assert load.slowest_s(broken_s, "a") < 6
    assert seen_b.keys() <= {
        OK,
        "cut: node_timeout",
        "504 node_timeout",
        "503 no_healthy_node",
        "502 node_unreachable",
    }
    assert took_s < 5
    gone = lost(world.gateway, world.database, load)
    assert gone.startswith("nothing")
    tell("node frozen (SIGSTOP), model elsewhere too", seen_a, gone, "at once")
    tell("node frozen (SIGSTOP), then SIGCONT", seen_b, gone, took_s)


DONE = b'data: {"choices":[]}\n\ndata: [DONE]\n\n'


def reset_after(events: int) -> Send:
    def answer(peer: socket.socket) -> None:
        peer.sendall(stream_head() + chunked(event(content="x")) * events)
        time.sleep(0.05)
        # With no time to linger, a close is a reset.
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()

    return answer


def test_a_connection_that_is_reset_in_mid_stream(processes: Processes) -> None:
    with HostileNode("a") as first:
        second = processes.node("a", token_interval_s=0.01)
        path = processes.folder / "cortex.db"
        gateway = processes.serve(first.url, second, toml=TOML.format(path=path))
        well = sends(stream_head() + chunked(event(content="x") + DONE) + b"0\r\n\r\n")
        first.answer = well
        with Load(gateway.port, "a") as load:
            broken_s = now_s()
            first.answer = reset_after(3)
            time.sleep(1.5)
            seen = load.saw(broken_s)
            first.answer = well
            mended_s = now_s()
            took_s = load.recovered_in_s(mended_s)
        assert set(seen) <= {OK, "cut: node_unreachable", "502 node_unreachable"}, seen
        assert seen["cut: node_unreachable"] > 0
        # A node that fails fast does not attract traffic: three failures open its breaker.
        assert sum(number for word, number in seen.items() if word != OK) <= 8
        gone = lost(gateway, path, load, pinned=None)
        assert gone.startswith("nothing")
        assert request(gateway.url + "/health").status == 200
        tell("TCP reset in mid stream", seen, gone, took_s)
