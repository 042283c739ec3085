"""What became of one request, put together from its row in the log and the events around it: pure.

The log links the two where it can (a load names the request that it began for); for the rest, what
happened to the request's model and nodes while it was there is what it waited for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cortex.adminapi import EventRow, HistoryRow

LOAD_ENDS = frozenset({"loaded", "load_failed", "load_abandoned"})
LEAVES = frozenset({"evict", "drain"})
"""How a model's absence begins, with the reason of it; the unload follows."""
RETURNS = frozenset({"loaded", "revived"})
OF_FLEET = frozenset(
    {
        "start",
        "node_up",
        "node_down",
        "node_suspect",
        "node_restarted",
        "breaker_open",
        "wedged",
        "leak",
        "drain",
        "undrain",
        "defrag",
    }
)
OF_VICTIMS = frozenset({"evict", "revived", "unload", "unloaded", "unload_failed"})


@dataclass(frozen=True, slots=True)
class LoadSpan:
    """A load and its end, None = it has not ended in this log."""

    begin: EventRow
    end: EventRow | None

    def overlaps(self, from_ms: int, to_ms: int) -> bool:
        return self.begin.at_ms <= to_ms and (self.end is None or self.end.at_ms >= from_ms)


@dataclass(frozen=True, slots=True)
class Story:
    """A request with what has to do with it, oldest first."""

    request: HistoryRow
    left: EventRow | None
    """Why its model was not in memory when it came; None = it was, or the log does not say."""
    loads: tuple[LoadSpan, ...]
    """Those it may have waited for."""
    events: tuple[EventRow, ...]


def end_ms(row: HistoryRow) -> int:
    return row.started_at_ms + round(row.duration_ms)


def loads_awaited(row: HistoryRow, of_model: Sequence[EventRow]) -> tuple[LoadSpan, ...]:
    """Loads of its model that were under way while it was there; `of_model` oldest first."""
    spans = []
    for at, event in enumerate(of_model):
        if event.kind != "load":
            continue
        ends = (
            later
            for later in of_model[at + 1 :]
            if later.kind in LOAD_ENDS and later.node == event.node
        )
        span = LoadSpan(event, next(ends, None))
        if span.overlaps(row.started_at_ms, end_ms(row)):
            spans.append(span)
    return tuple(spans)


def nodes_involved(row: HistoryRow, loads: Sequence[LoadSpan]) -> list[str]:
    """Whose events belong to the story."""
    names = {span.begin.node for span in loads} | {row.node}
    return sorted(name for name in names if name is not None)


def since_ms(row: HistoryRow, loads: Sequence[LoadSpan]) -> int:
    """Where the story begins: with the request, or with a load that it found under way."""
    return min([row.started_at_ms, *(span.begin.at_ms for span in loads)])


def story_of(
    row: HistoryRow, of_model: Sequence[EventRow], beside: Sequence[EventRow]
) -> Story:
    """Both lists oldest first; `beside`: from `since_ms` on, of the nodes that are involved and of the gateway."""
    loads = loads_awaited(row, of_model)
    from_ms, to_ms = since_ms(row, loads), end_ms(row)
    mine = {span.begin.id for span in loads} | {span.end.id for span in loads if span.end}
    victims = {
        (span.begin.node, victim)
        for span in loads
        for victim in span.begin.detail.get("evict") or ()
    }
    chosen = {event.id: event for event in of_model if event.id in mine}
    for event in beside:
        of_fleet = event.kind in OF_FLEET and event.model in (None, row.model)
        of_victim = event.kind in OF_VICTIMS and (event.node, event.model) in victims
        if (of_fleet or of_victim) and from_ms <= event.at_ms <= to_ms:
            chosen[event.id] = event
    return Story(
        row,
        _left(of_model, from_ms) if loads else None,
        loads,
        tuple(sorted(chosen.values(), key=lambda event: event.id)),
    )


def _left(of_model: Sequence[EventRow], before_ms: int) -> EventRow | None:
    """The event that last took the model out of the memory of a node where it has not been since."""
    by_node: dict[str | None, EventRow] = {}
    for event in of_model:
        if event.at_ms >= before_ms:
            break
        if event.kind in LEAVES:
            by_node[event.node] = event
        elif event.kind in RETURNS:
            by_node.pop(event.node, None)
    return max(by_node.values(), key=lambda event: event.id, default=None)
