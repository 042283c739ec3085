"""The rows of every table of `cortex top`, their orders and the filter: pure, from a picture."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text

from cortex.adminapi import EventRow, ModelOnNode, QueueBody
from cortex.cli.fleet_view import HEALTH, STATUS_STYLES
from cortex.cli.tables import Column
from cortex.cli.text import ABSENT, ago, count, gib, name, rate, safe, short_clock, size, span
from cortex.cli.top_bar import UNICODE, Glyphs, bar, marks
from cortex.cli.top_keys import Pane, View
from cortex.cli.top_picture import Picture
from cortex.liveapi import LiveNode, LiveRequest

Sortable = str | float | None


@dataclass(frozen=True, slots=True)
class Order:
    """One way to sort a table."""

    title: str
    falling: bool = False
    """The largest first, until somebody reverses it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table."""

    cells: Callable[[], tuple[Text, ...]]
    """Made only for rows that are on show: a large fleet has thousands."""
    by: tuple[Sortable, ...]
    """A value for each order; None comes last, whatever the direction."""
    words: str
    """What the filter looks at."""
    model: str = ""
    """Which one Enter explains; "" = it is of none."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What rows need beyond the picture."""

    now_ms: int
    """The gateway's clock."""
    glyphs: Glyphs = UNICODE
    bar_width: int = 20


@dataclass(frozen=True, slots=True)
class Table:
    """How one pane is laid out and sorted."""

    title: str
    columns: tuple[Column, ...]
    orders: tuple[Order, ...]
    rows: Callable[[Picture, Drawn], list[Row]]
    empty: str


def chosen(pane: Pane, picture: Picture, view: View, drawn: Drawn) -> list[Row]:
    """The rows of a pane that the filter lets pass, in the order that was chosen."""
    table = TABLES[pane]
    wanted = view.filter.casefold()
    rows = [row for row in table.rows(picture, drawn) if wanted in row.words.casefold()]
    index = view.sorts[pane] % len(table.orders)
    falling = table.orders[index].falling != view.reversed[pane]
    known = [row for row in rows if row.by[index] is not None]
    # By name first: the sort keeps that order among equals, so that nothing jumps about.
    known.sort(key=lambda row: row.words)
    known.sort(key=lambda row: _key(row.by[index]), reverse=falling)
    return known + sorted(
        (row for row in rows if row.by[index] is None), key=lambda row: row.words
    )


def _key(value: Sortable) -> tuple[float, str]:
    return (0.0, value.casefold()) if isinstance(value, str) else (value or 0.0, "")


def plain(*cells: str | Text) -> tuple[Text, ...]:
    return tuple(
        cell
        if isinstance(cell, Text)
        else Text(cell or ABSENT, style="dim" if cell in ("", ABSENT) else "")
        for cell in cells
    )


def _words(*parts: str | None) -> str:
    return " ".join(part for part in parts if part)


_HEALTH_RANK = {"down": 0, "suspect": 1, "unknown": 2, "up": 3}


def _node_rows(picture: Picture, drawn: Drawn) -> list[Row]:
    held: dict[str, list[ModelOnNode]] = {}
    for model in picture.models.values():
        held.setdefault(model.node, []).append(model)
    return [_node_row(node, held.get(node.name, []), drawn) for node in picture.nodes.values()]


def _node_row(node: LiveNode, models: Sequence[ModelOnNode], drawn: Drawn) -> Row:
    limit = "" if node.max_in_flight is None else f"/{node.max_in_flight}"
    note = _node_note(node)
    used, total = node.vram_used_mib, node.vram_total_mib
    taken = ((used or 0) + node.vram_reserved_mib) / total if total else None
    return Row(
        cells=lambda: plain(
            name(node.name),
            _health(node, drawn.glyphs),
            bar(node, models, width=drawn.bar_width, glyphs=drawn.glyphs),
            _memory(node),
            f"{node.in_flight}{limit}",
            Text(note, style="yellow"),
        ),
        by=(node.name, _HEALTH_RANK.get(node.health, 2), taken, node.in_flight),
        words=_words(node.name, node.health, "draining" if node.draining else "", note),
    )


