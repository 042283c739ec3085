"""A fleet and the requests it gets, ready to be lived through: pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from cortex.core.ids import ModelId, NodeName
from cortex.core.recorded import Ask, Recorded, RecordedModel, RecordedNode
from cortex.core.records import UNTOLD, Past
from cortex.core.rules import EvictionRules, Strategy
from cortex.core.snapshot import DEFAULT_PRIORITY
from cortex.fleet.policy import FleetPolicy, ModelPolicy, NodePolicy

UNLOAD_S = 1.0
"""Where no unload is recorded."""
LOAD_MIB_PER_S = 1000.0
"""The pace of a load where none is recorded: a disk of the slower kind."""
ANSWER_S = 5.0
"""What a request holds its model for where none is recorded that did."""

LIMITS = (
    "max_in_flight_per_model",
    "max_queue",
    "queue_timeout_s",
    "load_timeout_s",
    "idle_unload_s",
)
"""Those of a configuration that matter here; a later version may note more."""
UNCONFIGURED = (
    "no start of this version is in the log: limits, priorities and rules are the usual ones"
)


class ScenarioError(Exception):
    """What is to be replayed makes no fleet; one line says why."""


class Holding(NamedTuple):
    """A model on a node that lists it."""

    size_mib: int
    load_s: float
    """From disk."""
    resident: bool
    warm_s: float
    """While the machine's memory still holds the file."""
    timed: bool = True
    """How long it takes was known before the first request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One node."""

    name: NodeName
    vram_mib: int
    ram_mib: int | None
    version: str | None
    holdings: Mapping[ModelId, Holding]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """All that a run needs."""

    policy: FleetPolicy
    machines: tuple[Machine, ...]
    asks: tuple[Ask, ...]
    pins: frozenset[ModelId]
    """Kept wherever they are; pins to a node are in the policy."""
    answer_s: Mapping[ModelId, float]
    """What a request holds each model for, where it is not recorded."""
    unload_s: float
    past: Past = UNTOLD
    """Of before the first request, which a forecast goes by."""
    foresight: bool = False
    """Who goes is whoever is wanted again last: what no rule can know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A recorded span as a scenario, with what had to be assumed."""

    scenario: Scenario
    notes: tuple[str, ...]


def scenario_of(recorded: Recorded, sizes: Mapping[ModelId, int] | None = None) -> Prepared:
    """The span as it was lived.

    Args:
        recorded: From the log.
        sizes: MiB by model, over what is recorded.

    Raises:
        ScenarioError: There is no request, no node, or too little is known of them.
    """
    if not recorded.asks:
        raise ScenarioError("there is no request in this span of the log")
    configured = _configured_nodes(recorded)
    nodes = [node for node in recorded.nodes if not configured or node.name in configured]
    if not nodes:
        raise ScenarioError("the file knows no node")
    unsized = [node.name for node in nodes if not _vram(node, configured)]
    if unsized:
        raise ScenarioError(
            f"nobody knows the memory of {', '.join(unsized)}: a gateway of this version notes it"
            " once it has heard the node"
        )
    known = _Known(nodes, sizes or {})
    wanted = Counter(ask.model for ask in recorded.asks)
    left_out = {model: count for model, count in wanted.items() if not known.can_be(model)}
    machines = tuple(
        Machine(
            name=node.name,
            vram_mib=_vram(node, configured),
            ram_mib=node.ram_mib,
            version=node.version,
            holdings={
                model: known.holding(model, there)
                for model, there in node.models.items()
                if model in wanted and model not in left_out
            },
        )
        for node in nodes
    )
    asks = tuple(ask for ask in recorded.asks if ask.model not in left_out)
    if not asks:
        raise ScenarioError("no model that was asked for is known of any node")
    pins = _pins(recorded)
    scenario = Scenario(
        policy=_policy(recorded, machines, pins),
        machines=machines,
        asks=asks,
        pins=frozenset(model for where, model in pins if where is None),
        answer_s=_answers(asks),
        past=recorded.past,
        unload_s=UNLOAD_S if recorded.totals.unload_s is None else recorded.totals.unload_s,
    )
    notes = [] if configured else [UNCONFIGURED]
    notes += [*_left_out(left_out), *known.notes(wanted)]
    return Prepared(scenario=scenario, notes=tuple(notes))


