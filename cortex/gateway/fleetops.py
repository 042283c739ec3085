"""What an operator may do to models and nodes, and the explanation of a decision."""

from typing import Any

from aiohttp import web

from cortex.adminapi import (
    ConsideredBody,
    ExplainBody,
    LoadBody,
    ModelStatusBody,
    NodeChange,
    PinBody,
    UnloadBody,
)
from cortex.core.decisions import Considered, Decision, Load, Reject, Serve, Wait, Want
from cortex.core.errors import RequestError
from cortex.core.ids import ModelId, NodeName
from cortex.core.snapshot import FleetSnapshot, ModelStatus, NodeView
from cortex.gateway.auth import require_admin, require_model
from cortex.gateway.fleetview import model_on_node
from cortex.gateway.jsonio import body_of, json_object, json_of
from cortex.gateway.services import SERVICES, Services, caller_of


async def pin(request: web.Request) -> web.Response:
    """Committed to the store before it takes effect, so that no restart undoes it."""
    svc = _admin(request)
    body = await body_of(request, PinBody)
    model, node = _known(request, body.model, body.node)
    await svc.fleet.operator.pin(model, node)
    return _copies(svc, model)


async def unpin(request: web.Request) -> web.Response:
    svc = _admin(request)
    body = await body_of(request, PinBody)
    model, node = _known(request, body.model, body.node)
    await svc.fleet.operator.unpin(model, node)
    return _copies(svc, model)


async def load(request: web.Request) -> web.Response:
    """Answers once the model is resident; a caller that hangs up leaves the queue."""
    svc = _admin(request)
    body = await body_of(request, LoadBody)
    model, node = _known(request, body.model, body.node)
    await svc.fleet.operator.load(model, node)
    return _copies(svc, model)


async def unload(request: web.Request) -> web.Response:
    """Answers once the memory is back; it goes on when the caller hangs up."""
    svc = _admin(request)
    body = await body_of(request, UnloadBody)
    model, node = _known(request, body.model, body.node)
    await svc.fleet.operator.unload(model, node, force=body.force)
    return _copies(svc, model)


async def drain(request: web.Request) -> web.Response:
    svc = _admin(request)
    name = _node(svc, request).name
    await svc.fleet.operator.drain(name)
    return _node_change(svc, name)


async def undrain(request: web.Request) -> web.Response:
    svc = _admin(request)
    name = _node(svc, request).name
    await svc.fleet.operator.undrain(name)
    return _node_change(svc, name)


async def defrag(request: web.Request) -> web.Response:
    """Answers 202 at once: a restart takes minutes, and the events tell of it."""
    svc = _admin(request)
    name = _node(svc, request).name
    svc.fleet.operator.defrag(name)
    response = _node_change(svc, name, "will be restarted as soon as that is safe")
    response.set_status(202)
    return response


async def explain(request: web.Request) -> web.Response:
    """GET /cortex/v1/explain?model=…[&node=…]: the live path's own function, asked without effect."""
    svc = request.app[SERVICES]
    wanted = request.query.get("model")
    if not wanted:
        raise RequestError("which model? ?model=ID", param="model")
    model, node = _known(request, wanted, request.query.get("node"))
    decision = svc.fleet.explain(Want(model=model, only=node))
    return json_of(_explained(decision, now_s=svc.fleet.clock.now_s()))


async def model_status(request: web.Request) -> web.Response:
    """POST /v1/models/status, in mistral.rs's shape, for the fleet or one node."""
    svc = request.app[SERVICES]
    model, node = await _addressed(request)
    return _lifecycle_answer(svc, model, node)


async def model_unload(request: web.Request) -> web.Response:
    """POST /v1/models/unload: drains first."""
    svc = _admin(request)
    model, node = await _addressed(request)
    await svc.fleet.operator.unload(model, node)
    return _lifecycle_answer(svc, model, node)


async def model_reload(request: web.Request) -> web.Response:
    """POST /v1/models/reload; a model that is loaded stays as it is."""
    svc = _admin(request)
    model, node = await _addressed(request)
    await svc.fleet.operator.load(model, node)
    return _lifecycle_answer(svc, model, node)


def _admin(request: web.Request) -> Services:
    svc = request.app[SERVICES]
    require_admin(request, caller_of(request), svc.keyring, svc.config.gateway.hosts)
    return svc


