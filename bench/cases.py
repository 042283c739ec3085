"""What is measured. Each case puts one load on one gateway; `CASES` has them all, in their order."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench import machine
from bench.gateways import Running
from bench.measure import CHAT, MESSAGES, Figures, Load, Stand, Test

MIB = 1024 * 1024
LATE_US = 10_000.0
"""A stream is held well while 99 of 100 chunks are relayed within this."""
ALL_WITHIN_S = 15.0
"""How much longer than its ramp a load may take until all its streams are there."""


Together = Callable[[Stand, Sequence[Running]], dict[str, Figures]]
"""A measurement of all gateways at once."""


@dataclass(frozen=True)
class Case:
    about: str
    run: Test | None = None
    #: False: a load without a gateway tells nothing here.
    direct: bool = True
    #: Only for gateways that translate Anthropic's dialect.
    translated: bool = False
    only: tuple[str, ...] = ()
    #: False: what it did to the gateway would show in a second attempt.
    again: bool = True
    #: In place of `run`, where all gateways have their load at the same time.
    together: Together | None = None


def _times(figures: dict[str, Any], key: str) -> Figures:
    times = figures[key] or {}
    return {name: times.get(name) for name in ("p50", "p99", "max")}


def _answers(result: dict[str, Any]) -> Figures:
    return {
        "per_s": result["answers_per_s"],
        **_times(result, "latency_us"),
        "errors": result["errors"],
    }


def _chunks(result: dict[str, Any]) -> Figures:
    return {
        "chunks_per_s": result["chunks_per_s"],
        **_times(result, "chunk_age_us"),
        "errors": result["errors"],
        "live": result["live"],
    }


def _costs(name: str, share: float | None, per_s: float | None) -> Figures:
    """CPU for each answer or chunk that arrived."""
    if share is None:
        return {}
    return {"cpu_share": share, name: share / per_s * 1e6 if per_s else None}


def closed_loop(connections: int, path: str = CHAT, *, chunks: int = 100) -> Test:
    """Whole answers of at most so many tokens; 0 = of any length."""

    def run(stand: Stand, gateway: Running) -> Figures:
        options = ("--connections", connections, "--chunks", chunks)
        load = stand.load(gateway, *options, path=path)
        share = stand.cpu_share(gateway, load)
        figures = _answers(load.result())
        return figures | _costs("us_per_request", share, figures["per_s"])

    return run


def at_once(cost: str, counted: str, *options: object, per_s: float | None = None) -> Together:
    """The same load on every gateway at the same time, on the same core: what one unit costs each.

    A machine that changes its pace does so for all of them alike: the most reliable ratios there are.

    Args:
        cost: The figure's name.
        counted: What the load counts.
        options: Of each load.
        per_s: Chunks of each stream.
    """

    def run(stand: Stand, running: Sequence[Running]) -> dict[str, Figures]:
        for gateway in running:
            stand.settle(gateway)
        stand.node(pause_us=0 if per_s is None else int(1e6 / per_s))
        try:
            loads = [stand.load(gateway, *options, ramp_s=0.2) for gateway in running]
            for load in loads:
                load.await_begin()
            pids = [[gateway.pid] for gateway in running if gateway.pid is not None]
            began_s, before = time.monotonic(), list(map(machine.cpu_s, pids))
            # Less than what is measured, since the loads did not all begin at the same moment.
            time.sleep(0.8 * stand.pace.seconds)
            elapsed_s = time.monotonic() - began_s
            shares = [
                (machine.cpu_s(pid) - used_s) / elapsed_s
                for pid, used_s in zip(pids, before, strict=True)
            ]
            return {
                gateway.kind.name: _costs(cost, share, load.result()[counted])
                for gateway, share, load in zip(running, shares, loads, strict=True)
            }
        finally:
            stand.end()

    return run


def hold(
    stand: Stand,
    gateway: Running,
    streams: int,
    *,
    per_s: float,
    path: str = CHAT,
    ramp_s: float | None = None,
    wait_s: float = 0.0,
    seconds: float | None = None,
) -> Load:
    """Open streams and keep them open: each gets `per_s` chunks a second."""
    stand.node(pause_us=int(1e6 / per_s))
    ramp_s = stand.pace.ramp_s if ramp_s is None else ramp_s
    total_s = ramp_s + wait_s + stand.pace.warmup_s + (seconds or stand.pace.seconds)
    return stand.load(
        gateway,
        *("--hold", "--connections", streams, "--chunks", int((total_s + 3) * per_s)),
        path=path,
        ramp_s=ramp_s,
        wait_s=wait_s,
        seconds=seconds,
    )


def held(streams: int, per_s: float, path: str = CHAT) -> Test:
    def run(stand: Stand, gateway: Running) -> Figures:
        ramp_s = max(stand.pace.ramp_s, gateway.kind.ramp_s * streams / 1000)
        load = hold(
            stand, gateway, streams, per_s=per_s, path=path, ramp_s=ramp_s, wait_s=ALL_WITHIN_S
        )
        share = stand.cpu_share(gateway, load)
        figures = _chunks(load.result())
        kept = {"rate_kept": (figures["chunks_per_s"] or 0) / (streams * per_s)}
        return figures | kept | _costs("us_per_chunk", share, figures["chunks_per_s"])

    return run


def full_blast(path: str = CHAT) -> Test:
    def run(stand: Stand, gateway: Running) -> Figures:
        stand.node(pause_us=0)
        load = stand.load(gateway, "--stream", "--connections", 16, "--chunks", 200, path=path)
        share = stand.cpu_share(gateway, load)
        result = load.result()
        figures = _chunks(result) | {"streams_per_s": result["answers_per_s"]}
        return figures | _costs("us_per_chunk", share, figures["chunks_per_s"])

    return run


def first_chunk(stand: Stand, gateway: Running) -> Figures:
    """100 new streams a second while 200 are open at 20 chunks/s."""
    ramp_s = max(stand.pace.ramp_s, gateway.kind.ramp_s / 5)
    hold(stand, gateway, 200, per_s=20, ramp_s=ramp_s, seconds=stand.pace.seconds + 1)
    time.sleep(ramp_s)
    load = stand.load(gateway, "--stream", "--chunks", 5, "--rate", 100, "--connections", 256)
    result = load.result()
    return {
        **_times(result, "first_chunk_us"),
        "per_s": result["answers_per_s"],
        "errors": result["errors"],
    }


def most_streams(stand: Stand, gateway: Running) -> Figures:
    """The most streams of 100 chunks/s with p99 in time, no error and the full rate; to 5 %."""
    good, bad, streams = 0, 0, 200
    for _ in range(6):
        ramp_s = 0.3 + streams / 400
        load = hold(stand, gateway, streams, per_s=100, ramp_s=ramp_s, seconds=2.0)
        result = load.result()
        p99 = (result["chunk_age_us"] or {}).get("p99", LATE_US)
        kept = result["chunks_per_s"] >= 98 * streams and result["live"] == streams
        if kept and not result["errors"] and p99 < LATE_US:
            good = streams
        else:
            bad = streams
        if good and bad and bad - good <= max(1, good // 20):
            break
        streams = (good + bad) // 2 if bad else int(good * 1.5)
        if not good:
            streams = bad // 3
        if streams < 1:
            break
        stand.settle(gateway)
    return {"streams": good}


def memory(stand: Stand, gateway: Running) -> Figures:
    """Resident memory after a few answers, and with 1,000 streams open."""
    assert gateway.pid is not None
    for _ in range(20):
        gateway.ask()
    idle = machine.memory_kib(gateway.pid)
    ramp_s = gateway.kind.ramp_s
    load = hold(stand, gateway, 1000, per_s=1, ramp_s=ramp_s, wait_s=ALL_WITHIN_S, seconds=2.0)
    load.await_begin()
    time.sleep(1.5)
    open_ = machine.memory_kib(gateway.pid)
    result = load.result()
    return {
        "idle_mb": idle * 1024 / 1e6,
        "kb_per_stream": (open_ - idle) * 1.024 / max(1, result["live"]),
        "live": result["live"],
        "errors": result["errors"],
    }


def big_bodies(body_bytes: int) -> Test:
    """Large questions, one after the other, beside small ones that show how long the loop stands."""

    def run(stand: Stand, gateway: Running) -> Figures:
        seconds = stand.pace.seconds
        if gateway.pid:
            machine.forget_peak(gateway.pid)
        # The sender yields to the small questions, so that their delay is the gateway's.
        sender = stand.load(
            gateway, "--connections", 1, "--body-bytes", body_bytes, seconds=seconds, nice=10
        )
        prober = stand.load(gateway, "--rate", 200, "--connections", 16, seconds=seconds)
        result, small = sender.result(), prober.result()
        peak = machine.memory_kib(gateway.pid, "VmHWM") * 1024 / 1e6 if gateway.pid else None
        return {
            "mb_per_s": result["answers_per_s"] * result["request_bytes"] / 1e6,
            "p50": (result["latency_us"] or {}).get("p50"),
            "errors": result["errors"] + small["errors"],
            "peak_mb": peak,
            "stall_ms": small["latency_us"]["max"] / 1e3 if small["latency_us"] else None,
            "small_p50": (small["latency_us"] or {}).get("p50"),
        }

    return run


def request_log(stand: Stand, gateway: Running) -> Figures:
    """The share of the threads beside the event loop, which do nothing but write to SQLite."""
    assert gateway.pid is not None
    load = stand.load(gateway, "--rate", 2000, "--connections", 128)
    load.await_begin()
    before = machine.thread_cpu_s(gateway.pid)
    time.sleep(0.95 * load.seconds)
    after = machine.thread_cpu_s(gateway.pid)
    used = {thread: after[thread] - before.get(thread, 0.0) for thread in after}
    total = sum(used.values())
    result = load.result()
    return {
        "per_s": result["answers_per_s"],
        "errors": result["errors"],
        "cpu_share": total / (0.95 * load.seconds),
        "log_share": (total - used[gateway.pid]) / total if total else None,
    }


CORTEX = ("cortex", "cortex-plain")


CASES = {
    "rss": Case("memory, idle and per open stream", memory, direct=False, again=False),
    "c1": Case("requests one after the other", closed_loop(1)),
    "c32": Case("requests over 32 connections", closed_loop(32)),
    "c256": Case("requests over 256 connections", closed_loop(256)),
    "once32": Case(
        "requests over 32 connections each, all gateways at once",
        together=at_once(
            "us_per_request", "answers_per_s", "--connections", 32, "--chunks", 100
        ),
        direct=False,
    ),
    "oncepaced": Case(
        "20 streams of 50 chunks/s each, all gateways at once",
        together=at_once(
            *("us_per_chunk", "chunks_per_s", "--hold", "--connections", 20, "--chunks", 1000),
            per_s=50,
        ),
        direct=False,
    ),
    "onceblast": Case(
        "4 streams each without a pause, all gateways at once",
        together=at_once(
            *("us_per_chunk", "chunks_per_s", "--stream", "--connections", 4, "--chunks", 200)
        ),
        direct=False,
    ),
    "any32": Case(
        "whole answers of any length, gathered from streams of 200 chunks",
        closed_loop(32, chunks=0),
        direct=False,
        only=CORTEX,
    ),
    "ttft": Case("first chunk of 100 new streams/s beside 200 open ones", first_chunk),
    "paced": Case("100 streams of 100 chunks/s", held(100, 100)),
    "blast": Case("16 streams without a pause", full_blast()),
    "held": Case("1,000 streams of 20 chunks/s", held(1000, 20)),
    "most": Case("streams of 100 chunks/s that are held", most_streams),
    "body10": Case("bodies of 10 MB", big_bodies(10_000_000)),
    "body50": Case("bodies of nearly 50 MiB", big_bodies(50 * MIB - 16_384)),
    "m32": Case("/v1/messages over 32 connections", closed_loop(32, MESSAGES), translated=True),
    "mpaced": Case(
        "/v1/messages, 100 streams of 100 chunks/s", held(100, 100, MESSAGES), translated=True
    ),
    "mblast": Case("/v1/messages without a pause", full_blast(MESSAGES), translated=True),
    "log": Case("the request log at 2,000 requests/s", request_log, direct=False, only=CORTEX),
}


def applies(case: Case, gateway: Running) -> bool:
    kind = gateway.kind
    if case.only and kind.name not in case.only:
        return False
    if case.translated and not kind.translates:
        return False
    return case.direct or bool(kind.argv)
