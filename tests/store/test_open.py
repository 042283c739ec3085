"""One gateway a file; and each reason why a file cannot be used, in one line."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cortex.core.errors import ConfigError
from tests.store.conftest import opened, request, told, writing, written

NOBODY = 65534
SECOND = "another process holds it; is a second cortex running with this file?"


async def refusal(path: Path) -> str:
    """What opening the file is refused with."""
    with pytest.raises(ConfigError) as refused:
        async with opened(path):
            pass
    (line,) = refused.value.lines
    return line


@contextmanager
def unprivileged() -> Iterator[Path]:
    """A folder of our own, without root's right to write anywhere."""
    folder = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    try:
        if root:
            os.chown(folder, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)
        shutil.rmtree(folder)


async def test_a_second_opener_is_refused_while_the_first_lives(path: Path) -> None:
    async with opened(path) as first:
        assert await refusal(path) == f"{path}: {SECOND}"
        first.request_done(request(1))
    async with opened(path, runs=False) as second:
        assert await told(second) == ["r1"]
        second.request_done(request(2))
    assert written(path) == ["r1", "r2"]


async def test_an_opener_waits_for_the_first_to_end(path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        async with opened(path, runs=False):
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


async def test_a_program_that_writes_to_the_file_keeps_us_out(path: Path) -> None:
    async with opened(path):
        pass
    with writing(path):
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
    assert await refusal(path) == f"{path}: Not a directory: state cannot be kept there"


async def test_a_folder_where_the_file_should_be_is_refused(path: Path) -> None:
    path.mkdir()
    line = await refusal(path)
    assert line.startswith(f"{path}: ")
    print(line)


async def test_a_folder_that_cannot_be_written_to_is_refused() -> None:
    with unprivileged() as folder:
        path = folder / "cortex.db"
        folder.chmod(0o500)
        assert await refusal(path) == f"{path}: Permission denied: state cannot be kept there"
        assert list(folder.iterdir()) == []


async def test_a_file_that_cannot_be_written_to_is_refused() -> None:
    with unprivileged() as folder:
        path = folder / "cortex.db"
        async with opened(path):
            pass
        path.chmod(0o400)
        line = await refusal(path)
        assert line.startswith(f"{path}: ")
        print(line)
        path.chmod(0o600)
        async with opened(path) as store:
            assert store.status().ok


async def test_a_file_in_a_folder_that_was_made_read_only_is_refused() -> None:
    with unprivileged() as folder:
        path = folder / "cortex.db"
        async with opened(path):
            pass
        folder.chmod(0o500)
        line = await refusal(path)
        print(line)
        folder.chmod(0o700)
        async with opened(path) as store:
            assert store.status().ok


async def test_what_opening_was_refused_for_leaves_no_thread_behind(path: Path) -> None:
    path.mkdir()
    threads = set(os.listdir("/proc/self/task"))
    for _ in range(3):
        await refusal(path)
    path.rmdir()
    async with opened(path) as store:
        assert store.status().ok
    del threads
