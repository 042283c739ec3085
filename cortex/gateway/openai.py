"""OpenAI's inference routes: parse, admit, choose, ready, relay, account."""

import json
import secrets
import time

from aiohttp import web

from cortex.core.decisions import Want
from cortex.core.errors import RequestError
from cortex.core.ids import NodeName
from cortex.core.translate.to_chat import ChatStream
from cortex.core.translate.to_messages import messages_body
from cortex.gateway.asking import affinity_key, node_of_response, resolve
from cortex.gateway.auth import Caller
from cortex.gateway.body import Body, read_body
from cortex.gateway.exchange import Exchange, Outbound
from cortex.gateway.line import Line
from cortex.gateway.relay import OPENAI, Passing
from cortex.gateway.services import REQUEST_ID, SERVICES, Services, caller_of
from cortex.gateway.translated import Translated
from cortex.gateway.words import OpenAIWords

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
ROUTES = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/images/generations": "images",
    "/v1/audio/speech": "speech",
    "/v1/responses": "responses",
}
"""Path to the `route` of metrics and history."""
_PASSING = Passing(OPENAI)


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
        plain = Outbound(request.path, body, _PASSING)

        def outbound_for(node: NodeName) -> Outbound:
            if node not in svc.anthropic_nodes:
                return plain
            return _translated(request, body)

        return await Exchange(request, svc, line, outbound_for, OPENAI).run(want, sticky)


def _translated(request: web.Request, body: Body) -> Outbound:
    """A chat for a node that speaks Anthropic's dialect only.

    Raises:
        RequestError: Anything else than chat; or a field that the dialect has no words for.
    """
    if request.path != CHAT:
        raise RequestError(
            f"the node that holds this model does not know {request.path}",
            code="route_not_supported",
        )
    fields = body.fields()
    options = fields.get("stream_options")
    stream = ChatStream(
        f"chatcmpl-{secrets.token_hex(12)}",
        body.envelope.model,
        created_s=int(time.time()),
        with_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )
    messages = json.dumps(messages_body(fields), ensure_ascii=False).encode()
    relay = Translated(OpenAIWords(stream), stream=body.envelope.stream)
    return Outbound(MESSAGES, Body([messages], body.envelope), relay)


async def _want(
    request: web.Request, svc: Services, caller: Caller, body: Body
) -> tuple[Want, str | int]:
    model = resolve(svc, body.envelope.model)
    sticky = affinity_key(request, body, caller)
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
