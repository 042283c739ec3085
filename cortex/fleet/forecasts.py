"""What forecasts are made from, and whether they are followed: told of every request, rebuilt from the log."""

from cortex.core.demand import Demand, Outlook
from cortex.core.ghosts import Trial
from cortex.core.ids import ModelId
from cortex.core.records import Past
from cortex.core.rules import Strategy
from cortex.core.snapshot import FleetSnapshot


class Forecasts:
    """Owned by `FleetState`. The demand is counted whatever the rule is, so that it is known once it is wanted."""

    def __init__(self, past: Past, *, now_s: float, now_ms: int) -> None:
        demand = Demand()
        for model, instants_ms in past.asked_at_ms.items():
            for at_ms in instants_ms:
                demand.asked(model, min(now_s, now_s - (now_ms - at_ms) / 1000))
        self.outlook = Outlook(demand)
        for idle_s in past.stayed_s:
            self.outlook.stayed(idle_s)
        #: While they decide: whether that does harm.
        self.trial: Trial | None = None

    def follow(self, strategy: Strategy) -> None:
        """The rule that is configured from now on."""
        if strategy is not Strategy.FORECAST:
            self.trial = None
            self.outlook.overruled = ""
        elif self.trial is None:
            self.trial = Trial(self.outlook)

    def tried(
        self, snapshot: FleetSnapshot, model: ModelId, *, now_s: float, now_ms: int
    ) -> bool:
        """Compare the rules by a request that has come; True where another decides from now on."""
        assert self.trial is not None, "they are on trial"
        before = bool(self.outlook.overruled)
        self.trial.asked(snapshot, model, now_s=now_s, now_ms=now_ms)
        return before is not bool(self.outlook.overruled)
