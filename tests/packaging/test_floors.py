"""No more is asked for than distributions carry; test_wheel.py and `make floors` try those versions."""

import re
import tomllib

from tests.command import ROOT


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_no_more_is_asked_for_than_distributions_carry() -> None:
    pins = (ROOT / "requirements/floors.txt").read_text()
    carried = dict(re.findall(r"^([a-z-]+)==([\d.]+)$", pins, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    floors = dict(
        re.fullmatch(r"([a-z-]+)>=([\d.]+)", x).groups() for x in project["dependencies"]
    )
    assert floors.keys() == carried.keys()
    for name, floor in floors.items():
        assert numbers(floor) <= numbers(carried[name]), name
