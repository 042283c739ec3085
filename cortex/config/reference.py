"""What each key of `cortex.toml` is, read off the schema; `python -m cortex.config.reference` prints it as Markdown."""

import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cortex.config.schema import Config, models_in

INTRODUCTION = """\
Read from `--config`, `$CORTEX_CONFIG`, `./cortex.toml`, `/etc/cortex/cortex.toml`, the first there is. Every key can be
overridden in the environment: `CORTEX_GATEWAY__LISTEN=127.0.0.1:8000`. A mistake is one line and exit code 78;
`cortex check-config` shows them all. SIGHUP reads the file again. Sizes are MiB, times are seconds."""

_WORDS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table."""

    name: str
    kind: str
    default: str
    """As it would be written in the file; "" when it has none."""
    required: bool
    meaning: str


@dataclass(frozen=True, slots=True)
class Section:
    """One table of the file."""

    title: str
    meaning: str
    keys: tuple[Key, ...]


def sections() -> Iterator[Section]:
    """Every table, in the order of the schema."""
    for title, model in _tables():
        keys = tuple(_key(name, field) for name, field in model.model_fields.items())
        yield Section(title, (model.__doc__ or "").strip(), keys)
    yield Section(
        "[aliases]", '`"name" = "model id"`: a name that clients may use for a model.', ()
    )


def _tables() -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in Config.model_fields.items():
        models = list(models_in(field.annotation))
        if not models:
            continue
        origin = get_origin(field.annotation)
        if origin is dict:
            yield f'[{name}."ID"]', models[0]
        elif origin is tuple:
            yield f"[[{name}]]", models[0]
        else:
            yield f"[{name}]", models[0]
            for inner, inner_field in models[0].model_fields.items():
                for model in models_in(inner_field.annotation):
                    yield f"[[{name}.{inner}]]", model


def _key(name: str, field: FieldInfo) -> Key:
    required = field.default is PydanticUndefined
    return Key(
        name=name,
        kind=_kind(field.annotation),
        default="" if required else _value(field.default),
        required=required,
        meaning=field.description or "",
    )


def _value(value: object) -> str:
    if value is None or isinstance(value, BaseModel):
        return ""
    if isinstance(value, str):
        return f'"{value}"'
    return str(list(value) if isinstance(value, tuple) else value)


def _kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f'"{choice}"' for choice in arguments)
    if origin in {Union, types.UnionType}:
        return " or ".join(_kind(part) for part in arguments if part is not type(None))
    if origin is tuple:
        return f"list of {_kind(arguments[0])}"
    if origin is not None and arguments:
        return _kind(arguments[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "tables"
    return _WORDS.get(annotation, "text")


def markdown() -> str:
    """The whole of docs/configuration.md."""
    made = "This page is made from the schema by `python -m cortex.config.reference`."
    parts = [f"# Configuration\n\n{INTRODUCTION}\n\n{made}\n"]
    for section in sections():
        parts.append(f"\n## `{section.title}`\n\n{section.meaning}\n")
        if section.keys:
            rows = [_row(key) for key in section.keys]
            parts.append(
                "\n".join(["", "| Key | Type | Default | |", "|---|---|---|---|", *rows, ""])
            )
    return "".join(parts)


def _row(key: Key) -> str:
    kind = f"`{key.kind}`" if key.kind.startswith('"') else key.kind
    default = "required" if key.required else f"`{key.default}`" if key.default else "none"
    meaning = key.meaning.replace("|", "\\|")
    return f"| `{key.name}` | {kind} | {default} | {meaning} |"


if __name__ == "__main__":
    sys.stdout.write(markdown())
