"""What loading a model on one node comes to: what has to go for it, and what that costs."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from cortex.core.decisions import Alternative, Considered, Verdict
from cortex.core.eviction import Eviction
from cortex.core.guesses import guessed
from cortex.core.ids import ModelId
from cortex.core.snapshot import ModelView, NodeView
from cortex.core.warmth import expected_load_s, is_near, load_s_or_guess


@dataclass(frozen=True, slots=True)
class Option:
    """One node that could load the model, with what it costs; the smallest wins."""

    cost: tuple[object, ...]
    seen: Considered
    victims: tuple[ModelId, ...] = ()
    goes: str = ""
    """The victims, in words."""
    cost_s: float | None = None
    """In seconds, as of an `Alternative`."""
    guess: str = ""
    """What its need is guessed by; "" = it is known."""


class Room(NamedTuple):
    """A node whose memory suffices, or is tried."""

    node: NodeView
    model: ModelView
    guess: bool
    """Nobody knows that it suffices."""
    load_s: float | None
    """What a load takes there; None = nobody knows."""
    left_mib: int

    def cost(self, best_s: float) -> tuple[bool, float, int]:
        """Less is better, where the shortest load of all such nodes takes `best_s`.

        A node that was never tried counts as good as the best.
        """
        near = self.load_s is None or is_near(self.load_s, best_s)
        return self.guess, 0.0 if near else self.load_s or 0.0, -self.left_mib


def room(node: NodeView, model: ModelView, available_mib: int | None) -> Room:
    known = model.size_mib is not None and not model.size_guess and available_mib is not None
    left_mib = (available_mib or 0) - (model.size_mib or 0)
    return Room(node, model, not known, expected_load_s(node, model), left_mib)


def roomiest(rooms: Sequence[Room], count: int, *, now_s: float) -> list[Option]:
    """The best of them, best first: the shortest load, among equals the most memory left over.

    Those where it is known to suffice go before the others, ties in the order of `rooms`.
    """
    best_s = min((there.load_s for there in rooms if there.load_s is not None), default=0.0)
    costs = [(there.cost(best_s), there) for there in rooms]
    return [
        Option(
            (*cost, there.node.name),
            seen_there(there.node, there.model, now_s),
            cost_s=there.load_s,
            guess=there.model.size_guess,
        )
        for cost, there in heapq.nsmallest(count, costs, key=itemgetter(0))
    ]


def with_eviction(
    node: NodeView, model: ModelView, eviction: Eviction, *, now_s: float
) -> Option:
    """It suffices once others are gone."""
    victims, goes = eviction.victims, eviction.in_words()
    busy = any(victim.in_flight for victim in victims)
    return Option(
        (busy, *eviction.loss(load_s_or_guess(node, model)), node.name),
        seen_there(
            node,
            model,
            now_s,
            detail="after unloading " + goes,
        ),
        tuple(victim.id for victim in victims),
        goes,
        cost_s=_sum(
            expected_load_s(node, model), *(expected_load_s(node, victim) for victim in victims)
        ),
        guess=model.size_guess,
    )


def seen_there(
    node: NodeView,
    model: ModelView,
    now_s: float,
    verdict: Verdict = Verdict.LESS_ROOM,
    detail: str = "",
) -> Considered:
    """What was seen there; `LESS_ROOM` stands for "could" until the best is chosen."""
    return Considered(
        node=node.name,
        verdict=verdict,
        need_mib=model.size_mib,
        available_mib=node.available_mib(now_s),
        total_mib=node.vram_total_mib,
        # Where it waits, the detail is what it waits for.
        detail=detail if verdict is Verdict.IN_USE else guessed(model, detail),
    )


def reason_of(best: Option) -> str:
    seen = best.seen
    need = "memory" if seen.need_mib is None else f"{seen.need_mib} MiB"
    if best.guess:
        need = f"perhaps {need}"
    if best.victims:
        return f"needs {need}, free {seen.available_mib or 0} MiB: {best.goes} must go"
    if seen.need_mib is None:
        return "size unknown: tried where most memory is free"
    if seen.available_mib is None:
        return "the node reports no free memory: tried"
    if best.guess or seen.need_mib > seen.available_mib:
        return f"tried: {need} wanted, {seen.available_mib} MiB free"
    load = "" if best.cost_s is None else f", loads in about {best.cost_s:.3g} s"
    return f"fits: needs {need} of {seen.available_mib} MiB free{load}"


def alternative(option: Option) -> Alternative:
    seen = option.seen
    return Alternative(
        seen.node, option.victims, option.cost_s, seen.need_mib, seen.available_mib
    )


def _sum(*seconds: float | None) -> float | None:
    known = [each for each in seconds if each is not None]
    return sum(known) if len(known) == len(seconds) else None