def _health(node: LiveNode, glyphs: Glyphs) -> Text:
    symbol, style = HEALTH.get(node.health, ("?", "dim"))
    word = f"{safe(node.health)}{',draining' if node.draining else ''}"
    return Text(f"{symbol} {word}" if glyphs is UNICODE else word, style=style)


def _memory(node: LiveNode) -> str:
    if not node.vram_total_mib:
        return ABSENT
    numbers = ABSENT if node.vram_used_mib is None else gib(node.vram_used_mib)
    numbers += f"+{gib(node.vram_reserved_mib)}" if node.vram_reserved_mib else ""
    return f"{numbers}/{gib(node.vram_total_mib)}"


def _node_note(node: LiveNode) -> str:
    notes = [safe(node.reason)] if node.reason else []
    if node.defrag_due:
        notes.append(f"wants a restart: {safe(node.defrag_reason)}")
    if not node.may_load:
        notes.append(f"does not load: {safe(node.no_load_reason or 'turned off')}")
    return "; ".join(notes)


STATES = {"loaded": "resident"}
"""Words of the API that have a better one here."""
_STATE_RANK = {"loading": 0, "unloading": 1, "draining": 2, "wedged": 3, "loaded": 4}
"""What changes comes first, what is absent last."""


def _model_rows(picture: Picture, drawn: Drawn) -> list[Row]:
    letters = marks(picture.models.values())
    return [
        _model_row(model, letters.get((model.node, model.model), ""), drawn)
        for model in picture.models.values()
    ]


def _model_row(model: ModelOnNode, letter: str, drawn: Drawn) -> Row:
    state = STATES.get(model.status, safe(model.status))
    pinned = "pinned" if model.pinned else ""
    failure = f"refused: {safe(model.breaker_reason)}" if model.breaker_open else ""
    if not failure and model.last_failure:
        failure = f"failed: {safe(model.last_failure)}"
    limit = f"/{model.max_in_flight}" if model.max_in_flight else ""
    return Row(
        cells=lambda: plain(
            name(model.model),
            name(model.node),
            letter or " ",
            Text(_moving(model, state, drawn), style=STATUS_STYLES.get(model.status, "")),
            pinned,
            f"{model.in_flight}{limit}",
            rate(model.tokens_per_s),
            size(model.size_mib),
            ago(model.last_used_at_ms, now_ms=drawn.now_ms),
            Text(failure, style="red"),
        ),
        by=(
            _STATE_RANK.get(model.status, 5),
            model.model,
            model.node,
            model.in_flight,
            model.tokens_per_s,
            model.last_used_at_ms,
        ),
        words=_words(model.model, model.node, state, pinned, *model.aliases),
        model=model.model,
    )


def _moving(model: ModelOnNode, state: str, drawn: Drawn) -> str:
    """A load with its time beside what loads of it took; a drain with what it waits for."""
    if model.status == "loading" and model.loading_since_ms is not None:
        since_s = max(0, drawn.now_ms - model.loading_since_ms) // 1000
        return f"{state} {since_s}s" + (f"/{model.load_s:.0f}s" if model.load_s else "")
    if model.status == "draining" and model.in_flight:
        return f"{state}, {model.in_flight} to go"
    return state


def _request_rows(picture: Picture, drawn: Drawn) -> list[Row]:
    return [_request_row(request, drawn) for request in picture.requests.values()]


def _request_row(request: LiveRequest, drawn: Drawn) -> Row:
    age_s = max(0, drawn.now_ms - request.started_at_ms) / 1000
    # An answer that comes whole has no events that say how far it is.
    tokens = request.events if request.stream and request.events else None
    state = f"{safe(request.state)}{', cold' if request.cold_start else ''}"
    return Row(
        cells=lambda: plain(
            name(request.model),
            name(request.node),
            name(request.client),
            state,
            span(age_s),
            count(tokens),
            rate(request.events_per_s),
            safe(request.route),
        ),
        by=(age_s, request.model, request.node, request.client, tokens, request.events_per_s),
        words=_words(
            request.model,
            request.node,
            request.client,
            state,
            request.route,
            request.request_id,
        ),
        model=request.model or "",
    )


