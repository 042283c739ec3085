"""`cortex replay` as a person and a script use it, on the log of a fleet's morning."""

import asyncio
import json
import os
import pty
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cortex.cli import main
from cortex.cli.exit_codes import Exit
from cortex.cli.replay import _best_first
from cortex.cli.replay_options import memory_mib, sized_model
from cortex.cli.replay_view import Row
from cortex.replay import pool
from cortex.replay.run import Result
from cortex.store.db import connect
from cortex.store.migrate import migrate, migrations
from tests.command import ROOT
from tests.replay.lived import Clientele, live
from tests.store.conftest import opened


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "cortex.db"
    asyncio.run(live(Clientele()).write(path))
    return path


@pytest.fixture(autouse=True)
def _as_eager_as_the_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "NICE", 0)


def replayed(log: Path, capsys: pytest.CaptureFixture[str], *options: str) -> Any:
    assert main(["replay", "--db", str(log), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_table(log: Path, capsys):
    before = log.read_bytes()
    assert main(["replay", "--db", str(log)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert " requests for 7 models from 2027-01-15 " in lines[0]
    assert lines[0].endswith(" on fast 16.0 GiB, large 22.0 GiB, slow 10.0 GiB")
    assert lines[1].startswith("as it was (lru): ")
    assert lines[1].endswith("% off")
    assert lines[3].split() == [
        "BY",
        "LOAD-HOURS",
        "LOADS",
        "COLD",
        "WAIT-P50",
        "WAIT-P95",
        "LOST",
    ]
    names = ["recorded", "lru", "priority", "forecast", "future"]
    assert [line.split()[0] for line in lines[4:]] == names
    assert all(len(line.split()) == 7 for line in lines[4:])
    assert log.read_bytes() == before


def test_options_compose_and_are_named(log: Path, capsys):
    options = ("--without", "slow", "--add-node", "24G", "--add-node", "8G", "--pin", "chat")
    body = replayed(log, capsys, *options, "--model", "big=12G", "--strategy", "lru")
    assert body["changes"] == [
        "big of 12288 MiB",
        "without slow",
        "one more node of 24 GiB",
        "one more node of 8 GiB",
        "chat pinned",
    ]
    (row,) = body["rows"]
    assert row["by"] == "lru"
    assert row["load_s"] < body["recorded"]["load_s"]
    # What was is replayed without them.
    assert body["off_share"] < 0.1


def test_advice_has_every_single_change_the_best_first(log: Path, capsys):
    body = replayed(log, capsys, "--advise")
    by = [row["by"] for row in body["rows"]]
    assert by[0] == "no further change"
    assert {"strategy priority", "without fast", "one more node of 22 GiB", "small pinned"} <= {
        *by
    }
    rows = body["rows"][1:]
    kept = [row["load_s"] for row in rows if row["lost"] <= body["rows"][0]["lost"]]
    assert kept == sorted(kept)
    assert rows[: len(kept)] == [row for row in rows if row["lost"] <= body["rows"][0]["lost"]]


def test_what_loses_requests_is_no_good_advice():
    def row(name: str, load_s: float, lost: int = 0) -> Row:
        result = Result(load_s=load_s)
        result.lost["no_room"] = lost
        return Row(name, result)

    ordered = _best_first(
        row("as it is", 9.0, 1), [row("a", 1.0, 2), row("b", 5.0, 1), row("c", 3.0)]
    )
    assert [entry.name for entry in ordered] == ["c", "b", "a"]


def test_a_terminal_sees_how_far_it_is(log: Path):
    """And the table stays clean of it."""
    ours, theirs = pty.openpty()
    with closing(os.fdopen(ours, "rb", buffering=0)) as screen:
        child = subprocess.Popen(
            [sys.executable, "-m", "cortex", "replay", "--db", log, "--strategy", "lru"],
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=os.environ | {"TERM": "xterm"},
            cwd=ROOT,
        )
        os.close(theirs)
        out, _ = child.communicate(timeout=30)
        assert child.returncode == 0
        assert b"replaying" in screen.read(65536)
    assert b"replaying" not in out
    assert b"LOAD-HOURS" in out


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        (
            ["--without", "nope"],
            Exit.FAILURE,
            "there is no node nope; the log knows fast, large, slow",
        ),
        (["--pin", "nope"], Exit.FAILURE, "no request of this span is for nope"),
        (["--model", "nope=3G"], Exit.FAILURE, "no node lists nope"),
        (
            ["--since", "2030-01-01"],
            Exit.FAILURE,
            "there is no request in this span of the log",
        ),
        (["--advise", "--strategy", "lru"], Exit.USAGE, "--advise tries every rule"),
        (["--add-node", "24X"], Exit.USAGE, "'24X' is no memory; write 24G or 24576M"),
        (["--model", "20G"], Exit.USAGE, "'20G' is no model with its size; write ID=20G"),
        (["--strategy", "fifo"], Exit.USAGE, "fifo"),
    ],
)
def test_what_cannot_be_replayed(
    log: Path, capsys, options: list[str], code: Exit, complaint: str
):
    assert main(["replay", "--db", str(log), *options]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


def test_an_empty_history(tmp_path: Path, capsys):
    async def make() -> None:
        async with opened(tmp_path / "empty.db"):
            pass

    asyncio.run(make())
    assert main(["replay", "--db", str(tmp_path / "empty.db")]) == Exit.FAILURE
    assert "there is no request" in capsys.readouterr().err


@pytest.mark.parametrize("version", [1, 6])
def test_a_database_of_an_older_version(tmp_path: Path, capsys, version: int):
    path = tmp_path / "old.db"
    with closing(connect(path, 1.0)) as connection:
        migrate(connection, migrations()[:version])
    assert main(["replay", "--db", str(path)]) == Exit.FAILURE
    assert "start the gateway once to upgrade it" in capsys.readouterr().err


def test_no_file_and_no_configuration(tmp_path: Path, capsys):
    assert main(["replay", "--db", str(tmp_path / "none.db")]) == Exit.FAILURE
    assert "no such file" in capsys.readouterr().err
    assert main(["replay"]) == Exit.CONFIG
    assert "replay: --db FILE reads a database" in capsys.readouterr().err


def test_a_log_without_starts_and_nodes_that_never_said_how_large_they_are(
    log: Path, tmp_path: Path, capsys
):
    path = tmp_path / "bare.db"
    path.write_bytes(log.read_bytes())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM events WHERE kind = 'start'")
        connection.commit()
        assert main(["replay", "--db", str(path)]) == 0
        said = capsys.readouterr()
        assert "limits, priorities and rules are the usual ones" in said.err
        connection.execute("UPDATE nodes SET vram_total_mib = NULL WHERE name = 'slow'")
        connection.commit()
    assert main(["replay", "--db", str(path)]) == Exit.FAILURE
    assert "nobody knows the memory of slow" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("24G", 24_576),
        ("24GiB", 24_576),
        ("512M", 512),
        ("1.5g", 1536),
        ("700", 700),
        ("1T", 1 << 20),
    ],
)
def test_sizes(text: str, mib: int):
    assert memory_mib(text) == mib
    assert sized_model(f"a=b={text}") == ("a=b", mib)


@pytest.mark.parametrize("text", ["", "G", "-1G", "0", "1e3G", "24 GB", "nan", "٣G", "9" * 12])
def test_what_is_no_size(text: str):
    with pytest.raises(ValueError, match="is no memory"):
        memory_mib(text)
