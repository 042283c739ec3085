"""What goes wrong and when: a pure function of seed and length, so that a run can be repeated."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

KILL, FREEZE, RELOAD, RESET, UNREAD, LOCK = (
    "kill",
    "freeze",
    "reload",
    "reset",
    "unread",
    "lock",
)
KINDS = (KILL, FREEZE, RELOAD, RESET, UNREAD, LOCK)
NODE_FAULTS = frozenset({KILL, FREEZE})
GAP_S = (3.0, 9.0)
"""From the end of one fault to the next."""
LENGTH_S = {
    KILL: (2.0, 5.0),
    FREEZE: (3.0, 8.0),
    RELOAD: (0.0, 0.0),
    RESET: (0.0, 0.0),
    UNREAD: (8.0, 12.0),
    LOCK: (2.0, 4.0),
}


@dataclass(frozen=True, slots=True)
class Fault:
    at_s: float
    kind: str
    node: str
    """Empty where no node is meant."""
    length_s: float

    @property
    def end_s(self) -> float:
        return self.at_s + self.length_s


def plan(seed: int, *, begin_s: float, end_s: float, nodes: Sequence[str]) -> tuple[Fault, ...]:
    """Faults one after the other: each kind once before any comes twice, none past `end_s`."""
    rng = random.Random(seed)
    faults: list[Fault] = []
    at_s = begin_s
    while True:
        for kind in rng.sample(KINDS, len(KINDS)):
            length_s = rng.uniform(*LENGTH_S[kind])
            if at_s + length_s > end_s:
                return tuple(faults)
            node = rng.choice(nodes) if kind in NODE_FAULTS else ""
            faults.append(Fault(at_s, kind, node, length_s))
            at_s += length_s + rng.uniform(*GAP_S)
