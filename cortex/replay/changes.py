"""What may be changed of a scenario: rules, nodes, pins. Pure; changes compose."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median

from cortex.core.ids import ModelId, NodeName
from cortex.core.rules import Strategy
from cortex.fleet.policy import NodePolicy
from cortex.replay.scenario import Holding, Machine, Scenario, ScenarioError

PREFIX = "new"
"""Of the names of added nodes."""
PINS_TRIED = 5
"""Models that are tried as pinned, those first that were asked for most often."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change, in words and in effect."""

    words: str
    applied: Callable[[Scenario], Scenario]


def singles(scenario: Scenario) -> Iterator[Change]:
    """Every single change that is worth a try."""
    for strategy in Strategy:
        if strategy is not scenario.policy.eviction.strategy:
            yield rule(strategy)
    for vram_mib in sorted({machine.vram_mib for machine in scenario.machines}):
        yield added(vram_mib)
    if len(scenario.machines) > 1:
        for machine in scenario.machines:
            yield removed(machine.name)
    pinned = scenario.pins.union(*(node.pinned for node in scenario.policy.nodes))
    for model, _ in Counter(ask.model for ask in scenario.asks).most_common(PINS_TRIED):
        if model not in pinned and _fits(scenario, model):
            yield pin(model)


def rule(strategy: Strategy) -> Change:
    return Change(f"strategy {strategy}", lambda scenario: with_strategy(scenario, strategy))


def added(vram_mib: int) -> Change:
    words = f"one more node of {vram_mib / 1024:.3g} GiB"
    return Change(words, lambda scenario: with_node(scenario, vram_mib))


def removed(name: str) -> Change:
    return Change(f"without {name}", lambda scenario: without_node(scenario, name))


def pin(model: str) -> Change:
    return Change(f"{model} pinned", lambda scenario: with_pin(scenario, model))


def with_strategy(scenario: Scenario, strategy: Strategy) -> Scenario:
    rules = replace(scenario.policy.eviction, strategy=strategy)
    return replace(scenario, policy=replace(scenario.policy, eviction=rules), foresight=False)


def with_foresight(scenario: Scenario) -> Scenario:
    """As a rule would do that knows every request to come."""
    return replace(with_strategy(scenario, Strategy.LRU), foresight=True)


def with_node(scenario: Scenario, vram_mib: int) -> Scenario:
    """One node more, which lists every model and loads each as fast as the others do."""
    taken = {machine.name for machine in scenario.machines}
    name = next(
        name
        for n in range(1, len(taken) + 2)
        if (name := NodeName(f"{PREFIX}-{n}")) not in taken
    )
    copies: dict[ModelId, list[Holding]] = {}
    for machine in scenario.machines:
        for model, holding in machine.holdings.items():
            copies.setdefault(model, []).append(holding)
    holdings = {
        model: Holding(
            max(copy.size_mib for copy in there),
            median(copy.load_s for copy in there),
            resident=False,
            warm_s=median(copy.warm_s for copy in there),
        )
        for model, there in copies.items()
    }
    version = next((m.version for m in scenario.machines if m.version is not None), None)
    known = [m.ram_mib for m in scenario.machines if m.ram_mib is not None]
    machine = Machine(
        name=name,
        vram_mib=vram_mib,
        ram_mib=round(median(known)) if known else None,
        version=version,
        holdings=holdings,
    )
    its_rule = NodePolicy(name=name, endpoint=name, vram_total_mib=vram_mib)
    policy = replace(scenario.policy, nodes=(*scenario.policy.nodes, its_rule))
    return replace(scenario, machines=(*scenario.machines, machine), policy=policy)


def without_node(scenario: Scenario, name: str) -> Scenario:
    """One node less.

    Raises:
        ScenarioError: There is no such node, or no other.
    """
    left = tuple(machine for machine in scenario.machines if machine.name != name)
    if len(left) == len(scenario.machines):
        names = ", ".join(machine.name for machine in scenario.machines)
        raise ScenarioError(f"there is no node {name}; the log knows {names}")
    if not left:
        raise ScenarioError(f"without {name} no node is left")
    rules = tuple(rule for rule in scenario.policy.nodes if rule.name != name)
    return replace(scenario, machines=left, policy=replace(scenario.policy, nodes=rules))


def with_pin(scenario: Scenario, model: str) -> Scenario:
    """Kept wherever it is, as `cortex pin` does it.

    Raises:
        ScenarioError: Nothing was asked of it, or no node can hold it.
    """
    wanted = ModelId(model)
    if not any(wanted in machine.holdings for machine in scenario.machines):
        raise ScenarioError(f"no request of this span is for {model}")
    if not _fits(scenario, wanted):
        raise ScenarioError(f"{model} fits no node")
    return replace(scenario, pins=scenario.pins | {wanted})


def _fits(scenario: Scenario, model: ModelId) -> bool:
    return any(
        machine.holdings[model].size_mib <= machine.vram_mib
        for machine in scenario.machines
        if model in machine.holdings
    )
