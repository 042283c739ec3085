"""Ends exchanges in which nothing has been said for too long: one timer for all of them.

Nearly every exchange ends in time, so that a timer of its own would be set and taken back for nothing.
"""

import asyncio
import math
from collections.abc import Iterator
from typing import Protocol

from cortex.core.errors import CortexError, NodeSilentError
from cortex.fleet.lease import Lease
from cortex.gateway.errors import ClientStalledError
from cortex.gateway.line import Line
from cortex.gateway.ports import Sending
from cortex.gateway.reply import Reply

LOOKS = 10
"""Looks within the shortest time that is bounded, so that none is overrun by more than a part of it."""
LONGEST_S = 1.0
"""Between two looks."""


class Bounded(Protocol):
    """An exchange under way."""

    shortest_s: float
    """No less time ends it."""
    asks: Lease | None
    """The node that has not begun to answer: another may still take it. None = it has begun."""

    def look(self) -> None:
        """End it, if its time has come."""
        ...

    def cut(self, error: CortexError) -> None:
        """End it now; `error` is raised in its place."""
        ...


class Gaps:
    """The exchanges that are under way, looked at again and again while there is any."""

    def __init__(self) -> None:
        self._under_way: set[Bounded] = set()
        self._every_s = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def __iter__(self) -> Iterator[Bounded]:
        return iter(tuple(self._under_way))

    def __len__(self) -> int:
        return len(self._under_way)

    def add(self, exchange: Bounded) -> None:
        """Look after it until it is discarded."""
        self._under_way.add(exchange)
        if self._timer is None or exchange.shortest_s < self._every_s * LOOKS:
            self._begin(min(LONGEST_S, exchange.shortest_s / LOOKS))

    def discard(self, exchange: Bounded) -> None:
        """It has ended."""
        self._under_way.discard(exchange)

    def _begin(self, every_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._every_s = every_s
        self._timer = asyncio.get_running_loop().call_later(every_s, self._look)

    def _look(self) -> None:
        if not self._under_way:
            self._timer, self._every_s = None, math.inf
            return
        # First of all: a bug in one exchange must not leave all others without bounds.
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._look)
        for exchange in self:
            exchange.look()


class GapTimer:
    """Bounds the gap between real bytes, not the length of a stream.

    While it is in a `Gaps`, that has it look now and then whether real events came meanwhile: the
    account counts them.
    """

    __slots__ = (
        "_began_s",
        "_bound_s",
        "_events",
        "_gap_s",
        "_last_s",
        "_line",
        "_reply",
        "_sending",
        "asks",
        "at_work",
        "shortest_s",
    )

    def __init__(
        self,
        gap_s: float,
        bound_s: float,
        sending: Sending,
        line: Line,
        reply: Reply,
        *,
        at_work: bool = False,
    ) -> None:
        self._gap_s = gap_s
        #: Of the exchange as a whole.
        self._bound_s = bound_s
        self.shortest_s = min(bound_s, gap_s)
        #: The node has begun, as far as anyone can tell: one that streams shows it by its head.
        self.at_work = at_work
        self._sending = sending
        self.asks: Lease | None = None
        self._line = line
        self._reply = reply
        self._began_s = self._last_s = line.now_s()
        #: Seen by then.
        self._events = 0

    def cut(self, error: CortexError) -> None:
        """End the exchange now; `error` is raised in its place."""
        self._sending.fail(error)

    def look(self) -> None:
        """End the exchange where nothing came for too long, or where it takes too long."""
        now_s, events = self._line.now_s(), self._line.events
        if events != self._events:
            self._events, self._last_s = events, now_s
        if now_s < self._last_s + self._gap_s and now_s < self._began_s + self._bound_s:
            return
        if self._reply.full:
            self.cut(ClientStalledError(f"the client read nothing for {self._gap_s:g} s"))
            return
        said = f"the node sent nothing for {self._gap_s:g} s"
        if now_s - self._began_s >= self._bound_s:
            said = f"the answer was not whole after {self._bound_s:g} s"
        self.cut(NodeSilentError(said, at_work=self.at_work))
