"""The short form of `make soak`, and that its verdict can fail."""

import asyncio
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from tests.soak.load import Result
from tests.soak.plan import FREEZE, KILL, KINDS, LOCK, RELOAD, Fault, plan
from tests.soak.run import Options, soak
from tests.soak.sample import Sample
from tests.soak.verdict import POOL_THREADS, RECOVERY_S, SQLITE_FILES, Seen, judge

CALM = Sample(
    at_s=0.0,
    rss_mib=100.0,
    sockets=9,
    node_sockets=4,
    files=12,
    threads=3,
    tasks=10,
    leases=0,
    in_flight=0,
    queued=0,
    unwritten=0,
    database_mib=1.0,
    answer_ms=1.0,
)
WELL = Result("r1", "chat", 10.0, 11.0, "")
FAILED = Result("r1", "chat", 10.0, 11.0, "status 502")
ROW = ("r1", "ok", None)
FAILED_ROW = ("r1", "error", "node_unreachable")
DEAD = Fault(9.0, KILL, "n0", 3.0)
LOG_LINE = {
    "at": "1970-01-01T00:00:10+00:00",
    "level": "error",
    "message": "the store takes nothing",
}
GOOD = Seen(
    results=[WELL],
    faults=[],
    fault_ids=[],
    rows=[ROW],
    log=[],
    stderr_rest=[],
    warm=CALM,
    end=CALM,
    feed_breaks=[],
    exit_code=0,
    long=True,
    began_at_s=0.0,
)


@pytest.mark.timeout(150)
async def test_nothing_is_left_or_lost_after_mixed_load_and_faults() -> None:
    said: list[str] = []
    report = await soak(Options(length_s=20.0, rate=10.0, seed=3, every_s=4.0), said.append)
    assert report.verdict.violations == []
    assert sum(report.requests.values()) >= 60
    assert len(report.samples) >= 2
    assert report.faults


def children() -> set[int]:
    """Pids of what this process, and so a run in it, is the parent of."""
    lists = Path("/proc/self/task").glob("*/children")
    return {int(pid) for pids in lists for pid in pids.read_text().split()}


async def test_everything_it_started_ends_when_it_is_interrupted() -> None:
    said: list[str] = []
    others = children()
    started: set[int] = set()

    def note(line: str) -> None:
        said.append(line)
        started.update(children() - others)

    async with asyncio.TaskGroup() as group:
        running = group.create_task(soak(Options(length_s=60.0, rate=5.0, seed=1), note))
        async with asyncio.timeout(30):
            while not said:
                await asyncio.sleep(0.05)
        running.cancel()
    assert len(started) >= 5
    assert started & children() == set()


def test_a_run_in_which_all_is_well_has_no_violation() -> None:
    assert judge(GOOD).violations == []


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        (replace(GOOD, end=replace(CALM, leases=1)), "leases"),
        (replace(GOOD, end=replace(CALM, in_flight=1)), "in_flight"),
        (replace(GOOD, end=replace(CALM, queued=1)), "queued"),
        (replace(GOOD, end=replace(CALM, unwritten=1)), "unwritten"),
        (replace(GOOD, end=replace(CALM, tasks=11)), "tasks"),
        (replace(GOOD, end=replace(CALM, sockets=10)), "sockets"),
        (replace(GOOD, end=replace(CALM, node_sockets=5)), "node_sockets"),
        (replace(GOOD, end=replace(CALM, files=CALM.files + SQLITE_FILES + 1)), "files"),
        (replace(GOOD, end=replace(CALM, threads=4 + POOL_THREADS)), "threads"),
        (replace(GOOD, end=replace(CALM, rss_mib=105.0)), "memory"),
        (replace(GOOD, results=[FAILED], rows=[FAILED_ROW]), "for no reason"),
        (replace(GOOD, rows=[]), "not in the request log"),
        (replace(GOOD, fault_ids=["r2"]), "not in the request log"),
        (replace(GOOD, rows=[ROW, ROW]), "logged twice"),
        (replace(GOOD, rows=[ROW, ("r2", "ok", None)]), "of no request"),
        (replace(GOOD, rows=[("r1", "error", "internal")]), "otherwise"),
        (replace(GOOD, log=[LOG_LINE]), "errors in the gateway's log"),
        (replace(GOOD, log=[LOG_LINE | {"level": "info", "traceback": "x"}]), "errors"),
        (replace(GOOD, stderr_rest=["Fatal"]), "no log records"),
        (replace(GOOD, feed_breaks=[5.0]), "live feed"),
        (replace(GOOD, exit_code=1), "ended with 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_broken_promise_is_a_violation(seen: Seen, word: str) -> None:
    [violation] = judge(seen).violations
    assert word in violation


def test_a_dead_node_explains_failures_near_it_and_of_its_kind() -> None:
    seen = replace(GOOD, results=[FAILED], rows=[FAILED_ROW], faults=[DEAD])
    assert (judge(seen).violations, judge(seen).explained) == ([], 1)
    bug = replace(seen, rows=[("r1", "error", "internal_error")])
    assert "for no reason" in judge(bug).violations[0]
    before = replace(seen, faults=[replace(DEAD, at_s=12.0)])
    assert "for no reason" in judge(before).violations[0]
    long_ago = replace(seen, faults=[replace(DEAD, at_s=6.9 - RECOVERY_S)])
    assert "for no reason" in judge(long_ago).violations[0]
    unlogged = replace(FAILED, logged=False)
    assert judge(replace(seen, results=[unlogged], rows=[])).explained == 1
    wrong = replace(unlogged, wrong="status 500")
    assert "for no reason" in judge(replace(seen, results=[wrong], rows=[])).violations[0]
    another = replace(seen, faults=[replace(DEAD, kind=LOCK)])
    assert "for no reason" in judge(another).violations[0]


def test_a_locked_database_explains_that_the_store_says_so() -> None:
    locked = replace(GOOD, log=[LOG_LINE], faults=[Fault(9.0, LOCK, "", 3.0)])
    assert judge(locked).violations == []


def test_a_reload_explains_that_the_live_feed_ended() -> None:
    reloaded = replace(GOOD, faults=[Fault(9.0, RELOAD, "", 0.0)], feed_breaks=[9.5])
    assert judge(reloaded).violations == []


def test_a_short_run_does_not_judge_memory() -> None:
    grown = replace(GOOD, end=replace(CALM, rss_mib=150.0, node_sockets=9), long=False)
    verdict = judge(grown)
    assert (verdict.violations, verdict.memory_judged) == ([], False)
    assert verdict.growth == pytest.approx(0.5)


def test_faults_come_one_after_the_other_and_all_of_them() -> None:
    faults = plan(7, begin_s=5.0, end_s=300.0, nodes=("n0", "n1"))
    assert faults == plan(7, begin_s=5.0, end_s=300.0, nodes=("n0", "n1"))
    assert faults != plan(8, begin_s=5.0, end_s=300.0, nodes=("n0", "n1"))
    assert {fault.kind for fault in faults[: len(KINDS)]} == set(KINDS)
    assert all(first.end_s < second.at_s for first, second in pairwise(faults))
    assert faults[0].at_s == 5.0
    assert faults[-1].end_s <= 300.0
    assert all(bool(fault.node) == (fault.kind in {KILL, FREEZE}) for fault in faults)