class _Known:
    """Sizes and loads of models, guessed where they are not recorded."""

    def __init__(self, nodes: Iterable[RecordedNode], sizes: Mapping[ModelId, int]) -> None:
        self._sizes, self._loads = dict[ModelId, int](), dict[ModelId, float]()
        listed: dict[ModelId, list[RecordedModel]] = {}
        for node in nodes:
            for model, there in node.models.items():
                listed.setdefault(model, []).append(there)
        for model, copies in listed.items():
            known = [(copy.loads > 0, copy.size_mib) for copy in copies if copy.size_mib]
            if known:
                # The largest that a load confirmed, if one did.
                self._sizes[model] = max(known)[1]
            if loads := [load_s for c in copies if (load_s := c.cold_load_s or c.load_s)]:
                self._loads[model] = median(loads)
        self._listed = frozenset(listed)
        self._given = dict(sizes)
        usual = median(self._sizes.values()) if self._sizes else 0
        self._usual_mib = round(usual)
        paces = [
            self._sizes[model] / load_s
            for model, load_s in self._loads.items()
            if load_s > 0 and model in self._sizes
        ]
        shares = [
            copy.warm_load_s / copy.cold_load_s
            for copies in listed.values()
            for copy in copies
            if copy.warm_load_s is not None and copy.cold_load_s
        ]
        #: What a warm load takes of a cold one.
        self._warm_share = median(shares) if shares else 1.0
        self._mib_per_s = median(paces) if paces else LOAD_MIB_PER_S

    def can_be(self, model: ModelId) -> bool:
        """Some node lists it, and its size can be said at least roughly."""
        return model in self._listed and bool(self.size_mib(model))

    def size_mib(self, model: ModelId) -> int:
        return self._given.get(model) or self._sizes.get(model) or self._usual_mib

    def holding(self, model: ModelId, there: RecordedModel) -> Holding:
        own_mib = there.size_mib or 0
        measured_mib = own_mib if there.loads else max(own_mib, self.size_mib(model))
        size_mib = self._given.get(model) or measured_mib
        known = (there.cold_load_s, there.load_s, self._loads.get(model))
        load_s = next((s for s in known if s is not None), size_mib / self._mib_per_s)
        warm_s = there.warm_load_s
        return Holding(
            size_mib,
            load_s,
            there.resident,
            load_s * self._warm_share if warm_s is None else warm_s,
            there.loads_before > 0,
        )

    def notes(self, wanted: Iterable[ModelId]) -> list[str]:
        """What had to be guessed."""
        models = [model for model in wanted if self.can_be(model)]
        unsized = [m for m in models if m not in self._sizes and m not in self._given]
        untimed = [m for m in models if m not in self._loads]
        notes = []
        if unsized:
            notes.append(
                f"nobody knows the size of {_some(unsized)}: taken as {self._usual_mib} MiB, the"
                " median of the others (--model ID=SIZE says otherwise)"
            )
        if untimed:
            pace = f"{self._mib_per_s:.0f} MiB/s"
            notes.append(f"no load of {_some(untimed)} is recorded: taken at {pace}")
        return notes


def _left_out(left_out: Mapping[ModelId, int]) -> list[str]:
    if not left_out:
        return []
    models, count = sorted(left_out), sum(left_out.values())
    return [f"{count} requests are left out, for models that no node lists: {_some(models)}"]


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _answers(asks: Sequence[Ask]) -> dict[ModelId, float]:
    held: dict[ModelId, list[float]] = {}
    for ask in asks:
        times = held.setdefault(ask.model, [])
        if ask.held_s is not None:
            times.append(ask.held_s)
    everyone = [seconds for times in held.values() for seconds in times]
    usual_s = median(everyone) if everyone else ANSWER_S
    return {model: median(times) if times else usual_s for model, times in held.items()}


def _section(configured: Mapping[str, object], name: str) -> dict[str, Any]:
    found = configured.get(name)
    return found if isinstance(found, dict) else {}


def _configured_nodes(recorded: Recorded) -> dict[str, Any]:
    return _section(recorded.configured, "nodes")


def _vram(node: RecordedNode, configured: Mapping[str, Any]) -> int:
    said = configured.get(node.name, {}).get("vram_mib")
    return int(said or node.vram_mib or 0)


def _pins(recorded: Recorded) -> frozenset[tuple[NodeName | None, ModelId]]:
    """Of the configuration and by request; node None = wherever the model is."""
    models = _section(recorded.configured, "models")
    return recorded.pins | {
        (where, ModelId(model))
        for model, said in models.items()
        for where in said.get("pinned") or ()
    }


def _policy(
    recorded: Recorded,
    machines: Sequence[Machine],
    pins: frozenset[tuple[NodeName | None, ModelId]],
) -> FleetPolicy:
    """The rules of the newest start or reload; the usual ones where the log has none."""
    configured = recorded.configured
    limits, rules = _section(configured, "limits"), _section(configured, "eviction")
    nodes, models = _configured_nodes(recorded), _section(configured, "models")
    return FleetPolicy(
        nodes=tuple(
            NodePolicy(
                name=machine.name,
                endpoint=machine.name,
                vram_total_mib=machine.vram_mib,
                pinned=frozenset(model for where, model in pins if where == machine.name),
                max_in_flight=nodes.get(machine.name, {}).get("max_in_flight"),
                lifecycle=nodes.get(machine.name, {}).get("lifecycle") or "auto",
            )
            for machine in machines
        ),
        models={
            ModelId(model): ModelPolicy(
                priority=said.get("priority", DEFAULT_PRIORITY),
                max_in_flight=said.get("max_in_flight"),
                idle_unload_s=said.get("idle_unload_s"),
                max_copies=said.get("max_copies"),
                nodes=None
                if said.get("allowed") is None
                else frozenset(map(NodeName, said["allowed"])),
            )
            for model, said in models.items()
        },
        eviction=EvictionRules(
            strategy=_strategy(rules.get("strategy")),
            min_residency_s=rules.get("min_residency_s"),
        ),
        **{name: limits[name] for name in LIMITS if limits.get(name) is not None},
    )


def _strategy(name: object) -> Strategy:
    try:
        return Strategy.LRU if name is None else Strategy(str(name))
    except ValueError:
        raise ScenarioError(
            f"the fleet went by the rule {name}, which this version does not know"
        ) from None
