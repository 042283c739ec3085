"""Bodies and queries of the admin API, in and out."""

import asyncio
from typing import TypeVar

from aiohttp import ClientPayloadError, web
from pydantic import BaseModel, ValidationError

from cortex.core.errors import RequestError
from cortex.core.jsontext import loads_exactly
from cortex.gateway.call import proceed
from cortex.gateway.services import SERVICES

LIMIT_BYTES = 64 * 1024
ARRIVAL_S = 30.0
"""A body of that size that takes longer is not meant to arrive."""

_B = TypeVar("_B", bound=BaseModel)


def json_of(body: BaseModel, status: int = 200) -> web.Response:
    return web.json_response(text=body.model_dump_json(), status=status)


def query_of(request: web.Request, shape: type[_B]) -> _B:
    """The query string as a body.

    Raises:
        RequestError: It does not fit.
    """
    try:
        return shape.model_validate(dict(request.query))
    except ValidationError as exc:
        raise _invalid(exc) from exc


async def body_of(request: web.Request, shape: type[_B]) -> _B:
    """The JSON body; raises as `query_of` does."""
    fields = await json_object(request)
    try:
        return shape.model_validate(fields)
    except ValidationError as exc:
        raise _invalid(exc) from exc


async def json_object(request: web.Request) -> dict[str, object]:
    """A JSON object of at most `LIMIT_BYTES`."""
    if request.content_length is None or request.content_length > LIMIT_BYTES:
        raise RequestError(f"a JSON body of at most {LIMIT_BYTES // 1024} KiB is wanted")
    limits = request.app[SERVICES].config.limits
    try:
        async with asyncio.timeout(min(ARRIVAL_S, limits.idle_timeout_s)):
            await proceed(request)
            body = await request.read()
    except TimeoutError as exc:
        raise RequestError("the body did not arrive in time", code="request_timeout") from exc
    except web.HTTPRequestEntityTooLarge as exc:  # unpacked
        raise RequestError("the body is too large", code="request_too_large") from exc
    except (ClientPayloadError, web.RequestPayloadError) as exc:
        raise RequestError("the body is broken off or badly encoded") from exc
    try:
        fields = loads_exactly(body)
    except (ValueError, RecursionError) as exc:
        raise RequestError("the body is not valid JSON", code="invalid_json") from exc
    if not isinstance(fields, dict):
        raise RequestError("the body is not a JSON object")
    return fields


def _invalid(exc: ValidationError) -> RequestError:
    first = exc.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return RequestError(f"{where}: {first['msg']}", param=where)
