"""What changes of a view with every request, counted in place.

Views are frozen, this apart: to copy a model, its node and the snapshot for each lease and each end
of one would be most of what a lease costs. A snapshot so shows the counts of now, and `plan` reads
them between two awaits, as ever. `fleet.state` alone calls these; a replay, which has a fleet of its
own, calls `used_as_if`.
"""

from cortex.core.reconcile import averaged
from cortex.core.snapshot import ModelView, NodeView


def taken(node: NodeView, view: ModelView) -> None:
    """One lease more of a model there."""
    view.__dict__["in_flight"] += 1
    _used(node, 1)


def given_back(node: NodeView, view: ModelView) -> None:
    """One lease less."""
    view.__dict__["in_flight"] -= 1
    _used(node, -1)


def served(view: ModelView, *, now_s: float, now_ms: int, took_s: float) -> None:
    """A request was answered by it, in so many seconds from lease to end."""
    counts = view.__dict__
    counts["last_used_at_ms"] = now_ms
    counts["used_s"] = now_s
    counts["answer_s"] = averaged(view.answer_s or None, took_s)


def used_as_if(node: NodeView, view: ModelView, *, at_ms: int) -> None:
    """Have it count as last used then, whenever that really was."""
    view.__dict__["last_used_at_ms"] = at_ms
    node.derived.clear()


def _used(node: NodeView, by: int) -> None:
    counts = node.__dict__
    counts["in_flight"] += by
    counts["uses"] += 1
    # Who may be evicted hangs on who is in use.
    node.derived.clear()
