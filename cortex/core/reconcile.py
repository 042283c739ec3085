"""How a node's own word on a model meets what cortex believed: pure."""

from dataclasses import replace

from cortex.core.health import CLOSED
from cortex.core.listing import ReportedStatus
from cortex.core.snapshot import ModelStatus, ModelView, evolve

NEWEST_WEIGHT = 0.3
"""Share of the newest sample in a moving average of times."""

_MEANING = {
    ReportedStatus.LOADED: ModelStatus.LOADED,
    ReportedStatus.RELOADING: ModelStatus.LOADING,
}
"""Anything else a node may say of a model it lists: not in memory."""


_SETTLED = {
    ReportedStatus.LOADED: ModelStatus.LOADED,
    ReportedStatus.UNLOADED: ModelStatus.UNLOADED,
}


def agrees(view: ModelView, reported: ReportedStatus) -> bool:
    """`reconcile` would leave the view as it is, told in a moment for nearly every model at every poll."""
    return (
        view.status is _SETTLED.get(reported)
        and not (view.wedged or view.stuck or view.phantom or view.reported_loading)
        and view.reloading_since_s is None
        and (view.status is ModelStatus.LOADED or view.resident_since_s is None)
    )


def reconcile(
    view: ModelView,
    reported: ReportedStatus,
    *,
    duplicated: bool,
    restarted: bool,
    now_s: float,
    load_timeout_s: float,
) -> ModelView:
    """The view after one listing; the same one where that says nothing new.

    1. Listed twice: wedged, until the node restarts. 2. While cortex itself moves the model, its
    own verified answer decides, not the poll. 3. A restart ends whatever was under way: a new
    generation, so that a late answer finds nothing, and a closed breaker. 4. `reloading` for longer
    than any load takes: wedged, until the node says otherwise. 5. A wedged model that is said to be
    reloading is not: it is unloaded, and nothing waits for it. 6. Otherwise the node is right.
    """
    leaked = duplicated or (view.wedged and not view.stuck and not restarted)
    if view.moved_by_us and not restarted:
        return replace(view, wedged=leaked, stuck=False)
    if restarted:
        view = replace(
            view, generation=view.generation + 1, breaker=CLOSED, reloading_since_s=None
        )
    reloading = reported is ReportedStatus.RELOADING
    asked_s = (view.reloading_since_s or now_s) if reloading else None
    stuck = not leaked and asked_s is not None and now_s - asked_s >= load_timeout_s
    loading = reloading and not leaked and not stuck
    status = _MEANING.get(reported, ModelStatus.UNLOADED)
    if reloading and not loading:
        status = ModelStatus.UNLOADED
    arrived = status is ModelStatus.LOADED and view.status is not ModelStatus.LOADED
    fresh = evolve(
        view,
        status=status,
        wedged=leaked or stuck,
        stuck=stuck,
        phantom=view.phantom and stuck,
        reported_loading=loading,
        reloading_since_s=asked_s,
        resident_since_s=_since(view, status, now_s),
        took_mib=view.took_mib if status is view.status else None,
        # A load that was given up came about after all.
        breaker=view.breaker.tried_again() if arrived else view.breaker,
    )
    return view if fresh == view else fresh


def averaged(known_s: float | None, sample_s: float | None) -> float | None:
    """The moving average after one more sample; None = no sample."""
    if sample_s is None or known_s is None:
        return known_s if sample_s is None else sample_s
    return NEWEST_WEIGHT * sample_s + (1 - NEWEST_WEIGHT) * known_s


def _since(view: ModelView, status: ModelStatus, now_s: float) -> float | None:
    """Since when it is resident: a load that someone else ordered counts from when it was seen."""
    if status is not ModelStatus.LOADED:
        return None
    return view.resident_since_s if view.status is ModelStatus.LOADED else now_s
