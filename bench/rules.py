"""What each rule of eviction comes to on made-up histories: `python -m bench.rules [--seeds N] [--quick] [--json FILE]`.

Each history is replayed, as `cortex replay` does it, by every rule, once on machines that keep files in memory and once
on such as do not. Nothing is timed: the figures are the same on every machine.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean, median

from bench.histories import KINDS, made
from bench.report import Line, beside_goals, table
from cortex.core.percentile import nearest_rank
from cortex.core.rules import Strategy
from cortex.replay.changes import with_foresight, with_strategy
from cortex.replay.pool import run_all
from cortex.replay.run import Result
from cortex.replay.scenario import Scenario

SEEDS, REQUESTS, FIRST_SEED = 12, 8000, 101
"""Those before this seed were looked at while the rule was made."""
QUICK_SEEDS, QUICK_REQUESTS = 1, 2000
BASE = "lru"
RULES: Mapping[str, Callable[[Scenario], Scenario]] = {
    BASE: lambda scenario: with_strategy(scenario, Strategy.LRU),
    "forecast": lambda scenario: with_strategy(scenario, Strategy.FORECAST),
    "future": with_foresight,
}
HEAVY_S = 3600.0
"""Of loads by the least recently used, from which on a history is heavy."""
FELT_S = 0.01
"""A wait that differs by less is the same."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One history by one rule, beside the same by `BASE`."""

    kind: str
    seed: int
    result: Result
    base: Result

    @property
    def name(self) -> str:
        return f"{self.kind} {self.seed}"

    @property
    def more(self) -> float:
        """Load-hours, as a share of what `BASE` takes more or less."""
        return self.result.load_s / self.base.load_s - 1 if self.base.load_s else 0.0

    @property
    def p95_s(self) -> tuple[float, float]:
        """By `BASE`, and by the rule."""
        return _p95_s([self.base]), _p95_s([self.result])

    @property
    def lost(self) -> tuple[int, int]:
        """The same of the requests that were refused."""
        return self.base.lost.total(), self.result.lost.total()

    @property
    def waits_longer(self) -> bool:
        return longer(self.p95_s)


def longer(waits_s: tuple[float, float]) -> bool:
    """The second is, by so much that it would be felt."""
    before_s, after_s = waits_s
    return after_s > before_s + FELT_S


Found = Mapping[tuple[str, bool], Sequence[Outcome]]
"""By rule, and by whether machines keep files in memory."""


def played(
    seeds: Sequence[int], requests: int, say: Callable[[str], object]
) -> dict[tuple[str, bool], list[Outcome]]:
    found: dict[tuple[str, bool], list[Outcome]] = {}
    for seed in seeds:
        for kind in KINDS:
            history = made(seed, kind, requests)
            ways = [(rule, cached) for cached in (False, True) for rule in RULES]
            results = run_all(
                [
                    RULES[rule](history.cached if cached else history.uncached)
                    for rule, cached in ways
                ]
            )
            by_way = dict(zip(ways, results, strict=True))
            for (rule, cached), result in by_way.items():
                outcome = Outcome(kind, seed, result, by_way[BASE, cached])
                found.setdefault((rule, cached), []).append(outcome)
            say(history.name)
    return found


def goals(found: Found) -> Iterator[Line]:
    """What is asked of `forecast`."""
    for cached, most in ((False, -10), (True, -18)):
        outcomes = found["forecast", cached]
        world = _world(cached)
        yield Line(
            f"{world}: load-hours on average",
            100 * fmean(outcome.more for outcome in outcomes),
            "%",
            most,
        )
        heavy = [outcome.more for outcome in outcomes if outcome.base.load_s >= HEAVY_S]
        if heavy:
            worst = f"{world}: load-hours of the worst of {len(heavy)} heavy ones"
            yield Line(worst, 100 * max(heavy), "%", 3)
        pooled = _pooled_p95_s(outcomes)
        yield Line(
            f"{world}: kinds of clients whose p95 of waits is longer",
            sum(map(longer, pooled.values())),
            f"of {len(pooled)}",
            0,
        )
        lost = [after for before, after in (outcome.lost for outcome in outcomes) if not before]
        yield Line(f"{world}: lost by fleets that lose none by {BASE}", sum(lost), "", 0)


