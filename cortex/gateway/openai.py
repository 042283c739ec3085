"""OpenAI's inference routes: parse, admit, choose, ready, relay, account."""

import secrets
from collections.abc import Collection

from cortex.config.schema import Limits
from cortex.core.amend import Amendment, amended
from cortex.core.decisions import Want
from cortex.core.errors import RequestError
from cortex.core.ids import NodeName
from cortex.core.translate.gather import ChatGather
from cortex.core.translate.to_chat import ChatStream
from cortex.core.translate.to_messages import messages_body
from cortex.gateway.asking import affinity_key, node_of_response, resolve
from cortex.gateway.auth import Caller
from cortex.gateway.body import Body, read_body, small_body, written
from cortex.gateway.call import Call
from cortex.gateway.exchange import Exchange, Outbound
from cortex.gateway.line import Line
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
    line = Line(call.request_id, ROUTES[call.path], svc.fleet.clock, svc.account)
    line.record.client = caller.name
    with svc.recent.running(line), line:
        limits, room = svc.config.limits, svc.room
        body = small_body(call.source, limits, room) or await read_body(
            call.source, limits, room
        )
        line.record.stream = body.envelope.stream
        line.record.request_bytes = body.size
        model = resolve(svc, body.envelope.model, caller)
        sticky = affinity_key(call, body, caller)
        previous = body.envelope.previous_response_id
        only = None if previous is None else await _holder_of(svc, previous)
        preferred = svc.fleet.affinity.preferred(model, sticky)
        want = Want(model, preferred, only)
        line.record.model = want.model
        if want.model != body.envelope.model:
            body = body.with_model(want.model)
        choices, whole = body.envelope.choices, not body.envelope.stream
        plain = Outbound(
            call.path,
            body,
            _PASSING if choices == 1 else Passing(OPENAI, choices),
            in_one_piece=whole,
        )

        def outbound_for(node: NodeName) -> Outbound:
            if node in svc.anthropic_nodes:
                created_s = svc.fleet.clock.now_ms() // 1000
                return _translated(call, body, limits, created_s=created_s)
            wishes = svc.wishes.of(node, want.model)
            amended = _amended(plain, body, wishes) if wishes else plain
            if call.path != CHAT or not whole:
                return amended
            return _gathered(amended, limits, svc.recent.tokens_per_s(node, want.model))

        with svc.quotas.entered(caller):
            await Exchange(call, caller, svc, line, outbound_for, OPENAI).run(want, sticky)


def _amended(plain: Outbound, body: Body, wishes: Collection[Amendment]) -> Outbound:
    fields = amended(body.fields(), wishes)
    if fields is None:
        return plain
    return plain._replace(body=Body([written(fields)], body.envelope))


def _is_brief(body: Body, tokens_per_s: float | None) -> bool:
    """Whether a whole answer is over before there is much to stop, at the model's pace of late."""
    most = body.envelope.most_tokens
    return most is not None and tokens_per_s is not None and most <= BRIEF_S * tokens_per_s


def _gathered(plain: Outbound, limits: Limits, tokens_per_s: float | None) -> Outbound:
    """Ask for a stream where a whole answer can be made of it: that one ends when its client does."""
    body = plain.body
    if not body.envelope.same_streamed or body.size > MAX_GATHERED_BYTES:
        return plain
    if _is_brief(body, tokens_per_s):
        return plain._replace(brief=True)
    words = GatheredWords(ChatGather())
    relay = Gathering(words, _PASSING, whole_bytes=limits.max_answer_bytes)
    return plain._replace(body=body.as_stream(), relay=relay, in_one_piece=False)


def _translated(call: Call, body: Body, limits: Limits, *, created_s: int) -> Outbound:
    """A chat for a node that speaks Anthropic's dialect only.

    Raises:
        RequestError: Anything else than chat; or a field that the dialect has no words for.
    """
    if call.path != CHAT:
        raise RequestError(
            f"the node that holds this model does not know {call.path}",
            code="route_not_supported",
        )
    fields = body.fields()
    options = fields.get("stream_options")
    stream = ChatStream(
        f"chatcmpl-{secrets.token_hex(12)}",
        body.envelope.model,
        created_s=created_s,
        with_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )
    messages = written(messages_body(fields))
    whole_bytes = None if body.envelope.stream else limits.max_answer_bytes
    relay = Translated(OpenAIWords(stream), whole_bytes=whole_bytes)
    return Outbound(MESSAGES, Body([messages], body.envelope), relay)


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
