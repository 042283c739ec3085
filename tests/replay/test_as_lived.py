"""A replay of what a real fleet lived comes to what was recorded of it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cortex.cli import main
from cortex.core.rules import Strategy
from tests.replay.lived import Clientele, live


@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_replay_agrees_with_the_day_that_was_recorded(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    strategy: Strategy,
) -> None:
    path = tmp_path / "cortex.db"
    lived = live(Clientele(strategy=strategy))
    asyncio.run(lived.write(path))
    assert main(["replay", "--db", str(path), "--json"]) == 0
    body: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert body["strategy"] == strategy
    assert body["recorded"]["requests"] == len(lived.requests) > 500
    assert body["recorded"]["loads"] > 50
    assert body["recorded"]["load_s"] == pytest.approx(lived.load_s, rel=0.001)
    assert body["off_share"] < 0.1
    assert body["replayed"]["loads"] == pytest.approx(body["recorded"]["loads"], rel=0.1)
    assert body["replayed"]["cold"] == pytest.approx(body["recorded"]["cold"], rel=0.2)
    assert body["notes"] == []
    rows = {row["by"]: row for row in body["rows"]}
    assert rows.keys() == {"lru", "priority", "forecast", "future"}
    assert rows[strategy] == body["replayed"] | {"by": strategy}
    assert rows["future"]["load_s"] < rows["lru"]["load_s"]
