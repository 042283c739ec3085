"""Routes to handlers, and the one middleware: request id, keys, draining, errors to envelopes."""

import logging
import re
import secrets
from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from cortex.core.errors import CapacityError, CortexError, RequestError
from cortex.core.ids import RequestId
from cortex.core.plan import RETRY_AFTER_S
from cortex.gateway import (
    admin,
    agents,
    catalogue,
    fleetops,
    health,
    messages,
    openai,
    responses,
)
from cortex.gateway.errors import error_response, is_anthropic
from cortex.gateway.services import CALLER, REQUEST_ID, SERVICES, Services
from cortex.telemetry.metrics import Metrics

log = logging.getLogger("cortex.gateway")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN_PATHS = frozenset({"/", "/health", "/ready", "/api/hello"})
"""Answered without a key, and while draining."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def make_app(services: Services) -> web.Application:
    """The public API."""
    app = web.Application(middlewares=[_frame])
    app[SERVICES] = services
    for path in openai.ROUTES:
        app.router.add_post(path, openai.infer)
    app.router.add_post("/v1/messages", messages.messages)
    app.router.add_post("/v1/messages/count_tokens", messages.count_tokens)
    app.router.add_post("/v1/models/status", fleetops.model_status)
    app.router.add_post("/v1/models/unload", fleetops.model_unload)
    app.router.add_post("/v1/models/reload", fleetops.model_reload)
    app.router.add_get("/v1/models", catalogue.list_models)
    app.router.add_get("/v1/models/{id:.+}", catalogue.get_model)
    app.router.add_get("/v1/responses/{id}", responses.stored_response)
    app.router.add_delete("/v1/responses/{id}", responses.stored_response)
    app.router.add_post("/v1/responses/{id}/cancel", responses.stored_response)
    app.router.add_get("/health", health.health)
    app.router.add_get("/ready", health.ready)
    app.router.add_get("/", health.hello)
    app.router.add_get("/api/hello", health.hello)
    app.router.add_get("/cortex/v1/status", admin.status)
    app.router.add_get("/cortex/v1/history", admin.history)
    app.router.add_get("/cortex/v1/history/stats", admin.stats)
    app.router.add_get("/cortex/v1/events", admin.events)
    app.router.add_get("/cortex/v1/events/stream", admin.event_stream)
    app.router.add_get("/cortex/v1/explain", fleetops.explain)
    app.router.add_post("/cortex/v1/models/load", fleetops.load)
    app.router.add_post("/cortex/v1/models/unload", fleetops.unload)
    app.router.add_post("/cortex/v1/models/pin", fleetops.pin)
    app.router.add_post("/cortex/v1/models/unpin", fleetops.unpin)
    app.router.add_post("/cortex/v1/nodes/{name}/drain", fleetops.drain)
    app.router.add_post("/cortex/v1/nodes/{name}/undrain", fleetops.undrain)
    app.router.add_post("/cortex/v1/nodes/{name}/defrag", fleetops.defrag)
    app.router.add_post(agents.PATH, agents.report)
    app.on_response_prepare.append(_sign)
    return app


def make_metrics_app(metrics: Metrics) -> web.Application:
    """The scrape target; never on the public port."""

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(metrics.registry),
            headers={"Content-Type": CONTENT_TYPE_LATEST},
        )

    app = web.Application()
    app.router.add_get("/metrics", scrape)
    return app


@web.middleware
async def _frame(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Around every request: identify, admit the caller, answer failures in the client's dialect."""
    request_id = _request_id(request)
    request[REQUEST_ID] = request_id
    svc = request.app[SERVICES]
    try:
        if request.path not in OPEN_PATHS:
            _admit(request, svc)
        return await handler(request)
    except CortexError as exc:
        return error_response(request, exc, request_id)
    except web.HTTPNotFound:
        missing = RequestError(f"there is no {request.path[:200]} here", code="not_found")
        return error_response(request, missing, request_id)
    except web.HTTPMethodNotAllowed as exc:
        wrong = RequestError(
            f"{request.method} is not allowed here; {', '.join(sorted(exc.allowed_methods))} is",
            code="method_not_allowed",
        )
        response = error_response(request, wrong, request_id)
        response.headers["Allow"] = exc.headers.get("Allow", "")
        return response
    except (ConnectionError, web.HTTPException):
        raise
    except Exception:
        log.exception("bug", extra={"fields": {"request_id": request_id, "path": request.path}})
        return error_response(request, CortexError("an internal error"), request_id)


def _admit(request: web.Request, svc: Services) -> None:
    """Know the caller; while draining, know nobody."""
    if svc.draining:
        raise CapacityError(
            "this gateway is shutting down", code="draining", retry_after_s=RETRY_AFTER_S
        )
    if request.path == agents.PATH:
        return  # it has a token of its own
    request[CALLER] = caller = svc.keyring.caller(request)
    if request.path.startswith("/cortex/") and not (caller.admin or svc.keyring.open):
        raise RequestError("the admin API wants an admin key", code="permission_denied")


async def _sign(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "cortex"
    request_id = request.get(REQUEST_ID)
    if request_id is not None:
        response.headers.setdefault("x-request-id", request_id)
        if is_anthropic(request):
            response.headers["request-id"] = request_id
    if request.app[SERVICES].draining:
        response.force_close()
        # aiohttp has made up its mind about this header by now.
        response.headers["Connection"] = "close"


def _request_id(request: web.Request) -> RequestId:
    inbound = request.headers.get("x-request-id", "")
    if _REQUEST_ID.fullmatch(inbound):
        return RequestId(inbound)
    return RequestId("req_" + secrets.token_hex(12))
