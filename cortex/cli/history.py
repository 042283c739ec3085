"""`cortex history`: the request log, from the running gateway or from its database file."""

import argparse
import csv
import sys
import time
from collections.abc import Callable, Sequence

from rich.text import Text

from cortex.adminapi import HistoryBody, HistoryQuery, HistoryRow, StatsBody
from cortex.cli.bodies import as_json
from cortex.cli.exit_codes import Exit
from cortex.cli.failures import TemporaryError, UnreachableError, UsageError
from cortex.cli.history_view import HistoryTable, stats_columns, stats_row
from cortex.cli.log_source import Source, newest_requests, source_of
from cortex.cli.tables import Screen
from cortex.cli.text import clock, safe

POLL_S = 1.0
FIRST_ROWS = 10
"""Rows shown before the first new one of `--follow`, unless --limit says otherwise."""
PAGE_ROWS = 1000


def run(args: argparse.Namespace) -> int:
    """Print rows or statistics, in the form that the options ask for."""
    _check(args)
    query = HistoryQuery(
        model=args.model,
        node=args.node,
        client=args.client,
        since_ms=args.since,
        until_ms=args.until,
        outcome=args.outcome,
        slow_ms=args.slow,
        limit=args.limit or (FIRST_ROWS if args.follow else 50),
        by=args.by,
    )
    source = source_of(args)
    if args.stats:
        return _print_stats(source.stats(query), by=args.by or "model", as_lines=args.json)
    write = _writer(args)
    newest = newest_requests(source, query)
    write(newest.rows[::-1])
    if args.follow:
        _follow(source, query, newest, write)
    return Exit.OK


def _check(args: argparse.Namespace) -> None:
    """Refuse options that contradict each other.

    Raises:
        UsageError: Naming both.
    """
    chosen = {
        f"--{option}": getattr(args, option) not in (None, False)
        for option in ("json", "csv", "stats", "follow", "db", "until")
    }
    for first, second in (
        ("--json", "--csv"),
        ("--stats", "--csv"),
        ("--stats", "--follow"),
        ("--follow", "--db"),
        ("--follow", "--until"),
    ):
        if chosen[first] and chosen[second]:
            raise UsageError(f"history: {first} and {second} exclude each other")
    if args.by and not args.stats:
        raise UsageError("history: --by is for --stats")


Write = Callable[[Sequence[HistoryRow]], None]


def _writer(args: argparse.Namespace) -> Write:
    """What prints rows, oldest first, any number of times."""
    if args.csv:
        return CsvWriter()
    if args.json and args.follow:
        return _print_lines
    if args.json:
        return _print_body
    return HistoryTable(Screen(), streamed=args.follow).write


def _print_body(rows: Sequence[HistoryRow]) -> None:
    """Newest first, as the gateway answers."""
    print(as_json(HistoryBody(rows=list(rows[::-1])).model_dump(include={"rows"})))


def _print_lines(rows: Sequence[HistoryRow]) -> None:
    for row in rows:
        print(as_json(row.model_dump(), lines=True), flush=True)


class CsvWriter:
    """A header and a line per row; unknown values are empty."""

    FIELDS = tuple(HistoryRow.model_fields)

    def __init__(self) -> None:
        self._csv = csv.writer(sys.stdout, lineterminator="\n")
        self._csv.writerow(self.FIELDS)

    def __call__(self, rows: Sequence[HistoryRow]) -> None:
        for row in rows:
            values = row.model_dump().values()
            self._csv.writerow([_cell(v) if isinstance(v, str) else v for v in values])
        sys.stdout.flush()


def _cell(text: str) -> str:
    """Nothing that a spreadsheet would take for a formula: clients and nodes chose some of these."""
    shown = safe(text)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def _follow(source: Source, query: HistoryQuery, newest: HistoryBody, write: Write) -> None:
    """Print new rows for ever; a gateway that goes away is waited for."""
    body, after_id = newest, _seen(newest, 0)
    lost = False
    while True:
        time.sleep(0 if len(body.rows) == PAGE_ROWS else POLL_S)
        page = query.model_copy(update={"after_id": after_id, "limit": PAGE_ROWS})
        try:
            body = source.history(page)
        except (UnreachableError, TemporaryError) as error:
            if not lost:
                print(f"cortex: {error}; waiting for it", file=sys.stderr)
            lost = True
            continue
        if lost:
            print("cortex: the gateway is back", file=sys.stderr)
            lost = False
        after_id = _seen(body, after_id)
        write(sorted(body.rows, key=lambda row: row.id))


def _seen(body: HistoryBody, before: int) -> int:
    """The newest row known of, whether it passed the filters or not."""
    return max(before, body.last_id, *(row.id for row in body.rows))


def _print_stats(body: StatsBody, *, by: str, as_lines: bool) -> int:
    if as_lines:
        print(as_json(body.model_dump()))
        return Exit.OK
    screen = Screen()
    if body.since_ms is not None:
        left_out = (
            f"cortex: of the requests since {clock(body.since_ms)}; older ones are left out"
        )
        print(left_out, file=sys.stderr)
    if body.rows:
        rows = [stats_row(row, by) for row in body.rows]
        screen.show(screen.table(stats_columns(by), rows))
    elif screen.is_terminal:
        screen.show(Text("no request matches", style="dim"))
    return Exit.OK
