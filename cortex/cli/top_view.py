"""From a picture and a view to lines of text that fill a terminal exactly: pure, no clock, no terminal."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Group
from rich.text import Text

from cortex.adminapi import ExplainBody
from cortex.cli import explain
from cortex.cli.fleet_view import HEALTH
from cortex.cli.text import clock, rate, safe, span
from cortex.cli.top_bar import UNICODE, Glyphs
from cortex.cli.top_keys import Extent, Pane, View, first_shown
from cortex.cli.top_layout import allot, grid
from cortex.cli.top_picture import Picture
from cortex.cli.top_rows import TABLES, Drawn, Row, chosen, plain

TALL = 30
"""From this height on every table has a line of titles, not only the focused one."""
HINTS = "q quit  s sort  r reverse  / filter  Enter why  Tab 1-5 table  p pause  ? help"

HELP = (
    ("1-5, Tab", "choose the table that keys are for, and that gets the most room"),
    ("s", "sort it by the next column"),
    ("r", "turn the order round"),
    ("/", "show only rows with a text, in all tables; Enter keeps it, Esc clears it"),
    ("up, down", "choose a row; PgUp, PgDn a page further; Home, End"),
    ("Enter", "why: what would be done with a request for the model of that row"),
    ("p", "pause: the picture stays as it is until p"),
    ("q", "quit"),
)


@dataclass(frozen=True, slots=True)
class Lost:
    """The gateway does not answer; the picture is from before."""

    at_ms: int
    """This machine's clock."""
    for_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Scene:
    """All that is drawn."""

    picture: Picture
    now_ms: int
    """The gateway's clock; stands still while the picture is stale or paused."""
    view: View = field(default_factory=View)
    lost: Lost | None = None
    why: ExplainBody | str | None = None
    """What the gateway would do with a request for `view.why`, or why it did not say."""
    glyphs: Glyphs = UNICODE


def full(scene: Scene, width: int, height: int) -> tuple[Group, Extent]:
    """A whole terminal, and how far the focused table can be scrolled."""
    if scene.view.help:
        lines, extent = _help(scene.glyphs), Extent(0, 0, 1)
    elif scene.view.why:
        lines, extent = _why(scene, width), Extent(0, 0, 1)
    else:
        lines, extent = _panes(scene, width, height)
    del lines[height - 1 :]
    lines += [Text()] * (height - 1 - len(lines))
    lines.append(_footer(scene.view))
    return Group(*(_fitted(line, width) for line in lines)), extent


def page(scene: Scene, width: int) -> list[Text]:
    """Everything from top to bottom, for a pipe or a look: as long as it has to be."""
    lines = _header(scene)
    drawn = Drawn(scene.now_ms, scene.glyphs)
    for pane in Pane:
        rows = chosen(pane, scene.picture, scene.view, drawn)
        table = TABLES[pane]
        lines += [Text(), Text(f"{table.title}: {len(rows) or table.empty}", style="bold")]
        if rows:
            lines += _table(pane, rows, width, titles=True)
    return lines


def _panes(scene: Scene, width: int, height: int) -> tuple[list[Text], Extent]:
    view = scene.view
    drawn = Drawn(scene.now_ms, scene.glyphs, _bar_width(width))
    rows = {pane: chosen(pane, scene.picture, view, drawn) for pane in Pane}
    lines = _header(scene)
    tall = height >= TALL
    titled = {pane: bool(rows[pane]) and (tall or pane is view.focus) for pane in Pane}
    room = height - len(lines) - 1 - len(Pane) - sum(titled.values())
    given = allot([len(rows[pane]) for pane in Pane], view.focus, room)
    for pane in Pane:
        total, visible = len(rows[pane]), given[pane]
        cursor = min(view.cursors[pane], max(0, total - 1)) if pane is view.focus else 0
        top = max(0, min(view.tops[pane], total - visible))
        if pane is view.focus:
            top = first_shown(view.tops[pane], cursor, total, visible)
        lines.append(_rule(pane, scene, (top, visible, total), width))
        if visible:
            shown = rows[pane][top : top + visible]
            table = _table(pane, shown, width, titles=titled[pane])
            if pane is view.focus:
                table[cursor - top + titled[pane]].stylize("reverse")
            lines += table
    focus = view.focus
    models = tuple(row.model for row in rows[focus])
    return lines, Extent(len(models), given[focus], len(TABLES[focus].orders), models)


def _bar_width(width: int) -> int:
    return 10 if width < 80 else 20 if width < 130 else 40


def _table(pane: Pane, rows: Sequence[Row], width: int, *, titles: bool) -> list[Text]:
    columns = TABLES[pane].columns
    cells = [row.cells() for row in rows]
    layout = grid(columns, cells, width)
    lines = [layout.line(row, columns) for row in cells]
    if titles:
        named = [Text(column.title, style="bold") for column in columns]
        lines.insert(0, layout.line(named, columns))
    return lines


