"""Routes to handlers, and the one middleware: request id, keys, draining, errors to envelopes."""

import logging
from collections.abc import Awaitable, Callable
from functools import partial

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from cortex.core.errors import CortexError, RequestError
from cortex.gateway import (
    admin,
    agents,
    catalogue,
    cors,
    fleetops,
    health,
    inference,
    live,
    messages,
    openapi,
    page,
    responses,
)
from cortex.gateway.call import expected, request_id_of
from cortex.gateway.errors import error_response, is_anthropic
from cortex.gateway.front import Front
from cortex.gateway.paths import canonical
from cortex.gateway.provenance import require_this_machine, why_not_by_name
from cortex.gateway.services import CALLER, REQUEST_ID, SERVICES, Services
from cortex.gateway.strict import refuse_odd_framing
from cortex.telemetry.metrics import Metrics

log = logging.getLogger("cortex.gateway")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN_PATHS = frozenset({"/", "/health", "/ready", "/api/hello", openapi.PATH})
"""Answered without a key, and while draining."""
_ADMITTED_LATER = OPEN_PATHS | inference.PATHS
"""The first for everybody; the others know their callers themselves."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
BEGUN = "cortex.begun"
"""In a request whose answer has a head already."""


def make_app(services: Services) -> web.Application:
    """The public API."""
    app = web.Application(middlewares=[_frame])
    app[SERVICES] = services
    app[live.LIVE] = live.Live(services)
    post = partial(app.router.add_post, expect_handler=expected)
    for path in inference.PATHS:
        post(path, inference.by_aiohttp)
    post("/v1/messages/count_tokens", messages.count_tokens)
    post("/v1/models/status", fleetops.model_status)
    post("/v1/models/unload", fleetops.model_unload)
    post("/v1/models/reload", fleetops.model_reload)
    app.router.add_get("/v1/models", catalogue.list_models)
    app.router.add_get("/v1/models/{id:.+}", catalogue.get_model)
    app.router.add_get("/v1/responses/{id}", responses.stored_response)
    app.router.add_delete("/v1/responses/{id}", responses.stored_response)
    post("/v1/responses/{id}/cancel", responses.stored_response)
    app.router.add_get("/health", health.health)
    app.router.add_get("/ready", health.ready)
    app.router.add_get("/", page.page)
    app.router.add_get(page.PREFIX + "{file:.+}", page.file)
    app.router.add_get("/api/hello", health.hello)
    app.router.add_get(openapi.PATH, openapi.openapi)
    app.router.add_get("/cortex/v1/status", admin.status)
    app.router.add_get("/cortex/v1/history", admin.history)
    app.router.add_get("/cortex/v1/history/stats", admin.stats)
    app.router.add_get("/cortex/v1/events", admin.events)
    app.router.add_get("/cortex/v1/events/stream", admin.event_stream)
    app.router.add_get("/cortex/v1/live", live.live)
    app.router.add_get("/cortex/v1/explain", fleetops.explain)
    post("/cortex/v1/models/load", fleetops.load)
    post("/cortex/v1/models/unload", fleetops.unload)
    post("/cortex/v1/models/pin", fleetops.pin)
    post("/cortex/v1/models/unpin", fleetops.unpin)
    post("/cortex/v1/nodes/{name}/drain", fleetops.drain)
    post("/cortex/v1/nodes/{name}/undrain", fleetops.undrain)
    post("/cortex/v1/nodes/{name}/defrag", fleetops.defrag)
    post(agents.PATH, agents.report)
    app.on_response_prepare.append(_sign)
    return app


def make_metrics_app(metrics: Metrics, services: Services) -> web.Application:
    """The scrape target; never on the public port, and never shown to a page."""

    async def scrape(request: web.Request) -> web.Response:
        foreign_name = why_not_by_name(request, services.config.gateway.hosts)
        if foreign_name is not None:
            return web.Response(status=403, text=f"this is {foreign_name}\n")
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
    front = request.transport.get_protocol() if request.transport is not None else None
    if not isinstance(front, Front):
        return await _framed(request, handler)
    front.is_heard()
    try:
        return await _framed(request, handler)
    finally:
        front.is_answered()


async def _framed(request: web.Request, handler: Handler) -> web.StreamResponse:
    request_id = request_id_of(request.headers)
    request[REQUEST_ID] = request_id
    svc = request.app[SERVICES]
    try:
        return await _answer(request, handler, svc)
    except CortexError as exc:
        return error_response(request, exc, request_id)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as exc:
        return _unrouted(request, exc, request_id)
    except web.HTTPException:
        raise
    except ConnectionError as exc:
        return _unheard(request, exc)
    except Exception as exc:
        log.exception("bug", extra={"fields": {"request_id": request_id, "path": request.path}})
        if BEGUN in request and request.transport is not None:
            # A second head would be read as the rest of the first answer.
            request.transport.abort()
            raise ConnectionAbortedError("a bug in the middle of an answer") from exc
        return error_response(request, CortexError("an internal error"), request_id)


async def _answer(request: web.Request, handler: Handler, svc: Services) -> web.StreamResponse:
    refuse_odd_framing(request)
    path = canonical(request.path)
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        return _preflight(request, path, svc)
    if not (path in _ADMITTED_LATER or path.startswith(page.PREFIX)):
        _admit(request, svc)
    if path != request.path:
        handler = _meant(request.method, path) or handler
    return await handler(request)


def _meant(method: str, path: str) -> Handler | None:
    """What a slip of a path is answered by."""
    if method == "GET" and path.startswith("/v1/models/"):
        return catalogue.get_model
    if responses.stored_id(method, path):
        return responses.stored_response
    return _MEANT.get((method, path))


_MEANT: dict[tuple[str, str], Handler] = {
    **{("POST", path): inference.by_aiohttp for path in inference.PATHS},
    ("POST", "/v1/messages/count_tokens"): messages.count_tokens,
    ("GET", "/v1/models"): catalogue.list_models,
}


def _preflight(request: web.Request, path: str, svc: Services) -> web.Response:
    """Tell a browser whether a page of another origin may ask; it asks without a key."""
    origin = request.headers.get("Origin", "")
    if not cors.shared(path):
        raise RequestError(
            "not from a page of another origin: inference and /v1/models only",
            code="permission_denied",
        )
    if not svc.shares_with(origin):
        raise RequestError(
            "not from a page of this origin: see cors_origins of [gateway]",
            code="permission_denied",
        )
    return web.Response(status=204, headers=cors.preflight_headers(origin, request.headers))


def _unrouted(
    request: web.Request, found: web.HTTPNotFound | web.HTTPMethodNotAllowed, request_id: str
) -> web.Response:
    if isinstance(found, web.HTTPNotFound):
        missing = RequestError(f"there is no {request.path[:200]} here", code="not_found")
        return error_response(request, missing, request_id)
    wrong = RequestError(
        f"{request.method} is not allowed here; {', '.join(sorted(found.allowed_methods))} is",
        code="method_not_allowed",
    )
    response = error_response(request, wrong, request_id)
    response.headers["Allow"] = found.headers.get("Allow", "")
    return response


def _unheard(request: web.Request, error: ConnectionError) -> web.Response:
    """The answer to a client that went away: raised, that would be logged as an error."""
    if request.transport is not None and not request.transport.is_closing():
        raise error
    return web.Response()


def _admit(request: web.Request, svc: Services) -> None:
    """Know the caller; while draining, know nobody."""
    inference.refuse_while_draining(svc)
    if request.path == agents.PATH:
        return  # it has a token of its own
    request[CALLER] = caller = svc.keyring.caller(request)
    ours = request.path.startswith("/cortex/")
    if svc.keyring.open:
        if ours:
            require_this_machine(request, svc.config.gateway.hosts)
        elif request.method not in SAFE_METHODS:
            svc.refuse_foreign_page(request.headers)
    elif ours and not caller.admin:
        raise RequestError("the admin API wants an admin key", code="permission_denied")


async def _sign(request: web.Request, response: web.StreamResponse) -> None:
    request[BEGUN] = True
    response.headers["Server"] = "cortex"
    origin = request.headers.get("Origin")
    if origin is not None and cors.shared(canonical(request.path)):
        # Whoever is answered, the next one may not be.
        response.headers.setdefault("Vary", "Origin")
        if request.app[SERVICES].shares_with(origin):
            response.headers.update(cors.answer_headers(origin))
    caller = request.get(CALLER)
    if caller is not None and caller.limits is not None:
        quotas = request.app[SERVICES].quotas
        response.headers.update(quotas.headers(caller, anthropic=is_anthropic(request)))
    request_id = request.get(REQUEST_ID)
    if request_id is not None:
        response.headers.setdefault("x-request-id", request_id)
        if is_anthropic(request):
            response.headers["request-id"] = request_id
    if request.app[SERVICES].draining:
        response.force_close()
        # aiohttp has made up its mind about this header by now.
        response.headers["Connection"] = "close"
