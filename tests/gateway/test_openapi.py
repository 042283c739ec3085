"""The published document: every route and nothing else, and valid in itself."""

import re
from collections.abc import Iterator
from typing import Any

from cortex.gateway.app import make_app
from cortex.gateway.errors import STATUS
from cortex.gateway.openapi import document
from tests.running import Running


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


async def test_every_route_is_published_and_nothing_else(shared: Running):
    """What the router serves is what the document tells of."""
    app = make_app(shared.services)
    served = {
        (route.method.lower(), re.sub(r"{(\w+):[^}]*}", r"{\1}", route.resource.canonical))
        for route in app.router.routes()
        if route.method != "HEAD" and route.resource is not None
    }
    told = (await shared.get("/openapi.json")).json
    published = {(method, path) for path, its in told["paths"].items() for method in its}
    assert published == served


async def test_it_is_served_to_everybody(shared: Running):
    """As JSON, and the same each time."""
    first, second = await shared.get("/openapi.json"), await shared.get("/openapi.json")
    assert first.status == 200
    assert first.headers["Content-Type"].startswith("application/json")
    assert first.body == second.body


def test_every_reference_leads_somewhere():
    """And operations have names of their own."""
    told = document()
    known = {f"#/components/schemas/{name}" for name in told["components"]["schemas"]}
    assert set(references(told)) <= known
    names = [
        operation["operationId"]
        for path in told["paths"].values()
        for operation in path.values()
    ]
    assert len(set(names)) == len(names)


def test_every_error_code_is_published():
    """With its status."""
    told = {entry["code"]: entry["status"] for entry in document()["x-error-codes"]}
    assert told == STATUS
