"""Rows of the request log as a table; also one by one, as they come."""

from collections.abc import Sequence

from rich.text import Text

from cortex.adminapi import HistoryRow, StatsRow
from cortex.cli.tables import Cell, Column, Screen
from cortex.cli.text import ABSENT, clock, count, name, rate, short_clock, span_ms

COLUMNS = (
    Column("time", fixed=14),
    Column("model", elastic=True, fixed=18),
    Column("node", elastic=True, fixed=9),
    Column("client", elastic=True, fixed=10, from_width=115),
    Column("outcome", fixed=16),
    Column("tokens", right=True, fixed=14, from_width=100),
    Column("ttft", right=True, fixed=6),
    Column("tok/s", right=True, fixed=5, from_width=90),
    Column("wait", right=True, fixed=6, from_width=125),
    Column("took", right=True, fixed=6),
    Column("why", elastic=True, fixed=30, from_width=140),
)
STATS_COLUMNS = (
    Column("requests", right=True),
    Column("errors", right=True),
    Column("cold", right=True, from_width=120),
    Column("prompt", right=True, from_width=110),
    Column("completion", right=True, from_width=110),
    Column("ttft p50/p95", right=True),
    Column("took p50/p95", right=True),
    Column("tok/s p50/p95", right=True),
)
OUTCOME_STYLES = {"ok": "green", "client_gone": "yellow"}


class HistoryTable:
    """A table that may grow: the first rows come with the titles, later ones line up below."""

    def __init__(self, screen: Screen, *, streamed: bool) -> None:
        self._screen = screen
        self._streamed = streamed
        self._started = False

    def write(self, rows: Sequence[HistoryRow]) -> None:
        """Print rows, oldest first."""
        screen = self._screen
        cells = [history_row(row, short=screen.is_terminal) for row in rows]
        if self._started:
            screen.more(COLUMNS, cells)
        elif cells or self._streamed:
            screen.show(screen.table(COLUMNS, cells, streamed=self._streamed))
        elif screen.is_terminal:
            screen.show(Text("no request matches", style="dim"))
        self._started = True


def history_row(row: HistoryRow, *, short: bool) -> list[Cell]:
    """One request; a failed one shows its error code."""
    outcome = name(row.error_code if row.outcome == "error" and row.error_code else row.outcome)
    return [
        short_clock(row.started_at_ms) if short else clock(row.started_at_ms),
        name(row.model),
        name(row.node),
        name(row.client),
        Text(outcome, style=OUTCOME_STYLES.get(row.outcome, "red")),
        tokens(row),
        span_ms(row.ttft_ms),
        rate(row.tokens_per_s),
        span_ms(row.queue_ms + row.load_wait_ms),
        span_ms(row.duration_ms),
        name(row.error_message) if row.error_message else "",
    ]


def tokens(row: HistoryRow) -> str:
    """`prompt/cached/completion`, or `-` where a node reported none of them."""
    counts = (row.prompt_tokens, row.cached_tokens, row.completion_tokens)
    if all(value is None for value in counts):
        return ABSENT
    return "/".join(count(value) for value in counts)


def stats_columns(by: str) -> tuple[Column, ...]:
    """The titles of statistics by model, client or node."""
    return (Column(by, elastic=True), *STATS_COLUMNS)


def stats_row(row: StatsRow, by: str) -> list[Cell]:
    """One model, client or node over the filtered requests."""
    return [
        name(getattr(row, by)),
        count(row.requests),
        Text(count(row.errors), style="red" if row.errors else ""),
        count(row.cold_starts),
        count(row.prompt_tokens),
        count(row.completion_tokens),
        f"{span_ms(row.ttft_p50_ms)}/{span_ms(row.ttft_p95_ms)}",
        f"{span_ms(row.duration_p50_ms)}/{span_ms(row.duration_p95_ms)}",
        f"{rate(row.tokens_per_s_p50)}/{rate(row.tokens_per_s_p95)}",
    ]
