"""The files of models on a node's machine, and what of them is in memory: real files, the real page cache."""

import asyncio
import os
from pathlib import Path

import pytest

from cortex.agent import weights
from cortex.agent.pagecache import cached_bytes
from cortex.agent.weights import MIB, WeightsWatch, files_of, read, usual_folders
from cortex.devnode.scripted import ScriptedNode
from tests.agent.conftest import agent_of
from tests.agent.gateway import TinyGateway
from tests.running import until


def put(path: Path, size: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"w" * size)
    return path


def repository(cache: Path, name: str, revision: str, files: dict[str, int]) -> Path:
    """As Hugging Face's library lays it out: a revision has links to blobs."""
    root = cache / f"models--{name.replace('/', '--')}"
    snapshot = root / "snapshots" / revision
    snapshot.mkdir(parents=True)
    for at, (file, size) in enumerate(files.items()):
        blob = put(root / "blobs" / f"{revision}-{at}", size)
        (snapshot / file).symlink_to(os.path.relpath(blob, snapshot))
    return root


def names(model: str, *folders: Path) -> list[str]:
    return [file.name for file in files_of(model, folders)]


def test_a_repository_is_its_main_revision_else_the_newest(tmp_path: Path):
    old = {
        "model-00001-of-00002.safetensors": 5,
        "model-00002-of-00002.safetensors": 6,
        "config.json": 1,
    }
    root = repository(tmp_path, "acme/large", "old", old)
    repository(tmp_path, "acme/large", "new", {"model.safetensors": 9})
    os.utime(root / "snapshots" / "old", (1, 1))
    assert names("acme/large", tmp_path) == ["model.safetensors"]
    put(root / "refs" / "main").write_text("old")
    assert names("acme/large", tmp_path) == sorted(old)[1:]
    assert names("acme/large", tmp_path.parent) == []
    # Its cache may be given as the folder above, too.
    (tmp_path / "hub").mkdir()
    root.rename(tmp_path / "hub" / root.name)
    assert names("acme/large", tmp_path) == sorted(old)[1:]


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (["model.safetensors", "consolidated.safetensors"], ["model.safetensors"]),
        (["consolidated.safetensors"], ["consolidated.safetensors"]),
        (["model.safetensors", "adapter_model.safetensors"], ["model.safetensors"]),
        (["model.safetensors", "model.gguf"], ["model.safetensors"]),
        (["m-Q4-00001-of-00002.gguf", "m-Q4-00002-of-00002.gguf"], None),
        (["m-Q4.gguf", "m-Q8.gguf"], []),
        (["pytorch_model.bin"], None),
        (["README.md", "tokenizer.json"], []),
    ],
)
def test_of_several_kinds_the_one_that_is_loaded(
    tmp_path: Path, files: list[str], taken: list[str] | None
):
    for file in files:
        put(tmp_path / "mine" / file)
    expected = files if taken is None else taken
    assert names("mine", tmp_path) == expected
    assert names(str(tmp_path / "mine")) == expected


def test_an_id_may_be_a_file_and_is_never_a_way_out(tmp_path: Path):
    file = put(tmp_path / "in" / "m.gguf")
    put(tmp_path / "secret" / "m.gguf")
    assert names(str(file)) == ["m.gguf"]
    for odd in (
        "/a\x00b",
        "/",
        "../secret",
        "a/../../secret",
        "a/b/c",
        "",
        "a\x00b",
        "x" * 5000,
        "~/m",
    ):
        assert files_of(odd, [tmp_path / "in"]) == []


def test_where_files_usually_are():
    assert usual_folders({"HF_HUB_CACHE": "/c", "HF_HOME": "/h"}) == (Path("/c"),)
    assert usual_folders({"HF_HOME": "/h", "HOME": "/me"}) == (Path("/h/hub"),)
    assert usual_folders({"HOME": "/me"}) == (Path("/me/.cache/huggingface/hub"),)
    assert usual_folders({}) == ()


def test_what_memory_holds_of_a_file(tmp_path: Path):
    size = 40 * MIB + 100
    file = put(tmp_path / "w", size)
    assert cached_bytes(file) == size
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if cached_bytes(file) == size:
            pytest.skip("this file system is memory itself: nothing is dropped from it")
        assert cached_bytes(file) == 0
        os.pread(opened.fileno(), 10 * MIB, 20 * MIB)
    held = cached_bytes(file)
    assert held is not None
    assert 10 * MIB <= held < 30 * MIB
    assert cached_bytes(put(tmp_path / "empty", 0)) == 0
    assert cached_bytes(tmp_path / "none") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_of_files_of_others_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The system would say that all of it is there."""
    put(tmp_path / "w", 100).chmod(0o644)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    os.seteuid(65_534)
    try:
        assert cached_bytes(Path("w")) is None
    finally:
        os.seteuid(0)
    assert cached_bytes(Path("w")) == 100


def test_readings_are_of_what_is_found(tmp_path: Path):
    put(tmp_path / "a" / "m.gguf", MIB + 1)
    put(tmp_path / "b" / "m.gguf", 0)
    (found,) = read(["a", "b", "c"], [tmp_path])
    assert (found.model, found.size_mib, found.cached_mib) == ("a", 2, 1)


async def test_it_is_read_beside_the_loop_and_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    put(tmp_path / "a" / "m.gguf", MIB)
    watch = WeightsWatch([tmp_path])
    assert watch.latest([]) == []
    assert watch.latest(["a"]) == []
    await until(lambda: bool(watch.latest(["a"])), "a reading")
    put(tmp_path / "b" / "m.gguf", MIB)
    for _ in range(3):
        assert [found.model for found in watch.latest(["a", "b"])] == ["a"]
        await asyncio.sleep(0)
    monkeypatch.setattr(weights, "EVERY_S", 0.0)
    monkeypatch.setattr(weights, "PAUSE_SHARE", 0.0)
    again = WeightsWatch([tmp_path])
    await until(lambda: len(again.latest(["a", "b"])) == 2, "both")


async def test_a_report_has_them(gateway: TinyGateway, tmp_path: Path):
    put(tmp_path / "files" / "m1" / "m.gguf", 3 * MIB)
    async with (
        ScriptedNode(["m1", "m2"]) as node,
        agent_of(
            gateway, tmp_path, local=node.url, weights=(tmp_path / "files",), interval_s=0.1
        ),
    ):
        await until(lambda: any(r.weights for r in gateway.reports), "a report with weights")
        (found,) = gateway.reports[-1].weights
        assert (found.model, found.size_mib) == ("m1", 3)
        assert gateway.reports[-1].node_ok
