"""OpenAI's inference routes: parse, admit, choose, ready, relay, account."""

import secrets
from collections.abc import Awaitable

from cortex.core.amend import amended
from cortex.core.decisions import Want
from cortex.core.errors import RequestError
from cortex.core.ids import ModelId, NodeName
from cortex.core.translate.gather import ChatGather
from cortex.core.translate.to_chat import ChatStream
from cortex.core.translate.to_messages import messages_body
from cortex.gateway.asking import affinity_key, node_of_response, resolve
from cortex.gateway.auth import Caller
from cortex.gateway.body import Body, read_body, small_body, written
from cortex.gateway.call import Call
from cortex.gateway.exchange import Exchange, Outbound, Wishes
from cortex.gateway.fitness import may_be_long, refuse_kind, refuse_length
from cortex.gateway.relay import OPENAI, Passing
from cortex.gateway.services import Services
from cortex.gateway.translated import Gathering, Translated
from cortex.gateway.words import GatheredWords, OpenAIWords

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
MAX_GATHERED_BYTES = 8 * 1024 * 1024
"""A larger request is passed on as it came: it is near a node's own limit, and takes long to change."""
BRIEF_S = 5.0
"""A whole answer that is written in this time is asked for as it is: to gather it costs the gateway as
much as a stream of as many tokens, and a client that hangs up saves a node no more than this."""
_PASSING = Passing(OPENAI)


async def infer(call: Call, caller: Caller, svc: Services) -> None:
    """POST to any of `ROUTES`, streamed or whole."""
    line = svc.line(call, ROUTES[call.path])
    record = line.record
    record.client = caller.name
    with line:
        limits, room, fleet = svc.config.limits, svc.room, svc.fleet
        body = small_body(call.source, limits, room) or await read_body(
            call.source, limits, room
        )
        envelope = body.envelope
        record.stream, record.request_bytes = envelope.stream, body.size
        snapshot = fleet.snapshot()
        record.model = model = resolve(snapshot, envelope.model, caller)
        able = refuse_kind(snapshot, caller, model, record.route)
        sticky = affinity_key(call, body, caller)
        previous = envelope.previous_response_id
        only = None if previous is None else await _holder_of(svc, previous)
        preferred = fleet.affinity.preferred(model, sticky)
        if may_be_long(able, body.size):
            await refuse_length(svc, able, body, record.route)
        if model != envelope.model:
            body = body.with_model(model)
        asked = _Asked(call.path, body, svc, model)
        exchange = Exchange(call, caller, svc, line, asked.outbound_for, OPENAI)
        want = Want(model, preferred, only, request_id=call.request_id)
        await exchange.run(want, sticky)


class _Asked:
    """A request, and what each node is sent for it."""

    __slots__ = ("_body", "_model", "_path", "_svc")

    def __init__(self, path: str, body: Body, svc: Services, model: ModelId) -> None:
        self._path = path
        self._body = body
        self._svc = svc
        self._model = model

    def outbound_for(self, node: NodeName, wishes: Wishes) -> Outbound | Awaitable[Outbound]:
        if node in self._svc.anthropic_nodes:
            return self._translated()
        return self._amended(node, wishes) if wishes else self._outbound(node, self._body)

    async def _amended(self, node: NodeName, wishes: Wishes) -> Outbound:
        body = self._body
        text = await self._svc.workshop.do(body.size, _in_form, body, wishes)
        if text is not None:
            body = Body([text], body.envelope)
        return self._outbound(node, body)

    def _outbound(self, node: NodeName, body: Body) -> Outbound:
        """As it came; where a whole answer can be made of a stream, asking for that.

        A stream ends when its client hangs up.
        """
        svc, envelope = self._svc, body.envelope
        relay = _PASSING if envelope.choices == 1 else Passing(OPENAI, envelope.choices)
        brief = False
        if envelope.same_streamed and self._path == CHAT and body.size <= MAX_GATHERED_BYTES:
            most, pace = envelope.most_tokens, svc.recent.tokens_per_s(node, self._model)
            # It is over before there is much to stop, at the model's pace of late.
            brief = most is not None and pace is not None and most <= BRIEF_S * pace
            if not brief:
                words = GatheredWords(ChatGather())
                most_bytes = svc.config.limits.max_answer_bytes
                gathering = Gathering(words, _PASSING, whole_bytes=most_bytes)
                return Outbound(CHAT, body.as_stream(), gathering)
        return Outbound(self._path, body, relay, in_one_piece=not envelope.stream, brief=brief)

    async def _translated(self) -> Outbound:
        """A chat for a node that speaks Anthropic's dialect only.

        Raises:
            RequestError: Anything else than chat; or a field that the dialect has no words for.
        """
        if self._path != CHAT:
            raise RequestError(
                f"the node that holds this model does not know {self._path}",
                code="route_not_supported",
            )
        svc, body = self._svc, self._body
        text, with_usage = await svc.workshop.do(body.size, _in_messages, body)
        stream = ChatStream(
            f"chatcmpl-{secrets.token_hex(12)}",
            body.envelope.model,
            created_s=svc.fleet.clock.now_ms() // 1000,
            with_usage=with_usage,
        )
        whole_bytes = None if body.envelope.stream else svc.config.limits.max_answer_bytes
        relay = Translated(OpenAIWords(stream), whole_bytes=whole_bytes)
        return Outbound(MESSAGES, Body([text], body.envelope), relay)


def _in_form(body: Body, wishes: Wishes) -> bytes | None:
    fields = amended(body.fields(), wishes)
    return None if fields is None else written(fields)


def _in_messages(body: Body) -> tuple[bytes, bool]:
    """A chat in Anthropic's dialect, and whether it asks for the token counts of its stream."""
    fields = body.fields()
    options = fields.get("stream_options")
    with_usage = isinstance(options, dict) and options.get("include_usage") is True
    return written(messages_body(fields)), with_usage


async def _holder_of(svc: Services, previous: str) -> NodeName:
    """The node with the history that a request goes on with.

    Raises:
        RequestError: Nobody knows it; a node would answer with an empty one, and nobody would notice.
    """
    name = await node_of_response(svc, previous)
    if name is None:
        raise RequestError(
            f"previous response {previous[:80]!r} is not known here",
            code="previous_response_not_found",
            param="previous_response_id",
        )
    return name
