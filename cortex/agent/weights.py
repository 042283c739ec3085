"""Finds the files with a model's weights on this machine, and how much of them its memory still holds; never raises."""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cortex.agent.pagecache import cached_bytes
from cortex.agent.traits import traits_of
from cortex.agentapi import WeightsReading

MIB = 1024 * 1024
EVERY_S, PAUSE_SHARE = 30.0, 20.0
"""Memory forgets a file slowly, and to ask for every page of hundreds of gigabytes takes a while: no more than a
twentieth of the time goes into it."""
MOST_MODELS = 1000
_REPOSITORY = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


def usual_folders(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where Hugging Face's library keeps what it fetched."""
    if hub := environ.get("HF_HUB_CACHE"):
        return (Path(hub),)
    if home := environ.get("HF_HOME"):
        return (Path(home) / "hub",)
    if cache := environ.get("XDG_CACHE_HOME"):
        return (Path(cache) / "huggingface" / "hub",)
    home = environ.get("HOME")
    return (Path(home) / ".cache" / "huggingface" / "hub",) if home else ()


def files_of(model: str, folders: Iterable[Path]) -> list[Path]:
    """The files that a load of it reads; empty where they are not found, or several would do.

    An id is a folder or a file of this machine, or a repository in a Hugging Face cache
    (`models--OWNER--NAME/snapshots/REVISION`), else a folder of that name in one of `folders`.
    """
    for folder in _folders_of(model, folders):
        try:
            found = [folder] if folder.is_file() else _weights_among(folder)
        except (OSError, ValueError):
            continue  # ValueError: no name that a file can have
        if found:
            return found
    return []


def _folders_of(model: str, folders: Iterable[Path]) -> Iterable[Path]:
    if model.startswith("/"):
        yield Path(model)
        return
    if _REPOSITORY.fullmatch(model) is None or ".." in model:
        return
    for folder in folders:
        for root in (folder, folder / "hub"):
            if (
                snapshot := _snapshot(root / f"models--{model.replace('/', '--')}")
            ) is not None:
                yield snapshot
        yield folder / model


def _snapshot(repository: Path) -> Path | None:
    """The revision that `main` names, else the newest one."""
    snapshots = repository / "snapshots"
    try:
        revision = (repository / "refs" / "main").read_text("ascii").strip()
        if revision and "/" not in revision and (snapshots / revision).is_dir():
            return snapshots / revision
    except (OSError, ValueError):
        pass
    try:
        return max(snapshots.iterdir(), key=lambda path: path.stat().st_mtime, default=None)
    except OSError:
        return None


def _weights_among(folder: Path) -> list[Path]:
    """Those of the kind that is loaded where there are several kinds."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    named = {suffix: [f for f in files if f.suffix == suffix] for suffix in _KINDS}
    for suffix in _KINDS:
        found = named[suffix]
        if suffix == ".safetensors":
            # Some repositories have the same weights once more, in one file for another program.
            found = [f for f in found if not f.name.startswith("consolidated")] or found
            found = [f for f in found if not f.name.startswith("adapter")]
        elif len({_SHARD.sub("", f.stem) for f in found}) > 1:
            # Several quantizations; the node alone knows which it loads.
            return []
        if found:
            return found
    return []


_KINDS = (".safetensors", ".uqff", ".gguf", ".bin", ".pth")


def read(models: Sequence[str], folders: Sequence[Path]) -> list[WeightsReading]:
    """Of each model whose files are found."""
    readings = []
    for model in models[:MOST_MODELS]:
        try:
            files = files_of(model, folders)
            size = sum(file.stat().st_size for file in files)
            if not size:
                continue
            held = [cached_bytes(file) for file in files]
            traits = traits_of(files)
        except (OSError, ValueError):
            continue
        known = [part for part in held if part is not None]
        readings.append(
            WeightsReading(
                model=model,
                size_mib=-(-size // MIB),
                cached_mib=sum(known) // MIB if len(known) == len(held) else None,
                context_tokens=traits.context_tokens,
                kinds=None if traits.kinds is None else sorted(traits.kinds),
                quantization=traits.quantization,
            )
        )
    return readings


class WeightsWatch:
    """Reads off the loop, now and then; a disk that hangs costs one thread and no report."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._under_way: asyncio.Future[list[WeightsReading]] | None = None
        self._begun_s = self._next_s = float("-inf")
        self._latest: list[WeightsReading] = []

    def latest(self, models: Sequence[str], more: Sequence[Path] = ()) -> list[WeightsReading]:
        """The newest readings there are; begins another where they are old.

        Args:
            models: As the node lists them.
            more: Where the node says that it keeps files.
        """
        loop = asyncio.get_running_loop()
        reading = self._under_way
        if reading is not None and reading.done():
            self._latest, self._under_way = reading.result(), None
            took_s = loop.time() - self._begun_s
            self._next_s = self._begun_s + max(EVERY_S, PAUSE_SHARE * took_s)
        if self._under_way is None and models and loop.time() >= self._next_s:
            self._begun_s = loop.time()
            folders = (*self._folders, *more)
            self._under_way = loop.run_in_executor(None, read, tuple(models), folders)
        return self._latest
