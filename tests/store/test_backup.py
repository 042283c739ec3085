"""A copy of the state file: whole, as of one moment, beside a writer, and never half of one."""

import asyncio
import stat
from pathlib import Path

import pytest

from cortex.core.errors import StoreError
from cortex.store.backup import copy
from cortex.store.offline import DatabaseFile
from cortex.store.store import Store
from tests.command import CORTEX
from tests.store.conftest import flushed, opened, request, select


def count(path: Path) -> int:
    [(found,)] = select(path, "SELECT count(*) FROM requests")
    return int(found)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "cortex.db"


async def written(store: Store, number: int) -> None:
    for at in range(number):
        store.request_done(request(at))
    await flushed(store)


async def test_a_copy_has_all_that_is_written_while_more_is(
    source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "copy.db"
    async with opened(source) as store:
        await written(store, 300)
        # It is in the log beside the file, which a plain copy would miss.
        assert source.with_name("cortex.db-wal").stat().st_size > 0
        async with asyncio.TaskGroup() as group:
            copying = group.create_task(
                asyncio.to_thread(copy, source, target, overwrite=False)
            )
            group.create_task(written(store, 200))
        copied = copying.result()
    assert 300 <= copied.requests <= 500
    assert count(target) == copied.requests
    assert copied.size_bytes == target.stat().st_size
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == ["copy.db"]
    with DatabaseFile(target) as file:
        assert file.recall() is not None


async def test_a_gateway_starts_from_a_copy(source: Path, tmp_path: Path) -> None:
    async with opened(source) as store:
        await written(store, 3)
        copy(source, tmp_path / "copy.db", overwrite=False)
    async with opened(tmp_path / "copy.db") as store:
        await written(store, 2)
    assert count(tmp_path / "copy.db") == 5


async def test_what_is_there_is_not_written_over_unasked(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    target.write_text("mine")
    async with opened(source) as store:
        await written(store, 3)
        with pytest.raises(StoreError, match="--force"):
            copy(source, target, overwrite=False)
        assert target.read_text() == "mine"
        assert copy(source, target, overwrite=True).requests == 3
        with pytest.raises(StoreError, match="the state file itself"):
            copy(source, source, overwrite=True)
    assert count(source) == 3


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "there is no such file"), (b"", "not a state file"), (b"x" * 9000, "not a SQLite")],
)
def test_what_is_no_state_file_leaves_nothing(
    source: Path, tmp_path: Path, content: bytes | None, why: str
) -> None:
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(StoreError, match=why):
        copy(source, tmp_path / "copy.db", overwrite=False)
    assert not [path for path in tmp_path.iterdir() if "copy" in path.name]


async def test_a_copy_that_cannot_be_written_says_so_and_leaves_nothing(
    source: Path, tmp_path: Path
) -> None:
    async with opened(source) as store:
        await written(store, 3)
        with pytest.raises(StoreError, match="No such file or directory"):
            copy(source, tmp_path / "away" / "copy.db", overwrite=False)
        # A limit of the child's own stands for a full disk.
        child = await asyncio.create_subprocess_exec(
            "prlimit", "--fsize=20000", *CORTEX, "backup", "--db", source, tmp_path / "copy.db",
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(20):
            _, complaint = await child.communicate()
        assert child.returncode == 1
        assert complaint.decode().startswith(f"cortex: {tmp_path / 'copy.db'}: ")
    assert {path.name for path in tmp_path.iterdir()} <= {
        "cortex.db",
        "cortex.db.lock",
    }
