import json
from pathlib import Path

import pytest

from cortex.cli import main
from cortex.cli.exit_codes import Exit
from cortex.core.ids import ModelId, NodeName, RequestId
from cortex.core.records import Outcome, RequestRecord
from cortex.store.store import Store
from tests.cli.gateway import NOW_MS


class StoppedClock:
    def now_s(self) -> float:
        return 1000.0

    def now_ms(self) -> int:
        return NOW_MS


@pytest.fixture
async def database(tmp_path: Path) -> Path:
    """Three requests, written by the gateway's own store."""
    path = tmp_path / "state" / "cortex.db"
    store = await Store.open(path, retention_days=30, clock=StoppedClock())
    for number, model in enumerate(("acme/small", "acme/small", "acme/large"), 1):
        store.request_done(
            RequestRecord(
                request_id=RequestId(f"req-{number}"),
                started_at_ms=NOW_MS + number,
                route="chat",
                model=ModelId(model),
                node=NodeName("gpu-a"),
                outcome=Outcome.ERROR if number == 3 else Outcome.OK,
                error_code="node_timeout" if number == 3 else None,
                ttft_ms=100.0 * number,
                duration_ms=1000.0 * number,
            )
        )
    await store.close()
    return path


def ids(out: str) -> list[str]:
    return [row["request_id"] for row in json.loads(out)["rows"]]


def test_rows_and_filters(database: Path, capsys):
    assert main(["history", "--json", "--db", str(database)]) == 0
    assert ids(capsys.readouterr().out) == ["req-3", "req-2", "req-1"]
    argv = ["history", "--json", "--db", str(database), "--model", "acme/small", "--slow", "2s"]
    assert main(argv) == 0
    assert ids(capsys.readouterr().out) == ["req-2"]
    assert main(["history", "--db", str(database)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split()[2:6] == ["acme/large", "gpu-a", "–", "node_timeout"]


def test_stats(database: Path, capsys):
    assert main(["history", "--stats", "--db", str(database)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:3] == ["acme/small", "2", "0"]
    assert lines[2].split()[:3] == ["acme/large", "1", "1"]


def test_the_configured_file(database: Path, capsys):
    Path("cortex.toml").write_text(
        f'[state]\npath = "{database}"\n[[nodes]]\nname = "a"\nendpoint = "http://a:1"\n'
    )
    for argv in (["history", "--json", "--db"], ["history", "--db", "--json"]):
        assert main(argv) == 0
        assert len(ids(capsys.readouterr().out)) == 3


def test_reading_changes_nothing(database: Path):
    before = database.read_bytes()
    assert main(["history", "--db", str(database)]) == 0
    assert database.read_bytes() == before


def test_no_configuration(capsys):
    Path("cortex.toml").write_text("nonsense")
    assert main(["history", "--db"]) == Exit.CONFIG
    assert "--db FILE" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"", b"this is no database" * 100])
def test_a_file_that_is_no_database(content: bytes | None, tmp_path: Path, capsys):
    path = tmp_path / "odd.db"
    if content is not None:
        path.write_bytes(content)
    assert main(["history", "--db", str(path)]) == Exit.FAILURE
    err = capsys.readouterr().err
    assert "odd.db" in err
    assert len(err.splitlines()) == 1
