"""Anthropic's Messages API, translated to chat completions for the nodes."""

import json
import secrets
from typing import Any

from aiohttp import web

from cortex.core.decisions import Want
from cortex.core.errors import RequestError
from cortex.core.ids import ModelId, NodeName
from cortex.core.translate.request import MessagesRequest, read_messages_request
from cortex.core.translate.stream import MessageStream
from cortex.gateway.asking import affinity_key, resolve
from cortex.gateway.body import Body, read_body
from cortex.gateway.exchange import Exchange, Outbound
from cortex.gateway.line import Line
from cortex.gateway.relay import Passing
from cortex.gateway.services import REQUEST_ID, SERVICES, Services, caller_of
from cortex.gateway.tokens import prompt_bytes
from cortex.gateway.translated import Translated
from cortex.gateway.words import ANTHROPIC, AnthropicWords

CHAT = "/v1/chat/completions"


async def messages(request: web.Request) -> web.StreamResponse:
    """POST /v1/messages, streamed or whole."""
    svc = request.app[SERVICES]
    caller = caller_of(request)
    line = Line(request[REQUEST_ID], "messages", svc.account)
    line.record.dialect = "anthropic"
    line.record.client = caller.name
    with svc.recent.running(), line:
        body, fields = await _read(request, svc)
        line.record.request_bytes = body.size
        wanted = read_messages_request(fields)
        line.record.stream = wanted.stream
        model = resolve(svc, wanted.model)
        line.record.model = model
        message_id = f"msg_{secrets.token_hex(12)}"
        if wanted.nothing_to_say:
            return _nothing(line, wanted, message_id)
        words = AnthropicWords(
            MessageStream(
                message_id,
                wanted.model,
                one_call=wanted.one_call,
                hides_thinking=wanted.hides_thinking,
            )
        )
        chat = json.dumps({**wanted.chat, "model": model}, ensure_ascii=False).encode()
        relay = Translated(words, stream=wanted.stream)
        translated = Outbound(CHAT, Body([chat], body.envelope), relay)
        native = Outbound(request.path, _addressed(body, model), _PASSING)
        foreign = svc.anthropic_nodes

        def outbound_for(node: NodeName) -> Outbound:
            return native if node in foreign else translated

        # A head of our own could not be followed by that of a node.
        some = foreign.intersection(svc.state.snapshot().locations.get(model, ()))
        dialect = ANTHROPIC if some else words.dialect
        sticky = affinity_key(request, body, caller)
        want = Want(model=model, preferred=svc.affinity.preferred(model, sticky))
        exchange = Exchange(request, svc, line, outbound_for, dialect)
        response = await exchange.run(want, sticky)
        if line.record.prompt_tokens is not None:
            svc.tokens.learn(model, prompt_bytes(fields), line.record.prompt_tokens)
        return response


async def count_tokens(request: web.Request) -> web.Response:
    """POST /v1/messages/count_tokens: an estimate; never a load, never a call to a node.

    mistral.rs counts with its default model's tokenizer and crashes that model's work when the
    caller hangs up, so what the model's own answers have taught is better.
    """
    svc = request.app[SERVICES]
    _, fields = await _read(request, svc)
    wanted = fields.get("model")
    if not isinstance(wanted, str):
        raise RequestError("model: field required", param="model")
    if not isinstance(fields.get("messages"), list):
        raise RequestError("messages: field required", param="messages")
    model = resolve(svc, wanted)
    return web.json_response({"input_tokens": svc.tokens.estimate(model, prompt_bytes(fields))})


async def _read(request: web.Request, svc: Services) -> tuple[Body, dict[str, Any]]:
    limits = svc.config.limits
    body = await read_body(
        request,
        limit_bytes=int(limits.max_body_mb * 1024 * 1024),
        timeout_s=limits.idle_timeout_s,
    )
    return body, body.fields()


_PASSING = Passing(ANTHROPIC)


def _addressed(body: Body, model: ModelId) -> Body:
    return body if body.envelope.model == model else body.with_model(model)


def _nothing(line: Line, wanted: MessagesRequest, message_id: str) -> web.Response:
    """An answer of no token at all, which no node would give."""
    if wanted.stream:
        raise RequestError("max_tokens: 0 cannot be streamed", param="max_tokens")
    (head, _) = MessageStream(message_id, wanted.model).start()
    response = web.json_response({**head["message"], "stop_reason": "max_tokens"})
    line.sending(response.status)
    return response
