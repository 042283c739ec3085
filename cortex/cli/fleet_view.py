"""`StatusBody` as a header, a table of nodes and a table of models."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from cortex.adminapi import ModelOnNode, NodeStatus, StatusBody
from cortex.cli.tables import Cell, Column, Screen
from cortex.cli.text import (
    ABSENT,
    ago,
    count,
    file_size,
    gib,
    name,
    rate,
    safe,
    size,
    span,
)

REASONS_FROM = 120
"""Terminal width from which a table has a column for reasons; below, they are lines under it."""
STALE_POLL_S = 30.0
"""A last poll older than this is worth a word."""

HEALTH = {
    "ok": ("●", "green"),
    "degraded": ("◐", "yellow"),
    "impaired": ("✗", "bold red"),
    "up": ("●", "green"),
    "suspect": ("◐", "yellow"),
    "down": ("✗", "bold red"),
}
STATUS_STYLES = {
    "loaded": "green",
    "loading": "cyan",
    "draining": "yellow",
    "unloading": "yellow",
    "wedged": "bold red",
    "unloaded": "dim",
}

NODE_COLUMNS = (
    Column("node", cut="end"),
    Column("health"),
    Column("memory"),
    Column("in flight", right=True),
    Column("cycles", right=True),
    Column("version"),
    Column("reason", elastic=True, from_width=REASONS_FROM),
)
MODEL_COLUMNS = (
    Column("model", cut="start"),
    Column("node", cut="end"),
    Column("status"),
    Column("pin"),
    Column("in flight", right=True),
    Column("used", right=True),
    Column("tok/s", right=True),
    Column("size", right=True),
    Column("load", right=True, from_width=90),
    Column("failures", elastic=True, from_width=REASONS_FROM),
)


def fleet_parts(body: StatusBody, screen: Screen, *, now_ms: int) -> list[RenderableType]:
    """Everything that `cortex status` shows, from top to bottom."""
    parts: list[RenderableType] = [*_header(body, screen, now_ms), Text()]
    nodes = sorted(body.nodes, key=lambda node: node.name)
    if not nodes:
        return [*parts, Text("no nodes are configured", style="yellow")]
    parts.append(screen.table(NODE_COLUMNS, [_node_row(node, screen) for node in nodes]))
    models = sorted(
        (model for node in nodes for model in node.models), key=lambda m: (m.model, m.node)
    )
    narrow = screen.width < REASONS_FROM
    if narrow:
        parts += _notes((node.name, _node_reason(node)) for node in nodes)
    parts.append(Text())
    if not models:
        return [*parts, Text("no node lists a model yet", style="yellow")]
    rows = [_model_row(model, screen, now_ms=now_ms) for model in models]
    parts.append(screen.table(MODEL_COLUMNS, rows))
    if narrow:
        parts += _notes((f"{model.model} on {model.node}", _breaker(model)) for model in models)
    return parts


def health_text(word: str, screen: Screen, *, draining: bool = False) -> Text:
    """A health as word and, on a terminal, symbol and colour."""
    symbol, style = HEALTH.get(word, ("?", "dim"))
    text = f"{safe(word)}{',draining' if draining else ''}"
    return Text(f"{symbol} {text}" if screen.is_terminal else text, style=style)


def _header(body: StatusBody, screen: Screen, now_ms: int) -> Iterator[RenderableType]:
    store = body.store
    facts = [
        f"{body.in_flight} in flight",
        f"{body.queued} queued",
        f"{body.requests_total} requests",
        f"store {file_size(store.size_bytes) if store.ok else 'failing'}",
    ]
    line = Text("cortex ", style="bold").append(safe(body.version)).append("  ")
    line.append_text(health_text(body.health.status, screen, draining=body.draining))
    yield line.append(f"  up {span(body.uptime_s)}", style="not bold")
    yield Text(", ".join(facts))
    for reason in body.health.reasons:
        yield _note(safe(reason), HEALTH.get(body.health.status, ("", "dim"))[1])
    yield from _waiting(body, now_ms)
    rule = body.eviction
    if rule.deciding != rule.strategy:
        yield _note(
            f"what goes is decided by {safe(rule.deciding)} and not by {safe(rule.strategy)}:"
            f" {safe(rule.reason)}",
            "yellow",
        )
    for warning in body.health.warnings:
        yield _note(f"warning: {safe(warning)}", "yellow")
    if not store.ok:
        yield _note(f"store {safe(store.path)}: {safe(store.reason)}", "red")
    if store.dropped_rows:
        yield _note(f"store: {store.dropped_rows} rows were dropped", "yellow")


def _waiting(body: StatusBody, now_ms: int) -> Iterator[RenderableType]:
    """Why a model that somebody asked for does not answer yet."""
    for queue in body.queues:
        words = [f"{queue.waiting} waiting"]
        if queue.oldest_at_ms is not None:
            since = span((now_ms - queue.oldest_at_ms) / 1000)
            words.append(f"for {since}" if queue.waiting == 1 else f"the oldest for {since}")
        why = [safe(queue.reason)] if queue.reason else []
        if queue.load_eta_s is not None:
            why.append(f"its load takes about {span(queue.load_eta_s)}")
        because = f": {'; '.join(why)}" if why else ""
        yield _note(f"{safe(queue.model)}: {', '.join(words)}{because}", "cyan")


def _bar_width(screen: Screen) -> int:
    if not screen.is_terminal or screen.width < 80:
        return 0
    return 8 if screen.width < 100 else 16


def _node_row(node: NodeStatus, screen: Screen) -> list[Cell]:
    in_flight = count(node.in_flight)
    if node.max_in_flight is not None:
        in_flight += f"/{node.max_in_flight}"
    return [
        name(node.name),
        health_text(node.health, screen, draining=node.draining),
        _vram(node, bar=_bar_width(screen)),
        in_flight,
        _cycles(node),
        name(node.version),
        Text(_node_reason(node), style="yellow"),
    ]


def _vram(node: NodeStatus, *, bar: int) -> Cell:
    """A bar (used, reserved, free) and `used+reserved/total` in GiB."""
    total, used, reserved = node.vram_total_mib, node.vram_used_mib, node.vram_reserved_mib
    if not total:
        return ABSENT
    numbers = ABSENT if used is None else gib(used)
    numbers += f"+{gib(reserved)}" if reserved else ""
    numbers += f"/{gib(total)} GiB"
    if not bar:
        return numbers
    filled = min(bar, round(bar * (used or 0) / total))
    promised = min(bar - filled, round(bar * reserved / total))
    style = "red" if (used or 0) + reserved > 0.95 * total else "green"
    return (
        Text()
        .append("█" * filled, style=style)
        .append("▒" * promised, style="cyan")
        .append("░" * (bar - filled - promised), style="dim")
        .append(f" {numbers}")
    )


def _cycles(node: NodeStatus) -> Cell:
    if not node.defrag_after_cycles:
        return count(node.cycles)
    done = f"{node.cycles}/{node.defrag_after_cycles}"
    return Text(f"{done} due", style="yellow") if node.defrag_due else done


def _node_reason(node: NodeStatus) -> str:
    reasons = [safe(node.reason)] if node.reason else []
    if node.health != "up":
        return "; ".join(reasons)  # what it may and wants is known once it answers
    if not node.may_load:
        reasons.append(f"does not load or unload: {safe(node.no_load_reason or 'turned off')}")
    elif not node.may_unload:
        reasons.append(f"does not unload: {safe(node.no_unload_reason)}")
    if node.defrag_due:
        reasons.append(f"wants a restart: {safe(node.defrag_reason)}")
    if node.last_poll_age_s is not None and node.last_poll_age_s > STALE_POLL_S:
        reasons.append(f"last poll {span(node.last_poll_age_s)} ago")
    return "; ".join(reasons)


def _breaker(model: ModelOnNode) -> str:
    """Why nothing is asked of it, or why it may be absent."""
    if model.breaker_open:
        return f"open: {safe(model.breaker_reason or 'failed repeatedly')}"
    return f"failed: {safe(model.last_failure)}" if model.last_failure else ""


def _notes(pairs: Iterator[tuple[str, str]]) -> list[RenderableType]:
    return [
        _note(f"{safe(subject)}: {reason}", "yellow") for subject, reason in pairs if reason
    ]


def _note(text: str, style: str) -> RenderableType:
    """A line under what it is about; where it has no room it goes on below its own beginning."""
    return Padding(Text(text, style=style), (0, 0, 0, 2), expand=False)


def _model_row(model: ModelOnNode, screen: Screen, *, now_ms: int) -> list[Cell]:
    pinned = "★" if screen.is_terminal else "pinned"
    in_flight = count(model.in_flight)
    if model.max_in_flight:
        in_flight += f"/{model.max_in_flight}"
    return [
        name(model.model),
        name(model.node),
        Text(name(model.status), style=STATUS_STYLES.get(model.status, "")),
        Text(pinned, style="yellow") if model.pinned else ABSENT,
        in_flight,
        ago(model.last_used_at_ms, now_ms=now_ms),
        rate(model.tokens_per_s),
        size(model.size_mib),
        span(model.load_s),
        Text(_breaker(model) or ABSENT, style="red" if model.breaker_open else "dim"),
    ]


def pin_lines(models: Sequence[ModelOnNode]) -> list[str]:
    """One line per copy, for the answer of pin and unpin."""
    return [
        f"  {name(model.node)}: {name(model.status)}{', pinned' if model.pinned else ''}"
        for model in models
    ]
