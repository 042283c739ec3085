"""Ghost fleets: what would be in memory by another rule, kept as names alone.

A ghost sees the requests that the fleet sees, on the same nodes, and is planned for by the same `plan`.
Its loads and unloads take no time, and nothing in it is ever in use: so what two ghosts differ by is their
rules. Deterministic, without a clock of its own.
"""

from cortex.core.decisions import Load, Want
from cortex.core.demand import Outlook
from cortex.core.ids import ModelId, NodeName
from cortex.core.plan import plan
from cortex.core.rules import EvictionRules, Strategy
from cortex.core.snapshot import FleetSnapshot, ModelStatus, ModelView, NodeView, evolve
from cortex.core.warmth import load_s_or_guess

HALF_LIFE_S = 86_400.0
"""Of what was seen of the two rules."""
EVIDENCE_S = 1200.0
"""Seconds of loads that one of the two has to come to before it is judged."""
WORSE_BY, GOOD_AGAIN_BY = 0.10, 0.05
"""Forecasts that load so much more than the other rule are no longer followed, and are again once it is less than
the second share. Between the two it stays as it is, so that it does not change with every load."""


class Ghost:
    """One such fleet."""

    def __init__(self, rules: EvictionRules) -> None:
        self._rules = rules
        self._where: dict[ModelId, set[NodeName]] = {}
        self._used_at_ms: dict[ModelId, int] = {}
        #: What was in memory when it first looked is where it begins.
        self._begun: set[NodeName] = set()

    def asked(
        self, snapshot: FleetSnapshot, model: ModelId, *, now_s: float, now_ms: int
    ) -> float:
        """A request comes; returns the seconds of loading that it costs."""
        self._used_at_ms[model] = now_ms
        if any(name in snapshot.nodes for name in self._where.get(model, ())):
            return 0.0
        decision = plan(self._as_held(snapshot, model), Want(model), now_s=now_s)
        if not isinstance(decision, Load):
            return 0.0
        for victim in decision.evict:
            self._where[victim].discard(decision.node)
            if self._rules.outlook is not None:
                self._rules.outlook.gone(victim, now_s)
        self._where.setdefault(model, set()).add(decision.node)
        node = snapshot.nodes[decision.node]
        view = node.models[model]
        return view.load_s or load_s_or_guess(node, view)

    def _as_held(self, snapshot: FleetSnapshot, model: ModelId) -> FleetSnapshot:
        """The nodes that list it, as they are for this ghost."""
        nodes = {node.name: self._node(node) for node in snapshot.holders(model)}
        return FleetSnapshot(
            nodes=nodes,
            locations={model: tuple(nodes)},
            allowed_nodes=snapshot.allowed_nodes,
            eviction=self._rules,
        )

    def _node(self, node: NodeView) -> NodeView:
        if node.name not in self._begun:
            self._begun.add(node.name)
            for view in node.models.values():
                if view.resident:
                    self._where.setdefault(view.id, set()).add(node.name)
        models = {
            model: self._view(view, held=node.name in self._where.get(model, ()))
            for model, view in node.models.items()
        }
        return evolve(node, models=models, in_flight=0, free_mib=None)

    def _view(self, view: ModelView, *, held: bool) -> ModelView:
        if not held and view.status is ModelStatus.UNLOADED:
            return view
        return evolve(
            view,
            status=ModelStatus.LOADED if held else ModelStatus.UNLOADED,
            in_flight=0,
            last_used_at_ms=self._used_at_ms.get(view.id, view.last_used_at_ms),
            resident_since_s=None,
            undrainable_until_s=0.0,
        )


class Trial:
    """Whether forecasts are worth it: a ghost by them, and one by last use.

    The outlook of the fleet is overruled for as long as they are not.
    """

    def __init__(self, outlook: Outlook) -> None:
        self._outlook = outlook
        by_forecast = EvictionRules(strategy=Strategy.FORECAST, outlook=Outlook(outlook.demand))
        self._ghosts = Ghost(by_forecast), Ghost(EvictionRules())
        self._loaded_s = [0.0, 0.0]
        self._at_s = 0.0

    def asked(
        self, snapshot: FleetSnapshot, model: ModelId, *, now_s: float, now_ms: int
    ) -> None:
        """A request comes to both."""
        costs_s = [
            ghost.asked(snapshot, model, now_s=now_s, now_ms=now_ms) for ghost in self._ghosts
        ]
        if any(costs_s):
            left = 0.5 ** ((now_s - self._at_s) / HALF_LIFE_S)
            self._at_s = now_s
            self._loaded_s = [
                before_s * left + cost_s
                for before_s, cost_s in zip(self._loaded_s, costs_s, strict=True)
            ]
            self._judge()

    def _judge(self) -> None:
        forecast_s, lru_s = self._loaded_s
        bearable = GOOD_AGAIN_BY if self._outlook.overruled else WORSE_BY
        worse = max(forecast_s, lru_s) >= EVIDENCE_S and forecast_s > lru_s * (1 + bearable)
        self._outlook.overruled = (
            f"of late it would have loaded for {forecast_s / 60:.0f} min where the least"
            f" recently used would have for {lru_s / 60:.0f} min"
            if worse
            else ""
        )
