"""Fleets and logs far larger than most: `python -m bench.scale [--rows N] [--quick] [--json FILE] [--parts a,b]`.

Planning and polling of a thousand nodes, and every question to a log of ten million requests, each
beside its goal. Nothing leaves this machine; the log needs 350 bytes a row of free disk for a while.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import scale_fleet, scale_history, scale_polls
from bench.report import Line, beside_goals


@dataclass(frozen=True)
class Size:
    nodes: int
    models: int
    rows: int
    poll_s: float
    filters: int
    """Filters that are combined at most."""
    written: int


FULL = Size(nodes=1000, models=10_000, rows=10_000_000, poll_s=30.0, filters=3, written=200_000)
QUICK = Size(nodes=1000, models=10_000, rows=300_000, poll_s=6.0, filters=2, written=20_000)
MODELS_LISTED = 30
NEAR_MS, QUESTION_MS, LAG_MS = 5.0, 50.0, 10.0
PLAN_US = 1000.0
CPU_SHARE, LOG_SHARE = 0.20, 0.05
LOGGED_PER_S = 2000


def plans(size: Size) -> list[Line]:
    found = scale_fleet.planning(size.nodes, size.models)
    lines = [Line(f"plan(), {what}", us, "us", PLAN_US) for what, us in found.items()]
    changed = scale_fleet.changes(size.nodes, size.models)
    lines.append(
        Line(
            f"near names among {size.models:,}", scale_fleet.near_ms(size.models), "ms", NEAR_MS
        )
    )
    return lines + [Line(f"state: {what}", us, "us") for what, us in changed.items()]


def polls(size: Size) -> list[Line]:
    found = scale_polls.polling(size.nodes, MODELS_LISTED, size.poll_s)
    assert not found["failed"], f"{found['failed']:.0f} polls failed"
    return [
        Line("polls: a second", found["polls_per_s"], ""),
        Line("polls: share of a core", found["cpu_share"], "", CPU_SHARE),
        Line("polls: added loop lag p99", found["added_lag_p99_ms"], "ms", LAG_MS),
        Line("polls: longest loop lag", found["lag_max_ms"], "ms"),
        Line("polls: late p50", found["late_p50_ms"], "ms"),
        Line("polls: late p99", found["late_p99_ms"], "ms"),
        Line("polls: most within 100 ms", found["most_in_100_ms"], ""),
        Line("polls: first round", found["first_round_s"], "s"),
        Line("polls: longest loop lag of the first round", found["first_lag_max_ms"], "ms"),
    ]


def history(size: Size) -> list[Line]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        return _history(size, Path(folder))


def _history(size: Size, folder: Path) -> list[Line]:
    path = folder / "cortex.db"
    began_s = time.monotonic()
    scale_history.fill(path, size.rows)
    lines = [
        Line(f"log: {size.rows:,} requests", path.stat().st_size / 1e6, "MB"),
        Line("log: filled in", time.monotonic() - began_s, "s"),
    ]
    for kind, took in scale_history.asking(path, size.filters, QUESTION_MS).items():
        slow = sum(ms > QUESTION_MS for ms, _ in took)
        note = f"by {took[0][1]}" + (f"; {slow} of {len(took)} over" if slow else "")
        lines.append(Line(f"{kind}: median", took[len(took) // 2][0], "ms", QUESTION_MS))
        lines.append(
            Line(f"{kind}: slowest of {len(took)}", took[0][0], "ms", QUESTION_MS, note)
        )
    path.unlink()
    wrote = scale_history.writing(folder, size.written)
    before_us, now_us = wrote["before"], wrote["now"]
    share = now_us * LOGGED_PER_S / 1e6
    return [
        *lines,
        Line("log: a row written, without 0003_history", before_us, "us"),
        Line("log: a row written", now_us, "us", note=f"{1e6 / now_us:,.0f} rows/s"),
        Line(f"log: share of a core at {LOGGED_PER_S:,} rows/s", share, "", LOG_SHARE),
    ]


PARTS = {"plans": plans, "polls": polls, "history": history}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--rows", type=int, help=f"requests in the log ({FULL.rows:,})")
    parser.add_argument("--quick", action="store_true", help="a small log, under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--parts", default=",".join(PARTS), help="which of %(default)s")
    args = parser.parse_args()
    if unknown := set(args.parts.split(",")) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    chosen = QUICK if args.quick else FULL
    size = Size(**(asdict(chosen) | ({"rows": args.rows} if args.rows else {})))
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})
    lines = [line for part in args.parts.split(",") for line in PARTS[part](size)]
    print(beside_goals(lines))
    if args.json:
        found = {
            "size": asdict(size),
            "lines": [asdict(x) | {"verdict": x.verdict} for x in lines],
        }
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
