"""From a request to what is asked of the fleet: the model a name means, and the conversation it is."""

import fnmatch

from cortex.core.errors import CapacityError, RequestError
from cortex.core.health import NodeHealth
from cortex.core.ids import ModelId, NodeName
from cortex.core.nearness import near_names
from cortex.core.plan import RETRY_AFTER_S
from cortex.core.snapshot import FleetSnapshot
from cortex.gateway.auth import Caller, require_model
from cortex.gateway.body import Body
from cortex.gateway.call import Call
from cortex.gateway.services import Services

HEAD_BYTES = 4096
"""Where a conversation begins that can be told by its head."""
CONVERSATION_BYTES = 512
"""As much of a conversation's head as its stickiness hangs on."""


def resolve(snapshot: FleetSnapshot, name: str, caller: Caller) -> ModelId:
    """The model that a name means, where the caller may use it.

    Raises:
        RequestError: 404 with near names of those the caller may use; 403.
        CapacityError: 503 while some node has never been heard of, for it may list the model.
    """
    model = snapshot.resolve(name)
    if model is not None:
        require_model(caller, model, snapshot.aliases)
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
    near = near_names(name, _names(snapshot, caller))
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    target = snapshot.aliases.get(name)
    meaning = "" if target is None else f", which is an alias of {target},"
    raise RequestError(
        f"model {name[:200]!r}{meaning} does not exist on any node{hint}",
        code="model_not_found",
        param="model",
    )


def _names(snapshot: FleetSnapshot, caller: Caller) -> list[str]:
    """What the caller could have asked for."""
    locations, aliases = snapshot.locations, snapshot.aliases
    meant = {alias: model for alias, model in aliases.items() if model in locations}
    if caller.models is None:
        return [*locations, *meant]
    # As `may_use`, for all at once.
    models = {m for pattern in caller.models for m in fnmatch.filter(locations, pattern)}
    models |= {meant[a] for pattern in caller.models for a in fnmatch.filter(meant, pattern)}
    return [*models, *(alias for alias, model in meant.items() if model in models)]


async def node_of_response(svc: Services, response_id: str) -> NodeName | None:
    """Which node holds the state of a `resp_…`."""
    recent = svc.recent.node_of_response(response_id)
    return recent if recent is not None else await svc.ledger.node_of_response(response_id)


def affinity_key(call: Call, body: Body, caller: Caller) -> str | int:
    """What tells one conversation from another: the first of these that there is."""
    if call.facts.conversation is not None:
        return call.facts.conversation
    if body.envelope.prompt_cache_key:
        return body.envelope.prompt_cache_key[:200]
    first = body.chunks[0] if body.chunks else b""
    for key in (b'"messages"', b'"input"', b'"prompt"'):
        at = first.find(key, 0, HEAD_BYTES)
        if at >= 0:
            # Known to this process alone, which is as long as it is remembered.
            return hash(first[at : min(at + CONVERSATION_BYTES, HEAD_BYTES)])
    return caller.name or ""
