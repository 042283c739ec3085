"""Time as a thing that is passed in; `telemetry/clock.py` has the system's."""

from typing import Protocol


class Clock(Protocol):
    """Time, so that tests can own it."""

    def now_s(self) -> float:
        """Monotonic seconds."""
        ...

    def now_ms(self) -> int:
        """Wall clock, UTC milliseconds."""
        ...
