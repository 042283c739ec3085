"""From a failure to what the client reads: one status per code, and the two envelopes."""

import json
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from aiohttp import web

from cortex.core.errors import CortexError, NodeError, RequestError
from cortex.core.ids import NodeName
from cortex.core.nodefaults import Blame, NodeFault, spoken
from cortex.core.plan import RETRY_AFTER_S
from cortex.core.written import MAX_REQUEST_BYTES, written
from cortex.gateway.paths import canonical

JSON = "application/json"

STATUS = {
    # The caller must change something.
    "invalid_request": 400,
    "invalid_json": 400,
    "context_length_exceeded": 400,
    "route_not_supported": 400,
    "previous_response_not_found": 400,
    "invalid_api_key": 401,
    "permission_denied": 403,
    "model_not_allowed": 403,
    "model_not_found": 404,
    "response_not_found": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    # Something else must be changed first.
    "conflict": 409,
    "model_pinned": 409,
    "not_unloadable": 409,
    "not_unloaded": 409,
    "node_moving": 409,
    "no_agent": 409,
    "request_too_large": 413,
    "unsupported_encoding": 415,
    "headers_too_large": 431,
    # The caller may retry.
    "queue_full": 429,
    "node_busy": 429,
    "rate_limit_concurrency": 429,
    "rate_limit_requests": 429,
    "rate_limit_tokens": 429,
    "rate_limit_tokens_day": 429,
    "no_capacity": 503,
    "no_healthy_node": 503,
    "no_room": 503,
    "model_never_fits": 503,
    "model_failing": 503,
    "not_loadable": 503,
    "model_reloading": 503,
    "model_not_held": 503,
    "queue_timeout": 503,
    "starting": 503,
    "draining": 503,
    "store_failing": 503,
    # A node misbehaved.
    "node_error": 502,
    "node_unreachable": 502,
    "node_protocol": 502,
    "node_truncated": 502,
    "node_interrupted": 502,
    "load_failed": 502,
    "unload_failed": 502,
    "node_timeout": 504,
    # The client stopped reading.
    "client_stalled": 408,
    # A bug, or a configuration error that never reaches a client.
    "internal_error": 500,
    "config_error": 500,
}
"""HTTP status by code; a code without one is a bug, and a test says so."""

_HOPELESS = frozenset({"model_never_fits"})
"""No retry helps until something else is changed."""

_OPENAI_TYPE = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    431: "invalid_request_error",
    429: "rate_limit_error",
}
_ANTHROPIC_TYPE = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class NodeFaultError(NodeError):
    """A node's classified error answer."""

    def __init__(self, node: str, fault: NodeFault) -> None:
        words = spoken(fault.message)
        super().__init__(
            words if fault.blame is Blame.CALLER else f"node {node}: {words}",
            code=fault.code,
            retry_after_s=fault.retry_after_s,
        )
        self.node = NodeName(node)
        self.fault = fault
        # Of words that nobody has compared with the request, only those that are known.
        self.written = f"node {node}: {fault.reason}"

    def compared(self, request: Sequence[bytes]) -> None:
        """Have what the words do not repeat of the request written down, unless it is too large."""
        if sum(map(len, request)) <= MAX_REQUEST_BYTES:
            self.written = written(self.message, b"".join(request))


class ClientStalledError(CortexError):
    """The client stopped reading its answer."""

    code = "client_stalled"


def status_of(error: CortexError) -> int:
    if isinstance(error, NodeFaultError):
        return error.fault.status
    return STATUS[error.code]


def openai_error(error: CortexError) -> dict[str, object]:
    """`{"error": {"message", "type", "param", "code"}}`."""
    kind = _OPENAI_TYPE.get(status_of(error), "server_error")
    param, code = None, error.code
    if isinstance(error, RequestError):
        param = error.param
    elif isinstance(error, NodeFaultError):
        param, code = error.fault.param, error.fault.node_code or code
    return {"error": {"message": error.message, "type": kind, "param": param, "code": code}}


def anthropic_error(error: CortexError, request_id: str) -> dict[str, object]:
    """`{"type": "error", "error": {"type", "message"}, "request_id"}`."""
    kind = _ANTHROPIC_TYPE.get(status_of(error), "api_error")
    return {
        "type": "error",
        "error": {"type": kind, "message": error.message},
        "request_id": request_id,
    }


class Asked(Protocol):
    """What tells a request's dialect."""

    @property
    def path(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


class Unread(NamedTuple):
    """What is known of a request that could not be read."""

    path: str
    headers: Mapping[str, str] = MappingProxyType({})


def is_anthropic(request: Asked) -> bool:
    """Anthropic's own routes, and the shared ones when its version header is sent."""
    path = canonical(request.path)
    return path.startswith("/v1/messages") or (
        path.startswith("/v1/models") and "anthropic-version" in request.headers
    )


def error_answer(
    request: Asked, error: CortexError, request_id: str
) -> tuple[int, dict[str, str], bytes]:
    """The whole answer to a request that failed before anything was sent: status, headers, body."""
    status = status_of(error)
    anthropic = is_anthropic(request)
    body = anthropic_error(error, request_id) if anthropic else openai_error(error)
    headers = {"Content-Type": JSON}
    retry_after_s = error.retry_after_s
    hopeless = error.code in _HOPELESS or (status < 500 and status not in {408, 429})
    if hopeless:
        # SDKs retry by status; this one settles it.
        headers["x-should-retry"] = "false"
    elif retry_after_s is None and (status > 500 or error.code == "node_busy"):
        retry_after_s = RETRY_AFTER_S
    if retry_after_s is not None and not hopeless:
        headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    return status, headers, json.dumps(body).encode()


def error_response(request: Asked, error: CortexError, request_id: str) -> web.Response:
    """`error_answer` for aiohttp."""
    status, headers, body = error_answer(request, error, request_id)
    return web.Response(status=status, headers=headers, body=body)


def error_event(error: CortexError) -> bytes:
    """The last event of a stream that failed, in OpenAI's dialect; no `[DONE]` follows it."""
    return b"data: " + json.dumps(openai_error(error)).encode() + b"\n\n"
