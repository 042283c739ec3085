"""The story of one request as lines for people: when, what, where, why."""

from collections.abc import Callable, Iterable
from typing import Any

from rich.text import Text

from cortex.adminapi import EventRow, HistoryRow
from cortex.cli.history_view import OUTCOME_STYLES, tokens
from cortex.cli.tables import Cell, Column
from cortex.cli.text import clock, name, rate, safe, size, span, span_ms
from cortex.cli.why_story import Story, end_ms

COLUMNS = (
    Column("after", right=True),
    Column("what"),
    Column("node"),
    Column("why", elastic=True),
)
STYLES = {
    "load": "cyan",
    "loaded": "green",
    "load_failed": "bold red",
    "evict": "yellow",
    "node_down": "bold red",
    "breaker_open": "yellow",
}


def headline(row: HistoryRow) -> Text:
    """What was asked, and when."""
    line = Text(name(row.request_id), style="bold")
    line.append(f"  {safe(row.route)} for {name(row.model)}, {clock(row.started_at_ms)}")
    if row.client:
        line.append(f", by {safe(row.client)}")
    return line


def summary(row: HistoryRow) -> Text:
    """Where its time went."""
    parts = [f"{span_ms(row.duration_ms)} in all"]
    if row.load_wait_ms:
        parts.append(f"{span_ms(row.load_wait_ms)} for a load")
    if row.queue_ms >= 1:
        # The wait of one that got none is not told apart.
        what = "for a slot" if row.node else "in the queue"
        parts.append(f"{span_ms(row.queue_ms)} {what}")
    if row.attempts > 1:
        parts.append(f"{row.attempts} nodes tried")
    return Text("  " + ", ".join(parts))


def rows(story: Story) -> list[list[Cell]]:
    """By `COLUMNS`; the first column counts from the request's arrival."""
    request = story.request
    moments = [(request.started_at_ms, 1, _asked(story))]
    moments += [(event.at_ms, 2, _event(event, story)) for event in story.events]
    if request.ttft_ms is not None:
        first_ms = request.started_at_ms + round(request.ttft_ms)
        moments.append((first_ms, 3, ["first token", name(request.node), ""]))
    moments.append((end_ms(request), 4, _ended(request)))
    if story.left is not None:
        moments.append((story.left.at_ms, 0, _gone(story.left)))
    moments.sort(key=lambda moment: moment[:2])
    return [[_offset(at_ms - request.started_at_ms), *cells] for at_ms, _, cells in moments]


def _offset(after_ms: int) -> str:
    return f"-{span_ms(-after_ms)}" if after_ms < 0 else f"+{span_ms(after_ms)}"


def _asked(story: Story) -> list[Cell]:
    if story.loads:
        return ["asked", "", "no copy in memory could serve it"]
    if story.request.node is None:
        return ["asked", "", ""]
    return ["asked", "", "a copy was in memory"]


def _gone(event: EventRow) -> list[Cell]:
    idle_s = event.detail.get("idle_s")
    idle = "" if idle_s is None else f", {span(_number(idle_s))} after its last use"
    return [f"{name(event.model)} goes", name(event.node), f"{safe(event.reason)}{idle}"]


def _ended(row: HistoryRow) -> list[Cell]:
    outcome = row.error_code if row.outcome == "error" and row.error_code else row.outcome
    why = safe(row.error_message) if row.error_message else ""
    if not why:
        pace = f" at {rate(row.tokens_per_s)} tokens/s" if row.tokens_per_s else ""
        why = f"tokens {tokens(row)}{pace}" if row.completion_tokens is not None else ""
    return [
        Text(safe(outcome), style=OUTCOME_STYLES.get(row.outcome, "red")),
        name(row.node),
        why,
    ]


def _event(event: EventRow, story: Story) -> list[Cell]:
    tell = _TELLERS.get(event.kind, _plainly)
    what = name(event.kind.replace("_", " "))
    return [
        Text(what, style=STYLES.get(event.kind, "")),
        name(event.node),
        tell(event, story),
    ]


def _plainly(event: EventRow, story: Story) -> Text:
    about = event.model if event.model not in (None, story.request.model) else None
    return Text(f"{safe(about)}: {safe(event.reason)}" if about else safe(event.reason))


def _load(event: EventRow, story: Story) -> Text:
    """For whom, why there, and what else could have been done."""
    detail = event.detail
    text = Text(f"{_for_whom(detail, story.request)}; {safe(event.reason)}")
    if (cost_s := detail.get("cost_s")) is not None:
        text.append(f"; costs {span(_number(cost_s))} of loads")
    for way in _dicts(detail.get("alternatives")):
        text.append(f"\n  instead: {_way(way)}", style="dim")
    return text


def _for_whom(detail: dict[str, Any], row: HistoryRow) -> str:
    request_id = detail.get("request_id")
    if request_id is not None and request_id == row.request_id:
        return "for this request"
    if request_id is not None:
        return f"for {safe(request_id)}"
    by = {"operator": "asked for by an operator", "pin": "it is pinned"}
    return by.get(str(detail.get("by")), "it was under way")


def _way(way: dict[str, Any]) -> str:
    gone = [safe(victim) for victim in way.get("evict") or ()]
    how = f" after unloading {', '.join(gone)}" if gone else ", where it would fit"
    cost_s = way.get("cost_s")
    cost = "of unknown cost" if cost_s is None else f"{span(_number(cost_s))} of loads"
    return f"{name(way.get('node'))}{how}, {cost}"


def _evict(event: EventRow, _story: Story) -> Text:
    detail = event.detail
    facts = [f"idle for {span(_number(detail['idle_s']))}"] if detail.get("idle_s") else []
    if in_flight := detail.get("in_flight"):
        facts.append(f"{safe(in_flight)} in flight are waited for")
    if (size_mib := detail.get("size_mib")) is not None:
        facts.append(size(round(_number(size_mib))))
    if (load_s := detail.get("load_s")) is not None:
        facts.append(f"{span(_number(load_s))} to load again")
    return Text(": ".join(filter(None, [name(event.model), ", ".join(facts)])))


def _unloaded(event: EventRow, _story: Story) -> Text:
    freed = event.detail.get("freed_mib")
    back = "" if freed is None else f": {size(round(_number(freed)))} came back"
    return Text(name(event.model) + back)


def _loaded(event: EventRow, _story: Story) -> Text:
    detail, facts = event.detail, []
    if (load_s := detail.get("load_s")) is not None:
        warm = " from the machine's memory" if detail.get("warm") is True else ""
        facts.append(f"the load took {span(_number(load_s))}{warm}")
    if (size_mib := detail.get("size_mib")) is not None:
        facts.append(size(round(_number(size_mib))))
    if (read_mib := detail.get("read_since_mib")) is not None:
        facts.append(f"{size(round(_number(read_mib)))} of other weights read since its last")
    return Text(", ".join(facts) or safe(event.reason))


_TELLERS: dict[str, Callable[[EventRow, Story], Text]] = {
    "load": _load,
    "evict": _evict,
    "unload": lambda event, _story: Text(name(event.model)),
    "unloaded": _unloaded,
    "loaded": _loaded,
}


def _number(value: object) -> float:
    """Details are what some gateway wrote: never trusted to be of a kind."""
    return float(value) if isinstance(value, int | float) else 0.0


def _dicts(value: object) -> Iterable[dict[str, Any]]:
    return (
        [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
    )
