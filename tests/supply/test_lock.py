"""The lock fits the project, and the check of it can fail."""

import tomllib
from typing import Any

import pytest

from tools.lock import LOCK, ROOT, mistakes, pins

HASH = " --hash=sha256:" + "0" * 64
PROJECT: dict[str, Any] = {
    "project": {
        "name": "ours",
        "dependencies": ["a>=2"],
        "optional-dependencies": {
            "speed": [],
            "agent": [],
            "check": ["c"],
            "dev": ["ours[check]", "b==1.*"],
        },
    }
}
GOOD = f"a==2.1{HASH}\nb==1.4 \\\n   {HASH} \\\n   {HASH}\n    # via x\nc==3 ; os_name == 'nt'{HASH}\n"


def test_the_lock_fits_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert mistakes(LOCK.read_text(), project) == []


def test_the_lock_names_no_host_and_every_file_has_a_hash() -> None:
    text = LOCK.read_text()
    assert "://" not in text
    assert all(pin.hashes for pin in pins(text))


def test_a_good_lock_has_no_mistake() -> None:
    assert mistakes(GOOD, PROJECT) == []
    assert [(pin.name, pin.hashes, pin.marker) for pin in pins(GOOD)] == [
        ("a", 1, ""),
        ("b", 2, ""),
        ("c", 1, "os_name == 'nt'"),
    ]


@pytest.mark.parametrize(
    ("lock", "mistake"),
    [
        (GOOD.replace("a==2.1", "a==1.9"), "a is locked at 1.9"),
        (GOOD.replace("c==3", "d==3"), "c is not locked"),
        (GOOD.replace(HASH, "", 1), "a has no hash"),
        (GOOD.replace("a==2.1", "a>=2"), "not a pin"),
        ("--index-url https://example.org/\n" + GOOD, "not a pin"),
        ("-e .\n" + GOOD, "not a pin"),
        (GOOD + f"a==2.2{HASH}\n", "Python 3.11: a is locked at 2.1 and 2.2"),
    ],
)
def test_what_is_wrong_with_a_lock_is_said(lock: str, mistake: str) -> None:
    assert mistake in mistakes(lock, PROJECT)[0]


def test_one_version_each_for_two_pythons_is_no_mistake() -> None:
    lock = GOOD.replace("a==2.1", "a==2.1 ; python_version < '3.12'")
    assert mistakes(lock + f"a==2.2 ; python_version >= '3.12'{HASH}\n", PROJECT) == []
