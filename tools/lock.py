"""Checks that requirements/dev.txt still locks what pyproject.toml asks for: `make lock-check`.

Reads files only. What the lock pins is found by `make lock`, which asks the package index.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements/dev.txt"
EXTRAS = ("speed", "agent", "dev")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)\s*(?:;(?P<marker>.*))?")
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Pin:
    name: str
    version: str
    marker: str
    hashes: int


def pins(text: str) -> Iterator[Pin]:
    """Every pinned package.

    Raises:
        ValueError: A line that is no pin: an option, an address, or a version that may float.
    """
    plain = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in filter(str.strip, plain.replace("\\\n", " ").splitlines()):
        found = _PIN.match(line)
        hashes = len(_HASH.findall(line))
        head = _HASH.sub("", line).strip()
        if found is None or "://" in line or "--" in head or " @ " in head:
            raise ValueError(f"not a pin with hashes: {head[:80]}")
        marker = _HASH.sub("", found["marker"] or "").strip()
        yield Pin(canonicalize_name(found["name"]), found["version"], marker, hashes)


def wanted(project: dict[str, object], extras: tuple[str, ...] = EXTRAS) -> list[Requirement]:
    """What the project and these extras ask for, extras of its own followed."""
    table = project["project"]
    assert isinstance(table, dict)
    optional, own = table["optional-dependencies"], canonicalize_name(table["name"])
    found = [Requirement(text) for text in table["dependencies"]]
    for extra in extras:
        for requirement in map(Requirement, optional[extra]):
            if canonicalize_name(requirement.name) == own:
                found += map(Requirement, (t for e in requirement.extras for t in optional[e]))
            else:
                found.append(requirement)
    return found


def mistakes(lock: str, project: dict[str, object]) -> list[str]:
    """What is wrong with the lock, in sentences."""
    try:
        locked = list(pins(lock))
    except ValueError as exc:
        return [str(exc)]
    found = [f"{pin.name} has no hash" for pin in locked if not pin.hashes]
    for requirement in wanted(project):
        name = canonicalize_name(requirement.name)
        fitting = [pin for pin in locked if pin.name == name]
        if not fitting:
            found.append(f"{name} is not locked: make lock")
        found += [
            f"{name} is locked at {pin.version}, and pyproject.toml wants {requirement.specifier}"
            for pin in fitting
            if not requirement.specifier.contains(pin.version, prereleases=True)
        ]
    for python in PYTHONS:
        found += [f"Python {python}: {twice}" for twice in _ambiguous(locked, python)]
    return found


def _ambiguous(locked: list[Pin], python: str) -> Iterator[str]:
    """Names that one machine would have to install in two versions."""
    environment: dict[str, str] = {
        **{key: str(value) for key, value in default_environment().items()},
        "python_version": python,
        "python_full_version": f"{python}.0",
    }
    seen: dict[str, str] = {}
    for pin in locked:
        marker = Requirement(f"{pin.name}; {pin.marker}").marker if pin.marker else None
        meant = marker is None or marker.evaluate(environment)
        if meant and seen.setdefault(pin.name, pin.version) != pin.version:
            yield f"{pin.name} is locked at {seen[pin.name]} and {pin.version}"


def main() -> int:
    """Exit code 1 when something is wrong."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = mistakes(LOCK.read_text(), project)
    for mistake in found:
        sys.stderr.write(f"{LOCK.name}: {mistake}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
