"""The file that `cortex keys` keeps: tables of keys, as the configuration has them.

A file that is there closes the gateway even when it is empty: whoever takes the last key back
means nobody to get in, and not everybody.
"""

import contextlib
import fcntl
import os
import re
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from cortex.config.mistakes import line_of
from cortex.config.schema import Auth, Config, Key, Section
from cortex.core.errors import ConfigError

NAME = "keys.toml"
"""Beside the configuration."""
HEADER = (
    "# API keys, kept by `cortex keys`: their SHA-256 only. Read at a start and at a reload.\n"
)
_TABLE = re.compile(
    r"^[ \t]*\[\[[ \t]*auth[ \t]*\.[ \t]*keys[ \t]*\]\].*\n?(?:[ \t]*[^\s#\[].*\n?)*",
    re.MULTILINE,
)
"""A table with its lines, up to what may belong to the next: a blank, a comment, another table."""


class _File(Section):
    auth: Auth = Auth()


def path_of(source: Path, config: Config) -> Path:
    """Where it is, or would be."""
    named = config.auth.file
    return source.with_name(NAME) if named is None else source.parent / named


def read(text: str, path: Path) -> tuple[Key, ...]:
    """The keys of a file with this text.

    Raises:
        ConfigError: With one line for every mistake.
    """
    try:
        auth = _File.model_validate(tomllib.loads(text)).auth
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError([f"{path}: not valid TOML: {exc}"]) from exc
    except ValidationError as exc:
        lines = [line_of(str(path), {}, error) for error in exc.errors()]
        raise ConfigError(list(dict.fromkeys(lines))) from exc
    if auth.file is not None:
        raise ConfigError([f"{path}: auth.file: not in the file that it names"])
    return auth.keys


def with_table(text: str, table: str) -> str:
    """The file's text with one more key."""
    return f"{text or HEADER}\n{table}"


def without(text: str, path: Path, name: str) -> str:
    """The file's text without the key of this name; whatever else is in it stays.

    Raises:
        KeyError: It has none of this name.
        ConfigError: It is not written as `cortex keys` writes it.
    """
    names = [key.name for key in read(text, path)]
    at = names.index(name) if name in names else None
    if at is None:
        raise KeyError(name)
    tables = list(_TABLE.finditer(text))
    if len(tables) == len(names):
        before, behind = text[: tables[at].start()], text[tables[at].end() :]
        left = f"{before.rstrip()}\n\n{behind.lstrip()}".strip() + "\n"
        # A comment among the lines, or text that only looks like a table, would have misled it.
        with contextlib.suppress(ConfigError):
            if [key.name for key in read(left, path)] == names[:at] + names[at + 1 :]:
                return left
    raise ConfigError(
        [f"{path}: {name} is not in a table [[auth.keys]] of its own: edit it by hand"]
    )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other `cortex keys` from the file meanwhile; raises `OSError`."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def replace(path: Path, text: str, like: Path) -> None:
    """Write the file in one step, so that nobody ever reads half of it; raises `OSError`.

    Args:
        path: Of the file, which need not be there yet.
        text: All of it.
        like: Whose owner it gets, and at most whose mode: who reads the one has to read the other.
    """
    model = (path if path.exists() else like).stat()
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            if os.geteuid() == 0:
                os.fchown(file.fileno(), model.st_uid, model.st_gid)
            os.fchmod(file.fileno(), model.st_mode & 0o644)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise
