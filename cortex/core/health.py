"""Health of a node and the breaker of a (node, model): pure transitions over frozen values."""

import math
from dataclasses import dataclass, replace
from enum import StrEnum


class NodeHealth(StrEnum):
    """What the polls, and refused connections between them, say of a node."""

    UNKNOWN = "unknown"
    """Never answered since this process started."""
    UP = "up"
    SUSPECT = "suspect"
    """Refused a connection, or missed a poll: not routed to until it answers one."""
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Liveness:
    """A node's health with the count of polls it has missed in a row."""

    health: NodeHealth = NodeHealth.UNKNOWN
    missed_polls: int = 0
    reason: str = ""

    def answered(self, remark: str = "") -> "Liveness":
        """The node answered a poll; `remark` is what was odd about it."""
        return Liveness(NodeHealth.UP, 0, remark)

    def missed(self, *, reason: str, failures_before_down: int) -> "Liveness":
        """The node missed a poll. One miss leaves an UP node routable; `failures_before_down` end it."""
        missed = self.missed_polls + 1
        if missed >= failures_before_down:
            return Liveness(NodeHealth.DOWN, missed, reason)
        return Liveness(self.health, missed, reason)

    def refused(self, *, reason: str) -> "Liveness":
        """A request could not connect: stop routing at once, until a poll is answered."""
        if self.health is NodeHealth.UP:
            return replace(self, health=NodeHealth.SUSPECT, reason=reason)
        return self


UNSEEN = Liveness()

BREAKER_THRESHOLD = 3
"""Failures in a row that open a breaker."""


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long a breaker stays open, in seconds."""

    first_s: float = 5.0
    """Doubles with every further failure…"""
    longest_s: float = 120.0
    """…up to this."""


PAUSES = Pauses()
EVICTING_TRIAL_S = 600.0
"""After two failed loads in a row, others lose their place for another trial no more often than this."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """Refuses a (node, model) that fails fast, so that it does not attract traffic.

    Keyed by the pair, since keying by model alone would let one node's "no" silence the others.
    After `open_until_s` (monotonic) a single trial request is let through (half-open).
    """

    failures: int = 0
    open_until_s: float = 0.0
    reason: str = ""
    doubtful_for: frozenset[str] = frozenset()
    """Clients with whose requests it failed so that they may be to blame; one failure each counts."""
    failed_loads: int = 0
    """Of `failures`, the loads."""
    evicts_from_s: float = 0.0
    """Until then (monotonic) a load is tried only where there is room already."""
    opened_s: float = 0.0
    """When it was opened last (monotonic)."""

    def failed(
        self,
        *,
        now_s: float,
        reason: str,
        at_once: bool = False,
        client: str | None = None,
        began_s: float = math.inf,
        pauses: Pauses = PAUSES,
    ) -> "Breaker":
        """One more failure.

        Args:
            now_s: Monotonic.
            reason: What happened, for people.
            at_once: A load failed, which is not tried again at once: open whatever came before.
            client: Whose request may be to blame instead; None = it is surely not.
            began_s: When what failed began (monotonic). What was under way when the breaker opened
                fails of the same cause, and tells nothing new.
            pauses: For how long it opens.
        """
        if began_s < self.opened_s:
            return self
        doubtful_for = self.doubtful_for
        if client is not None:
            if client in doubtful_for:
                return self
            doubtful_for |= {client}
        failures = max(self.failures + 1, BREAKER_THRESHOLD if at_once else 0)
        open_until_s = opened_s = 0.0
        if failures >= BREAKER_THRESHOLD:
            opened_s = now_s
            doubled = pauses.first_s * 2.0 ** min(failures - BREAKER_THRESHOLD, 16)
            open_until_s = now_s + min(doubled, pauses.longest_s)
        loads = self.failed_loads + at_once
        evicts_from_s = self.evicts_from_s
        if at_once and loads > 1:
            evicts_from_s = now_s + EVICTING_TRIAL_S
        return Breaker(
            failures, open_until_s, reason, doubtful_for, loads, evicts_from_s, opened_s
        )

    def tried_again(self) -> "Breaker":
        """What the failures told is no longer so: a single trial may come at once."""
        return replace(self, open_until_s=0.0) if self.open_until_s else self

    def allows(self, *, now_s: float, in_flight: int) -> bool:
        """True when closed, or half-open with no trial under way."""
        if self.failures < BREAKER_THRESHOLD:
            return True
        return now_s >= self.open_until_s and in_flight == 0


CLOSED = Breaker()
