"""`cortex events`: what happened to the fleet, and what happens now."""

import argparse
import difflib
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from rich.text import Text

from cortex.adminapi import EventQuery, EventRow
from cortex.cli.bodies import as_json
from cortex.cli.client import Client, StreamEndedError
from cortex.cli.endpoint import resolve
from cortex.cli.exit_codes import Exit
from cortex.cli.failures import TemporaryError, UnreachableError, UsageError
from cortex.cli.log_source import Gateway, newest_events
from cortex.cli.tables import Cell, Column, Screen
from cortex.cli.text import clock, name, short_clock
from cortex.core.records import EventKind

STREAM_PATH = "/cortex/v1/events/stream"
FIRST_ROWS = 10
RETRY_S = 1.0

COLUMNS = (
    Column("time", fixed=14),
    Column("kind", fixed=14),
    Column("node", elastic=True, fixed=10),
    Column("model", elastic=True, fixed=22),
    Column("reason", elastic=True, fixed=12),
)
STYLES = {
    "node_up": "green",
    "loaded": "green",
    "node_down": "bold red",
    "load_failed": "bold red",
    "wedged": "bold red",
    "node_suspect": "yellow",
    "breaker_open": "yellow",
    "evict": "yellow",
}


def run(args: argparse.Namespace) -> int:
    """Print events, newest last."""
    if args.follow and args.until is not None:
        raise UsageError("events: --follow and --until exclude each other")
    _warn_of_kind(args.kind)
    client = Client(resolve(args))
    query = EventQuery(
        kind=args.kind,
        node=args.node,
        model=args.model,
        since_ms=args.since,
        until_ms=args.until,
        limit=args.limit or (FIRST_ROWS if args.follow else 50),
    )
    # Before the filtered list, so that nothing falls between the two.
    source = Gateway(client)
    newest = source.events(EventQuery(limit=1)).rows if args.follow else []
    body = newest_events(source, query)
    if args.json and not args.follow:
        print(as_json(body.model_dump(include={"rows"})))
        return Exit.OK
    printer = EventPrinter(streamed=args.follow, as_lines=args.json)
    printer.write(body.rows[::-1])
    if args.follow:
        seen = (row.id for row in (*newest, *body.rows))
        _follow(client, query, printer, after_id=max(seen, default=0))
    return Exit.OK


def _warn_of_kind(kind: str | None) -> None:
    """A kind that this version does not know may still be one of a newer gateway's."""
    known = [str(each) for each in EventKind]
    if kind is None or kind in known:
        return
    near = difflib.get_close_matches(kind, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(known)}"
    print(f"cortex: this version knows no event kind {kind!r}; {hint}", file=sys.stderr)


class EventPrinter:
    """Events as a table or as lines of JSON."""

    def __init__(self, *, streamed: bool, as_lines: bool) -> None:
        self._screen = Screen()
        self._streamed = streamed
        self._as_lines = as_lines
        self._started = False

    def write(self, rows: Sequence[EventRow]) -> None:
        """Print events, oldest first."""
        if self._as_lines:
            for row in rows:
                print(as_json(row.model_dump(), lines=True), flush=True)
            return
        screen = self._screen
        cells = [_row(row, short=screen.is_terminal) for row in rows]
        if self._started:
            screen.more(COLUMNS, cells)
        elif cells or self._streamed:
            screen.show(screen.table(COLUMNS, cells, streamed=self._streamed))
        elif screen.is_terminal:
            screen.show(Text("no event matches", style="dim"))
        self._started = True


def _row(row: EventRow, *, short: bool) -> list[Cell]:
    return [
        short_clock(row.at_ms) if short else clock(row.at_ms),
        Text(name(row.kind), style=STYLES.get(row.kind, "")),
        name(row.node),
        name(row.model),
        name(row.reason),
    ]


def _follow(
    client: Client, query: EventQuery, printer: EventPrinter, *, after_id: int
) -> NoReturn:
    """Print new events for ever; after a gap, ask on from the last one seen."""
    last_id = str(after_id)
    lost = False
    while True:
        try:
            with client.stream(STREAM_PATH, last_id=last_id) as events:
                if lost:
                    print("cortex: the gateway is back", file=sys.stderr)
                lost = False
                for event in events:
                    last_id = event.id or last_id
                    printer.write(_wanted(event.data, query))
        except StreamEndedError:
            pass
        except (UnreachableError, TemporaryError) as error:
            if not lost:
                print(f"cortex: {error}; trying again", file=sys.stderr)
            lost = True
        time.sleep(RETRY_S)


def _wanted(data: str, query: EventQuery) -> list[EventRow]:
    """The event of one message if it passes the filters; the stream has none of its own."""
    try:
        row = EventRow.model_validate_json(data)
    except ValueError:
        return []
    pairs = ((query.kind, row.kind), (query.node, row.node), (query.model, row.model))
    passes = all(wanted is None or wanted == found for wanted, found in pairs)
    return [row] if passes and row.at_ms >= (query.since_ms or 0) else []
