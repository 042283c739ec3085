"""Stored responses (`/v1/responses/{id}`): each lives in the memory of the one node that made it."""

import math
import re

from aiohttp import web

from cortex.core.errors import CapacityError, RequestError
from cortex.core.health import NodeHealth
from cortex.core.plan import RETRY_AFTER_S
from cortex.gateway.asking import node_of_response
from cortex.gateway.call import of_aiohttp
from cortex.gateway.errors import NodeFaultError
from cortex.gateway.gaps import GapTimer
from cortex.gateway.paths import canonical
from cortex.gateway.relay import OPENAI, Passing
from cortex.gateway.reply import Sent
from cortex.gateway.services import SERVICES, caller_of

_STORED = re.compile(r"/v1/responses/(?P<id>[^/]+)(?P<cancel>/cancel)?")


def stored_id(method: str, path: str) -> str | None:
    """The response that is asked for; None = nothing of the kind is. The path is canonical."""
    found = _STORED.fullmatch(path)
    if found is None or method not in (
        ("POST",) if found["cancel"] else ("GET", "HEAD", "DELETE")
    ):
        return None
    return found["id"]


_HEADERS = (("Accept-Encoding", "identity"),)


async def stored_response(request: web.Request) -> web.StreamResponse:
    """GET and DELETE `/v1/responses/{id}`, POST `…/cancel`: sent to the node that made it."""
    svc = request.app[SERVICES]
    path = canonical(request.path)
    # An escaped slash in an id comes here too; no response is called by its path.
    response_id = stored_id(request.method, path) or path
    name = await node_of_response(svc, response_id)
    if name is None or name not in svc.nodes:
        raise RequestError(
            f"response {response_id[:80]!r} is not known here", code="response_not_found"
        )
    view = svc.fleet.node(name)
    if view is None or view.liveness.health is not NodeHealth.UP:
        raise CapacityError(
            f"node {name}, which holds this response, is not up",
            code="no_healthy_node",
            retry_after_s=RETRY_AFTER_S,
        )
    call = of_aiohttp(request)
    line = svc.line(call, "responses")
    line.record.client = caller_of(request).name
    line.record.node = name
    with line:
        try:
            sending = svc.nodes[name].send(
                request.method, path, _HEADERS, None, own=line.own_lines(name)
            )
            gap_s, relays = svc.config.limits.idle_timeout_s, svc.recent.relays
            timer = GapTimer(gap_s, math.inf, sending, line, call.reply)
            relays.add(timer)
            try:
                lines = f"x-cortex-node: {name}\r\n"
                await Passing(OPENAI)(call, sending, line, timer=timer, lines=lines)
            finally:
                relays.discard(timer)
            return Sent(call.reply)
        except NodeFaultError as exc:
            if exc.fault.status != 404:
                raise
            raise RequestError(
                "the node no longer holds this response", code="response_not_found"
            ) from exc
