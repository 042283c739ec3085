"""Polling many nodes on one loop: what it costs, how late it is, and how long anything else waits for it."""

import asyncio
import contextlib
import gc
import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.many_nodes import address
from cortex.config.schema import Config
from cortex.core.ids import ModelId, NodeName
from cortex.core.records import FleetEvent
from cortex.fleet.guard import Guard
from cortex.fleet.poller import Poller
from cortex.fleet.state import FleetState
from cortex.node.client import NodeClient
from cortex.policies import fleet_policy
from cortex.store.store import Store
from cortex.telemetry.clock import SystemClock

LAG_STEP_S = 0.002
"""Between two looks at how late the loop is."""


class Silent:
    def record(self, event: FleetEvent) -> None: ...


@dataclass
class Polls:
    """When each node was polled."""

    ends_s: dict[NodeName, list[float]] = field(default_factory=dict)
    failed: int = 0

    def polled(self, name: NodeName, *, ok: bool, duration_s: float) -> None:  # noqa: ARG002
        self.ends_s.setdefault(name, []).append(time.monotonic())
        self.failed += not ok

    def loaded(self, node: NodeName, model: ModelId, load_s: float) -> None: ...
    def internal_error(self, loop: str) -> None: ...


def share(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] if values else 0.0


async def lags(seconds: float) -> list[float]:
    """How late a timer of this loop was, again and again, in ms."""
    found = []
    end_s = time.monotonic() + seconds
    while (now_s := time.monotonic()) < end_s:
        await asyncio.sleep(LAG_STEP_S)
        found.append((time.monotonic() - now_s - LAG_STEP_S) * 1e3)
    return found


@contextlib.contextmanager
def many_nodes(nodes: int, models: int) -> "contextlib._GeneratorContextManager[int]":
    """The nodes in a process of their own, on the other core where there is one; yields the port."""
    argv = [sys.executable, "-m", "bench.many_nodes", str(nodes), str(models)]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )
    try:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(process.pid, {cores[-1]})
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.communicate()


def polling(nodes: int, models: int, seconds: float) -> dict[str, float]:
    """Figures of polling so many nodes at the default interval, after the first round."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with (
        many_nodes(nodes, models) as port,
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
    ):
        run = _polling(nodes, port, seconds, Path(folder) / "cortex.db")
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(run)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _polling(nodes: int, port: int, seconds: float, path: Path) -> dict[str, float]:
    config = Config.model_validate(
        {
            "nodes": [
                {"name": f"node{n:04}", "endpoint": f"http://{address(n)}:{port}"}
                for n in range(nodes)
            ]
        }
    )
    clients = {
        NodeName(node.name): NodeClient(
            NodeName(node.name), node.endpoint, connect_timeout_s=5.0
        )
        for node in config.nodes
    }
    clock, polls = SystemClock(), Polls()
    store = await Store.open(path, retention_days=30.0, clock=clock)
    quiet = await lags(min(seconds, 5.0))
    began_s, cpu_s = time.monotonic(), time.process_time()
    state = FleetState(fleet_policy(config), clock=clock, journal=Silent())
    built_s = time.monotonic() - began_s
    poller = Poller(state, store=store, watcher=polls, guard=Guard(clock))
    found: dict[str, float] = {"state_ms": built_s * 1e3}
    # As the daemon does at its start; whatever was measured before is no part of this.
    gc.collect()
    gc.freeze()
    async with asyncio.TaskGroup() as group:
        writer = group.create_task(store.run(), name="store")
        poller.follow(group, clients)
        first = group.create_task(_first_lags(poller), name="first round")
        found["first_lag_max_ms"] = max(await first)
        found["first_round_s"] = time.monotonic() - began_s
        found["first_cpu_s"] = time.process_time() - cpu_s
        # The saves of the first round end, and the polls fall into step.
        await asyncio.sleep(config.polling.interval_s)
        polls.ends_s.clear()
        began_s, cpu_s = time.monotonic(), time.process_time()
        busy = await lags(seconds)
        took_s = time.monotonic() - began_s
        found["cpu_share"] = (time.process_time() - cpu_s) / took_s
        poller.stop()
        writer.cancel()
    for client in clients.values():
        await client.close()
    await store.close()
    return found | _figures(polls, quiet, busy, took_s, config.polling.interval_s)


async def _first_lags(poller: Poller) -> list[float]:
    found = [0.0]
    while not poller.first_round_done:
        found += await lags(0.05)
    return found


def _figures(
    polls: Polls, quiet: list[float], busy: list[float], took_s: float, interval_s: float
) -> dict[str, float]:
    late = [
        (after - before - interval_s) * 1e3
        for ends in polls.ends_s.values()
        for before, after in itertools.pairwise(ends)
    ]
    ends = sorted(end for ends in polls.ends_s.values() for end in ends)
    in_100_ms: dict[int, int] = {}
    for end in ends:
        in_100_ms[int(end * 10)] = in_100_ms.get(int(end * 10), 0) + 1
    return {
        "polls_per_s": len(ends) / took_s,
        "failed": polls.failed,
        "lag_p99_ms": share(busy, 0.99),
        "lag_max_ms": max(busy),
        "idle_lag_p99_ms": share(quiet, 0.99),
        "added_lag_p99_ms": max(0.0, share(busy, 0.99) - share(quiet, 0.99)),
        "late_p50_ms": share(late, 0.5),
        "late_p99_ms": share(late, 0.99),
        "most_in_100_ms": max(in_100_ms.values(), default=0),
    }
