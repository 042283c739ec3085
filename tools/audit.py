"""`python tools/audit.py PIP-AUDIT`: known vulnerabilities of what is locked; 1 when there are some.

The answer comes from a service on the network. When that cannot be reached nothing is known, which
is said and is not a failure.
"""

import json
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements/dev.txt"
TIMEOUT_S = 300


def unknown(why: str) -> int:
    """Nobody answered."""
    sys.stderr.write(f"audit: not done, nothing is known: {why[-300:]}\n")
    return 0


def main(argv: list[str]) -> int:
    """Entry point."""
    command = [argv[0], "--requirement", str(LOCK), "--require-hashes", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off"]
    try:
        # The tool that make has just installed; its arguments are our own.
        run = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as exc:
        return unknown(str(exc))
    try:
        packages = json.loads(run.stdout)["dependencies"]
    except json.JSONDecodeError:
        return unknown(run.stderr.strip())
    found = 0
    for package in packages:
        for flaw in package.get("vulns", ()):
            found += 1
            fixed = ", ".join(flaw["fix_versions"]) or "no version"
            sys.stdout.write(
                f"{package['name']} {package['version']}: {flaw['id']}, mended in {fixed}\n"
            )
    sys.stdout.write(f"audit: {len(packages)} packages, {found} known vulnerabilities\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
