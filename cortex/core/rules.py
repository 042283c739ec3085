"""By which rule idle models give way, as it is configured."""

from dataclasses import dataclass
from enum import StrEnum

from cortex.core.demand import Outlook


class Strategy(StrEnum):
    """In which order idle models give way."""

    LRU = "lru"
    """Least recently used first."""
    PRIORITY = "priority"
    """Lowest priority first, least recently used within; never for a model of lower priority."""
    FORECAST = "forecast"
    """First what is expected to cost the fewest seconds; see `core.forecast`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictionRules:
    """`[eviction]` as the planner needs it."""

    strategy: Strategy = Strategy.LRU
    min_residency_s: float | None = None
    """A model stays this long after its load, unless a request would miss its deadline for it; None =
    as long as it took to load, and three times as long while it is in demand."""
    drain_after_s: float = 5.0
    """A model in use is drained for a request that has waited so long, or longer where its answers take
    longer."""
    outlook: Outlook | None = None
    """What a forecast goes by; None = there is none to go by."""

    @property
    def deciding(self) -> Strategy:
        """The rule that is followed: least recently used, where forecasts cannot be."""
        ready = self.outlook is not None and self.outlook.decides
        return (
            Strategy.LRU if self.strategy is Strategy.FORECAST and not ready else self.strategy
        )

    @property
    def forecasts(self) -> bool:
        return self.deciding is Strategy.FORECAST
