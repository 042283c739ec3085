"""The fuzzing targets for a moment each; `make fuzz` runs them for longer."""

import importlib
import importlib.util
from pathlib import Path

import pytest

from tests.fuzz import TARGETS
from tests.fuzz.__main__ import fuzz

SECONDS = 2


@pytest.mark.parametrize("target", TARGETS)
def test_seeds(target: str):
    """What was found before stays found."""
    module = importlib.import_module(f"tests.fuzz.{target}")
    for seed in module.SEEDS:
        module.one(seed)


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed"
)
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_breaks_for_a_moment(target: str, tmp_path: Path):
    """New inputs, guided by what they reach, break nothing."""
    code, said = fuzz(target, SECONDS, tmp_path)
    assert code == 0, said[-4000:]
    assert "DONE" in said or "Done" in said
