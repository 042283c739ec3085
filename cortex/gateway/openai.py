"""OpenAI's inference routes: parse, admit, choose, ready, relay, account."""

import difflib
import hashlib
import time
from dataclasses import replace

from aiohttp import web

from cortex.core.decisions import Want
from cortex.core.errors import CapacityError, CortexError, NodeError, RequestError
from cortex.core.health import NodeHealth
from cortex.core.ids import ModelId, NodeName
from cortex.core.nodefaults import Blame
from cortex.core.plan import RETRY_AFTER_S
from cortex.core.snapshot import ModelStatus
from cortex.fleet.admission import Admitted, Beat
from cortex.gateway.auth import Caller
from cortex.gateway.body import Body, read_body
from cortex.gateway.errors import NodeFaultError
from cortex.gateway.line import Line
from cortex.gateway.opening import COMMENT_S, Opening
from cortex.gateway.relay import GapTimer, abort, relay
from cortex.gateway.services import REQUEST_ID, SERVICES, Services, caller_of

ROUTES = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/images/generations": "images",
    "/v1/audio/speech": "speech",
    "/v1/responses": "responses",
}
"""Path to the `route` of metrics and history."""

MAX_ATTEMPTS = 3
"""Nodes tried for one request before its first byte."""
CONVERSATION_BYTES = 512
"""As much of a conversation's head as its stickiness hangs on."""
NEAR_NAMES_AMONG = 2000
"""Near names are looked for in catalogues up to this size only: the search is quadratic."""

_AFFINITY_HEADERS = (
    "x-session-affinity",
    "x-session-id",
    "session-id",
    "x-claude-code-session-id",
)
_FORWARDED = ("Accept", "OpenAI-Beta")
"""Request headers a node may see; never the client's credentials."""


async def infer(request: web.Request) -> web.StreamResponse:
    """POST to any of `ROUTES`, streamed or whole."""
    svc = request.app[SERVICES]
    caller = caller_of(request)
    line = Line(request[REQUEST_ID], ROUTES[request.path], svc.account)
    line.record.client = caller.name
    with svc.recent.running(), line:
        limits = svc.config.limits
        body = await read_body(
            request,
            limit_bytes=int(limits.max_body_mb * 1024 * 1024),
            timeout_s=limits.idle_timeout_s,
        )
        line.record.stream = body.envelope.stream
        line.record.request_bytes = body.size
        want, sticky = await _want(request, svc, caller, body)
        line.record.model = want.model
        if want.model != body.envelope.model:
            body = body.with_model(want.model)
        exchange = _Exchange(request, svc, line, body)
        try:
            return await exchange.serve(want, sticky)
        except CortexError as exc:
            opened = exchange.opening.response
            if opened is None:
                raise
            line.failed(exc)
            await abort(request, opened, exc)
            return opened


async def _want(
    request: web.Request, svc: Services, caller: Caller, body: Body
) -> tuple[Want, str | int]:
    model = resolve(svc, body.envelope.model)
    sticky = _affinity_key(request, body, caller)
    only = None
    previous = body.envelope.previous_response_id
    if previous is not None:
        only = await node_of_response(svc, previous)
        if only is None:
            # A node would answer with an empty history instead, and nobody would notice.
            raise RequestError(
                f"previous response {previous[:80]!r} is not known here",
                code="previous_response_not_found",
                param="previous_response_id",
            )
    return Want(model=model, preferred=svc.affinity.preferred(model, sticky), only=only), sticky


class _Exchange:
    """One request on its way to an answer."""

    __slots__ = ("_body", "_line", "_request", "_svc", "opening")

    def __init__(self, request: web.Request, svc: Services, line: Line, body: Body) -> None:
        self._request = request
        self._svc = svc
        self._line = line
        self._body = body
        self.opening = Opening(request, line, request[REQUEST_ID])

    async def serve(self, want: Want, sticky: str | int) -> web.StreamResponse:
        """Try nodes until one has sent its first byte.

        1. Lease. 2. Relay. 3. A node that failed before the first byte is excluded and another is
        chosen; a node that turned out not to hold the model is believed, and asked again by poll.
        4. When none is left, the first failure is the answer: it says more than "no node left".
        """
        svc, line = self._svc, self._line
        share = caller_of(self._request).share
        beat = Beat(self.opening.beat, COMMENT_S) if self._body.envelope.stream else None
        first_failure: NodeError | None = None
        while True:
            began_s = time.perf_counter()
            try:
                admitted = await svc.admission.acquire(want, share, beat)
            except CapacityError as exc:
                line.record.queue_ms += (time.perf_counter() - began_s) * 1000
                raise first_failure or exc from first_failure
            node = admitted.lease.node
            _note(line, admitted)
            try:
                response = await self._attempt(admitted)
            except NodeError as exc:
                if isinstance(exc, NodeFaultError) and exc.fault.blame is Blame.CALLER:
                    raise
                first_failure = first_failure or exc
                if line.record.attempts >= MAX_ATTEMPTS:
                    raise first_failure from exc
                want = replace(want, excluded=want.excluded | {node}, preferred=None)
            else:
                svc.affinity.served(want.model, sticky, node)
                return response

    async def _attempt(self, admitted: Admitted) -> web.StreamResponse:
        """One node: send, relay, and give the lease back with what is to be thought of the node."""
        svc, line, request = self._svc, self._line, self._request
        lease = admitted.lease
        failure: str | None = None
        count = False
        headers = _request_headers(request)
        try:
            response = await relay(
                request,
                svc.nodes[lease.node].send("POST", request.path, headers, self._body),
                line,
                timer=GapTimer(svc.config.limits.idle_timeout_s, svc.recent.relays),
                headers=_response_headers(request, line),
                opened=self.opening.response,
            )
            count = True
            if line.record.error_code in _NODE_CODES:
                failure = line.record.error_code
                svc.poller.kick(lease.node)
            return response
        except NodeError as exc:
            failure = _blame(svc, lease.node, lease.model, exc)
            raise
        finally:
            svc.state.release(lease, failure=failure, count=count)


