"""When a model may give way at the earliest: what is in use ends first, what was just loaded stays a while: pure."""

from cortex.core.decisions import Want
from cortex.core.rules import EvictionRules
from cortex.core.snapshot import ModelView

LOADS_IN_DEMAND = 3
"""For how many of its load times a model in demand stays: where two take turns on a card, no more than a
quarter of the time goes into loads."""
ANSWERS_AWAITED = 2
"""A model in use is drained once a request has waited for so many of its answers."""
DRAIN_SHARE = 0.25
"""Share of a request's patience after which it is drained in any case."""
_DEADLINE_SHARE = 0.1
"""The last share of a request's patience, in which no residency protects any more. It is small, for the
time of the drain and the load that begin then does not count."""


def settled_s(rules: EvictionRules, view: ModelView) -> float:
    """From when on a model is no longer protected by its load (monotonic)."""
    if view.resident_since_s is None:
        return 0.0
    if rules.min_residency_s is not None:
        return view.resident_since_s + rules.min_residency_s
    load_s = view.load_s or 0.0
    once_s = view.resident_since_s + load_s
    # Whoever thinks no longer than two answers take is at work with it.
    demanded_s = float("inf") if view.in_flight else view.used_s + 2 * view.answer_s
    return min(view.resident_since_s + LOADS_IN_DEMAND * load_s, max(once_s, demanded_s))


def may_go_s(view: ModelView, want: Want, rules: EvictionRules, *, now_s: float) -> float:
    """From when on it may be evicted (monotonic); infinity = not before an older request is served."""
    if view.id in want.seniors:
        return float("inf")
    bounds = [view.undrainable_until_s]
    if view.in_flight:
        bounds.append(drained_from_s(view.answer_s, want, rules, now_s=now_s))
    until_s = settled_s(rules, view)
    if until_s > now_s:
        bounds.append(min(until_s, _yields_s(want, now_s=now_s)))
    return max(bounds)


def drained_from_s(answer_s: float, want: Want, rules: EvictionRules, *, now_s: float) -> float:
    """From when on a model in use is drained for a request."""
    since_s = now_s if want.since_s is None else want.since_s
    after_s = max(rules.drain_after_s, ANSWERS_AWAITED * answer_s)
    if want.deadline_s is not None:
        after_s = min(after_s, DRAIN_SHARE * (want.deadline_s - since_s))
    return since_s + after_s


def _yields_s(want: Want, *, now_s: float) -> float:
    """When residency no longer protects; the time of a load does not count against the deadline."""
    if want.deadline_s is None:
        return float("inf")
    since_s = now_s if want.since_s is None else want.since_s
    return want.deadline_s - _DEADLINE_SHARE * (want.deadline_s - since_s)
