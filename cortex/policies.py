"""From the configuration to what each part of the fleet needs of it: pure."""

from cortex.config.schema import Config
from cortex.core.ids import ModelId, NodeName
from cortex.core.rules import EvictionRules, Strategy
from cortex.core.traits import Kind, Traits
from cortex.fleet.policy import FleetPolicy, ModelPolicy, NodePolicy

FILES_RESERVED = 128


def fleet_policy(config: Config) -> FleetPolicy:
    aliases = {alias: ModelId(model) for alias, model in config.aliases.items()}
    aliases |= {
        alias: ModelId(model_id)
        for model_id, model in config.models.items()
        for alias in model.aliases
    }
    return FleetPolicy(
        nodes=tuple(
            NodePolicy(
                name=NodeName(node.name),
                endpoint=node.endpoint,
                vram_total_mib=node.vram_mb,
                pinned=frozenset(ModelId(model) for model in node.pinned),
                max_in_flight=node.max_in_flight or config.limits.max_in_flight_per_node,
                lifecycle=node.lifecycle,
            )
            for node in config.nodes
        ),
        models={
            ModelId(model_id): ModelPolicy(
                size_mib=model.vram_mb,
                priority=model.priority,
                max_in_flight=model.max_in_flight,
                nodes=None if model.nodes is None else frozenset(map(NodeName, model.nodes)),
                idle_unload_s=model.idle_unload_s,
                max_copies=model.max_copies,
                traits=Traits(
                    context_tokens=model.context_tokens,
                    kinds=None if model.kinds is None else frozenset(map(Kind, model.kinds)),
                ),
            )
            for model_id, model in config.models.items()
        },
        aliases=aliases,
        max_in_flight_per_model=config.limits.max_in_flight_per_model,
        failures_before_down=config.polling.failures_before_down,
        poll_interval_s=config.polling.interval_s,
        poll_timeout_s=config.polling.timeout_s,
        max_queue=config.limits.max_queue,
        queue_timeout_s=config.limits.queue_timeout_s,
        load_timeout_s=config.limits.load_timeout_s,
        drain_timeout_s=config.limits.drain_timeout_s,
        eviction=EvictionRules(
            strategy=Strategy(config.eviction.strategy),
            min_residency_s=config.eviction.min_residency_s,
        ),
        idle_unload_s=config.eviction.idle_unload_s,
        defrag_after_cycles=config.eviction.defrag_after_cycles,
    )


def files_wanted(config: Config) -> int:
    """File descriptors for every request that may run or wait at once: two each, one in a queue.

    As for two models a node; a reserve covers the database, polls and the page.
    """
    limits = config.limits
    per_node = (
        node.max_in_flight
        or limits.max_in_flight_per_node
        or 2 * limits.max_in_flight_per_model
        for node in config.nodes
    )
    return FILES_RESERVED + 2 * sum(per_node) + limits.max_queue


def needs_restart(old: Config, new: Config) -> list[str]:
    """Keys that a reload cannot change; they are named in the event and stay as they were."""
    changed = []
    before, after = old.gateway, new.gateway
    if (before.listen, before.metrics_listen) != (after.listen, after.metrics_listen):
        changed.append("gateway")
    if old.state != new.state:
        changed.append("state")
    if old.tracing != new.tracing:
        changed.append("tracing")
    if (old.tls.certificate is None) != (new.tls.certificate is None):
        changed.append("tls")
    return changed


def anthropic_nodes(config: Config) -> frozenset[NodeName]:
    """Nodes whose requests are translated to Anthropic's Messages API."""
    return frozenset(NodeName(n.name) for n in config.nodes if n.dialect == "anthropic")
