"""Builders of snapshots for the planner's tests."""

from collections.abc import Mapping

from cortex.core.decisions import Want
from cortex.core.health import Liveness, NodeHealth
from cortex.core.ids import ModelId, NodeName
from cortex.core.rules import EvictionRules
from cortex.core.snapshot import FleetSnapshot, ModelStatus, ModelView, NodeView

UP = Liveness(NodeHealth.UP)
WANTED = ModelId("wanted")


def model(name: str, status: str = "loaded", **more: object) -> ModelView:
    return ModelView(id=ModelId(name), status=ModelStatus(status), **more)  # type: ignore[arg-type]


def absent(size_mib: int | None = None, **more: object) -> ModelView:
    return model("wanted", "unloaded", size_mib=size_mib, **more)


def node(
    name: str, *models: ModelView, total_mib: int | None = None, **more: object
) -> NodeView:
    """Up, with its in-flight count made to agree with its models'."""
    fields: dict[str, object] = {
        "name": NodeName(name),
        "liveness": UP,
        "vram_total_mib": total_mib,
        "models": {m.id: m for m in models},
        "in_flight": sum(m.in_flight for m in models),
    }
    return NodeView(**(fields | more))  # type: ignore[arg-type]


def fleet(
    *nodes: NodeView,
    eviction: EvictionRules = EvictionRules(),  # noqa: B008 (frozen)
    allowed: Mapping[ModelId, frozenset[NodeName]] | None = None,
) -> FleetSnapshot:
    found: dict[ModelId, list[NodeName]] = {}
    for n in sorted(nodes, key=lambda n: n.name):
        for m in n.models:
            found.setdefault(m, []).append(n.name)
    return FleetSnapshot(
        nodes={n.name: n for n in nodes},
        locations={m: tuple(names) for m, names in found.items()},
        allowed_nodes=allowed or {},
        eviction=eviction,
    )


def want(**more: object) -> Want:
    return Want(**({"model": WANTED} | more))  # type: ignore[arg-type]
