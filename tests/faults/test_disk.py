"""The disk of the state file fills, hangs, is locked or turns read-only: inference does not notice."""

import resource
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from os import geteuid

import pytest

from tests.e2e.processes import Processes, eventually, request
from tests.faults.load import OK, Load
from tests.faults.report import tell
from tests.faults.world import World, lost, now_s

LOCKED_S = 10.0
FROZEN_S = 3.0
# Root writes where it may not, unless it is told not to.
NO_OVERRIDE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")


def health(world: World) -> list[str]:
    return list(request(world.gateway.url + "/health").json["reasons"])


def well(world: World) -> bool:
    return not health(world)


@contextmanager
def full(world: World) -> Iterator[str]:
    """The disk; without the right to make one, files that may not grow."""
    if not world.disk.missing:
        with world.disk.full():
            yield "disk full"
        return
    _, hard = resource.prlimit(world.gateway.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(world.gateway.pid, resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield f"files may not grow ({world.disk.missing})"
    finally:
        resource.prlimit(world.gateway.pid, resource.RLIMIT_FSIZE, (hard, hard))


def test_a_disk_that_is_full(world: World) -> None:
    with world.load() as load:
        broken_s = now_s()
        with full(world) as fault:
            eventually(lambda: any("store: " in why for why in health(world)), "a full disk")
            time.sleep(1.0)
            refused = world.processes.cortex("unpin", "a", "--endpoint", world.gateway.url)
            assert refused.process.returncode == 1
            assert "store_failing" in refused.stderr
        mended_s = now_s()
        eventually(lambda: well(world), "the store to work again")
        took_s = now_s() - mended_s
        seen = load.saw(broken_s)
    assert set(seen) == {OK}, seen
    gone = lost(world.gateway, world.database, load)
    assert gone.startswith("nothing")
    assert took_s < 6
    tell(fault, seen, gone, took_s)


def test_a_disk_that_hangs(world: World) -> None:
    if world.disk.missing:
        pytest.skip(world.disk.missing)
    with world.load() as load:
        broken_s = now_s()
        with world.disk.frozen():
            time.sleep(FROZEN_S)
            seen = load.saw(broken_s)
            slowest_s = load.slowest_s(broken_s, "a")
        mended_s = now_s()
        load.steady()
        gone = lost(world.gateway, world.database, load)
        took_s = now_s() - mended_s
    assert set(seen) == {OK}, seen
    assert slowest_s < 1.5
    assert gone.startswith("nothing")
    tell(f"disk that takes no write for {FROZEN_S:g} s", seen, gone, took_s)


def test_a_file_that_another_process_locks(world: World) -> None:
    with world.load() as load:
        broken_s = now_s()
        with closing(sqlite3.connect(world.database, isolation_level=None, timeout=5)) as other:
            other.execute("BEGIN EXCLUSIVE")
            time.sleep(LOCKED_S)
            reasons = health(world)
            other.execute("ROLLBACK")
        mended_s = now_s()
        eventually(lambda: well(world), "the store to work again")
        took_s = now_s() - mended_s
        seen = load.saw(broken_s)
    assert "store: database is locked" in reasons
    assert set(seen) == {OK}, seen
    assert load.slowest_s(broken_s, "a") < 1.5
    gone = lost(world.gateway, world.database, load)
    assert gone.startswith("nothing")
    assert took_s < 6
    tell(f"SQLite locked for {LOCKED_S:g} s", seen, gone, took_s)


def test_a_folder_that_turns_read_only(processes: Processes) -> None:
    if geteuid() == 0:
        # The shell says whether the command is there at all.
        given_up = f"{' '.join(NO_OVERRIDE)} true"
        if subprocess.run(["sh", "-c", given_up], capture_output=True, check=False).returncode:
            pytest.skip("root cannot give up its right to write everywhere here")
    node = processes.node("a", token_interval_s=0.01)
    folder = processes.folder / "state"
    folder.mkdir()
    source, port = processes.write(node, toml=f'[state]\npath = "{folder / "cortex.db"}"')
    processes.prefix = NO_OVERRIDE if geteuid() == 0 else ()
    gateway = processes.serve_file(source, port)
    try:
        with Load(port, "a") as load:
            broken_s = now_s()
            folder.chmod(0o555)
            time.sleep(1.0)
            seen = load.saw(broken_s)
        assert set(seen) == {OK}, seen
        # What is open stays open: nothing is missed while it runs.
        gone = lost(gateway, folder / "cortex.db", load, pinned=None)
        assert gone.startswith("nothing")
        # A start is another matter, once the end has taken the log of the file away.
        folder.chmod(0o755)
        gateway.send(signal.SIGTERM)
        assert gateway.end() == 0
        folder.chmod(0o555)
        refused = processes.cortex("serve", "--config", str(source))
        assert refused.process.returncode == 78
        assert "this user must be able to write to it and to its folder" in refused.stderr
        assert "Traceback" not in refused.stderr
    finally:
        folder.chmod(0o755)
    tell("folder of the state file read-only", seen, gone, "at the next start")