def _pooled_p95_s(outcomes: Sequence[Outcome]) -> dict[str, tuple[float, float]]:
    """Of each kind, over all fleets that it was played on, by `BASE` and by the rule."""
    of_kind: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        of_kind.setdefault(outcome.kind, []).append(outcome)
    return {
        kind: (_p95_s(o.base for o in alike), _p95_s(o.result for o in alike))
        for kind, alike in of_kind.items()
    }


def _p95_s(results: Iterable[Result]) -> float:
    """The wait that 95 % of all their requests did not exceed."""
    waits = sorted(chain.from_iterable(result.waits_s for result in results))
    return nearest_rank(waits, 95) or 0.0


def _world(cached: bool) -> str:
    return "files kept in memory" if cached else "every load from disk"


def text(found: Found) -> str:
    compared = {way: outcomes for way, outcomes in found.items() if way[0] != BASE}
    averages = table(
        ["", "rule", "mean", "median", "in all", "best", "worst", "lost", f"{BASE}'s"],
        [
            [
                _world(cached),
                rule,
                *(f"{share:+.1%}" for share in _shares(outcomes)),
                f"{sum(outcome.lost[1] for outcome in outcomes):,}",
                f"{sum(outcome.lost[0] for outcome in outcomes):,}",
            ]
            for (rule, cached), outcomes in compared.items()
        ],
    )
    waits = table(
        ["p95 of waits", "rule", *KINDS, "shorter on", "longer on"],
        [
            [
                _world(cached),
                rule,
                *(f"{a:.1f} -> {b:.1f} s" for a, b in _pooled_p95_s(outcomes).values()),
                str(sum(longer(outcome.p95_s[::-1]) for outcome in outcomes)),
                str(sum(outcome.waits_longer for outcome in outcomes)),
            ]
            for (rule, cached), outcomes in compared.items()
        ],
    )
    odd = table(
        ["worse by forecast", "", f"hours by {BASE}", "hours", "p95", "lost"],
        [
            [
                outcome.name,
                _world(cached),
                f"{outcome.base.load_s / 3600:.2f}",
                f"{outcome.more:+.1%}",
                "{:.2f} -> {:.2f} s".format(*outcome.p95_s),
                "{} -> {}".format(*outcome.lost),
            ]
            for cached in (False, True)
            for outcome in found["forecast", cached]
            if outcome.more > 0.01 or outcome.waits_longer or outcome.lost[1] > outcome.lost[0]
        ],
    )
    count = len(found[BASE, True])
    title = f"{count} histories; load-hours beside {BASE}:"
    return "\n\n".join((title, averages, waits, odd, beside_goals(goals(found))))


def _shares(outcomes: Sequence[Outcome]) -> tuple[float, ...]:
    each = [outcome.more for outcome in outcomes]
    base_s = sum(outcome.base.load_s for outcome in outcomes)
    in_all = sum(outcome.result.load_s for outcome in outcomes) / base_s - 1 if base_s else 0.0
    return fmean(each), median(each), in_all, min(each), max(each)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.rules", description=__doc__)
    parser.add_argument("--seeds", type=int, help=f"histories of each kind ({SEEDS})")
    parser.add_argument(
        "--first", type=int, default=FIRST_SEED, help="the first seed (%(default)s)"
    )
    parser.add_argument("--requests", type=int, help=f"of each history ({REQUESTS:,})")
    parser.add_argument("--quick", action="store_true", help="one short history of each kind")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    seeds = args.seeds or (QUICK_SEEDS if args.quick else SEEDS)
    requests = args.requests or (QUICK_REQUESTS if args.quick else REQUESTS)
    done = iter(range(1, seeds * len(KINDS) + 1))

    def say(name: str) -> None:
        print(f"{next(done)}/{seeds * len(KINDS)} {name}", file=sys.stderr)

    found = played(range(args.first, args.first + seeds), requests, say)
    print(text(found))
    if args.json:
        body = {
            f"{rule}, {_world(cached)}": {
                outcome.name: {
                    "load_s": outcome.result.load_s,
                    "wait_p95_s": outcome.p95_s[1],
                    "lost": outcome.lost[1],
                }
                for outcome in outcomes
            }
            for (rule, cached), outcomes in found.items()
        }
        args.json.write_text(json.dumps(body, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
