"""The oldest versions that the project says it works with, which are what Fedora 42 and EPEL 10 carry."""

import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CARRIED = {
    # The oldest of Fedora 42, 43, 44 and EPEL 10.
    "aiohttp": "3.10.11",
    "aiosqlite": "0.20.0",
    "prometheus-client": "0.21.0",
    "pydantic": "2.9.2",
    "rich": "13.9.4",
}
SUITE = (
    "tests/config",
    "tests/store",
    "tests/node",
    "tests/gateway/test_smoke.py",
    "tests/e2e/test_start.py",
)


def floors() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {}
    for wanted in project["dependencies"]:
        name, version = re.fullmatch(r"([a-z-]+)>=([\d.]+)", wanted).groups()  # type: ignore[union-attr]
        found[name] = version
    return found


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_no_more_is_asked_for_than_distributions_carry() -> None:
    assert floors().keys() == CARRIED.keys()
    for name, floor in floors().items():
        assert numbers(floor) <= numbers(CARRIED[name]), name


@pytest.mark.timeout(400)
def test_the_oldest_versions_work_without_the_extra(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    pins = [f"{name}=={version}" for name, version in CARRIED.items()]
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*install, *pins, "--editable", f"{ROOT}[check]"],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0 and "No matching distribution" not in done.stderr:
        pytest.skip(f"no package registry: {done.stderr.splitlines()[-1:]}")
    assert done.returncode == 0, done.stderr
    # -W: what old versions warn of on a new Python is not ours to mend.
    suite = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", *SUITE],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(suite.stdout[-2000:])
    assert suite.returncode == 0, sys.version
