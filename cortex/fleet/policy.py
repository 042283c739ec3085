"""What the configuration says of nodes and models, and its effect on their views: pure."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

from cortex.core.ids import ModelId, NodeName
from cortex.core.records import Memory, NodeRecord, ResidencyRecord
from cortex.core.snapshot import DEFAULT_PRIORITY, ModelView, NodeView

Pins = Set[tuple[NodeName | None, ModelId]]
"""Runtime pins; node None = wherever the model is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePolicy:
    """What the configuration says of one node."""

    name: NodeName
    vram_total_mib: int | None = None
    pinned: frozenset[ModelId] = frozenset()
    max_in_flight: int | None = None
    lifecycle: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPolicy:
    """What the configuration says of one model."""

    size_mib: int | None = None
    priority: int = DEFAULT_PRIORITY
    max_in_flight: int | None = None
    nodes: frozenset[NodeName] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPolicy:
    """The configuration as the fleet needs it."""

    nodes: tuple[NodePolicy, ...]
    models: Mapping[ModelId, ModelPolicy] = field(default_factory=dict)
    aliases: Mapping[str, ModelId] = field(default_factory=dict)
    max_in_flight_per_model: int = 32
    failures_before_down: int = 3

    def node(self, name: NodeName) -> NodePolicy | None:
        return next((node for node in self.nodes if node.name == name), None)


def govern(node: NodeView, policy: FleetPolicy, pins: Pins) -> NodeView:
    """The node with the configuration's limits, sizes and pins applied; what it holds stays."""
    rule = policy.node(node.name)
    if rule is None:
        return node
    return replace(
        node,
        vram_total_mib=rule.vram_total_mib or node.vram_total_mib,
        max_in_flight=rule.max_in_flight,
        may_load=rule.lifecycle != "off",
        no_load_reason='lifecycle = "off"' if rule.lifecycle == "off" else "",
        models={
            model: govern_model(node.name, view, policy, pins)
            for model, view in node.models.items()
        },
    )


def govern_model(node: NodeName, view: ModelView, policy: FleetPolicy, pins: Pins) -> ModelView:
    """One model's view with the configuration applied."""
    rule = policy.models.get(view.id, ModelPolicy())
    on_node = policy.node(node)
    pinned = (
        (on_node is not None and view.id in on_node.pinned)
        or (node, view.id) in pins
        or (None, view.id) in pins
    )
    return replace(
        view,
        pinned=pinned,
        priority=rule.priority,
        max_in_flight=rule.max_in_flight or policy.max_in_flight_per_model,
        size_mib=rule.size_mib or view.size_mib,
    )


class Recollection:
    """What the store remembers of nodes and models, until they answer for themselves."""

    def __init__(self, memory: Memory) -> None:
        self._models: dict[tuple[NodeName, ModelId], ResidencyRecord] = {
            (record.node, record.model): record for record in memory.residency
        }
        self._nodes: dict[NodeName, NodeRecord] = {
            record.name: record for record in memory.nodes
        }

    def node(self, rule: NodePolicy) -> NodeView:
        """A node as it was remembered: its models are known, none of them counts as resident.

        Pinned models of the configuration are known too, so that a request for one that is
        merely down is answered 503 and not 404.
        """
        known = {model for node, model in self._models if node == rule.name} | rule.pinned
        record = self._nodes.get(rule.name, NodeRecord(name=rule.name))
        return NodeView(
            name=rule.name,
            models={model: self.model(rule.name, model) for model in sorted(known)},
            cycles=record.cycles,
            boot_at_s=record.boot_at_s,
            version=record.version,
        )

    def model(self, node: NodeName, model: ModelId) -> ModelView:
        """A model with what was learned of it on this node."""
        record = self._models.get((node, model))
        if record is None:
            return ModelView(id=model)
        return ModelView(
            id=model,
            last_used_at_ms=record.last_used_at_ms,
            loads=record.loads,
            load_s=record.load_s,
            size_mib=record.size_mib,
        )
