"""What outlives the process: between views and what the store keeps of them, both ways."""

from cortex.core.ids import ModelId, NodeName
from cortex.core.records import NodeRecord, Recollection, ResidencyRecord
from cortex.core.snapshot import Drain, ModelView, NodeView
from cortex.fleet.policy import NodePolicy


class Remembered:
    """What the store remembers of nodes and models, until they answer for themselves."""

    def __init__(self, recollection: Recollection) -> None:
        self._models: dict[tuple[NodeName, ModelId], ResidencyRecord] = {
            (record.node, record.model): record for record in recollection.residency
        }
        self._known: dict[NodeName, set[ModelId]] = {}
        for node, model in self._models:
            self._known.setdefault(node, set()).add(model)
        self._nodes: dict[NodeName, NodeRecord] = {
            record.name: record for record in recollection.nodes
        }
        self._drained = recollection.drained

    def node(self, rule: NodePolicy, now_ms: int) -> NodeView:
        """A node as it was remembered: its models are known, none of them counts as resident.

        Pinned models of the configuration are known too, so that a request for one that is
        merely down is answered 503 and not 404.
        """
        known = self._known.get(rule.name, set()) | rule.pinned
        record = self._nodes.get(rule.name, NodeRecord(name=rule.name))
        return NodeView(
            name=rule.name,
            models={model: self.model(rule.name, model, now_ms) for model in sorted(known)},
            cycles=record.cycles,
            boot_at_s=record.boot_at_s,
            version=record.version,
            restarted_at_ms=record.last_restart_at_ms,
            residue_mib=record.residue_mib,
            drains=frozenset({Drain.REQUEST}) if rule.name in self._drained else frozenset(),
        )

    def model(self, node: NodeName, model: ModelId, now_ms: int) -> ModelView:
        """A model with what was learned of it on this node; no use of it lies in the future."""
        record = self._models.get((node, model))
        if record is None:
            return ModelView(id=model)
        return ModelView(
            id=model,
            last_used_at_ms=min(record.last_used_at_ms, now_ms),
            loads=record.loads,
            load_s=record.load_s,
            size_mib=record.size_mib,
        )


def residency_record(node: NodeName, view: ModelView) -> ResidencyRecord:
    return ResidencyRecord(
        node=node,
        model=view.id,
        status=view.status.value,
        last_used_at_ms=view.last_used_at_ms,
        loads=view.loads,
        load_s=view.load_s,
        size_mib=view.size_mib,
    )


def node_record(view: NodeView) -> NodeRecord:
    return NodeRecord(
        name=view.name,
        cycles=view.cycles,
        boot_at_s=view.boot_at_s,
        last_restart_at_ms=view.restarted_at_ms,
        health=view.liveness.health.value,
        version=view.version,
        residue_mib=view.residue_mib,
    )
