"""The configuration reference in Markdown, read off the schema: `python -m cortex.config.reference`."""

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cortex.config.schema import Config, models_in

INTRO = """# Configuration

Read from `--config`, `$CORTEX_CONFIG`, `./cortex.toml`, `/etc/cortex/cortex.toml`, the first there is. Every key can be
overridden in the environment: `CORTEX_GATEWAY__LISTEN=127.0.0.1:8000`. A mistake is one line and exit code 78;
`cortex check-config` shows them all. SIGHUP reads the file again. Sizes are MiB, times are seconds.

This page is made from the schema by `python -m cortex.config.reference`.
"""

_WORDS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
}


def render() -> str:
    """The whole page."""
    return INTRO + "".join(_table(title, model) for title, model in _sections())


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
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
    yield "[aliases]", BaseModel


def _table(title: str, model: type[BaseModel]) -> str:
    if model is BaseModel:
        return f'\n## `{title}`\n\n`"name" = "model id"`: a name that clients may use for a model.\n'
    lines = [f"\n## `{title}`\n", f"{(model.__doc__ or '').strip()}\n"]
    lines += ["| Key | Type | Default | |", "|---|---|---|---|"]
    lines += [_row(name, field) for name, field in model.model_fields.items()]
    return "\n".join(lines) + "\n"


def _row(name: str, field: FieldInfo) -> str:
    default = "required" if field.default is PydanticUndefined else _value(field.default)
    kind = _kind(field.annotation).replace("|", "\\|")
    return f"| `{name}` | {kind} | {default} | {field.description or ''} |"


def _value(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, BaseModel):
        return ""
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def _kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f'`"{choice}"`' for choice in arguments)
    if origin in {Union, types.UnionType}:
        return " or ".join(_kind(part) for part in arguments if part is not type(None))
    if origin is tuple:
        return f"list of {_kind(arguments[0])}"
    if origin is not None and arguments:
        return _kind(arguments[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "tables"
    return _WORDS.get(annotation, "text")


if __name__ == "__main__":
    sys.stdout.write(render())
