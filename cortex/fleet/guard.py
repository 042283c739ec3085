"""What runs for as long as the process survives its own bugs: each is logged, counted and passed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cortex.core.clock import Clock
from cortex.fleet.waits import WAITS, Waits

log = logging.getLogger("cortex.guard")


@dataclass(frozen=True, slots=True)
class _Met:
    error: str
    at_s: float


class Guard:
    """Keeps loops going, and is told of every exception that nobody expected, wherever it was caught."""

    def __init__(
        self,
        clock: Clock,
        counted: Callable[[str], object] = lambda _: None,
        waits: Waits = WAITS,
    ) -> None:
        self._clock = clock
        self._waits = waits
        self._counted = counted
        #: The last one of each loop.
        self._met: dict[str, _Met] = {}

    async def keep(
        self,
        loop: str,
        work: Callable[[], Awaitable[None]],
        *,
        failed: Callable[[Exception], object] = lambda _: None,
    ) -> None:
        """Do `work` until it returns; where it raises, begin it anew after a pause that grows.

        Args:
            loop: What the log, the metric and `/health` call it.
            work: Begun anew each time; it forgets nothing that it did not put elsewhere.
            failed: Told of each failure before the pause.
        """
        waits = self._waits
        pause_s = waits.guard_first_s
        while True:
            began_s = self._clock.now_s()
            try:
                return await work()
            except Exception as exc:  # noqa: BLE001 - a bug of one loop ends no other
                self.met(loop, exc)
                failed(exc)
            if self._clock.now_s() - began_s > waits.guard_calm_s:
                pause_s = waits.guard_first_s
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, waits.guard_longest_s)

    def met(self, loop: str, error: Exception, **about: object) -> None:
        """Take note of a bug; call it where `error` is handled, for its traceback.

        Args:
            loop: What met it.
            error: The bug.
            about: What else the line in the log says.
        """
        self._counted(loop)
        self._met[loop] = _Met(type(error).__name__, self._clock.now_s())
        log.error("internal error", extra={"fields": {"loop": loop, **about}}, exc_info=error)

    def reasons(self) -> list[str]:
        """What was met of late, for `/health`."""
        now_s = self._clock.now_s()
        return [
            f"internal error in {loop} ({met.error}), {now_s - met.at_s:.0f} s ago:"
            " see the log, and please report it"
            for loop, met in sorted(self._met.items())
            if now_s - met.at_s < self._waits.guard_told_s
        ]