def _rule(pane: Pane, scene: Scene, place: tuple[int, int, int], width: int) -> Text:
    """`─ 2 models 3-8 of 12, by state ▲ ───`; the focused one stands out without colour too."""
    view, glyphs, table = scene.view, scene.glyphs, TABLES[pane]
    top, visible, total = place
    focused = pane is view.focus
    if not total:
        where = "no row with the filter's text" if view.filter else table.empty
    elif visible < total:
        where = f"{top + 1}-{top + visible} of {total}" if visible else f"{total}"
    else:
        where = str(total)
    order = table.orders[view.sorts[pane] % len(table.orders)]
    arrow = glyphs.down if order.falling != view.reversed[pane] else glyphs.up
    text = f" {pane + 1} {table.title} {where}"
    text += f", by {order.title} {arrow} " if total else " "
    rule = Text(glyphs.rule, style="dim")
    rule.append(text, style="not dim bold reverse" if focused else "not dim bold")
    return rule.append(glyphs.rule * max(0, width - rule.cell_len))


def _header(scene: Scene) -> list[Text]:
    fleet = scene.picture.fleet
    if fleet is None:
        return [Text("cortex", style="bold"), _stale(scene) or Text("waiting for the gateway")]
    symbol, style = HEALTH.get(fleet.health.status, ("?", "dim"))
    word = f"{safe(fleet.health.status)}{', draining' if fleet.draining else ''}"
    first = Text("cortex ", style="bold").append(safe(fleet.version)).append("  ")
    first.append(f"{symbol} {word}" if scene.glyphs is UNICODE else word, style=style)
    up_s = max(0, scene.now_ms - fleet.started_at_ms) / 1000
    first.append(f"  up {span(up_s)}", style="not bold")
    if not fleet.store_ok:
        first.append("  store failing", style="bold red")
    lines = [first, _counts(scene)]
    wrong = _stale(scene) or _reasons([*fleet.health.reasons, *fleet.health.warnings])
    return [*lines, wrong] if wrong is not None else lines


def _counts(scene: Scene) -> Text:
    picture, now_ms = scene.picture, scene.now_ms
    fleet = picture.fleet
    assert fleet is not None
    facts = (
        (rate(picture.requests_per_s(now_ms)), "requests/s"),
        (rate(picture.tokens_per_s(now_ms)), "tokens/s"),
        (str(fleet.in_flight), "in flight"),
        (str(fleet.queued), "queued"),
        (str(fleet.requests_total), "done"),
    )
    line = Text()
    for number, what in facts:
        line.append(f"{number} ", style="bold").append(f"{what}  ")
    return line


def _stale(scene: Scene) -> Text | None:
    lost = scene.lost
    if lost is None:
        return None
    what = "no answer" if scene.picture.fleet is None else "stale: as it was"
    # The date is of no use here: this is about minutes.
    since = clock(lost.at_ms)[-8:]
    words = f"{what} at {since}, {span(lost.for_s)} ago; {safe(lost.why)}"
    return Text(words, style="bold red reverse")


def _reasons(reasons: Sequence[str]) -> Text | None:
    if not reasons:
        return None
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return Text(f"{safe(reasons[0])}{more}", style="yellow")


def _footer(view: View) -> Text:
    if view.typing:
        return Text("filter: ").append(safe(view.filter)).append("_", style="bold")
    line = Text()
    if view.paused:
        line.append(" PAUSED ", style="bold reverse").append(" ")
    if view.filter:
        line.append(f"filter: {safe(view.filter)} (Esc clears)  ", style="bold")
    return line.append(HINTS, style="dim")


def _help(glyphs: Glyphs) -> list[Text]:
    lines = [Text("cortex top", style="bold"), Text()]
    lines += [Text(f"  {keys:<10}{what}") for keys, what in HELP]
    bar = (
        f"a{glyphs.model * 2} a model by its letter, {glyphs.reserved} reserved for a load,"
        f" {glyphs.outside} outside use,"
    )
    unknown = f"{glyphs.unknown} used, of unknown size, {glyphs.free} free"
    return [*lines, Text(), Text(f"  memory: {bar}"), Text(f"          {unknown}")]


def _why(scene: Scene, width: int) -> list[Text]:
    """What would be done with a request for the chosen model, as `cortex explain` has it."""
    found = scene.why
    lines = [Text(f"why: {safe(scene.view.why)}", style="bold"), Text()]
    if isinstance(found, ExplainBody):
        lines += [explain.headline(found), *explain.details(found)]
        cells = [plain(*explain.row(seen)) for seen in found.considered]
        if cells:
            layout = grid(explain.COLUMNS, cells, width)
            named = [Text(column.title, style="bold") for column in explain.COLUMNS]
            lines += [Text(), *(layout.line(row, explain.COLUMNS) for row in (named, *cells))]
    else:
        lines.append(Text(f"  {safe(found or 'asking the gateway')}"))
    return [*lines, Text(), Text("  any key leads back", style="dim")]


def _fitted(line: Text, width: int) -> Text:
    line = line.copy()
    line.no_wrap = True
    line.truncate(width, overflow="ellipsis", pad=True)
    return line