def _known(
    request: web.Request, wanted: str, on_node: str | None
) -> tuple[ModelId, NodeName | None]:
    snapshot = request.app[SERVICES].fleet.snapshot()
    model = snapshot.resolve(wanted)
    if model is None or model not in snapshot.locations:
        raise RequestError(f"no node lists {wanted[:200]!r}", code="model_not_found")
    require_model(caller_of(request), model, snapshot.aliases)
    if on_node is not None and on_node not in snapshot.locations[model]:
        raise RequestError(f"{on_node[:80]!r} does not list {model}", param="node")
    return model, NodeName(on_node) if on_node is not None else None


def _node(svc: Services, request: web.Request) -> NodeView:
    name = request.match_info["name"]
    view = svc.fleet.node(NodeName(name))
    if view is None:
        known = ", ".join(svc.fleet.snapshot().nodes)
        raise RequestError(
            f"there is no node {name[:80]!r}; there are {known}", code="not_found"
        )
    return view


async def _addressed(request: web.Request) -> tuple[ModelId, NodeName | None]:
    fields = await json_object(request)
    wanted, on_node = fields.get("model_id"), fields.get("node")
    if not isinstance(wanted, str):
        raise RequestError("model_id: a string is wanted", param="model_id")
    if not isinstance(on_node, str | None):
        raise RequestError("node: a string is wanted", param="node")
    return _known(request, wanted, on_node)


_BEST_FIRST = (
    ModelStatus.LOADED,
    ModelStatus.LOADING,
    ModelStatus.DRAINING,
    ModelStatus.UNLOADING,
    ModelStatus.UNLOADED,
)
_WORDS = {ModelStatus.LOADING: "reloading", ModelStatus.DRAINING: "loaded"}
"""mistral.rs's words where they are others; it has none for a model that is on its way out."""


def _lifecycle_answer(svc: Services, model: ModelId, node: NodeName | None) -> web.Response:
    snapshot = svc.fleet.snapshot()
    where = {
        name: snapshot.nodes[name].models[model].status
        for name in snapshot.locations.get(model, ())
        if node in (None, name)
    }
    best = min(where.values(), key=_BEST_FIRST.index)
    nodes = [{"node": name, "status": status.value} for name, status in where.items()]
    word = _WORDS.get(best, "unloaded" if best is ModelStatus.UNLOADING else best.value)
    return web.json_response({"model_id": model, "status": word, "nodes": nodes})


def _copies(svc: Services, model: ModelId) -> web.Response:
    snapshot: FleetSnapshot = svc.fleet.snapshot()
    nodes = [snapshot.nodes[name] for name in snapshot.locations.get(model, ())]
    views = [model_on_node(svc, view, view.models[model], snapshot) for view in nodes]
    return json_of(ModelStatusBody(models=views))


def _node_change(svc: Services, name: NodeName, detail: str = "") -> web.Response:
    view = svc.fleet.node(name)
    draining, in_flight = (view.draining, view.in_flight) if view is not None else (False, 0)
    return json_of(NodeChange(node=name, draining=draining, in_flight=in_flight, detail=detail))


def _explained(decision: Decision, *, now_s: float) -> ExplainBody:
    fields: dict[str, Any] = {}
    match decision:
        case Serve(node=node):
            fields = {"node": node}
        case Load(node=node, evict=evict):
            fields = {"node": node, "evict": list(evict)}
        case Wait(load_eta_s=eta_s, recheck_s=recheck_s):
            after_s = None if recheck_s is None else max(0.0, recheck_s - now_s)
            fields = {"load_eta_s": eta_s, "recheck_after_s": after_s}
        case Reject(code=code, retry_after_s=retry_s):
            fields = {"code": code, "retry_after_s": retry_s}
    return ExplainBody(
        model=decision.model,
        decision=type(decision).__name__.lower(),
        reason=decision.reason,
        considered=[_considered(seen) for seen in decision.considered],
        **fields,
    )


def _considered(seen: Considered) -> ConsideredBody:
    return ConsideredBody(
        node=seen.node,
        verdict=seen.verdict.value,
        detail=seen.detail,
        need_mib=seen.need_mib,
        available_mib=seen.available_mib,
        total_mib=seen.total_mib,
        in_flight=seen.in_flight,
        limit=seen.limit,
    )
