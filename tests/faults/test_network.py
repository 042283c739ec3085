"""A node behind a network that drops every packet, and one whose name is not known for a while."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.processes import Processes, eventually, request
from tests.faults.load import OK, Load
from tests.faults.report import tell
from tests.faults.world import KNOBS, TOML, lost, now_s

# Two runs on one machine must not meet.
_NUMBER = os.getpid() % 15_000
_NET = f"10.213.{_NUMBER // 63}."
OURS, THEIRS = f"{_NET}{_NUMBER % 63 * 4 + 1}", f"{_NET}{_NUMBER % 63 * 4 + 2}"
SILENT = f"127.99.{_NUMBER // 250}.{_NUMBER % 250 + 1}"
NAME = "gpu-of-the-test.invalid"


def run(*command: str) -> str:
    """Why it failed; "" when it did not."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except OSError as exc:
        return f"{command[0]}: {exc.strerror}"
    return f"{command[0]}: {ran.stderr.strip() or ran.returncode}" if ran.returncode else ""


class Segment:
    """A network name space with one wire to it."""

    def __init__(self) -> None:
        self.name = f"cortex{os.getpid()}"
        self.wire = f"ctx{os.getpid() % 100_000}"
        self.missing = "only root can make a network" if os.geteuid() else self._make()

    def _make(self) -> str:
        inside = ("ip", "netns", "exec", self.name, "ip")
        peer = f"{self.wire}p"
        steps = (
            ("ip", "netns", "add", self.name),
            ("ip", "link", "add", self.wire, "type", "veth", "peer", "name", peer, "netns", self.name),
            ("ip", "addr", "add", f"{OURS}/30", "dev", self.wire),
            ("ip", "link", "set", self.wire, "up"),
            (*inside, "addr", "add", f"{THEIRS}/30", "dev", peer),
            (*inside, "link", "set", peer, "up"),
            (*inside, "link", "set", "lo", "up"),
        )  # fmt: skip
        return next((why for step in steps if (why := run(*step))), "")

    @contextmanager
    def parted(self) -> Iterator[None]:
        """Packets vanish in both directions, and nobody is told."""
        inside = ("ip", "netns", "exec", self.name, "ip", "link", "set", f"{self.wire}p")
        mac = Path(f"/sys/class/net/{self.wire}/address").read_text().strip()
        # Without asking for its address anew, which would be answered by "no route".
        theirs = subprocess.run(
            ["ip", "netns", "exec", self.name, "cat", f"/sys/class/net/{self.wire}p/address"],
            capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
        assert mac != theirs
        known = ("lladdr", theirs, "dev", self.wire, "nud", "permanent")
        assert not run("ip", "neigh", "replace", THEIRS, *known)
        assert not run(*inside, "down")
        try:
            yield
        finally:
            assert not run(*inside, "up")

    def end(self) -> None:
        run("ip", "link", "del", self.wire)
        run("ip", "netns", "del", self.name)


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment()
    try:
        if made.missing:
            pytest.skip(made.missing)
        yield made
    finally:
        made.end()


def test_a_node_that_is_parted_from_the_gateway(processes: Processes, segment: Segment) -> None:
    argv = ["--model", "a", "--model", "b", "--knobs", KNOBS]
    processes.prefix = ("ip", "netns", "exec", segment.name)
    far = processes.listening("scripted", *argv, "--host", THEIRS)
    processes.prefix = ()
    near = processes.node("a", token_interval_s=0.01)
    path = processes.folder / "cortex.db"
    gateway = processes.serve(far, near, toml=TOML.format(path=path))
    with Load(gateway.port, "a", "b") as load:
        broken_s = now_s()
        with segment.parted():
            time.sleep(4.5)
            seen_a, seen_b = load.saw(broken_s, "a"), load.saw(broken_s, "b")
            health = request(gateway.url + "/health").json
        mended_s = now_s()
        took_s = load.recovered_in_s(mended_s)
    # What the node had begun, and was to answer whole, is not begun once more beside it.
    expected = {OK, "cut: node_timeout", "cut: node_unreachable", "504 node_timeout"}
    assert set(seen_a) <= expected, seen_a
    assert seen_a["504 node_timeout"] <= 2
    assert seen_a[OK] > 20
    assert load.slowest_s(broken_s, "a") < 6
    assert set(seen_b) <= {
        OK, "cut: node_timeout", "504 node_timeout", "503 no_healthy_node", "502 node_unreachable",
        "503 model_failing",
    }, seen_b  # fmt: skip
    assert any("node n0 is down" in why for why in health["reasons"]), health
    # What was sent into the void comes again by TCP's own clock.
    assert took_s < 8
    gone = lost(gateway, path, load, pinned=None)
    assert gone.startswith("nothing")
    tell("node partitioned, model elsewhere too", seen_a, gone, "at once")
    tell("node partitioned, model nowhere else", seen_b, gone, took_s)


def test_a_name_that_is_not_known_for_a_while(processes: Processes) -> None:
    if os.geteuid():
        pytest.skip("only root can give a process name servers of its own")
    hosts, resolver = processes.folder / "hosts", processes.folder / "resolv.conf"
    hosts.write_text(f"127.0.0.1 localhost {NAME}\n")
    resolver.write_text(f"nameserver {SILENT}\n")
    mounts = f"mount --bind {hosts} /etc/hosts && mount --bind {resolver} /etc/resolv.conf"
    inside = ("unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh")
    if why := run(*inside, "true"):
        pytest.skip(why)
    first = processes.node("a", "b", token_interval_s=0.01)
    child = processes.children[-1]
    port = first.rpartition(":")[2]
    second = processes.node("a", token_interval_s=0.01)
    path = processes.folder / "cortex.db"
    toml = TOML.format(path=path).replace("connect_timeout_s = 1", "connect_timeout_s = 0.4")
    source, ours = processes.write(f"http://{NAME}:{port}", second, toml=toml)
    processes.prefix = inside
    # A name server that never answers is the worst of them.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((SILENT, 53))
        gateway = processes.serve_file(source, ours)
        processes.prefix = ()
        with Load(ours, "a", "b") as load:
            broken_s = now_s()
            # Kept connections would hide it for long; a restart of the node ends them.
            hosts.write_text("127.0.0.1 localhost\n")
            child.kill()
            processes.listening(
                "scripted", "--model", "a", "--model", "b", "--knobs", KNOBS, "--port", port
            )
            eventually(
                lambda: "n0 is down" in str(request(gateway.url + "/health").json), "no name"
            )
            time.sleep(1.0)
            seen_a, seen_b = load.saw(broken_s, "a"), load.saw(broken_s, "b")
            hosts.write_text(f"127.0.0.1 localhost {NAME}\n")
            mended_s = now_s()
            took_s = load.recovered_in_s(mended_s)
    assert set(seen_a) <= {OK, "cut: node_unreachable"}, seen_a
    assert load.slowest_s(broken_s, "a") < 4
    assert set(seen_b) <= {
        OK, "cut: node_unreachable", "502 node_unreachable", "504 node_timeout",
        "503 no_healthy_node", "503 model_failing",
    }, seen_b  # fmt: skip
    gone = lost(gateway, path, load, pinned=None)
    assert gone.startswith("nothing")
    assert took_s < 3
    tell("name of a node not known, model elsewhere too", seen_a, gone, "at once")
    tell("name of a node not known, model nowhere else", seen_b, gone, took_s)
