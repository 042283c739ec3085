"""Finds, reads and checks `cortex.toml`; every mistake becomes one line: file, key, wanted, found."""

import difflib
import grp
import importlib.util
import os
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from cortex.config import keyfile
from cortex.config.certificates import read_pair
from cortex.config.keys import digest_of, secret_in
from cortex.config.mistakes import line_of
from cortex.config.schema import Config, Key
from cortex.core.errors import ConfigError

ENV_PREFIX = "CORTEX_"
SYSTEM_FILE = Path("/etc/cortex/cortex.toml")
"""The service's."""
SEARCH = (Path("cortex.toml"), SYSTEM_FILE)


def find(path: Path | None, environ: Mapping[str, str]) -> Path:
    """The file to read: `path`, $CORTEX_CONFIG, ./cortex.toml, /etc/cortex/cortex.toml."""
    if path is not None:
        return path
    if named := environ.get("CORTEX_CONFIG"):
        return Path(named)
    for candidate in SEARCH:
        if _may_be_there(candidate):
            return candidate
    looked = ", ".join(str(candidate) for candidate in SEARCH)
    raise ConfigError([f"no configuration: looked for --config, $CORTEX_CONFIG, {looked}"])


def _may_be_there(candidate: Path) -> bool:
    """Whether reading it would tell more than that there is none."""
    try:
        return candidate.is_file()
    except OSError:
        return True  # in a directory that this user may not look into


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read and check the configuration, environment overrides applied.

    Raises:
        ConfigError: With one line for every mistake; nothing was started.
    """
    source = find(path, environ)
    try:
        raw = tomllib.loads(_text_of(source))
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError([f"{source}: not valid TOML: {exc}"]) from exc
    origins = _override(raw, environ)
    try:
        config = Config.model_validate(raw)
    except ValidationError as exc:
        lines = [line_of(str(source), origins, error) for error in exc.errors()]
        raise ConfigError(list(dict.fromkeys(lines))) from exc
    config, places = _with_key_file(config, source)
    problems = [f"{source}: {problem}" for problem in _contradictions(config)]
    problems += _key_clashes(zip(places, config.auth.keys, strict=True))
    if problems:
        raise ConfigError(problems)
    return config


def _text_of(source: Path) -> str:
    """What a file says that nobody else may write.

    Raises:
        ConfigError: It cannot be read, or others may write it.
    """
    try:
        with source.open(encoding="utf-8") as file:
            writers = _other_writers(os.fstat(file.fileno()))
            text = file.read()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8 text"
        raise ConfigError([f"{source}: cannot be read: {reason}"]) from exc
    if writers:
        # Whoever may write it decides where prompts and the nodes' keys are sent, or who may ask.
        raise ConfigError([f"{source}: {writers} may write it: chmod go-w {source}"])
    return text


def _with_key_file(config: Config, source: Path) -> tuple[Config, list[str]]:
    """The configuration with the keys of its file, and where each of all keys stands."""
    auth = config.auth
    places = [f"{source}: auth.keys[{at}]" for at in range(len(auth.keys))]
    file = keyfile.path_of(source, config)
    there = _may_be_there(file)
    if auth.file is None and not there:
        return config, places
    # One that is named and not there yet lets nobody in.
    further = keyfile.read(_text_of(file), file) if there else ()
    places += [f"{file}: auth.keys[{at}]" for at in range(len(further))]
    auth = auth.model_copy(update={"file": file, "keys": (*auth.keys, *further)})
    return config.model_copy(update={"auth": auth}), places


def state_path(config: Config, environ: Mapping[str, str]) -> Path:
    """The SQLite file: configured, else under systemd's state directory, else under the user's."""
    if config.state.path is not None:
        return config.state.path.expanduser()
    if directory := environ.get("STATE_DIRECTORY"):
        return Path(directory.split(":")[0]) / "cortex.db"
    state_home = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state_home) / "cortex" / "cortex.db"


def _other_writers(status: os.stat_result) -> str | None:
    """Who but its owner may write a file; None for what is no file, such as a pipe."""
    if not stat.S_ISREG(status.st_mode):
        return None
    if status.st_mode & stat.S_IWOTH:
        return "everybody"
    if not status.st_mode & stat.S_IWGRP:
        return None
    try:
        return f"the group {grp.getgrgid(status.st_gid).gr_name}"
    except KeyError:
        return f"the group {status.st_gid}"


def _override(raw: dict[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """Apply `CORTEX_SECTION__KEY=value` to `raw`; returns which dotted keys came from where."""
    origins: dict[str, str] = {}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENV_PREFIX) or "__" not in variable:
            continue
        *parents, key = variable.removeprefix(ENV_PREFIX).lower().split("__")
        table: Any = raw
        for parent in parents:
            table = table.setdefault(parent, {}) if isinstance(table, dict) else None
        if not isinstance(table, dict):
            raise ConfigError(
                [f"environment {variable}: there is no such key in the configuration"]
            )
        table[key] = _scalar(text)
        origins[".".join([*parents, key])] = f"environment {variable}"
    return origins


def _scalar(text: str) -> Any:
    """A TOML value where `text` is one (numbers, booleans, arrays), else the string itself."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _contradictions(config: Config) -> Iterator[str]:
    """What each key alone cannot tell."""
    yield from _node_clashes(config)
    yield from _unknown_nodes(config)
    yield from _alias_clashes(config)
    yield from _unusable_secret("agent.token_file", config.agent.token_file)
    yield from _unusable_tls(config)
    yield from _no_tracing(config)
    if config.gateway.metrics_listen == config.gateway.listen:
        yield f'gateway.metrics_listen: expected another address than listen, found "{config.gateway.listen}"'


