"""The fleet as the admin API shows it."""

from collections.abc import Iterator

from cortex import __version__
from cortex.adminapi import EvictionStatus, HealthBody, ModelOnNode, NodeStatus, StatusBody
from cortex.core.health import NodeHealth
from cortex.core.ids import ModelId
from cortex.core.rules import EvictionRules
from cortex.core.snapshot import FleetSnapshot, ModelStatus, ModelView, NodeView
from cortex.gateway.exposure import warnings_of
from cortex.gateway.queueview import queues_of
from cortex.gateway.services import Services


def status_word(view: ModelView) -> str:
    """The status for people: `wedged` where the node can no longer load the model."""
    return "wedged" if view.wedged else view.status.value


def health_of(svc: Services) -> HealthBody:
    """What is wrong, in sentences. `impaired` when some model cannot be served at all."""
    snapshot = svc.fleet.snapshot()
    missing: list[str] = []
    unserved: list[str] = []
    for node in snapshot.nodes.values():
        if node.liveness.health is not NodeHealth.UP:
            why = f" ({node.liveness.reason})" if node.liveness.reason else ""
            missing.append(f"node {node.name} is {node.liveness.health}{why}")
        missing.extend(
            f"pinned model {model.id} is not loaded on "
            + ("any node" if model.pin_floats else node.name)
            for model in node.models.values()
            if snapshot.pin_absent(model)
        )
        missing.extend(
            f"model {model.id} is wedged on {node.name}: restart the node to load it again"
            for model in node.models.values()
            if model.wedged and not model.phantom
        )
        missing.extend(
            f"{node.name} was told to reload {model.id}, which is no model of it, and lists it"
            " until it restarts"
            for model in node.models.values()
            if model.phantom
        )
    missing.extend(_odd_pins(snapshot))
    odd = map(svc.fleet.agents.why_unused, snapshot.nodes)
    missing.extend(why for why in odd if why is not None)
    for model_id, names in snapshot.locations.items():
        nodes = [snapshot.nodes[name] for name in names]
        if all(node.models[model_id].phantom for node in nodes):
            continue
        if not any(_may_serve(node, model_id, snapshot) for node in nodes):
            unserved.append(f"model {model_id} cannot be served by any node")
    store = svc.ledger.status()
    if not store.ok:
        missing.append(f"store: {store.reason}")
    missing.extend(svc.fleet.guard.reasons())
    if svc.draining:
        missing.append("draining")
    status = "impaired" if unserved else "degraded" if missing else "ok"
    # A pin that names no node is missed by each that could hold it, and said once.
    reasons = list(dict.fromkeys(unserved + missing))
    return HealthBody(
        status=status, reasons=reasons, warnings=warnings_of(svc), version=__version__
    )


def _odd_pins(snapshot: FleetSnapshot) -> Iterator[str]:
    """Pins that nothing can satisfy: mostly a slip of the pen."""
    for name, model in sorted(snapshot.pins, key=str):
        node = None if name is None else snapshot.nodes.get(name)
        if name is not None and node is None:
            yield f"model {model} is pinned on {name}, and there is no such node"
        elif node is not None and node.liveness.health is NodeHealth.UP:
            if model not in node.models:
                yield f"model {model} is pinned on {name}, which does not list it"
        elif name is None and model not in snapshot.locations:
            yield f"model {model} is pinned, and no node lists it"


def _may_serve(node: NodeView, model_id: ModelId, snapshot: FleetSnapshot) -> bool:
    view = node.models[model_id]
    allowed = snapshot.allowed_nodes.get(view.id)
    if allowed is not None and node.name not in allowed:
        return False
    loadable = node.may_load and not view.wedged
    return node.liveness.health is NodeHealth.UP and (view.resident or loadable)


def status_of_fleet(svc: Services) -> StatusBody:
    """GET /cortex/v1/status."""
    snapshot = svc.fleet.snapshot()
    return StatusBody(
        version=__version__,
        health=health_of(svc),
        started_at_ms=svc.started_at_ms,
        uptime_s=svc.fleet.clock.now_s() - svc.started_s,
        draining=svc.draining,
        in_flight=svc.recent.in_flight,
        queued=svc.fleet.depth(),
        requests_total=svc.recent.requests_total,
        nodes=[
            node_status(svc, node).model_copy(
                update={
                    "models": [
                        model_on_node(svc, node, view, snapshot)
                        for view in node.models.values()
                    ]
                }
            )
            for node in snapshot.nodes.values()
        ],
        queues=list(queues_of(svc)),
        eviction=_eviction(snapshot.eviction),
        store=svc.ledger.status(),
    )


def _eviction(rules: EvictionRules) -> EvictionStatus:
    another = rules.deciding is not rules.strategy
    return EvictionStatus(
        strategy=rules.strategy.value,
        deciding=rules.deciding.value,
        reason=rules.outlook.why_not if another and rules.outlook is not None else "",
    )


def node_status(svc: Services, node: NodeView) -> NodeStatus:
    """A node, without its models."""
    due = svc.fleet.why_due(node)
    client = svc.nodes.get(node.name)
    return NodeStatus(
        name=node.name,
        endpoint=client.endpoint if client is not None else "",
        health=node.liveness.health.value,
        reason=node.liveness.reason,
        draining=node.draining,
        drains=sorted(node.drains),
        version=node.version,
        vram_total_mib=node.vram_total_mib,
        vram_used_mib=_used_mib(node),
        vram_reserved_mib=node.reserved_mib,
        in_flight=node.in_flight,
        max_in_flight=node.max_in_flight,
        cycles=node.cycles,
        defrag_after_cycles=svc.config.eviction.defrag_after_cycles,
        defrag_due=due is not None,
        defrag_reason=due or "",
        residue_mib=node.residue_mib,
        agent_age_s=svc.fleet.agents.age_s(node.name),
        may_load=node.may_load,
        no_load_reason=node.no_load_reason or "",
        may_unload=node.may_unload,
        no_unload_reason=node.no_unload_reason or "",
        last_poll_age_s=svc.fleet.last_answer_age_s(node.name),
    )


def _used_mib(node: NodeView) -> int | None:
    """By what the node reports free; without that, by the sizes of all that is resident."""
    if node.vram_total_mib is None:
        return None
    if node.free_mib is not None:
        return max(0, node.vram_total_mib - node.free_mib)
    sizes = [model.size_mib for model in node.models.values() if model.resident]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def model_on_node(
    svc: Services, node: NodeView, view: ModelView, snapshot: FleetSnapshot
) -> ModelOnNode:
    clock = svc.fleet.clock
    open_s = view.breaker.open_until_s - clock.now_s()
    loading_since_ms = None
    if view.status is ModelStatus.LOADING and view.reloading_since_s is not None:
        loading_since_ms = clock.now_ms() - round(
            (clock.now_s() - view.reloading_since_s) * 1000
        )
    return ModelOnNode(
        node=node.name,
        model=view.id,
        status=status_word(view),
        pinned=view.pinned,
        pin_floats=view.pin_floats,
        in_flight=view.in_flight,
        max_in_flight=view.max_in_flight,
        last_used_at_ms=view.last_used_at_ms or None,
        size_mib=view.size_mib,
        load_s=view.load_s,
        loading_since_ms=loading_since_ms,
        loads=view.loads,
        breaker_open=open_s > 0,
        breaker_reason=view.breaker.reason if open_s > 0 else "",
        last_failure=view.breaker.reason,
        tokens_per_s=svc.recent.tokens_per_s(node.name, view.id),
        aliases=sorted(alias for alias, model in snapshot.aliases.items() if model == view.id),
    )
