"""One gateway a file; and each reason why a file cannot be used, in one line."""

import asyncio
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest

from cortex.core.errors import ConfigError
from cortex.store.db import connect
from cortex.store.migrate import migrate, migrations
from tests.running import until
from tests.store.conftest import (
    MUST_WRITE,
    SECOND,
    opened,
    request,
    told,
    unprivileged,
    writing_before,
    written,
)


async def refusal(path: Path) -> str:
    """What opening the file is refused with."""
    with pytest.raises(ConfigError) as refused:
        async with opened(path):
            pass
    (line,) = refused.value.lines
    return line


async def test_a_second_opener_is_refused_while_the_first_lives(path: Path) -> None:
    async with opened(path) as first:
        assert await refusal(path) == f"{path}: {SECOND}"
        first.request_done(request(1))
    async with opened(path, runs=False) as second:
        assert await told(second) == ["r1"]
        second.request_done(request(2))
    assert written(path) == ["r1", "r2"]


async def test_an_opener_waits_for_the_first_to_end(path: Path) -> None:
    async with asyncio.TaskGroup() as group, opened(path, runs=False):
        waiting = group.create_task(leave_a_row(path), name="second")
        await asyncio.sleep(0.15)
        assert not waiting.done()
    assert written(path) == ["r2"]


async def leave_a_row(path: Path) -> None:
    async with opened(path, open_s=10.0, runs=False) as store:
        store.request_done(request(2))


async def test_a_killed_opener_gives_the_file_up(path: Path) -> None:
    script = """
        import asyncio, pathlib, sys
        from tests.store.conftest import opened

        async def main():
            async with opened(pathlib.Path(sys.argv[1])):
                print("open", flush=True)
                await asyncio.sleep(60)

        asyncio.run(main())
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(path)], stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        assert await refusal(path) == f"{path}: {SECOND}"
        child.kill()
    async with opened(path) as store:
        assert store.status().ok


async def test_a_program_that_writes_to_the_file_delays_no_start(path: Path) -> None:
    async with opened(path):
        pass
    with writing_before(path):
        async with opened(path) as store:
            store.request_done(request(1))
            await until(lambda: not store.status().ok, "the lock to be noticed")
            assert store.status().reason == "database is locked"
    assert written(path) == []


async def test_a_file_to_be_upgraded_that_another_program_writes_to_is_refused(
    path: Path,
) -> None:
    with closing(connect(path, 1.0)) as connection:
        migrate(connection, migrations()[:1])
    with writing_before(path):
        assert await refusal(path) == f"{path}: {SECOND}"
    async with opened(path) as store:
        assert store.status().ok


async def test_folders_that_are_missing_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "cortex.db"
    async with opened(path):
        pass
    assert path.is_file()


async def test_any_name_of_a_file_will_do(tmp_path: Path) -> None:
    path = tmp_path / "a b?mode=memory#c%20d'é" / "state.sqlite"
    async with opened(path, runs=False) as store:
        store.request_done(request(1))
        await store._flush()
        assert await told(store) == ["r1"]
    assert written(path) == ["r1"]


async def test_a_file_where_a_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "cortex.db"
    assert await refusal(path) == f"{path}: File exists: state cannot be kept there"


async def test_a_folder_where_the_file_should_be_is_refused(path: Path) -> None:
    path.mkdir()
    assert await refusal(path) == f"{path}: unable to open database file: {MUST_WRITE}"


async def test_a_folder_that_cannot_be_written_to_is_refused() -> None:
    with unprivileged() as folder:
        path = folder / "cortex.db"
        folder.chmod(0o500)
        assert await refusal(path) == f"{path}: Permission denied: state cannot be kept there"
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("cortex.db", "Permission denied: state cannot be kept there"),
        ("", f"attempt to write a readonly database: {MUST_WRITE}"),
    ],
    ids=["file", "folder"],
)
async def test_a_file_that_was_made_read_only_is_refused(target: str, why: str) -> None:
    with unprivileged() as folder:
        path = folder / "cortex.db"
        async with opened(path):
            pass
        (folder / target).chmod(0o500)
        assert await refusal(path) == f"{path}: {why}"
        (folder / target).chmod(0o700)
        # The refusal holds nothing.
        async with opened(path) as store:
            assert store.status().ok


async def test_the_database_of_another_program_is_refused_untouched(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    assert await refusal(path) == f"{path}: it is the database of another program"
    with closing(sqlite3.connect(path)) as connection:
        assert [row[0] for row in connection.execute("SELECT name FROM sqlite_master")] == [
            "theirs"
        ]
