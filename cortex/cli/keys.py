"""`cortex keys`: who may ask the gateway, in a file of its own that has no key in it."""

import argparse
import hashlib
import json
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from cortex.cli.configured import configured
from cortex.cli.exit_codes import Exit
from cortex.cli.failures import CliError, ConfigFileError, UsageError
from cortex.cli.keys_options import LIMITS
from cortex.cli.tables import Column, Row, Screen
from cortex.cli.text import ABSENT, safe
from cortex.config import keyfile
from cortex.config.addresses import plain_name
from cortex.config.load import SYSTEM_FILE
from cortex.config.schema import Config, Key
from cortex.core.errors import ConfigError

PREFIX = "cortex_"
"""Lets a person, or a scanner of what is published, see what it is."""
KEY_BYTES = 32
_OF_ADD = ("role", "models", "to_stdout", *LIMITS)
COLUMNS = (
    Column("name", cut="end"),
    Column("role"),
    Column("models", elastic=True),
    Column("limits", elastic=True),
    Column("in", cut="start"),
)


def run(args: argparse.Namespace) -> int:
    """Do one of the three."""
    action, name = args.action, args.name
    if action != "add" and any(getattr(args, option) for option in _OF_ADD):
        raise UsageError(f"keys {action}: only keys add makes a key, and takes these options")
    if (action == "list") is (name is not None):
        raise UsageError(f"keys {action}: expected {'no NAME' if name else 'NAME'}")
    if action == "list":
        return _list(args)
    try:
        plain_name(name)
    except ValueError as exc:
        raise UsageError(f"keys: {name!r}: {exc}") from exc
    return _revoke(args) if action == "revoke" else _add(args)


def _add(args: argparse.Namespace) -> int:
    """Print the key, and say what comes next."""
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    text = table(key, args)
    if args.to_stdout:
        print(f"{key}\n\n{text}", end="")
        return Exit.OK
    source, config = configured(args.config)
    file = keyfile.path_of(source, config)
    try:
        with keyfile.locked(file):
            # As it is now: another command may have been at it meanwhile.
            _, config = configured(args.config)
            if args.name in {other.name for other in config.auth.keys}:
                raise CliError(f"{args.name} has a key already: cortex keys revoke {args.name}")
            before = file.read_text(encoding="utf-8") if file.exists() else ""
            keyfile.replace(file, keyfile.with_table(before, text), like=source)
    except OSError as exc:
        raise _not_written(file, exc) from exc
    if args.json:
        print(json.dumps({"name": args.name, "key": key, "file": str(file)}, indent=2))
    else:
        print(key)
    _tell(_next(file, source, config, role=args.role or "client"))
    return Exit.OK


def table(key: str, args: argparse.Namespace) -> str:
    """The table of a key in a file of the configuration."""
    lines = [
        "[[auth.keys]]",
        f'name = "{args.name}"',
        f'key_sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"',
    ]
    if args.role == "admin":
        lines.append('role = "admin"')
    if args.models:
        # A JSON string of ASCII is one of TOML.
        lines.append(f"models = [{', '.join(map(json.dumps, args.models))}]")
    lines += [f"{name} = {getattr(args, name)}" for name in LIMITS if getattr(args, name)]
    return "\n".join(lines) + "\n"


def _next(file: Path, source: Path, config: Config, *, role: str) -> list[str]:
    """What is to be done with a key that was made, and what it changes."""
    said = [f"this is shown only now; its SHA-256 is in {file}", _reload(source)]
    if not config.auth.keys and config.auth.file is None:
        said.append("so far everybody may ask: after the reload nobody may without a key")
    if role != "admin" and not any(key.role == "admin" for key in config.auth.keys):
        said.append("no key is an admin's: `cortex keys add NAME --role admin` makes one")
    return said


def _revoke(args: argparse.Namespace) -> int:
    source, config = configured(args.config)
    file = keyfile.path_of(source, config)
    if args.name not in {key.name for key in config.auth.keys}:
        raise CliError(f"{args.name} has no key: cortex keys list")
    try:
        with keyfile.locked(file):
            left = keyfile.without(file.read_text(encoding="utf-8"), file, args.name)
            keyfile.replace(file, left, like=source)
    except (KeyError, FileNotFoundError) as exc:
        raise CliError(f"the key of {args.name} is in {source}: take it out there") from exc
    except OSError as exc:
        raise _not_written(file, exc) from exc
    except ConfigError as exc:
        raise ConfigFileError("\n".join(exc.lines)) from exc
    if args.json:
        print(json.dumps({"name": args.name, "file": str(file)}, indent=2))
    else:
        print(f"{args.name} is out of {file}")
    said = [f"{_reload(source)}; until then the key is good"]
    if len(config.auth.keys) == 1:
        said.append(f"that was the last one: nobody gets in while {file} is there")
    _tell(said)
    return Exit.OK


def _list(args: argparse.Namespace) -> int:
    source, config = configured(args.config)
    auth = config.auth
    file = keyfile.path_of(source, config)
    text = file.read_text(encoding="utf-8") if auth.file is not None and file.exists() else ""
    stored = {key.name for key in keyfile.read(text, file)}
    found = [(key, file if key.name in stored else source) for key in auth.keys]
    if args.json:
        print(json.dumps({"keys": [_facts(key, place) for key, place in found]}, indent=2))
        return Exit.OK
    screen = Screen()
    screen.show(screen.table(COLUMNS, [_row(key, place) for key, place in found]))
    if not found:
        closed = "nobody gets in" if auth.file else "everybody who reaches the gateway may ask"
        _tell([f"no keys: {closed}"])
    return Exit.OK


def _row(key: Key, place: Path) -> Row:
    limits = [f"{name} {getattr(key, name)}" for name in LIMITS if getattr(key, name)]
    models = ", ".join(key.models) if key.models is not None else "all"
    return [key.name, key.role, safe(models), ", ".join(limits) or ABSENT, str(place)]


def _facts(key: Key, place: Path) -> dict[str, object]:
    limits = {name: getattr(key, name) for name in LIMITS}
    models = None if key.models is None else list(key.models)
    return {"name": key.name, "role": key.role, "models": models, **limits, "file": str(place)}


def _reload(source: Path) -> str:
    how = "`systemctl reload cortex`" if source == SYSTEM_FILE else "SIGHUP"
    return f"{how} has the gateway read it"


def _not_written(file: Path, exc: OSError) -> CliError:
    hint = ": sudo cortex keys" if isinstance(exc, PermissionError) else ""
    return CliError(f"{file} cannot be written: {exc.strerror}{hint}")


def _tell(lines: Sequence[str]) -> None:
    """On stderr: a script that reads the key gets the key and nothing else."""
    for line in lines:
        print(line, file=sys.stderr)
