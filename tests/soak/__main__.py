"""`python -m tests.soak --minutes 10`: mixed load and faults on a real gateway; exit 1 on a leak or a loss."""

import argparse
import asyncio
import json
import signal
import sys
import time
from pathlib import Path

from rich.console import Console

from tests.soak.report import as_json, show
from tests.soak.run import Options, soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=8.0, help="requests a second")
    parser.add_argument("--seed", type=int, default=1, help="of the faults and the load")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    args = parser.parse_args()
    options = Options(length_s=args.minutes * 60, rate=args.rate, seed=args.seed)
    began_s = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began_s:6.0f} s  {line}", file=sys.stderr, flush=True)

    # As Ctrl-C: everything that was started is taken along.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        report = asyncio.run(soak(options, say))
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    show(report, Console())
    if args.json:
        args.json.write_text(json.dumps(as_json(report), indent=2) + "\n")
    return 1 if report.verdict.violations else 0


if __name__ == "__main__":
    sys.exit(main())
