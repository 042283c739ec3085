"""How fast a queue moves, for telling callers when to come back: pure."""

from dataclasses import dataclass

WEIGHT = 0.2
"""Share of the newest interval in the moving average."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The moving average of the time from one served request of a queue to the next."""

    interval_s: float | None = None
    served_s: float | None = None
    """When the last one was (monotonic); None = the queue was empty since."""

    def served(self, now_s: float) -> "Pace":
        """One more was served, with others waiting since the one before."""
        if self.served_s is None:
            return Pace(self.interval_s, now_s)
        sample_s = now_s - self.served_s
        if self.interval_s is None:
            return Pace(sample_s, now_s)
        return Pace(WEIGHT * sample_s + (1 - WEIGHT) * self.interval_s, now_s)

    def emptied(self) -> "Pace":
        """The queue is empty: the time until the next request says nothing of its speed."""
        return Pace(self.interval_s, None)

    def wait_s(self, ahead: int) -> float | None:
        """What `ahead` requests take; None = not known."""
        return None if self.interval_s is None else self.interval_s * ahead
