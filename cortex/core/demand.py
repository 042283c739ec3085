"""How likely a model is to be asked for again soon, by the gaps between its requests so far.

A model has a counter for each power of two seconds, of gaps that were so long, from under two seconds
to over twelve days. What it was idle for already is known, so the chance of a request within the
next H seconds is the share of gaps that end within them, of those that last so long at all:
`1 - S(idle + H) / S(idle)`, where S is the share of gaps that are longer (the survival function).

Deterministic, without a clock of its own. Instants are monotonic, in seconds.
"""

from collections.abc import Sequence

from cortex.core.ids import ModelId

BUCKETS = 21
"""2 s, 4 s, ... 2^20 s, which is twelve days; the last counts all above."""
HALVED_AFTER = 64
"""Gaps of a model after which all its counters are halved: what was lately counts for more."""
TOGETHER_HALVED_AFTER = 1024
"""The same for all models together, or those that are asked for all the time would push out the rest."""
BORROWED = 4.0
"""Gaps of all models together that a model counts as its own, so that one of which little is known is
taken to be like the others."""
ENOUGH_GAPS = 50
"""Of all models together, before anything is told from them."""
HORIZON_SHARE = 0.05
"""What one more model that had to go counts in how far a forecast looks ahead."""
HORIZON_AT_FIRST_S, SHORTEST_HORIZON_S, LONGEST_HORIZON_S = 900.0, 120.0, 7 * 86_400.0


class _Gaps:
    """Of one model, or of all; a gap is counted by the power of two below it."""

    __slots__ = ("counts", "halved_after", "last_s", "longer", "longer_until", "since_halved")

    def __init__(self, halved_after: int = HALVED_AFTER) -> None:
        self.halved_after = halved_after
        self.counts = [0.0] * BUCKETS
        self.since_halved = 0
        self.last_s: float | None = None
        #: How many gaps are in each bucket or above, with the borrowed ones; made when it is asked for.
        self.longer: list[float] | None = None
        #: How many gaps may be known of all models before it is made anew.
        self.longer_until = 0.0

    def halve(self) -> None:
        self.counts = [count / 2 for count in self.counts]
        self.since_halved = 0


class Demand:
    """The gaps of every model. `fleet.state` owns it and tells it of each request."""

    def __init__(self) -> None:
        self._models: dict[ModelId, _Gaps] = {}
        self._together = _Gaps(TOGETHER_HALVED_AFTER)
        self._nobodys = _Gaps()
        #: Gaps so far, of all models together.
        self.known = 0

    def asked(self, model: ModelId, now_s: float) -> None:
        """A request for it has come."""
        gaps = self._models.get(model)
        if gaps is None:
            gaps = self._models[model] = _Gaps()
        if gaps.last_s is not None:
            gap_s = now_s - gaps.last_s
            place = min(int(gap_s).bit_length() - 1, BUCKETS - 1) if gap_s >= 2.0 else 0
            for counted in (gaps, self._together):
                counted.counts[place] += 1.0
                counted.longer = None
                counted.since_halved += 1
                if counted.since_halved >= counted.halved_after:
                    counted.halve()
            self.known += 1
        gaps.last_s = now_s

    def idle_s(self, model: ModelId, now_s: float) -> float | None:
        """Since its last request; None = none is known."""
        gaps = self._models.get(model)
        return None if gaps is None or gaps.last_s is None else now_s - gaps.last_s

    def chance(self, model: ModelId, now_s: float, within_s: float) -> float:
        """Of a request for it within so many seconds, 0 to 1.

        One that nobody asked for yet counts as if its last request had been just now.
        """
        gaps = self._models.get(model, self._nobodys)
        longer = gaps.longer
        if longer is None or self.known > gaps.longer_until:
            longer = self._with_borrowed(gaps)
        idle_s = 0.0 if gaps.last_s is None else max(0.0, now_s - gaps.last_s)
        now = _longer_than(longer, idle_s)
        return 1.0 - _longer_than(longer, idle_s + within_s) / now if now > 0.0 else 0.0

    def _with_borrowed(self, gaps: _Gaps) -> list[float]:
        """Counted from above. Kept until it has a gap more, or a tenth more are known of all."""
        together = self._together.counts
        share = BORROWED / (sum(together) or 1.0)
        longer = [0.0]
        for own, borrowed in zip(reversed(gaps.counts), reversed(together), strict=True):
            longer.append(longer[-1] + own + share * borrowed)
        longer.reverse()
        gaps.longer, gaps.longer_until = longer, 1.1 * self.known
        return longer


def _longer_than(longer: Sequence[float], gap_s: float) -> float:
    """How many gaps are; within a power of two they count as evenly spread."""
    whole_s = int(gap_s)
    if whole_s < 2:
        place, part = 0, gap_s / 2
    else:
        place = min(whole_s.bit_length() - 1, BUCKETS - 1)
        part = min(1.0, gap_s / (1 << place) - 1.0)
    above = longer[place]
    return above - part * (above - longer[place + 1])


class Outlook:
    """What a forecast goes by: the demand, and how far it looks ahead.

    That is how long the idle models of this fleet lately stayed before they had to go.
    """

    def __init__(self, demand: Demand) -> None:
        self.demand = demand
        self.horizon_s = HORIZON_AT_FIRST_S
        #: Why forecasts are not followed, though enough is known; "" = they are.
        self.overruled = ""

    @property
    def decides(self) -> bool:
        """Enough is known, and it was not found to do harm."""
        return self.demand.known >= ENOUGH_GAPS and not self.overruled

    @property
    def why_not(self) -> str:
        """Why forecasts do not decide; "" = they do."""
        known = self.demand.known
        if known < ENOUGH_GAPS:
            return f"{known} of {ENOUGH_GAPS} gaps between requests are known"
        return self.overruled

    def chance(self, model: ModelId, now_s: float) -> float:
        """Of a request for it within the horizon."""
        return self.demand.chance(model, now_s, self.horizon_s)

    def gone(self, model: ModelId, now_s: float) -> None:
        """It has to go."""
        idle_s = self.demand.idle_s(model, now_s)
        if idle_s is not None:
            self.stayed(idle_s)

    def stayed(self, idle_s: float) -> None:
        """A model went so long after its last request."""
        horizon_s = self.horizon_s + HORIZON_SHARE * (idle_s - self.horizon_s)
        self.horizon_s = min(max(horizon_s, SHORTEST_HORIZON_S), LONGEST_HORIZON_S)
