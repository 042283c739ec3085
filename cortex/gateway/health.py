"""`/health`, `/ready`, and the probes that clients send before their first request."""

from aiohttp import web

from cortex.gateway.fleetview import health_of
from cortex.gateway.services import SERVICES


async def health(request: web.Request) -> web.Response:
    """GET /health: 200 with what is wrong; the process answers, whatever the nodes do."""
    return web.json_response(text=health_of(request.app[SERVICES]).model_dump_json())


async def ready(request: web.Request) -> web.Response:
    """GET /ready: 503 until every node was asked once, and again while draining."""
    svc = request.app[SERVICES]
    if svc.draining or not svc.fleet.asked_all:
        why = "draining" if svc.draining else "waiting for the first answers of the nodes"
        return web.json_response({"ready": False, "reason": why}, status=503)
    return web.json_response({"ready": True})


async def hello(_: web.Request) -> web.Response:
    """HEAD / and /api/hello: some clients ask before they send anything."""
    return web.Response(text="cortex\n")
