"""What must hold after a run: a pure function of what was seen. Each broken promise is a sentence."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.soak.load import Result
from tests.soak.plan import LOCK, NODE_FAULTS, RELOAD, Fault
from tests.soak.sample import Sample

RECOVERY_S = 12.0
"""After a node is back: its silence noticed, the breaker closed, its models loaded again."""
MOST_GROWTH = 0.05
POOL_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""asyncio's pool: its threads are begun when they are wanted, up to so many, and kept."""
SQLITE_FILES = 2
"""It keeps a descriptor whose closing would drop the locks of another connection, and uses it again."""
SLACK = {"threads": POOL_THREADS, "files": SQLITE_FILES}
NODE_CODES = frozenset({
    "node_unreachable", "node_truncated", "node_interrupted", "node_timeout", "node_error",
    "no_healthy_node", "no_room", "model_failing", "model_not_held", "model_reloading",
    "load_failed", "unload_failed", "queue_timeout", "not_loadable",
})  # fmt: skip
"""What a node that dies or freezes may do to a request."""
NODE_STATUS = ("status 502", "status 503", "status 504")
LOCK_LINES = frozenset({"the store takes nothing"})
"""What a locked database may write into the log, as an error."""
FEED_S = 3.0
"""A reload is heard at the next frame of the feed."""
SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that a run saw. Instants of requests and faults are on one clock."""

    results: Sequence[Result]
    faults: Sequence[Fault]
    fault_ids: Sequence[str]
    rows: Sequence[tuple[str, str, str | None]]
    log: Sequence[Mapping[str, Any]]
    stderr_rest: Sequence[str]
    """Lines of the gateway's stderr that are not log records."""
    warm: Sample
    end: Sample
    feed_breaks: Sequence[float]
    """When the live feed ended; a reload ends it, so that its reader shows its key again."""
    exit_code: int
    long: bool
    """Memory and the pool of connections to nodes have had the time to tell something."""
    began_at_s: float
    """Wall clock at instant 0 of the faults."""


@dataclass(slots=True)
class Verdict:
    violations: list[str] = field(default_factory=list)
    explained: int = 0
    """Failed requests that a fault explains."""
    growth: float = 0.0
    memory_judged: bool = False


def judge(seen: Seen) -> Verdict:
    verdict = Verdict(growth=seen.end.rss_mib / seen.warm.rss_mib - 1)
    _judge_leftovers(seen, verdict)
    _judge_requests(seen, verdict)
    _judge_rows(seen, verdict)
    _judge_log(seen, verdict)
    reloads = [fault.at_s for fault in seen.faults if fault.kind == RELOAD]
    breaks = [
        at_s
        for at_s in seen.feed_breaks
        if not any(reload_s <= at_s <= reload_s + FEED_S for reload_s in reloads)
    ]
    _say(verdict, "times the live feed broke off", [f"{at_s:.1f} s" for at_s in breaks])
    if seen.exit_code:
        verdict.violations.append(f"the gateway ended with {seen.exit_code}")
    return verdict


def _judge_leftovers(seen: Seen, verdict: Verdict) -> None:
    warm, end, say = seen.warm, seen.end, verdict.violations.append
    for name in ("leases", "in_flight", "queued", "unwritten"):
        if left := getattr(end, name):
            say(f"{name}: {left} left after the load")
    pool = ("node_sockets",) if seen.long else ()
    for name in ("sockets", "files", "tasks", "threads", *pool):
        before, after = getattr(warm, name), getattr(end, name)
        if after > before + SLACK.get(name, 0):
            say(f"{name}: {before} after the warm-up, {after} at the end")
    verdict.memory_judged = seen.long
    if verdict.memory_judged and verdict.growth >= MOST_GROWTH:
        say(f"memory: {warm.rss_mib:.1f} MiB after the warm-up, {end.rss_mib:.1f} at the end")


def _judge_requests(seen: Seen, verdict: Verdict) -> None:
    codes = {request_id: code for request_id, _, code in seen.rows}
    unexplained = []
    for result in seen.results:
        if not result.wrong:
            continue
        code = codes.get(result.id)
        # What is not logged has only its status to tell by.
        known = code in NODE_CODES if result.logged else result.wrong.startswith(NODE_STATUS)
        if known and _struck(result, seen.faults):
            verdict.explained += 1
        else:
            unexplained.append(f"{result.kind} {result.id} ({code}): {result.wrong}")
    _say(verdict, "requests failed for no reason", unexplained)


def _struck(result: Result, faults: Iterable[Fault]) -> bool:
    """A node was away, or just back, at some time of this request."""
    return any(
        fault.kind in NODE_FAULTS
        and result.ended_s >= fault.at_s
        and result.began_s <= fault.end_s + RECOVERY_S
        for fault in faults
    )


def _judge_rows(seen: Seen, verdict: Verdict) -> None:
    times = Counter(request_id for request_id, _, _ in seen.rows)
    outcomes = {request_id: outcome for request_id, outcome, _ in seen.rows}
    wanted = {result.id for result in seen.results if result.logged} | set(seen.fault_ids)
    _say(verdict, "requests are not in the request log", sorted(wanted - set(times)))
    _say(verdict, "rows are of no request", sorted(set(times) - wanted))
    _say(verdict, "requests are logged twice", sorted(i for i, n in times.items() if n > 1))
    plain = [r for r in seen.results if r.logged and not r.deliberate and r.id in outcomes]
    differ = [r.id for r in plain if (outcomes[r.id] == "ok") == bool(r.wrong)]
    _say(verdict, "requests ended otherwise than the log says", differ)
    gone = [r.id for r in seen.results if r.kind == "hang_up" and not r.wrong]
    gone = [i for i in gone if outcomes.get(i, "client_gone") != "client_gone"]
    _say(verdict, "clients hung up and the log does not say so", gone)


def _judge_log(seen: Seen, verdict: Verdict) -> None:
    locks = [fault for fault in seen.faults if fault.kind == LOCK]
    wrong = []
    for line in seen.log:
        at_s = datetime.fromisoformat(line["at"]).timestamp() - seen.began_at_s
        locked = any(fault.at_s <= at_s <= fault.end_s + 1 for fault in locks)
        error = "traceback" in line or line["level"] in ("error", "critical")
        if error and not (locked and line["message"] in LOCK_LINES):
            trace = str(line.get("traceback", "")).splitlines()
            wrong.append(f"{line['at']} {line['message']} {' '.join(trace[-3:])}")
    _say(verdict, "errors in the gateway's log", wrong)
    _say(verdict, "lines on stderr are no log records", list(seen.stderr_rest))


def _say(verdict: Verdict, what: str, which: Sequence[str]) -> None:
    if which:
        few = "; ".join(which[:SHOWN])
        verdict.violations.append(f"{len(which)} {what}: {few}")
