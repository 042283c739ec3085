"""Virtual time: an event loop whose clock leaps to whatever is due next, so an hour takes a moment.

For code that waits on nothing but time and its own tasks: no sockets, no threads.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Leap(selectors.DefaultSelector):
    """Waits for nobody: the time a loop would have slept is over at once."""

    now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "every task waits for another: nothing will ever happen"
        if timeout > 0:
            self.now_s += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its `time` passes only in sleep."""

    def __init__(self) -> None:
        self._leap = _Leap()
        super().__init__(self._leap)

    def time(self) -> float:
        return self._leap.now_s


EPOCH_MS = 1_800_000_000_000
"""The wall clock at the loop's zero."""


class LoopClock:
    """The running loop's time, as a `Clock`; `epoch_ms` is the wall clock at the loop's zero."""

    def __init__(self, epoch_ms: int = EPOCH_MS) -> None:
        self._epoch_ms = epoch_ms

    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def now_ms(self) -> int:
        return self._epoch_ms + round(self.now_s() * 1000)


def run(main: Callable[[], Coroutine[Any, Any, T]], *, within_s: float = 100_000.0) -> T:
    """Run it to its end in virtual time.

    Raises:
        TimeoutError: It had not ended after so many virtual seconds.
    """

    async def bounded() -> T:
        async with asyncio.timeout(within_s):
            return await main()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(bounded())
