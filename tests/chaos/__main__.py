"""`python -m tests.chaos --seeds 1-200`: many seeds, a line of progress, a table, exit 1 on a violation."""

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.chaos.world import Result, run_seed


def seeds(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.chaos", description=__doc__)
    parser.add_argument("--seeds", type=seeds, default=range(1, 21), help="N or N-M")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one seed")
    parser.add_argument("--json", action="store_true", help="the totals as JSON")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    results = list(_run(args.seeds, args.seconds))
    totals = {
        "seeds": len(results),
        "violations": {r.seed: r.violations for r in results if r.violations},
        "lifecycle_events": sum(r.lifecycle_events for r in results),
        "requests": _total(r.requests for r in results),
        "events": _total(r.events for r in results),
        "faults": _total(r.faults for r in results),
    }
    print(json.dumps(totals, indent=2) if args.json else _table(totals))
    return 1 if totals["violations"] else 0


def _run(chosen: range, seconds: float) -> Iterable[Result]:
    began_s = time.monotonic()
    for done, seed in enumerate(chosen, start=1):
        with tempfile.TemporaryDirectory(prefix="cortex-chaos-") as folder:
            result = asyncio.run(run_seed(seed, Path(folder), seconds=seconds))
        for violation in result.violations:
            print(f"seed {seed}: {violation}", file=sys.stderr, flush=True)
        print(
            f"{done}/{len(chosen)} seeds, {time.monotonic() - began_s:.0f} s,"
            f" the last moved models {result.lifecycle_events} times",
            file=sys.stderr,
            end="\r" if sys.stderr.isatty() else "\n",
            flush=True,
        )
        yield result


def _total(counters: Iterable[Counter[str]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for counter in counters:
        total += counter
    return dict(total.most_common())


def _table(totals: dict[str, object]) -> str:
    lines = []
    for name, value in totals.items():
        if isinstance(value, dict):
            lines.append(f"{name}: {'none' if not value else ''}")
            lines += [f"  {key}: {count}" for key, count in value.items()]
        else:
            lines.append(f"{name}: {value}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
