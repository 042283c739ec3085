"""`make fuzz ARGS="--seconds 60 --target envelope"`: the targets, one after the other."""

import argparse
import importlib
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz import TARGETS

KEPT = Path("build/fuzz")
"""Inputs that broke something; each becomes a seed and a test."""


def fuzz(target: str, seconds: int, kept: Path) -> tuple[int, str]:
    """Run one target; its exit code and what libFuzzer said."""
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(importlib.import_module(f"tests.fuzz.{target}").SEEDS):
            (Path(folder) / f"seed{number}").write_bytes(seed)
        command = [
            sys.executable, "-m", "tests.fuzz.drive", target, folder, f"-max_total_time={seconds}",
            "-max_len=2048", "-timeout=10", "-rss_limit_mb=1024", f"-artifact_prefix={kept}/{target}-",
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, errors="replace"
        )
    return done.returncode, done.stderr + done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--target", choices=TARGETS)
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("skipped: atheris is not installed (pip install atheris)")
        return 0
    failed = 0
    for target in (options.target,) if options.target else TARGETS:
        code, said = fuzz(target, options.seconds, KEPT)
        lines = said.strip().splitlines()
        print(f"{target}: {lines[-1] if not code else said[-3000:]}", flush=True)
        failed += bool(code)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