def _node_clashes(config: Config) -> Iterator[str]:
    if not config.nodes:
        yield "nodes: expected at least one [[nodes]] table, found none"
    seen: dict[str, int] = {}
    served: dict[str, int] = {}
    for index, node in enumerate(config.nodes):
        if node.name in seen:
            yield f'nodes[{index}].name: expected a name of its own, found "{node.name}" of nodes[{seen[node.name]}]'
        seen.setdefault(node.name, index)
        at = served.setdefault(_served_at(node.endpoint), index)
        if at != index:
            yield (
                f'nodes[{index}].endpoint: expected one that no other node has, found "{node.endpoint}"'
                f" of nodes[{at}]"
            )
        yield from _unusable_secret(f"nodes[{index}].api_key_file", node.api_key_file)


def _served_at(endpoint: str) -> str:
    """The endpoint with its port, that of the scheme too."""
    parts = urlsplit(endpoint)
    if parts.scheme == "unix":
        return endpoint
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{parts.hostname}:{port}{parts.path}"


def _unknown_nodes(config: Config) -> Iterator[str]:
    names = [node.name for node in config.nodes]
    for model_id, model in config.models.items():
        for wanted in model.nodes or ():
            if wanted not in names:
                near = difflib.get_close_matches(wanted, names, n=1)
                hint = f', did you mean "{near[0]}"?' if near else ""
                yield f'models."{model_id}".nodes: expected the name of a node, found "{wanted}"{hint}'


def _key_clashes(keys: Iterable[tuple[str, Key]]) -> Iterator[str]:
    """Of keys, each with the place where it stands."""
    names: set[str] = set()
    owners: dict[bytes, str] = {}
    for place, key in keys:
        if key.name in names:
            yield f'{place}.name: expected a name of its own, found "{key.name}" twice'
        names.add(key.name)
        form, shown = ("key_file", f'"{key.key_file}": ') if key.key_file else ("key", "")
        try:
            owner = owners.setdefault(digest_of(key), key.name)
        except ValueError as exc:
            yield f"{place}.{form}: expected a key, found {shown}{exc}"
            continue
        if owner != key.name:
            yield f"{place}: expected a key of its own, found that of {owner}"


def _unusable_tls(config: Config) -> Iterator[str]:
    try:
        read_pair(config.tls)
    except ConfigError as exc:
        yield from exc.lines


def _no_tracing(config: Config) -> Iterator[str]:
    if config.tracing.endpoint is not None and not _is_there(
        "opentelemetry.exporter.otlp.proto.http"
    ):
        yield (
            "tracing.endpoint: expected OpenTelemetry's SDK to be installed (the extra `otel`, or the"
            " package python3-opentelemetry-exporter-otlp-proto-http), which it is not"
        )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _alias_clashes(config: Config) -> Iterator[str]:
    owner: dict[str, str] = dict(config.aliases)
    for model_id, model in config.models.items():
        for alias in model.aliases:
            if owner.setdefault(alias, model_id) != model_id:
                yield f'models."{model_id}".aliases: expected a free alias, found "{alias}" of {owner[alias]}'
    for alias, target in owner.items():
        if target in owner:
            yield f'aliases."{alias}": expected a model id, found the alias "{target}"'


def _unusable_secret(key: str, path: Path | None) -> Iterator[str]:
    if path is None:
        return
    try:
        secret_in(path)
    except ValueError as exc:
        yield f'{key}: expected a file with one secret, found "{path}": {exc}'
