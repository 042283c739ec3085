"""What outlives the process: between views and what the store keeps of them, both ways."""

from collections.abc import Mapping

from cortex.core.identity import moved
from cortex.core.ids import ModelId, NodeName
from cortex.core.records import NodeRecord, Recollection, ResidencyRecord
from cortex.core.snapshot import Drain, ModelView, NodeView
from cortex.fleet.policy import NodePolicy, Pin, Pins


class Remembered:
    """What the store remembers of nodes and models, until they answer for themselves.

    And of nodes that leave the configuration, for they may come back.
    """

    def __init__(self, recollection: Recollection) -> None:
        self._models: dict[NodeName, dict[ModelId, ResidencyRecord]] = {}
        for record in recollection.residency:
            self._models.setdefault(record.node, {})[record.model] = record
        self._nodes: dict[NodeName, NodeRecord] = {
            record.name: record for record in recollection.nodes
        }
        self.drained = set(recollection.drained)
        #: Of models of nodes that left: their last generation, so that no late answer fits.
        self._generations: dict[tuple[NodeName, ModelId], int] = {}

    @property
    def nodes(self) -> Mapping[NodeName, NodeRecord]:
        return self._nodes

    @property
    def endpoints(self) -> dict[NodeName, str]:
        return {name: record.endpoint for name, record in self._nodes.items()}

    def keep(self, node: NodeView) -> None:
        """Remember a node that leaves as it is now."""
        self._nodes.pop(node.name, None)
        self._nodes[node.name] = node_record(node)
        self._models[node.name] = {
            model.id: residency_record(node.name, model) for model in node.models.values()
        }
        self._generations |= {
            (node.name, model.id): model.generation for model in node.models.values()
        }

    def rename(self, renames: Mapping[NodeName, NodeName]) -> None:
        self._nodes = moved(self._nodes, renames)
        self._models = moved(self._models, renames)
        self.drained = {renames.get(name, name) for name in self.drained}
        self._generations = {
            (renames.get(name, name), model): generation
            for (name, model), generation in self._generations.items()
        }

    def node(self, rule: NodePolicy, now_ms: int) -> NodeView:
        """A node as it was remembered: its models are known, none of them counts as resident.

        Pinned models of the configuration are known too, so that a request for one that is
        merely down is answered 503 and not 404.
        """
        kept = self._models.get(rule.name, {})
        known = {model for model, record in kept.items() if not record.gone} | rule.pinned
        record = self._nodes.get(rule.name, NodeRecord(name=rule.name))
        return NodeView(
            name=rule.name,
            endpoint=rule.endpoint,
            models={model: self.model(rule.name, model, now_ms) for model in sorted(known)},
            cycles=record.cycles,
            boot_at_s=record.boot_at_s,
            version=record.version,
            restarted_at_ms=record.last_restart_at_ms,
            residue_mib=record.residue_mib,
            read_mib=record.read_mib,
            drains=frozenset({Drain.REQUEST}) if rule.name in self.drained else frozenset(),
        )

    def model(self, node: NodeName, model: ModelId, now_ms: int) -> ModelView:
        """A model with what was learned of it on this node; no use of it lies in the future."""
        generation = self._generations.get((node, model), 0)
        record = self._models.get(node, {}).get(model)
        if record is None:
            return ModelView(id=model, generation=generation)
        return ModelView(
            id=model,
            generation=generation,
            last_used_at_ms=min(record.last_used_at_ms, now_ms),
            loads=record.loads,
            load_s=record.load_s,
            cold_load_s=record.cold_load_s,
            warm_load_s=record.warm_load_s,
            size_mib=record.size_mib,
            read_at_mib=record.read_at_mib,
        )


def renamed_pins(pins: Pins, renames: Mapping[NodeName, NodeName]) -> set[Pin]:
    """Those of a node go with it."""
    return {(name and renames.get(name, name), model) for name, model in pins}


def residency_record(node: NodeName, view: ModelView) -> ResidencyRecord:
    return ResidencyRecord(
        node=node,
        model=view.id,
        status=view.status.value,
        last_used_at_ms=view.last_used_at_ms,
        loads=view.loads,
        load_s=view.load_s,
        cold_load_s=view.cold_load_s,
        warm_load_s=view.warm_load_s,
        size_mib=view.size_mib,
        read_at_mib=view.read_at_mib,
    )


def node_record(view: NodeView) -> NodeRecord:
    return NodeRecord(
        name=view.name,
        endpoint=view.endpoint,
        cycles=view.cycles,
        boot_at_s=view.boot_at_s,
        last_restart_at_ms=view.restarted_at_ms,
        health=view.liveness.health.value,
        version=view.version,
        residue_mib=view.residue_mib,
        vram_total_mib=view.vram_total_mib,
        ram_total_mib=view.ram_total_mib,
        read_mib=view.read_mib,
    )
