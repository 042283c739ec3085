"""The admin API: what the CLI reads, and the changes it may make."""

import asyncio
import json
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from cortex.adminapi import (
    EventQuery,
    EventRow,
    EventsBody,
    HistoryBody,
    HistoryQuery,
    ModelStatusBody,
    PinBody,
    StatsBody,
)
from cortex.core.errors import RequestError
from cortex.core.ids import ModelId, NodeName
from cortex.gateway.auth import require_admin
from cortex.gateway.fleetview import model_on_node, status_of_fleet
from cortex.gateway.services import SERVICES, Services, caller_of

_Q = TypeVar("_Q", bound=BaseModel)

STREAM_PING_S = 15.0
"""Between two comments on a quiet event stream, so that a dead reader is noticed."""


async def status(request: web.Request) -> web.Response:
    return _json(status_of_fleet(request.app[SERVICES]))


async def history(request: web.Request) -> web.Response:
    rows = await request.app[SERVICES].ledger.history(_query(request, HistoryQuery))
    return _json(HistoryBody(rows=rows))


async def stats(request: web.Request) -> web.Response:
    rows = await request.app[SERVICES].ledger.stats(_query(request, HistoryQuery))
    return _json(StatsBody(rows=rows))


async def events(request: web.Request) -> web.Response:
    rows = await request.app[SERVICES].ledger.events(_query(request, EventQuery))
    return _json(EventsBody(rows=rows))


async def event_stream(request: web.Request) -> web.StreamResponse:
    """GET /cortex/v1/events/stream: every event as it is committed, from `Last-Event-ID` on."""
    svc = request.app[SERVICES]
    subscription = svc.ledger.subscribe()
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
    )
    await response.prepare(request)
    await response.write(b": open\n\n")
    last = request.headers.get("Last-Event-ID", "")
    seen = 0
    if last.isdigit():
        for row in await svc.ledger.events(EventQuery(after_id=int(last), limit=1000)):
            await response.write(_event(row))
            seen = row.id
    while True:
        try:
            async with asyncio.timeout(STREAM_PING_S):
                row = await anext(subscription)
        except TimeoutError:
            await response.write(b": ping\n\n")
            continue
        except StopAsyncIteration:
            return response
        if row.id > seen:
            await response.write(_event(row))


async def pin(request: web.Request) -> web.Response:
    return await _pin(request, pinned=True)


async def unpin(request: web.Request) -> web.Response:
    return await _pin(request, pinned=False)


async def _pin(request: web.Request, *, pinned: bool) -> web.Response:
    """Pin or unpin; committed to the store before it takes effect, so that no restart undoes it."""
    svc = request.app[SERVICES]
    require_admin(request, caller_of(request), svc.keyring)
    body = await _body(request, PinBody)
    model, node = _known(svc, body)
    if pinned:
        await svc.ledger.save_pin(model, node)
        svc.state.pin(model, node)
    else:
        await svc.ledger.delete_pin(model, node)
        svc.state.unpin(model, node)
    snapshot = svc.state.snapshot()
    nodes = [snapshot.nodes[name] for name in snapshot.locations[model]]
    views = [model_on_node(svc, view, view.models[model], snapshot) for view in nodes]
    return _json(ModelStatusBody(models=views))


def _known(svc: Services, body: PinBody) -> tuple[ModelId, NodeName | None]:
    snapshot = svc.state.snapshot()
    model = snapshot.resolve(body.model)
    if model is None or model not in snapshot.locations:
        raise RequestError(f"no node lists {body.model[:200]!r}", code="model_not_found")
    if body.node is not None and body.node not in snapshot.locations[model]:
        raise RequestError(f"{body.node[:80]!r} does not list {model}", param="node")
    return model, NodeName(body.node) if body.node is not None else None


def _event(row: EventRow) -> bytes:
    return f"id: {row.id}\nevent: {row.kind}\ndata: {row.model_dump_json()}\n\n".encode()


def _query(request: web.Request, shape: type[_Q]) -> _Q:
    try:
        return shape.model_validate(dict(request.query))
    except ValidationError as exc:
        raise _invalid(exc) from exc


async def _body(request: web.Request, shape: type[_Q]) -> _Q:
    if request.content_length is None or request.content_length > 65536:
        raise RequestError("a JSON body of at most 64 KiB is wanted")
    try:
        return shape.model_validate(json.loads(await request.read()))
    except ValidationError as exc:
        raise _invalid(exc) from exc
    except (ValueError, RecursionError) as exc:
        raise RequestError("the body is not valid JSON", code="invalid_json") from exc


def _invalid(exc: ValidationError) -> RequestError:
    first = exc.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return RequestError(f"{where}: {first['msg']}", param=where)


def _json(body: BaseModel) -> web.Response:
    return web.json_response(text=body.model_dump_json())
