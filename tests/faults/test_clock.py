"""The wall clock jumps under load: nothing waits longer or shorter for it."""

import sqlite3
import time
from contextlib import closing

import pytest

from tests.e2e.processes import request
from tests.faults.load import OK
from tests.faults.report import tell
from tests.faults.world import World, lost, now_s

HOUR_S = 3600


def test_a_wall_clock_that_jumps(world: World) -> None:
    if world.clock.missing:
        pytest.skip(f"no wall clock of its own: {world.clock.missing}")
    with world.load() as load:
        broken_s = now_s()
        began_ms = int(time.time() * 1000)
        # Longer than `idle_timeout_s` and all three jumps.
        stream = world.gateway.stream("b", max_tokens=250)
        try:
            for offset_s in (HOUR_S, -2 * HOUR_S, 20 * 24 * HOUR_S):
                world.clock.set(offset_s)
                time.sleep(0.7)
                status = request(world.gateway.url + "/cortex/v1/status").json
                assert all(node["last_poll_age_s"] < 2 for node in status["nodes"])
                assert status["uptime_s"] < 600
                assert status["health"]["status"] == "ok"
        finally:
            world.clock.set(0)
        assert stream.rest()[-1] == "[DONE]"
        load.steady()
        seen = load.saw(broken_s)
    assert set(seen) == {OK}, seen
    gone = lost(world.gateway, world.database, load)
    assert gone.startswith("nothing")
    with closing(sqlite3.connect(f"file:{world.database}?mode=ro", uri=True)) as file:
        (shortest, longest, waited) = file.execute(
            "SELECT min(duration_ms), max(duration_ms), max(queue_ms) FROM requests"
        ).fetchone()
        ((jumped,),) = file.execute(
            "SELECT count(*) FROM requests WHERE abs(started_at_ms - ?) > 1800000", [began_ms]
        ).fetchall()
    assert shortest > 0
    assert longest < 60_000
    assert waited < 60_000
    # The clock did jump for the gateway: rows carry what it said.
    assert jumped > 0
    tell("wall clock +1 h, -2 h, +20 days", seen, gone, "nothing to recover from")