_NODE_CODES = frozenset(
    {"node_error", "node_unreachable", "node_protocol", "node_truncated", "node_timeout"}
)
"""Failures after the first byte that count against the node."""


def _blame(svc: Services, node: NodeName, model: ModelId, error: NodeError) -> str | None:
    """Tell the fleet what a failure says of the node; returns the reason for the breaker, if any."""
    if isinstance(error, NodeFaultError):
        fault = error.fault
        if fault.blame is Blame.CALLER:
            return None
        if fault.blame is Blame.STALE:
            loading = fault.code == "model_reloading"
            status = ModelStatus.LOADING if loading else ModelStatus.UNLOADED
            svc.observations.contradicted(node, model, status)
            svc.poller.kick(node)
            return None
        return fault.message
    if error.code == "node_unreachable":
        svc.observations.refused(node, error.message)
        svc.poller.kick(node)
    return error.message


def _note(line: Line, admitted: Admitted) -> None:
    record = line.record
    record.node = admitted.lease.node
    record.attempts += 1
    record.queue_ms += admitted.queue_s * 1000
    record.load_wait_ms += admitted.load_wait_s * 1000
    record.cold_start = record.cold_start or admitted.load_wait_s > 0


def resolve(svc: Services, name: str) -> ModelId:
    """The model that a name means.

    Raises:
        RequestError: 404 with near names.
        CapacityError: 503 while some node has never been heard of, for it may list the model.
    """
    snapshot = svc.state.snapshot()
    model = snapshot.resolve(name)
    if model is not None:
        return model
    silent = [
        n.name for n in snapshot.nodes.values() if n.liveness.health is NodeHealth.UNKNOWN
    ]
    if silent:
        raise CapacityError(
            f"model {name[:200]!r} is not known yet: no answer so far from {', '.join(silent)}",
            code="starting",
            retry_after_s=RETRY_AFTER_S,
        )
    names = [*snapshot.locations, *snapshot.aliases]
    near = (
        difflib.get_close_matches(name[:200], names, n=3)
        if len(names) < NEAR_NAMES_AMONG
        else []
    )
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise RequestError(
        f"model {name[:200]!r} does not exist on any node{hint}",
        code="model_not_found",
        param="model",
    )


async def node_of_response(svc: Services, response_id: str) -> NodeName | None:
    """Which node holds the state of a `resp_…`."""
    recent = svc.recent.node_of_response(response_id)
    return recent if recent is not None else await svc.ledger.node_of_response(response_id)


def _affinity_key(request: web.Request, body: Body, caller: Caller) -> str | int:
    """What tells one conversation from another: the first of these that there is."""
    for header in _AFFINITY_HEADERS:
        if value := request.headers.get(header):
            return value[:200]
    if body.envelope.prompt_cache_key:
        return body.envelope.prompt_cache_key[:200]
    head = body.head(4096)
    for key in (b'"messages"', b'"input"', b'"prompt"'):
        at = head.find(key)
        if at >= 0:
            digest = hashlib.blake2b(head[at : at + CONVERSATION_BYTES], digest_size=8).digest()
            return int.from_bytes(digest, "big")
    return caller.name or ""


def _request_headers(request: web.Request) -> dict[str, str]:
    headers = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
    # It was read as JSON, whatever curl called it.
    headers["Content-Type"] = "application/json"
    # Compressed answers could not be watched, and no node compresses.
    headers["Accept-Encoding"] = "identity"
    headers["x-request-id"] = request[REQUEST_ID]
    return headers


def _response_headers(request: web.Request, line: Line) -> dict[str, str]:
    record = line.record
    return {
        "x-request-id": request[REQUEST_ID],
        "x-cortex-node": record.node or "",
        "x-cortex-model": record.model or "",
        "x-cortex-cold-start": "true" if record.cold_start else "false",
    }
