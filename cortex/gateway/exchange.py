"""One request's way through the fleet, whatever its dialect: admit, choose, ready, relay, account."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from aiohttp import web

from cortex.core.decisions import Want
from cortex.core.errors import CapacityError, CortexError, NodeError
from cortex.core.ids import ModelId, NodeName
from cortex.core.nodefaults import Blame
from cortex.core.snapshot import ModelStatus
from cortex.fleet.admission import Admitted, Beat
from cortex.gateway.errors import NodeFaultError
from cortex.gateway.line import Line
from cortex.gateway.opening import COMMENT_S, Opening
from cortex.gateway.ports import Answer, Payload
from cortex.gateway.relay import Dialect, GapTimer, abort
from cortex.gateway.services import REQUEST_ID, Services, caller_of

MAX_ATTEMPTS = 3
"""Nodes tried for one request before its first byte."""
_FORWARDED = ("Accept", "OpenAI-Beta", "anthropic-version", "anthropic-beta")
"""Request headers a node may see; never the client's credentials."""


class Relay(Protocol):
    """Sends the request on and puts the answer before the client; see `relay.relay`."""

    async def __call__(
        self,
        request: web.Request,
        sending: AbstractAsyncContextManager[Answer],
        line: Line,
        *,
        timer: GapTimer,
        headers: Mapping[str, str],
        opened: web.StreamResponse | None,
    ) -> web.StreamResponse: ...


@dataclass(frozen=True, slots=True)
class Outbound:
    """What a node is sent, and how its answer comes back."""

    path: str
    body: Payload
    relay: Relay


class Exchange:
    """One request on its way to an answer: admit, send, relay, and on failure another node."""

    __slots__ = ("_dialect", "_line", "_opening", "_outbound_for", "_request", "_svc")

    def __init__(
        self,
        request: web.Request,
        svc: Services,
        line: Line,
        outbound_for: Callable[[NodeName], Outbound],
        dialect: Dialect,
    ) -> None:
        self._request = request
        self._svc = svc
        self._line = line
        self._outbound_for = outbound_for
        self._dialect = dialect
        self._opening = Opening(request, line, dialect.waiting)

    async def run(self, want: Want, sticky: str | int) -> web.StreamResponse:
        """Serve; once something was said, a failure is told in the stream.

        Raises:
            CortexError: Nothing has been sent yet.
        """
        try:
            return await self._serve(want, sticky)
        except CortexError as exc:
            opened = self._opening.response
            if opened is None:
                raise
            self._line.failed(exc)
            await abort(self._request, opened, exc, self._dialect)
            return opened

    async def _serve(self, want: Want, sticky: str | int) -> web.StreamResponse:
        """Try nodes until one has sent its first byte.

        1. Lease. 2. Relay. 3. A node that failed before the first byte is excluded and another is
        chosen; a node that turned out not to hold the model is believed, and asked again by poll.
        4. When none is left, the first failure is the answer: it says more than "no node left".
        """
        svc, line = self._svc, self._line
        share = caller_of(self._request).share
        beat = Beat(self._opening.beat, COMMENT_S) if line.record.stream else None
        first_failure: NodeError | None = None
        failed_on: NodeName | None = None
        while True:
            began_s = time.perf_counter()
            try:
                admitted = await svc.admission.acquire(want, share, beat)
            except CapacityError as exc:
                line.record.queue_ms += (time.perf_counter() - began_s) * 1000
                line.record.node = failed_on
                raise first_failure or exc from first_failure
            node = admitted.lease.node
            _note(line, admitted)
            try:
                response = await self._attempt(admitted)
            except NodeError as exc:
                if isinstance(exc, NodeFaultError) and exc.fault.blame is Blame.CALLER:
                    raise
                first_failure, failed_on = first_failure or exc, failed_on or node
                if line.record.attempts >= MAX_ATTEMPTS:
                    raise first_failure from exc
                want = replace(want, excluded=want.excluded | {node}, preferred=None)
                # While it waits for another, it is on no node.
                line.record.node = None
            else:
                svc.affinity.served(want.model, sticky, node)
                return response

    async def _attempt(self, admitted: Admitted) -> web.StreamResponse:
        """One node: send, relay, and give the lease back with what is to be thought of the node."""
        svc, line, request = self._svc, self._line, self._request
        lease = admitted.lease
        failure: str | None = None
        count, used = False, True
        try:
            outbound = self._outbound_for(lease.node)
            response = await outbound.relay(
                request,
                svc.nodes[lease.node].send(
                    "POST", outbound.path, _request_headers(request), outbound.body
                ),
                line,
                timer=GapTimer(svc.config.limits.idle_timeout_s, svc.recent.relays),
                headers=_response_headers(request, line),
                opened=self._opening.response,
            )
            count = True
            if line.record.error_code in _NODE_CODES:
                failure = line.record.error_code
                svc.poller.kick(lease.node)
            return response
        except NodeError as exc:
            failure = _blame(svc, lease.node, lease.model, exc)
            used = isinstance(exc, NodeFaultError) and exc.fault.blame is Blame.CALLER
            raise
        finally:
            used = used and failure is None
            svc.state.release(lease, failure=failure, count=count, used=used)


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
