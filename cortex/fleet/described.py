"""The fleet as it is configured, for the log: what is needed to tell later what else it could have done."""

from collections.abc import Mapping

from cortex.core.ids import ModelId, NodeName
from cortex.core.records import NodeRecord
from cortex.core.snapshot import FleetSnapshot, ModelView
from cortex.fleet.policy import NO_RULE, FleetPolicy

Described = dict[str, object]


def described(
    policy: FleetPolicy, snapshot: FleetSnapshot, kept: Mapping[NodeName, NodeRecord]
) -> Described:
    """Nodes with their memory, models with what is asked of each, and the rules; plain JSON.

    What a node has not said yet is taken from `kept`, what it said before.
    """
    listed: dict[ModelId, list[ModelView]] = {model: [] for model in policy.models}
    for node in snapshot.nodes.values():
        for model in node.models.values():
            listed.setdefault(model.id, []).append(model)
    rules = policy.eviction
    return {
        "nodes": {node.name: _node(policy, snapshot, kept, node.name) for node in policy.nodes},
        "models": {
            model: _model(policy, snapshot, model, views)
            for model, views in sorted(listed.items())
        },
        "eviction": {
            "strategy": rules.strategy.value,
            "min_residency_s": rules.min_residency_s,
        },
        "limits": {
            "max_in_flight_per_model": policy.max_in_flight_per_model,
            "max_queue": policy.max_queue,
            "queue_timeout_s": policy.queue_timeout_s,
            "load_timeout_s": policy.load_timeout_s,
            "idle_unload_s": policy.idle_unload_s,
        },
    }


def _node(
    policy: FleetPolicy,
    snapshot: FleetSnapshot,
    kept: Mapping[NodeName, NodeRecord],
    name: NodeName,
) -> Described:
    rule, view = policy.by_name[name], snapshot.nodes[name]
    before = kept.get(name, NodeRecord(name=name))
    return {
        "vram_mib": view.vram_total_mib or before.vram_total_mib,
        "ram_mib": view.ram_total_mib or before.ram_total_mib,
        "max_in_flight": rule.max_in_flight,
        "lifecycle": rule.lifecycle,
    }


def _model(
    policy: FleetPolicy, snapshot: FleetSnapshot, model: ModelId, views: list[ModelView]
) -> Described:
    rule = policy.models.get(model, NO_RULE)
    sizes = [view.size_mib for view in views if view.size_mib is not None]
    pinned = [where for where, pin in snapshot.pins if pin == model]
    return {
        "size_mib": rule.size_mib or max(sizes, default=None),
        "priority": rule.priority,
        # Null: wherever it is.
        "pinned": sorted(pinned, key=lambda where: where or ""),
        "max_in_flight": rule.max_in_flight,
        "idle_unload_s": rule.idle_unload_s,
        "max_copies": rule.max_copies,
        "allowed": None if rule.nodes is None else sorted(rule.nodes),
    }
