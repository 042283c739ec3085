"""What the configuration says of nodes and models, and its effect on their views: pure."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

from cortex.core.ids import ModelId, NodeName
from cortex.core.rules import EvictionRules
from cortex.core.snapshot import DEFAULT_PRIORITY, ModelView, NodeView
from cortex.core.traits import NOTHING, Traits
from cortex.core.versions import why_unload_destroys

_OFF = 'lifecycle = "off"'

Pin = tuple[NodeName | None, ModelId]
"""Node None = wherever the model is."""
Pins = Set[Pin]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePolicy:
    """What the configuration says of one node."""

    name: NodeName
    endpoint: str = ""
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
    idle_unload_s: float | None = None
    max_copies: int | None = None
    traits: Traits = NOTHING


NO_RULE = ModelPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPolicy:
    """The configuration as the fleet needs it."""

    nodes: tuple[NodePolicy, ...]
    models: Mapping[ModelId, ModelPolicy] = field(default_factory=dict)
    aliases: Mapping[str, ModelId] = field(default_factory=dict)
    max_in_flight_per_model: int = 32
    failures_before_down: int = 3
    poll_interval_s: float = 5.0
    poll_timeout_s: float = 4.0
    max_queue: int = 1024
    """Requests that may wait for one model."""
    queue_timeout_s: float = 300.0
    """Longest wait for a slot; time spent on a load does not count."""
    load_timeout_s: float = 600.0
    """No load takes longer, whoever began it, and as much of a wait does not count."""
    drain_timeout_s: float = 30.0
    """How long running requests get before a drain is given up."""
    eviction: EvictionRules = field(default_factory=EvictionRules)
    idle_unload_s: float | None = None
    """Unload what nobody used for so long; None = never. A model's own figure goes first."""
    defrag_after_cycles: int = 0
    by_name: Mapping[NodeName, NodePolicy] = field(init=False, repr=False, compare=False)
    allowed_nodes: Mapping[ModelId, frozenset[NodeName]] = field(
        init=False, repr=False, compare=False
    )
    max_copies: Mapping[ModelId, int] = field(init=False, repr=False, compare=False)
    traits: Mapping[ModelId, Traits] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rules = self.models.items()
        derived = {
            "by_name": {node.name: node for node in self.nodes},
            "allowed_nodes": {m: rule.nodes for m, rule in rules if rule.nodes is not None},
            "max_copies": {
                m: rule.max_copies for m, rule in rules if rule.max_copies is not None
            },
            "traits": {m: rule.traits for m, rule in rules if rule.traits != NOTHING},
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def node(self, name: NodeName) -> NodePolicy | None:
        return self.by_name.get(name)


def govern(node: NodeView, policy: FleetPolicy, pins: Pins) -> NodeView:
    """The node with the configuration's limits, sizes and pins applied; what it holds stays."""
    rule = policy.node(node.name)
    if rule is None:
        return node
    return replace(
        node,
        vram_total_mib=rule.vram_total_mib or node.vram_total_mib,
        max_in_flight=rule.max_in_flight,
        no_load_reason=_OFF if rule.lifecycle == "off" else None,
        no_unload_reason=_why_no_unload(node, rule),
        models={
            model: govern_model(node.name, view, policy, pins)
            for model, view in node.models.items()
        },
    )


def _why_no_unload(node: NodeView, rule: NodePolicy) -> str | None:
    match rule.lifecycle:
        case "off":
            return _OFF
        case "on":
            return None
        case _:
            return why_unload_destroys(node.version)


def govern_model(node: NodeName, view: ModelView, policy: FleetPolicy, pins: Pins) -> ModelView:
    """One model's view with the configuration applied; the same one where that changes nothing."""
    rule = policy.models.get(view.id, NO_RULE)
    on_node = policy.node(node)
    pinned_here = (on_node is not None and view.id in on_node.pinned) or (
        node,
        view.id,
    ) in pins
    pinned_anywhere = (None, view.id) in pins
    idle_s = policy.idle_unload_s if rule.idle_unload_s is None else rule.idle_unload_s
    pinned, floats = pinned_here or pinned_anywhere, pinned_anywhere and not pinned_here
    max_in_flight = rule.max_in_flight or policy.max_in_flight_per_model
    size_mib = rule.size_mib or view.size_mib
    if view.out_of_memory:
        # What is configured was too little, until a load succeeds.
        size_mib = max(size_mib or 0, view.size_mib or 0) or None
    # Asked of every model at every poll, and answered differently hardly ever.
    if (view.pinned, view.pin_floats, view.idle_unload_s, view.priority) == (
        pinned,
        floats,
        idle_s,
        rule.priority,
    ) and (view.max_in_flight, view.size_mib) == (max_in_flight, size_mib):
        return view
    return replace(
        view,
        pinned=pinned,
        pin_floats=floats,
        idle_unload_s=idle_s,
        priority=rule.priority,
        max_in_flight=max_in_flight,
        size_mib=size_mib,
    )
