"""A process that is killed in the middle of writing loses a quarter of a second at most."""

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.store.conftest import opened, select, written

FLUSH_MS = 250
SLACK_MS = 350
"""For the commit itself, and for a busy machine."""

WRITES_ROWS = """
    async def write(store):
        number = 0
        while True:
            for number in range(number, number + 5):
                store.request_done(request(number))
                store.record(event(number))
            print(number, int(time.monotonic() * 1000), flush=True)
            number += 1
            await asyncio.sleep(0.005)
"""
SAVES = """
    async def write(store):
        for cycles in range(1, 10**9):
            await store.save(NodeRecord(name="n", cycles=cycles))
            await store.save_pin(f"m{cycles}", None)
            await store.delete_pin(f"m{cycles - 1}", None)
            await store.save(
                ResidencyRecord(node="n", model="m", status="loaded", last_used_at_ms=cycles)
            )
            print(cycles, flush=True)
"""
PROGRAM = """
    import asyncio, pathlib, sys, time
    from cortex.core.records import NodeRecord, ResidencyRecord
    from cortex.store.limits import Limits
    from cortex.store.store import Store
    from tests.store.conftest import SetClock, event, request
    {write}
    async def main():
        path = pathlib.Path(sys.argv[1])
        store = await Store.open(path, retention_days=30, clock=SetClock(), limits=Limits())
        async with asyncio.TaskGroup() as group:
            group.create_task(store.run())
            group.create_task(write(store))

    asyncio.run(main())
"""


@contextmanager
def writer(path: Path, write: str) -> Iterator[subprocess.Popen[str]]:
    """A process that writes until it is killed, and prints what it has handed over."""
    program = textwrap.dedent(PROGRAM).format(write=textwrap.dedent(write))
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


def killed_after(path: Path, write: str, runs_s: float) -> list[list[int]]:
    """The numbers of every whole line that was printed before the kill."""
    with writer(path, write) as child:
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(runs_s)
        child.kill()
        lines = (first + child.stdout.read()).splitlines(keepends=True)
    return [[int(word) for word in line.split()] for line in lines if line.endswith("\n")]


async def test_a_kill_loses_the_last_quarter_of_a_second_at_most(path: Path) -> None:
    handed_over = killed_after(path, WRITES_ROWS, runs_s=1.2)
    last, killed_at_ms = handed_over[-1]
    assert last > 300
    # Read by the next gateway, which finds the rows in the log of the killed one.
    async with opened(path, runs=False) as store:
        assert store.status().ok
    rows = written(path)
    events = [reason for (reason,) in select(path, "SELECT reason FROM events ORDER BY id")]
    assert rows == [f"r{number}" for number in range(len(rows))]  # none missing in between
    old_enough = killed_at_ms - FLUSH_MS - SLACK_MS
    sure = max(number for number, at_ms in handed_over if at_ms < old_enough)
    assert sure > 100
    assert len(rows) > sure
    assert len(events) > sure
    assert not list(path.parent.glob("*.corrupt-*"))


async def test_a_kill_loses_nothing_that_was_saved(path: Path) -> None:
    for _ in range(3):
        saved = killed_after(path, SAVES, runs_s=0.3)[-1][0]
        assert saved > 3
        async with opened(path) as store:
            memory = await store.recall()
        (node,), (residency,) = memory.nodes, memory.residency
        assert node.cycles in (saved, saved + 1)
        assert residency.last_used_at_ms >= saved
        assert (None, f"m{saved}") in memory.pins or node.cycles == saved + 1
        assert (None, f"m{saved - 1}") not in memory.pins
        path.unlink()
