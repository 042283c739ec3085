"""What is wrong with a file of the configuration, as one line: file, key, wanted, found."""

import difflib
from collections.abc import Mapping

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from cortex.config.schema import Config, Key, models_in

_KINDS = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "dict_type": "a table",
    "model_type": "a table",
    "tuple_type": "an array",
}
"""The kind of value that was expected, by pydantic's mistake, as TOML calls it."""


def line_of(source: str, origins: Mapping[str, str], error: ErrorDetails) -> str:
    """The mistake.

    Args:
        source: The file's name.
        origins: Where dotted keys came from that are not the file's.
        error: What pydantic says.
    """
    *parents, last = error["loc"] or ("",)
    location = [part for part in parents if not _is_union_tag(part)]
    # Whatever an unknown key is called, it is a key.
    if error["type"] == "extra_forbidden" or not _is_union_tag(last):
        location += [last] if error["loc"] else []
    path = _dotted(location)
    origin = origins.get(path)
    where = origin if origin is not None else f"{source}: {path}" if path else source
    kind = error["type"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(
            str(location[-1]), _known_keys(location[:-1]), n=1, cutoff=0.5
        )
        return f"{where}: unknown key" + (f', did you mean "{near[0]}"?' if near else "")
    if kind == "missing":
        return f"{where}: expected, but not there"
    if _may_hold_a_key(location) or _may_hold_a_password(location, error["input"]):
        # The line ends in a journal, and at a reload in the events.
        return f"{where}: expected {_expected(error, location)}"
    return f"{where}: expected {_expected(error, location)}, found {_shown(error['input'])}"


def _may_hold_a_key(location: list[int | str]) -> bool:
    """Somebody may have put a key there, by mistake too; a table shows all that is in it."""
    harmless = Key.model_fields.keys() - {"key", "key_sha256"}
    return location[:1] == ["auth"] and location[-1] not in harmless


def _may_hold_a_password(location: list[int | str], found: object) -> bool:
    return location[-1:] == ["endpoint"] and "@" in str(found)


def _expected(error: ErrorDetails, location: list[int | str]) -> str:
    context = error.get("ctx") or {}
    kind, message = error["type"], error["msg"]
    if kind == "literal_error":
        return str(context["expected"])
    if kind == "tuple_type" and _holds_tables(location):
        return f"[[{_dotted(location)}]] tables"
    if kind in _KINDS:
        return _KINDS[kind]
    for prefix in ("Value error, ", "Input should be "):
        if message.startswith(prefix):
            return message.removeprefix(prefix)
    return message[:1].lower() + message[1:]


def _shown(value: object) -> str:
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_union_tag(part: object) -> bool:
    return isinstance(part, str) and (part.endswith("]") or part in {"float", "none"})


def _dotted(location: list[int | str]) -> str:
    dotted = ""
    for part in location:
        if isinstance(part, int):
            dotted += f"[{part}]"
        elif all(char.isalnum() or char in "_-" for char in part):
            dotted += f".{part}" if dotted else part
        else:
            dotted += f'."{part}"'
    return dotted


def _known_keys(location: list[int | str]) -> list[str]:
    """The valid keys of the table at `location`."""
    return list(_table_at(location).model_fields)


def _holds_tables(location: list[int | str]) -> bool:
    """The array there is one of tables."""
    field = _table_at(location[:-1]).model_fields.get(str(location[-1]))
    return field is not None and any(models_in(field.annotation))


def _table_at(location: list[int | str]) -> type[BaseModel]:
    """Read off the schema."""
    model: type[BaseModel] = Config
    for part in location:
        field = model.model_fields.get(str(part))
        if field is not None:
            model = next(models_in(field.annotation), model)
    return model
