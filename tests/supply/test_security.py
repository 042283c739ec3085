"""The threat model names tests that exist."""

import re

import pytest

from tools.lock import ROOT

TEXT = (ROOT / "docs/security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/.]+)`", TEXT)))
OF_LATER = {"tests/access", "tests/faults", "tests/fuzz", "tests/hostile"}
"""Folders that come with the parts they test."""


@pytest.mark.parametrize("path", [path for path in NAMED if path not in OF_LATER])
def test_a_named_test_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_every_threat_names_a_test() -> None:
    tables = re.findall(r"\| Threat \|.*\n\|-.*\n((?:\|.*\n)+)", TEXT)
    rows = [row for table in tables for row in table.splitlines()]
    assert len(rows) >= 20
    assert [row for row in rows if "`tests/" not in row.rpartition(" | ")[2]] == []
