"""`GET /openapi.json`: every route of the gateway as an OpenAPI 3.1 document.

Bodies of the admin API are the pydantic models that it reads and writes. Of the inference routes only
what cortex itself reads is said: everything else goes to the node as it came, and is the node's to judge.
"""

import json
from collections.abc import Iterable
from functools import cache
from typing import Any

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from cortex import __version__
from cortex.gateway.errors import STATUS
from cortex.gateway.openapi_routes import ROUTES, Answer, Route
from cortex.gateway.openapi_shapes import ALSO, ERRORS, SHAPES, Json

PATH = "/openapi.json"
_REF = "#/components/schemas/{model}"
_KEYS: list[dict[str, list[str]]] = [{"bearer": []}, {"apiKey": []}, {}]


async def openapi(_: web.Request) -> web.Response:
    """GET /openapi.json; the same for everybody, and nothing in it is secret."""
    return web.Response(body=_document(), content_type="application/json")


@cache
def _document() -> bytes:
    return json.dumps(document()).encode()


def document() -> Json:
    """The whole document."""
    models = sorted(
        {*ALSO, *(model for route in ROUTES for model in route.models())},
        key=lambda m: m.__name__,
    )
    _, defined = models_json_schema(
        [(model, mode) for model in models for mode in ("validation", "serialization")],
        ref_template=_REF,
    )
    paths: dict[str, Json] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method] = _operation(route, defined["$defs"])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cortex",
            "version": __version__,
            "description": "One OpenAI and Anthropic API in front of a fleet of mistral.rs nodes.",
        },
        "paths": paths,
        "components": {
            "schemas": defined["$defs"] | SHAPES,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "x-error-codes": [
            {"code": code, "status": status} for code, status in sorted(STATUS.items())
        ],
    }


def _operation(route: Route, defined: Json) -> Json:
    operation: Json = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [route.tag],
        "responses": _responses(route),
    }
    parameters = [*_in_path(route), *_in_query(route, defined), *route.headers]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _schema(route.body)}},
        }
    if not route.is_open:
        operation["security"] = _KEYS
    return operation


def _responses(route: Route) -> Json:
    responses = {str(answer.status): _said(answer) for answer in route.answers}
    statuses = set(route.errors)
    for status in sorted(statuses - {answer.status for answer in route.answers}):
        codes = sorted(code for code, its in STATUS.items() if its == status)
        named = f"One of {', '.join(codes)}." if codes else "Refused."
        responses[str(status)] = {
            "description": named,
            "content": {"application/json": {"schema": _schema(ERRORS[route.dialect])}},
        }
    if "400" in responses:
        # What is no HTTP at all is answered before anybody knows for which route it was meant.
        responses["400"]["content"]["text/plain"] = {"schema": {"type": "string"}}
    return responses


def _said(answer: Answer) -> Json:
    said: Json = {"description": answer.summary}
    if answer.content:
        said["content"] = {kind: {"schema": _schema(its)} for kind, its in answer.content}
    return said


def _schema(shape: type[BaseModel] | str | Json) -> Json:
    if isinstance(shape, dict):
        return shape
    name = shape if isinstance(shape, str) else shape.__name__
    return {"$ref": _REF.format(model=name)}


def _in_path(route: Route) -> Iterable[Json]:
    for part in route.path.split("/"):
        if part.startswith("{"):
            yield {
                "name": part.strip("{}"),
                "in": "path",
                "required": True,
                "schema": {"type": "string", "minLength": 1},
            }


def _in_query(route: Route, defined: Json) -> Iterable[Json]:
    if route.query is None:
        return
    shape: Any = SHAPES[route.query] if isinstance(route.query, str) else None
    if shape is None:
        assert not isinstance(route.query, str)
        shape = defined[route.query.__name__]
    for name, schema in shape["properties"].items():
        yield {
            "name": name,
            "in": "query",
            "required": name in shape.get("required", ()),
            "schema": _without_null(schema),
        }


def _without_null(schema: Json) -> Json:
    """A filter that is not wanted is left out: there is no null in a query."""
    kept = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    return kept[0] if len(kept) == 1 else {k: v for k, v in schema.items() if k != "title"}
