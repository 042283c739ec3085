"""The rule `forecast`: the models go whose loss is expected to cost the fewest seconds: pure.

What it costs to lose one is the chance that it is asked for again soon, times the seconds to load it
again and what a swap takes besides, times its priority. The set that frees enough at the least cost is a knapsack, which is
solved exactly by branch and bound while it is small.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from cortex.core.demand import Outlook
from cortex.core.snapshot import DEFAULT_PRIORITY, ModelView, NodeView
from cortex.core.warmth import load_s_or_guess

EXACT_UP_TO = 14
"""Candidates among which the cheapest sufficient set is found exactly; of more, by cost for each MiB."""
SWAP_S = 5.0
"""What a swap costs beside the load: somebody is drained and unloaded for it, and who asks has to wait, however
shortly. Without it models that load in no time are swapped for each other without end."""
_LEAST_MIB = 1e-9
_APIECE = 1e-6
"""Seconds by which a victim costs more than nothing, and more the later it was used: of equals the fewest go,
and the least recently used."""


class Loss(NamedTuple):
    """What it costs to lose a model, with the factors."""

    chance: float
    within_s: float
    reload_s: float
    weight: float

    @property
    def cost_s(self) -> float:
        return self.chance * (self.reload_s + SWAP_S) * self.weight

    def __str__(self) -> str:
        """The product, as `3 % within 14 min × (31 + 5) s = 1.1 s`."""
        if self is SPARE:
            return "another copy stays"
        weight = "" if self.weight == 1 else f" × {self.weight:g}"
        return (
            f"{_figure(100 * self.chance)} % within {_span(self.within_s)}"
            f" × ({_figure(self.reload_s)} + {SWAP_S:g}) s{weight} = {_figure(self.cost_s)} s"
        )


SPARE = Loss(0.0, 0.0, 0.0, 1.0)
"""Of a model of which there is another copy."""


def loss(node: NodeView, model: ModelView, outlook: Outlook, now_s: float) -> Loss:
    """Of `model` on `node`."""
    return Loss(
        outlook.chance(model.id, now_s),
        outlook.horizon_s,
        load_s_or_guess(node, model),
        max(0, model.priority) / DEFAULT_PRIORITY,
    )


def cheapest(
    costs_s: Sequence[float], sizes_mib: Sequence[float], wanted_mib: float
) -> tuple[int, ...] | None:
    """Which of them go, so that so much is freed at the least cost; None = all are too few.

    Args:
        costs_s: Of each, in the order in which equals go.
        sizes_mib: Infinite = it may free anything.
        wanted_mib: At least one goes, though it were nothing.
    """
    wanted_mib = max(wanted_mib, _LEAST_MIB)
    if sum(sizes_mib) < wanted_mib:
        return None
    # `min` and a loop would take half as long again, which is a tenth of the whole choice.
    items = sorted(
        [
            (
                (cost_s := costs_s[place] + _APIECE * (1 + place)) / used_mib,
                cost_s,
                used_mib,
                place,
            )
            for place, size_mib in enumerate(sizes_mib)
            if (used_mib := size_mib if size_mib < wanted_mib else wanted_mib) > 0  # noqa: FURB136
        ]
    )
    search = _exact if len(items) <= EXACT_UP_TO else _by_price
    return tuple(sorted(search(items, wanted_mib)))


Items = Sequence[tuple[float, float, float, int]]
"""Cost for each MiB, cost, size and place, in this order; sizes are no larger than what is wanted."""


def _exact(items: Items, wanted_mib: float) -> Sequence[int]:
    """Depth first, with an item before without it, as long as it may still beat the best so far.

    What is missing costs at least what it would if items could be cut: the cheapest for each MiB,
    and of the last one a part (the linear relaxation of a knapsack).
    """
    prices, costs, sizes, places = zip(*items, strict=True)
    freed = list(accumulate(sizes, initial=0.0))
    spent = list(accumulate(costs, initial=0.0))
    best_s, best = float("inf"), 0
    # Up to which item it is decided, what is then missing, the cost, and which are in, as bits.
    stack = [(0, wanted_mib, 0.0, 0)]
    while stack:
        at, missing, cost_s, chosen = stack.pop()
        while missing > 0.0:
            goal = freed[at] + missing
            cut = bisect_left(freed, goal, at + 1) - 1
            if cut == len(items):
                break
            whole_s = cost_s + spent[cut] - spent[at]
            if whole_s + (goal - freed[cut]) * prices[cut] >= best_s:
                break
            stack.append((at + 1, missing, cost_s, chosen))
            missing, cost_s, chosen = missing - sizes[at], cost_s + costs[at], chosen | 1 << at
            at += 1
        else:
            if cost_s < best_s:
                best_s, best = cost_s, chosen
    return [place for at, place in enumerate(places) if best >> at & 1]


def _by_price(items: Items, wanted_mib: float) -> Sequence[int]:
    """The cheapest for each MiB until it suffices; then those that were not needed stay, the dearest first."""
    chosen, freed_mib = list[tuple[float, float, int]](), 0.0
    for _, cost, size, place in items:
        chosen.append((cost, size, place))
        freed_mib += size
        if freed_mib >= wanted_mib:
            break
    for item in sorted(chosen, reverse=True):
        if freed_mib - item[1] >= wanted_mib:
            chosen.remove(item)
            freed_mib -= item[1]
    return [place for _, _, place in chosen]


def _figure(number: float) -> str:
    """Two digits that count, or a whole number."""
    return f"{number:.2g}" if number < 10 else f"{number:.0f}"


def _span(seconds: float) -> str:
    for unit_s, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.0f} s"
