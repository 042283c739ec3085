"""`/v1/models`: every model of every node, once, in OpenAI's shape or Anthropic's."""

from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from cortex.core.abilities import Abilities, Known, abilities
from cortex.core.errors import RequestError
from cortex.core.ids import ModelId
from cortex.core.snapshot import FleetSnapshot, ModelStatus
from cortex.gateway.auth import Caller, may_use
from cortex.gateway.errors import is_anthropic
from cortex.gateway.fleetview import status_word
from cortex.gateway.paths import canonical
from cortex.gateway.services import SERVICES, Services, caller_of

_BEST = (
    ModelStatus.LOADED,
    ModelStatus.LOADING,
    ModelStatus.DRAINING,
    ModelStatus.UNLOADING,
    ModelStatus.UNLOADED,
)


async def list_models(request: web.Request) -> web.Response:
    """GET /v1/models."""
    svc = request.app[SERVICES]
    if is_anthropic(request):
        return web.json_response(_anthropic_page(request, svc))
    return web.json_response({"object": "list", "data": _entries(svc, caller_of(request))})


async def get_model(request: web.Request) -> web.Response:
    """GET /v1/models/{id}; ids may hold slashes."""
    svc = request.app[SERVICES]
    wanted = canonical(request.path).removeprefix("/v1/models/")
    for entry in _entries(svc, caller_of(request)):
        if entry["id"] == wanted:
            return web.json_response(_anthropic(entry) if is_anthropic(request) else entry)
    raise RequestError(f"model {wanted[:200]!r} does not exist", code="model_not_found")


def _entries(svc: Services, caller: Caller) -> list[dict[str, object]]:
    """Of the models that the caller may use."""
    snapshot = svc.fleet.snapshot()
    created = svc.started_at_ms // 1000
    usable = {m for m in snapshot.locations if may_use(caller, m, snapshot.aliases)}
    entries = [_entry(snapshot, model, created) for model in sorted(usable)]
    for alias, model in sorted(snapshot.aliases.items()):
        if model in usable and alias not in snapshot.locations:
            entries.append(_entry(snapshot, model, created) | {"id": alias, "parent": model})
    return entries


def _entry(snapshot: FleetSnapshot, model: ModelId, created: int) -> dict[str, object]:
    nodes = [snapshot.nodes[name] for name in snapshot.locations[model]]
    boots = [node.boot_at_s for node in nodes if node.boot_at_s is not None]
    views = [(node, node.models[model]) for node in nodes]
    best = min(
        (view.status for node, view in views if node.routable), key=_BEST.index, default=None
    )
    return {
        "id": model,
        "object": "model",
        "created": min(boots, default=created),
        "owned_by": "local",
        "status": best.value if best is not None else "unavailable",
        "locations": [
            {
                "node": node.name,
                "status": status_word(view),
                "pinned": view.pinned,
                "in_flight": view.in_flight,
            }
            for node, view in views
        ],
        **_known(abilities(snapshot, model)),
    }


def _known(able: Abilities) -> dict[str, object]:
    """What is known of the model, and who says so; what nobody says is left out."""
    said: dict[str, Known[Any] | None] = {
        "context_length": able.context_tokens,
        "modalities": able.kinds,
        "quantization": able.quantization,
        "size_mib": able.size_mib,
    }
    known = {name: fact for name, fact in said.items() if fact is not None}
    if not known:
        return {}
    return {
        **{name: _plain(fact.value) for name, fact in known.items()},
        "sources": {name: fact.source for name, fact in known.items()},
    }


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else value


def _anthropic_page(request: web.Request, svc: Services) -> dict[str, object]:
    """One page, by `limit`, and `after_id` or `before_id`: then the page that ends there."""
    entries = [_anthropic(entry) for entry in _entries(svc, caller_of(request))]
    ids = [entry["id"] for entry in entries]
    try:
        limit = int(request.query.get("limit", "20"))
    except ValueError as exc:
        raise RequestError("limit must be a number", param="limit") from exc
    if not 1 <= limit <= 1000:
        raise RequestError("limit must be between 1 and 1000", param="limit")
    start, end = 0, len(entries)
    if (after := request.query.get("after_id")) in ids:
        start = ids.index(after) + 1
    backwards = (before := request.query.get("before_id")) in ids
    if backwards:
        end = ids.index(before)
    found = entries[start:end]
    page = found[-limit:] if backwards else found[:limit]
    return {
        "data": page,
        "has_more": len(page) < len(found),
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }


def _anthropic(entry: dict[str, object]) -> dict[str, object]:
    created = entry["created"]
    assert isinstance(created, int)
    return {
        "type": "model",
        "id": entry["id"],
        "display_name": entry["id"],
        "created_at": datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