def _queue_rows(picture: Picture, drawn: Drawn) -> list[Row]:
    return [_queue_row(queue, drawn) for queue in picture.queues.values()]


def _queue_row(queue: QueueBody, drawn: Drawn) -> Row:
    wait_s = None
    if queue.oldest_at_ms is not None:
        wait_s = max(0, drawn.now_ms - queue.oldest_at_ms) / 1000
    clients = ", ".join(
        safe(client or "no name") + (f" x{waiting}" if waiting > 1 else "")
        for client, waiting in _most(queue.clients)
    )
    reason = safe(queue.reason)
    return Row(
        cells=lambda: plain(
            name(queue.model), str(queue.waiting), span(wait_s), clients, reason
        ),
        by=(wait_s, queue.waiting, queue.model),
        words=_words(queue.model, *queue.clients, reason),
        model=queue.model,
    )


def _most(clients: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(clients.items(), key=lambda pair: (-pair[1], pair[0]))


def _event_rows(picture: Picture, _drawn: Drawn) -> list[Row]:
    return [_event_row(event) for event in picture.events]


def _event_row(event: EventRow) -> Row:
    return Row(
        cells=lambda: plain(
            short_clock(event.at_ms),
            safe(event.kind),
            name(event.node),
            name(event.model),
            safe(event.reason),
        ),
        by=(event.id, event.kind, event.node, event.model),
        words=_words(event.kind, event.node, event.model, event.reason),
        model=event.model or "",
    )


TABLES: dict[Pane, Table] = {
    Pane.NODES: Table(
        title="nodes",
        columns=(
            Column("node", elastic=True),
            Column("health", fixed=6),
            Column("memory"),
            Column("GiB", right=True),
            Column("in flight", right=True),
            Column("note", elastic=True, from_width=80),
        ),
        orders=(
            Order("name"),
            Order("health"),
            Order("memory", falling=True),
            Order("in flight", falling=True),
        ),
        rows=_node_rows,
        empty="no nodes",
    ),
    Pane.MODELS: Table(
        title="models",
        columns=(
            Column("model", elastic=True),
            Column("node", elastic=True),
            Column(""),
            Column("state", fixed=9),
            Column("pin", from_width=70),
            Column("in flight", right=True),
            Column("tok/s", right=True, fixed=5),
            Column("size", right=True, from_width=80),
            Column("used", right=True, from_width=90),
            Column("failures", elastic=True, from_width=110),
        ),
        orders=(
            Order("state"),
            Order("model"),
            Order("node"),
            Order("in flight", falling=True),
            Order("tok/s", falling=True),
            Order("used", falling=True),
        ),
        rows=_model_rows,
        empty="no node lists a model yet",
    ),
    Pane.REQUESTS: Table(
        title="requests",
        columns=(
            Column("model", elastic=True),
            Column("node", elastic=True),
            Column("client", elastic=True),
            Column("state", fixed=9),
            Column("age", right=True, fixed=6),
            Column("tokens", right=True, fixed=6),
            Column("tok/s", right=True, fixed=5),
            Column("route", elastic=True, from_width=110),
        ),
        orders=(
            Order("age", falling=True),
            Order("model"),
            Order("node"),
            Order("client"),
            Order("tokens", falling=True),
            Order("tok/s", falling=True),
        ),
        rows=_request_rows,
        empty="none in flight",
    ),
    Pane.QUEUE: Table(
        title="queue",
        columns=(
            Column("model", elastic=True),
            Column("waiting", right=True),
            Column("longest", right=True, fixed=7),
            Column("clients", elastic=True, from_width=70),
            Column("why", elastic=True),
        ),
        orders=(
            Order("longest", falling=True),
            Order("waiting", falling=True),
            Order("model"),
        ),
        rows=_queue_rows,
        empty="nobody waits",
    ),
    Pane.EVENTS: Table(
        title="events",
        columns=(
            Column("at"),
            Column("event"),
            Column("node", elastic=True, from_width=70),
            Column("model", elastic=True),
            Column("reason", elastic=True),
        ),
        orders=(
            Order("time", falling=True),
            Order("event"),
            Order("node"),
            Order("model"),
        ),
        rows=_event_rows,
        empty="no events yet",
    ),
}
