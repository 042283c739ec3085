"""The benchmark runs and its figures have their shape; how fast anything is, is not asked here."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.run import QUICK_CASES
from tests.command import ROOT

LIMIT_S = 120

pytestmark = [
    pytest.mark.skipif(not shutil.which("cc"), reason="cc, a C compiler, is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="the benchmark reads Linux's /proc"),
    pytest.mark.timeout(2 * LIMIT_S),
]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """The JSON and the tables of one quick run."""
    path = tmp_path_factory.mktemp("bench") / "quick.json"
    argv = [sys.executable, "-m", "bench.run", "--quick", "--json", str(path)]
    argv += ["--seconds", "0.5"]
    ran = subprocess.run(
        argv, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(path.read_text()), ran.stdout


def test_a_quick_run_measures_every_case_without_an_error(quick: tuple[Any, str]) -> None:
    results, _ = quick
    assert results["absent"] == {}
    [figures] = results["rounds"]
    assert set(figures) == {"direct", "cortex"}
    assert set(figures["cortex"]) == {"start", *QUICK_CASES}
    for gateway, tests in figures.items():
        for test, taken in tests.items():
            assert not taken.get("errors"), (gateway, test, taken)


def test_rates_delays_and_costs_are_positive(quick: tuple[Any, str]) -> None:
    cortex = quick[0]["medians"]["cortex"]
    for test in ("c1", "c32", "c256"):
        assert cortex[test]["per_s"] > 0
        assert 0 < cortex[test]["p50"] <= cortex[test]["p99"] <= cortex[test]["max"]
        assert cortex[test]["us_per_request"] > 0
    assert cortex["paced"]["us_per_chunk"] > 0
    assert cortex["blast"]["chunks_per_s"] > 0
    # How many of the 1,000 have had a chunk of late is a matter of speed; that none failed is seen above.
    assert 0 < cortex["held"]["live"] <= 1000
    assert cortex["start"]["ready_s"] > 0
    assert 0 < cortex["log"]["log_share"] < 1


def test_goals_whose_peers_were_not_there_are_not_claimed(quick: tuple[Any, str]) -> None:
    results, tables = quick
    verdicts = {goal["text"]: goal["verdict"] for goal in results["goals"]}
    assert len(verdicts) == len(report.GOALS)
    assert verdicts["requests/s at 32: at least 90 x LiteLLM"] == "not measured"
    assert all(text in tables for text in verdicts)


def test_an_interrupted_run_leaves_no_process(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "bench.run", "--quick", "--tests", "c1,c32,c256"]
    argv += ["--seconds", "20", "--json", str(tmp_path / "cut.json")]
    run = subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        end_s = time.monotonic() + 30
        while not (children := _descendants(run.pid, "load")):
            assert run.poll() is None
            assert time.monotonic() < end_s, "no load was started"
            time.sleep(0.02)
        run.send_signal(signal.SIGINT)
        assert run.wait(30) == 0
    finally:
        run.kill()
        run.communicate()
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def _descendants(pid: int, until: str) -> list[int]:
    """All children of a process once one of them has this name; else none."""
    found: dict[int, str] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            name, _, rest = (folder / "stat").read_text().rpartition(")")
        except OSError:
            continue
        if int(rest.split()[1]) == pid:
            found[int(folder.name)] = name.partition("(")[2]
    return list(found) if until in found.values() else []


def test_ratios_are_taken_within_a_round() -> None:
    """A round on a slow machine counts as much as one on a quick one."""
    rounds = [
        {"cortex": {"c32": {"per_s": 20.0}}, "nginx": {"c32": {"per_s": 40.0}}},
        {"cortex": {"c32": {"per_s": 300.0}}, "nginx": {"c32": {"per_s": 400.0}}},
        {"cortex": {"c32": {"per_s": 10.0}}, "nginx": {"c32": {"per_s": 40.0}}},
    ]
    of = report.ratio("cortex", "nginx", "c32", "per_s")
    assert report.over_rounds({"rounds": rounds}, of) == 0.5
