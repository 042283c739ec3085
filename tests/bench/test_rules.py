"""The benchmark of the rules: its histories are the same everywhere, and its tables tell what was replayed."""

import json
import sys
from array import array
from collections import Counter
from pathlib import Path

import pytest

from bench import rules
from bench.histories import KINDS, made
from bench.rules import BASE, RULES, Outcome
from cortex.replay.run import Result, run


@pytest.mark.parametrize("kind", KINDS)
def test_a_history_is_the_same_each_time_and_no_other_seeds(kind: str) -> None:
    first = made(1, kind, 200)
    assert made(1, kind, 200) == first != made(2, kind, 200)
    assert len(first.cached.asks) == 200
    assert list(first.cached.asks) == sorted(first.cached.asks, key=lambda ask: ask.at_ms)
    asked = {ask.model for ask in first.cached.asks}
    for machine in first.cached.machines:
        assert set(machine.holdings) <= asked
        assert all(there.size_mib <= machine.vram_mib for there in machine.holdings.values())
    assert asked == {model for each in first.cached.machines for model in each.holdings}


def test_without_files_in_memory_a_second_load_is_as_long_as_the_first() -> None:
    history = made(2, "jobs", 400)
    assert history.uncached.asks == history.cached.asks
    for machine in history.uncached.machines:
        assert machine.ram_mib is None
        assert all(there.warm_s == there.load_s for there in machine.holdings.values())
    assert run(history.cached).load_s < run(history.uncached).load_s


def test_a_run_prints_each_rule_and_each_goal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rules.json"
    argv = ["bench.rules", "--seeds", "1", "--first", "1"]
    argv += ["--requests", "250", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", argv)
    assert rules.main() == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{len(KINDS)} histories; load-hours beside {BASE}")
    for rule in RULES:
        assert (f"| {rule} |" in out) is (rule != BASE)
    assert out.count("| met |  |") + out.count("| MISSED |  |") >= 6
    assert [line.partition(" ")[2] for line in err.splitlines()] == [f"{k} 1" for k in KINDS]
    figures = json.loads(path.read_text())
    assert len(figures) == 2 * len(RULES)
    assert all(set(of_rule) == {f"{k} 1" for k in KINDS} for of_rule in figures.values())
    history = made(1, "people", 250)
    lived = run(RULES["forecast"](history.uncached))
    assert figures["forecast, every load from disk"]["people 1"]["load_s"] == lived.load_s


def outcome(load_s: float, wait_s: float = 1.0, lost: int = 0, kind: str = "made") -> Outcome:
    """Beside one hour of loads, waits of one second and nothing lost."""
    base = Result(load_s=3600.0, waits_s=array("d", [1.0]))
    by_rule = Result(
        load_s=load_s, waits_s=array("d", [wait_s]), lost=Counter({"no_room": lost})
    )
    return Outcome(kind, 1, by_rule, base)


def test_a_goal_is_missed_by_what_it_says() -> None:
    def verdicts(*outcomes: Outcome) -> list[str]:
        found = {("forecast", cached): outcomes for cached in (False, True)}
        return [line.verdict for line in rules.goals(found)]

    good = outcome(2000.0)
    assert verdicts(good) == ["met"] * 8
    assert verdicts(outcome(3100.0)) == ["met"] * 4 + ["MISSED"] + ["met"] * 3
    assert verdicts(good, outcome(3800.0)) == ["met", "MISSED", "met", "met"] * 2
    other = outcome(2000.0, wait_s=1.1, kind="other")
    assert verdicts(good, other) == ["met", "met", "MISSED", "met"] * 2
    assert verdicts(good, outcome(2000.0, lost=1)) == ["met", "met", "met", "MISSED"] * 2
