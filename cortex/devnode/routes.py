"""The route table, and the shape in which each route refuses."""

import time
from typing import TYPE_CHECKING, Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from cortex.devnode import errors
from cortex.devnode.control import Control
from cortex.devnode.errors import PlainRefusalError, RefusalError
from cortex.devnode.extras import Extras
from cortex.devnode.inference import Inference
from cortex.devnode.messages import Messages
from cortex.devnode.metrics import METRICS, Metrics
from cortex.devnode.responses import Responses

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cortex.devnode.node import Node

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_BODY_BYTES: Final = 50 * 1024 * 1024

CORS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Vary": "origin, access-control-request-method, access-control-request-headers",
}
PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "GET,POST,PUT,DELETE",
    "Access-Control-Allow-Headers": "content-type,authorization,x-api-key,anthropic-version,"
    "anthropic-beta,x-request-id",
}
"""Any page may ask: a node has no notion of who is allowed to."""

INFERENCE_PATHS: Final = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/images/generations",
        "/v1/audio/speech",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/responses",
    }
)


def build(node: "Node") -> web.Application:
    """The application of one node."""
    metrics = Metrics(node)
    app = web.Application(
        middlewares=[_measuring(metrics), _shaping(node)], client_max_size=MAX_BODY_BYTES
    )
    app[METRICS] = metrics
    control, inference = Control(node), Inference(node)
    responses = Responses(node, inference)
    app.add_routes(
        [
            web.get("/", control.health),
            web.get("/health", control.health),
            web.get("/v1/models", control.models),
            web.get("/ui/api/list_models", control.page_models),
            web.post("/v1/models/status", control.status),
            web.post("/v1/models/unload", control.unload),
            web.post("/v1/models/reload", control.reload),
            web.post("/v1/chat/completions", inference.chat),
            web.post("/v1/completions", inference.completions),
            web.post("/v1/embeddings", inference.embeddings),
            web.post("/v1/images/generations", inference.images),
            web.post("/v1/audio/speech", inference.speech),
            web.post("/v1/responses", responses.create),
            web.get("/v1/responses/{id}", responses.get),
            web.delete("/v1/responses/{id}", responses.delete),
            web.post("/v1/responses/{id}/cancel", responses.cancel),
            web.post("/_knobs", control.set_knobs),
            web.get("/_knobs", control.knobs),
            web.get("/_stats", control.stats),
        ]
    )
    app.add_routes(Extras(node).routes())
    if node.profile.has_system_info:
        app.add_routes([web.get("/v1/system/info", control.info)])
    if node.profile.has_messages:
        messages = Messages(node, inference)
        app.add_routes(
            [
                web.get("/metrics", metrics.metrics),
                web.post("/v1/messages", messages.messages),
                web.post("/v1/messages/count_tokens", messages.count_tokens),
            ]
        )

    async def head(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.popall("Server", None)
        response.headers.update(CORS)
        if node.profile.echoes_request_id:
            inbound = request.headers.get("x-request-id")
            response.headers["x-request-id"] = inbound or node.new_id("req_")

    app.on_response_prepare.append(head)
    return app


def _measuring(metrics: Metrics) -> Middleware:
    @web.middleware
    async def measure(request: web.Request, handler: "Handler") -> web.StreamResponse:
        began_s, status = time.perf_counter(), 499
        if request.path not in INFERENCE_PATHS:
            metrics.began(request)
        try:
            response = await handler(request)
            status = response.status
            return response
        finally:
            metrics.ended(request, status, duration_s=time.perf_counter() - began_s)

    return measure


def _shaping(node: "Node") -> Middleware:
    """Every refusal leaves in the shape of its route, and unknown paths with an empty body."""

    @web.middleware
    async def shape(request: web.Request, handler: "Handler") -> web.StreamResponse:
        if request.method == "OPTIONS":
            return web.Response(headers=PREFLIGHT)
        if _is_stale(node, request) and request.transport is not None:
            request.transport.abort()
            return errors.empty(500)
        injected = _injected(node, request.path)
        if injected is not None:
            await request.read()
            return injected
        try:
            return await handler(request)
        except web.HTTPException as error:
            return errors.empty(error.status)
        except PlainRefusalError as error:
            return errors.plain(error.status, str(error))
        except RefusalError as error:
            return _refused(request.path, error)

    return shape


def _is_stale(node: "Node", request: web.Request) -> bool:
    """Whether the idle time-out of this end strikes just now: it does on every connection's second use."""
    if node.knobs.oddity != "stale_connection" or request.transport is None:
        return False
    peer = request.transport.get_extra_info("peername")
    used = peer in node.used_by
    node.used_by.add(peer)
    return used and request.path in INFERENCE_PATHS


def _refused(path: str, error: RefusalError) -> web.Response:
    if path.startswith("/v1/messages"):
        return errors.anthropic(error.anthropic_status, str(error))
    if path == "/v1/embeddings":
        return errors.message(error.embeddings_status, str(error))
    return errors.message(error.chat_status, str(error))


def _injected(node: "Node", path: str) -> web.Response | None:
    wanted = node.knobs.http_error
    if wanted is None:
        return None
    prefix = wanted.get("path")
    if not (path in INFERENCE_PATHS if prefix is None else path.startswith(prefix)):
        return None
    times = wanted.get("times", 1)
    if times == 0:
        return None
    if times is not None:
        node.knobs.http_error = wanted | {"times": times - 1}
    node.stats.injected += 1
    shape = errors.SHAPES[wanted.get("shape", "message")]
    return shape(wanted.get("status", 500), wanted.get("message", "scripted failure"))
