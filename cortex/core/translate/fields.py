"""Reading a client's JSON with complaints that name the place."""

from collections.abc import Mapping, Sequence
from typing import Any

from cortex.core.errors import RequestError

Json = Mapping[str, Any]


def wrong(where: str, what: str) -> RequestError:
    """A 400 that names the field."""
    return RequestError(f"{where}: {what}", param=where)


def text_of(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise wrong(where, "a string is wanted")
    return value


def object_of(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(where, "an object is wanted")
    return value


def list_of(value: object, where: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise wrong(where, "a list is wanted")
    return value


def required(fields: Json, key: str, where: str) -> Any:
    if key not in fields:
        raise wrong(f"{where}.{key}" if where else key, "field required")
    return fields[key]
