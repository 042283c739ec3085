"""Anthropic's Messages API, translated to chat completions for the nodes."""

import secrets
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from aiohttp import web

from cortex.core.decisions import Want
from cortex.core.errors import RequestError
from cortex.core.ids import ModelId, NodeName
from cortex.core.jsontext import dumps
from cortex.core.translate.request import MessagesRequest, read_messages_request
from cortex.core.translate.stream import MessageStream
from cortex.gateway.asking import affinity_key, resolve
from cortex.gateway.auth import Caller
from cortex.gateway.body import Body, read_body, written
from cortex.gateway.call import AiohttpSource, Call
from cortex.gateway.exchange import Exchange, Outbound, OutboundFor, Wishes
from cortex.gateway.fitness import may_be_long, refuse_kind, refuse_length
from cortex.gateway.line import Line
from cortex.gateway.relay import Dialect, Passing
from cortex.gateway.reply import JSON_LINE
from cortex.gateway.services import SERVICES, Services, caller_of
from cortex.gateway.tokens import prompt_bytes
from cortex.gateway.translated import Translated
from cortex.gateway.words import ANTHROPIC, AnthropicWords, Head, dialect_with

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"


async def messages(call: Call, caller: Caller, svc: Services) -> None:
    """POST /v1/messages, streamed or whole."""
    line = svc.line(call, "messages")
    line.record.dialect = "anthropic"
    line.record.client = caller.name
    with line:
        body = await read_body(call.source, svc.config.limits, svc.room)
        line.record.request_bytes = body.size
        sticky = affinity_key(call, body, caller)
        understood = await svc.workshop.do(body.size, _understand, body)
        asked = await _ask(call, caller, svc, line, body, understood)
        # A stream may last for minutes: what it was asked with is let go.
        del body, understood
        if asked is None:
            return
        model = asked.model
        want = Want(
            model,
            svc.fleet.affinity.preferred(model, sticky),
            request_id=call.request_id,
        )
        exchange = Exchange(call, caller, svc, line, asked.outbound_for, asked.dialect)
        await exchange.run(want, sticky)
        if line.record.prompt_tokens is not None:
            svc.tokens.learn(model, asked.prompt, line.record.prompt_tokens)


class _Understood(NamedTuple):
    """A body, read whole."""

    wanted: MessagesRequest
    prompt: tuple[int, int]
    """Its bytes of text and its images."""


def _understand(body: Body) -> _Understood:
    fields = body.fields()
    return _Understood(read_messages_request(fields), prompt_bytes(fields))


@dataclass(slots=True)
class _Asked:
    """What is left of a request once it is understood."""

    model: ModelId
    prompt: tuple[int, int]
    """Its bytes of text and its images."""
    outbound_for: OutboundFor
    dialect: Dialect


async def _ask(
    call: Call,
    caller: Caller,
    svc: Services,
    line: Line,
    body: Body,
    understood: _Understood,
) -> _Asked | None:
    """Translate; None = it is answered already, for it asks for nothing."""
    wanted = understood.wanted
    line.record.stream = wanted.stream
    snapshot = svc.fleet.snapshot()
    model = resolve(snapshot, wanted.model, caller)
    line.record.model = model
    able = refuse_kind(snapshot, caller, model, line.record.route)
    if may_be_long(able, body.size):
        await refuse_length(svc, able, body, line.record.route)
    message_id = f"msg_{secrets.token_hex(12)}"
    if wanted.nothing_to_say:
        _nothing(call, line, wanted, message_id)
        return None
    text = await svc.workshop.do(body.size, written, {**wanted.chat, "model": model})
    chat = Body([text], body.envelope)
    foreign = svc.anthropic_nodes.intersection(svc.fleet.snapshot().locations.get(model, ()))
    native = _native(call, body, model, whole=not wanted.stream) if foreign else None

    # Not the request itself, which may be large: this lives as long as its answer.
    message = partial(
        MessageStream,
        message_id,
        wanted.model,
        one_call=wanted.one_call,
        hides_thinking=wanted.hides_thinking,
    )
    head = Head(message())
    whole_bytes = None if wanted.stream else svc.config.limits.max_answer_bytes

    def outbound_for(node: NodeName, _wishes: Wishes) -> Outbound:
        if native is not None and node in foreign:
            return native
        words = AnthropicWords(message(), head)
        return Outbound(CHAT, chat, Translated(words, whole_bytes=whole_bytes))

    # A head of our own could not be followed by that of a node.
    dialect = ANTHROPIC if foreign else dialect_with(head)
    return _Asked(model, understood.prompt, outbound_for, dialect)


async def count_tokens(request: web.Request) -> web.Response:
    """POST /v1/messages/count_tokens: an estimate; never a load, never a call to a node.

    mistral.rs counts with its default model's tokenizer and crashes that model's work when the
    caller hangs up, so what the model's own answers have taught is better.
    """
    svc = request.app[SERVICES]
    source = AiohttpSource(request)
    try:
        body = await read_body(source, svc.config.limits, svc.room)
        wanted, prompt = await svc.workshop.do(body.size, _counted, body)
    finally:
        svc.room.leave(source)
    model = resolve(svc.fleet.snapshot(), wanted, caller_of(request))
    return web.json_response({"input_tokens": svc.tokens.estimate(model, prompt)})


def _counted(body: Body) -> tuple[str, tuple[int, int]]:
    """The model of a question, and what `prompt_bytes` says of its prompt."""
    fields = body.fields()
    wanted = fields.get("model")
    if not isinstance(wanted, str):
        raise RequestError("model: field required", param="model")
    if not isinstance(fields.get("messages"), list):
        raise RequestError("messages: field required", param="messages")
    return wanted, prompt_bytes(fields)


_PASSING = Passing(ANTHROPIC)


def _native(call: Call, body: Body, model: ModelId, *, whole: bool) -> Outbound:
    return Outbound(call.path, _addressed(body, model), _PASSING, in_one_piece=whole)


def _addressed(body: Body, model: ModelId) -> Body:
    return body if body.envelope.model == model else body.with_model(model)


def _nothing(call: Call, line: Line, wanted: MessagesRequest, message_id: str) -> None:
    """An answer of no token at all, which no node would give."""
    if wanted.stream:
        raise RequestError("max_tokens: 0 cannot be streamed", param="max_tokens")
    (head, _) = MessageStream(message_id, wanted.model).start()
    body = dumps({**head["message"], "stop_reason": "max_tokens"})
    line.sending(200)
    call.reply.send(200, JSON_LINE, body)
