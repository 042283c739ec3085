"""The admin API's readings: status, history, events."""

import asyncio
import re
from collections.abc import Sequence

from aiohttp import web

from cortex.adminapi import (
    EventQuery,
    EventRow,
    HistoryQuery,
)
from cortex.gateway.fleetview import status_of_fleet
from cortex.gateway.jsonio import json_of, query_of
from cortex.gateway.ports import Follower
from cortex.gateway.services import SERVICES

STALL_S = 30.0
"""A reader that takes nothing for so long is not one."""
STREAM_PING_S = 15.0
"""Between two comments on a quiet event stream, so that a dead reader is noticed."""


_EVENT_ID = re.compile(r"[0-9]{1,18}")


async def status(request: web.Request) -> web.Response:
    return json_of(status_of_fleet(request.app[SERVICES]))


async def history(request: web.Request) -> web.Response:
    return json_of(await request.app[SERVICES].ledger.history(query_of(request, HistoryQuery)))


async def stats(request: web.Request) -> web.Response:
    return json_of(await request.app[SERVICES].ledger.stats(query_of(request, HistoryQuery)))


async def events(request: web.Request) -> web.Response:
    return json_of(await request.app[SERVICES].ledger.events(query_of(request, EventQuery)))


async def event_stream(request: web.Request) -> web.StreamResponse:
    """GET /cortex/v1/events/stream: every event as it is committed, from `Last-Event-ID` on."""
    svc = request.app[SERVICES]
    subscription = svc.ledger.subscribe()
    last = request.headers.get("Last-Event-ID", "")
    missed: list[EventRow] = []
    if _EVENT_ID.fullmatch(last):
        missed = (await svc.ledger.events(EventQuery(after_id=int(last), limit=1000))).rows
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
    )
    await response.prepare(request)
    try:
        await _tell(response, subscription, missed)
    except TimeoutError:
        # The reader does not read.
        if request.transport is not None:
            request.transport.abort()
    return response


async def _tell(
    response: web.StreamResponse, subscription: Follower, missed: Sequence[EventRow]
) -> None:
    """Write until the store closes, or the reader leaves or stalls (`TimeoutError`)."""
    await _write(response, b": open\n\n")
    seen = 0
    for row in missed:
        await _write(response, _event(row))
        seen = row.id
    while True:
        try:
            async with asyncio.timeout(STREAM_PING_S):
                row = await anext(subscription)
        except TimeoutError:
            await _write(response, b": ping\n\n")
            continue
        except StopAsyncIteration:
            return
        if row.id > seen:
            await _write(response, _event(row))


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(STALL_S):
        await response.write(data)


def _event(row: EventRow) -> bytes:
    return f"id: {row.id}\nevent: {row.kind}\ndata: {row.model_dump_json()}\n\n".encode()
