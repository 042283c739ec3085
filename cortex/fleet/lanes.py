"""Who waits for a model: one queue a lane, and a lane for each choice of nodes that would do."""

import asyncio
import math
from typing import NamedTuple

from cortex.core.decisions import Want
from cortex.core.ids import NodeName
from cortex.fleet.fairqueue import FairQueue
from cortex.fleet.lease import Beat


class Waiter:
    """One request in a queue. Its turn comes when it is at the head and something changed."""

    __slots__ = (
        "beat",
        "beat_s",
        "client",
        "displaced",
        "loading_before_s",
        "since_s",
        "turn",
    )

    def __init__(
        self, client: str, since_s: float, beat: Beat | None, loading_before_s: float
    ) -> None:
        self.client = client
        self.since_s = since_s
        #: What its queue had spent on loads when it came.
        self.loading_before_s = loading_before_s
        self.beat = beat
        #: When the next beat is due (monotonic).
        self.beat_s = math.inf if beat is None else since_s + beat.every_s
        self.turn = asyncio.Event()
        #: A full queue made it give up its place for a client with fewer.
        self.displaced = False


class Queue(FairQueue[Waiter]):
    """Who waits for one model, and how long it has been for a load rather than for a slot."""

    def __init__(self) -> None:
        super().__init__()
        self._loading_s = 0.0
        self._since_s: float | None = None
        self._owed: set[Waiter] = set()

    def loading_s(self, now_s: float) -> float:
        """Time spent on loads so far, whoever was at the head."""
        under_way_s = 0.0 if self._since_s is None else now_s - self._since_s
        return self._loading_s + under_way_s

    @property
    def loads(self) -> bool:
        """The head waits for a load now."""
        return self._since_s is not None

    def head_waits(self, now_s: float, *, for_load: bool) -> bool:
        """The head has decided anew; True where that moves the deadlines of all."""
        before = self.loads
        self._loading_s = self.loading_s(now_s)
        self._since_s = now_s if for_load else None
        return before is not for_load

    def loaded(self) -> None:
        """A load has come to its end: all who wait now are served before the model may go."""
        self._owed = set(self)

    def leave(self, entry: Waiter, *, served: bool) -> None:
        super().leave(entry, served=served)
        self._owed.discard(entry)

    @property
    def has_a_claim(self) -> bool:
        """The model was, or is being, loaded for some who wait here."""
        return self.loads or bool(self._owed)

    def wake_all_but(self, head: Waiter) -> None:
        for waiter in self:
            if waiter is not head:
                waiter.turn.set()


class Lane(NamedTuple):
    """Which nodes would do; all who wait in one lane want the same."""

    only: NodeName | None
    excluded: frozenset[NodeName]

    def takes(self, node: NodeName) -> bool:
        return node not in self.excluded and self.only in (None, node)


ANYWHERE = Lane(None, frozenset())
Lanes = dict[Lane, Queue]


def waits_since(waiter: Waiter) -> float:
    return waiter.since_s


def may_pass(want: Want, lanes: Lanes) -> bool:
    """Nobody waits who would take what `want` may get, but such as leave some node to others."""
    return ANYWHERE not in lanes and Lane(want.only, want.excluded) not in lanes


def unwanted(node: NodeName, lanes: Lanes) -> bool:
    """Nobody who waits in these would be served by this node."""
    return not any(lane.takes(node) for lane in lanes)
