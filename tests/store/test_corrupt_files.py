"""A damaged file is set aside whole, with its log, and an empty one takes its place."""

import logging
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cortex.store.db import connect
from cortex.store.migrate import newest
from tests.store.conftest import opened, request, select, told, written

PAGE = 4096
ASIDE = re.compile(r"cortex\.db\.corrupt-\d{8}T\d{6}Z(-\d+)?")


async def fill(path: Path, count: int = 2000) -> bytes:
    """A sound file of many pages, closed; returns what is in it."""
    async with opened(path, runs=False) as store:
        for number in range(count):
            store.request_done(request(number, client="somebody" * 10))
    content = path.read_bytes()
    assert len(content) > 50 * PAGE
    return content


def set_aside(path: Path) -> list[Path]:
    """Databases that were set aside, without their logs."""
    return [file for file in path.parent.iterdir() if ASIDE.fullmatch(file.name)]


def garbage(content: bytes) -> bytes:
    return b"not a database " * (len(content) // 15)


def damaged_page(content: bytes) -> bytes:
    """The first page of the table of requests that holds rows."""
    start = content.rindex(b"r1999") // PAGE * PAGE
    return content[:start] + b"\xff" * PAGE + content[start + PAGE :]


def damaged_header(content: bytes) -> bytes:
    return b"\0" * 100 + content[100:]


def cut_in_the_middle(content: bytes) -> bytes:
    return content[: len(content) // PAGE // 2 * PAGE]


def cut_within_a_page(content: bytes) -> bytes:
    return content[: len(content) // 2 + 777]


def cut_to_a_stump(content: bytes) -> bytes:
    return content[:50]


DAMAGES = [
    garbage,
    damaged_page,
    damaged_header,
    cut_in_the_middle,
    cut_within_a_page,
    cut_to_a_stump,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
async def test_a_damaged_file_is_set_aside_and_an_empty_one_begun(
    path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    damaged = damage(await fill(path))
    path.write_bytes(damaged)

    with caplog.at_level(logging.ERROR, logger="cortex.store"):
        async with opened(path) as store:
            assert await told(store) == []
            store.request_done(request(1))
            assert store.status().ok
    (aside,) = set_aside(path)
    assert aside.read_bytes() == damaged
    assert written(path) == ["r1"]
    assert select(path, "PRAGMA user_version") == [(newest(),)]

    (logged,) = caplog.records
    assert logged.getMessage() == (
        "the state file is corrupt: it was set aside and an empty one begun"
    )
    fields = logged.__dict__["fields"]
    assert (fields["path"], fields["set_aside"]) == (str(path), str(aside))
    assert fields["reason"]


async def test_two_damaged_files_within_a_second_are_both_kept(path: Path) -> None:
    contents = {bytes([byte]) * 5000 for byte in range(1, 5)}
    for content in contents:
        path.write_bytes(content)
        async with opened(path):
            pass
    assert {file.read_bytes() for file in set_aside(path)} == contents


async def test_the_log_goes_with_its_file(path: Path) -> None:
    path.write_bytes(damaged_page(await fill(path)))
    # Somebody has it open, so that SQLite leaves the log where it is.
    with closing(connect(path, 1.0)) as other:
        other.execute("INSERT INTO nodes (name, health) VALUES ('n', 'up')")
        log_of_other = Path(f"{path}-wal").read_bytes()
        async with opened(path) as store:
            # With the old log beside it, the new file would have the node.
            assert (await store.recall()).nodes == ()
        (aside,) = set_aside(path)
        assert Path(f"{aside}-wal").read_bytes() == log_of_other
        assert Path(f"{aside}-shm").exists()
    assert select(aside, "SELECT name FROM nodes") == [("n",)]
    assert select(path, "SELECT name FROM nodes") == []


async def test_a_log_left_by_a_killed_process_does_not_fill_the_new_file(
    path: Path,
) -> None:
    async with opened(path, runs=False) as store:
        store.request_done(request(1))
        await store._flush()
        log_of_killed = Path(f"{path}-wal").read_bytes()
    path.write_bytes(b"x" * 8192)
    Path(f"{path}-wal").write_bytes(log_of_killed)

    async with opened(path) as store:
        assert await told(store) == []
        store.request_done(request(2))
    assert written(path) == ["r2"]
    (aside,) = set_aside(path)
    assert aside.read_bytes()[:8192] == b"x" * 8192


async def test_a_log_without_sense_does_not_harm_a_sound_file(path: Path) -> None:
    await fill(path)
    Path(f"{path}-wal").write_bytes(b"garbage" * 1000)
    async with opened(path) as store:
        assert len(await told(store)) == 2000
    assert set_aside(path) == []
