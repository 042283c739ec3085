"""`make bench`: measure the gateway beside others in one interleaved run; tables, goals and JSON.

In every round all gateways run; each case goes through them in an order that turns by one a round,
so that what is compared was measured within seconds of each other.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import cases, gateways, machine, report
from bench.gateways import BENCH, KINDS, Kind, Running, UnavailableError
from bench.measure import BUILD, Figures, Pace, Stand, take

RESULTS = BENCH / "results"
QUICK = Pace(seconds=1.0, warmup_s=0.3, ramp_s=0.5, patience_s=0.5, again=0)
QUICK_PEERS = ("direct", "cortex")
QUICK_CASES = (
    "rss",
    "c1",
    "c32",
    "c256",
    "once32",
    "any32",
    "ttft",
    "paced",
    "blast",
    "held",
    "mpaced",
    "log",
)
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    options = read_options(argv)
    # Also where a shell started it in the background, with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    build()
    kinds, absent = choose(options.peers)
    cores = machine.share_out()
    say(cores.describe())
    machine.pin(cores.load)
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    run = Run(options, cores, folder)
    try:
        run.all_rounds(kinds, absent)
    except KeyboardInterrupt:
        say("interrupted: what was measured so far is reported")
    finally:
        run.end()
        shutil.rmtree(folder, ignore_errors=True)
    print(report.text(run.results))
    if options.into:
        report.put_into(options.into, run.results)
    written = write(run.results, options.json)
    say(f"written to {written}")
    return 0


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look at it, within a minute")
    parser.add_argument("--peers", type=names(KINDS), help="of " + ", ".join(KINDS))
    parser.add_argument("--tests", type=names(cases.CASES), help="of " + ", ".join(cases.CASES))
    parser.add_argument("--rounds", type=int, help="3; 1 when quick")
    parser.add_argument(
        "--seconds", type=float, help="that a measurement takes: 4; 1 when quick"
    )
    parser.add_argument(
        "--limit-s", type=float, default=7200.0, help="begin nothing after this"
    )
    parser.add_argument(
        "--json", type=Path, help="where to write; else bench/results/TIME.json"
    )
    parser.add_argument(
        "--into", type=Path, help="a page in which the tables replace those between its marks"
    )
    options = parser.parse_args(argv)
    quick = options.quick
    options.peers = options.peers or (QUICK_PEERS if quick else tuple(KINDS))
    options.tests = options.tests or (QUICK_CASES if quick else tuple(cases.CASES))
    # Memory comes first: what else is measured leaves its traces in it.
    options.tests = tuple(test for test in cases.CASES if test in options.tests)
    options.rounds = options.rounds or (1 if quick else 3)
    options.pace = QUICK if quick else Pace()
    if options.seconds:
        options.pace = Pace(**{**vars(options.pace), "seconds": options.seconds})
    return options


def names(known: Sequence[str] | dict[str, Any]) -> Any:
    """An option's type: some of these, with commas."""

    def split(value: str) -> tuple[str, ...]:
        wanted = tuple(value.split(","))
        if unknown := [name for name in wanted if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return wanted

    return split


def build() -> None:
    """Compile node and load generator where they are older than their source."""
    compiler = os.environ.get("CC") or shutil.which("cc")
    if not compiler:
        sys.exit("bench: a C compiler (cc) is needed for the node and the load generator")
    BUILD.mkdir(exist_ok=True)
    for name in ("node", "load"):
        made, sources = BUILD / name, (BENCH / f"{name}.c", BENCH / "http.h")
        if made.exists() and made.stat().st_mtime > max(s.stat().st_mtime for s in sources):
            continue
        subprocess.run([compiler, *FLAGS, "-o", str(made), str(sources[0])], check=True)


def choose(wanted: Sequence[str]) -> tuple[list[Kind], dict[str, str]]:
    """The gateways that can take part, and why the others cannot."""
    present, absent = [], {}
    for name in wanted:
        try:
            gateways.install(KINDS[name], say)
        except UnavailableError as exc:
            absent[name] = str(exc)
            say(f"{name}: left out: {exc}")
        else:
            present.append(KINDS[name])
    return present, absent


class Run:
    """Everything that one run starts, so that all of it ends with the run."""

    def __init__(self, options: argparse.Namespace, cores: machine.Cores, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._cores = cores
        self._end_s = time.monotonic() + options.limit_s
        self._running: list[Running] = []
        port = gateways.free_ports(1)[0]
        self._node = subprocess.Popen(
            [str(BUILD / "node"), str(port)], preexec_fn=lambda: machine.pin(cores.node)
        )
        self._stand = Stand(port, cores, options.pace)
        self._await_node()
        self.results: dict[str, Any] = {
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": {
                "cores": os.cpu_count(),
                "placement": cores.describe(),
                "kernel": platform.release(),
                "python": platform.python_version(),
            },
            "options": {
                "rounds": options.rounds,
                "seconds": options.pace.seconds,
                "tests": list(options.tests),
            },
            "absent": {},
            "versions": {},
            "rounds": [],
        }

    def _await_node(self) -> None:
        end_s = time.monotonic() + 5
        while True:
            with contextlib.suppress(OSError):
                self._stand.node()
                return
            if self._node.poll() is not None or time.monotonic() > end_s:
                sys.exit("bench: the node does not answer")
            time.sleep(0.01)

    def all_rounds(self, kinds: list[Kind], absent: dict[str, str]) -> None:
        self.results["absent"] = dict(absent)
        self.results["versions"] = {
            kind.name: found for kind in kinds if (found := gateways.versions(kind))
        }
        for number in range(self._options.rounds):
            turned = kinds[number % len(kinds) :] + kinds[: number % len(kinds)]
            figures: dict[str, dict[str, Figures]] = {}
            self.results["rounds"].append(figures)
            try:
                self._one_round(number, turned, figures)
            finally:
                self._end_gateways()
            if time.monotonic() > self._end_s:
                say("out of time: no further round")
                return

    def _one_round(
        self, number: int, kinds: list[Kind], figures: dict[str, dict[str, Figures]]
    ) -> None:
        self._stand.node(pause_us=0, bytes=250)
        for kind in kinds:
            say(f"round {number + 1}: starting {kind.name}")
            folder = self._folder / f"{number}-{kind.name}"
            try:
                running = Running(kind, self._stand.node_port, folder, self._cores.gateway)
            except UnavailableError as exc:
                self.results["absent"][kind.name] = str(exc)
                say(f"{kind.name}: left out of this round: {exc}")
                continue
            self._running.append(running)
            figures[kind.name] = {}
            if kind.argv:
                started: Figures = {"first_answer_s": running.first_answer_s}
                figures[kind.name]["start"] = started | {"ready_s": running.ready_s}
        for test in self._options.tests:
            together = cases.CASES[test].together
            if together is not None:
                self._measure_at_once(test, together, figures)
                continue
            for running in self._running:
                if time.monotonic() > self._end_s:
                    return
                if cases.applies(cases.CASES[test], running):
                    self._measure(test, running, figures[running.kind.name])

    def _measure(self, test: str, running: Running, figures: dict[str, Figures]) -> None:
        case = cases.CASES[test]
        assert case.run is not None, "a case of all gateways at once"
        try:
            taken = take(self._stand, running, case.run, again=case.again)
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as exc:
            say(f"{running.kind.name:15} {test:7} failed: {exc}")
            return
        figures[test] = taken
        shown = " ".join(f"{k}={v:.5g}" for k, v in taken.items() if v is not None)
        say(f"{running.kind.name:15} {test:7} {shown}")

    def _measure_at_once(
        self, test: str, together: cases.Together, figures: dict[str, dict[str, Figures]]
    ) -> None:
        running = [one for one in self._running if cases.applies(cases.CASES[test], one)]
        try:
            found = together(self._stand, running)
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as exc:
            say(f"all at once     {test:7} failed: {exc}")
            return
        for name, taken in found.items():
            figures[name][test] = taken
            shown = " ".join(f"{k}={v:.5g}" for k, v in taken.items() if v is not None)
            say(f"{name:15} {test:7} {shown}")

    def _end_gateways(self) -> None:
        for running in self._running:
            running.end()
        self._running.clear()

    def end(self) -> None:
        self._stand.end()
        self._end_gateways()
        self._node.kill()
        self._node.wait()


def write(results: dict[str, Any], path: Path | None) -> Path:
    results["medians"] = report.medians(results)
    results["goals"] = [vars(verdict) for verdict in report.verdicts(results)]
    path = path or RESULTS / f"{results['began'].replace(':', '')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
