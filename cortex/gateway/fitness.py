"""Refuses what no node could do with a model, before anything is loaded for it."""

from collections.abc import Mapping
from typing import Any

from cortex.core.abilities import LEAST_BYTES_A_WORD, Abilities, abilities, least_tokens
from cortex.core.errors import RequestError
from cortex.core.ids import ModelId
from cortex.core.snapshot import FleetSnapshot
from cortex.core.traits import KINDS, Kind
from cortex.gateway.auth import Caller, may_use
from cortex.gateway.body import Body
from cortex.gateway.services import Services

MOST_NAMED = 5
"""Models that are named in an error."""
_PROMPTS = {"completions": "prompt", "images": "prompt"} | dict.fromkeys(
    ("embeddings", "responses", "speech"), "input"
)
"""The field with the prompt, where it is not `messages`."""
_WORDS = {
    Kind.CHAT: "chat",
    Kind.VISION: "images in a chat",
    Kind.EMBEDDINGS: "embeddings",
    Kind.IMAGE: "making images",
    Kind.SPEECH: "speech",
}


def refuse_kind(
    snapshot: FleetSnapshot, caller: Caller, model: ModelId, route: str
) -> Abilities:
    """What the model can do, where it may be good for what is asked.

    Raises:
        RequestError: 400: it is not, at any node; names models that are.
    """
    able = abilities(snapshot, model)
    kind = KINDS[route]
    if kind in able.never:
        others = [
            other
            for other in sorted(snapshot.locations)
            if _is_for(abilities(snapshot, other), kind)
            and may_use(caller, other, snapshot.aliases)
        ]
        hint = f"; for that there is {' or '.join(others[:MOST_NAMED])}" if others else ""
        raise RequestError(
            f"model {model} is not for {_WORDS[kind]} (source: {able.never[kind]}){hint}",
            code="route_not_supported",
            param="model",
        )
    return able


def _is_for(able: Abilities, kind: Kind) -> bool:
    return able.kinds is not None and kind in able.kinds.value and kind not in able.never


async def refuse_length(svc: Services, able: Abilities, body: Body, route: str) -> None:
    """Refuse a prompt that is certainly longer than the model takes at any node.

    Raises:
        RequestError: 400.
    """
    longest = able.longest
    least = await svc.workshop.do(body.size, _least_of, body)
    if longest is not None and least > longest.value:
        raise RequestError(
            f"the prompt is too long: at least {least} tokens, and the model takes"
            f" {longest.value} with its answer (source: {longest.source})",
            code="context_length_exceeded",
            param=_PROMPTS.get(route, "messages"),
        )


def may_be_long(able: Abilities, size: int) -> bool:
    """Whether a body of so many bytes has to be looked at; nearly none has."""
    return able.longest is not None and size > LEAST_BYTES_A_WORD * able.longest.value


def _least_of(body: Body) -> int:
    fields: Mapping[str, Any] = body.fields()
    return least_tokens(fields)
