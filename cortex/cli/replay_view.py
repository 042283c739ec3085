"""What a replay came to, as a table and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from cortex.cli.tables import Cell, Column
from cortex.cli.text import ABSENT, clock, counted, safe, size, span
from cortex.core.recorded import Recorded
from cortex.replay.run import Result
from cortex.replay.scenario import Prepared, Scenario

INDICATIVE_SHARE = 0.1
"""A replay that is further off than this shows a direction and no amount."""
COLUMNS = (
    Column("by", elastic=True),
    Column("load-hours", right=True),
    Column("loads", right=True),
    Column("cold", right=True),
    Column("wait p50", right=True),
    Column("wait p95", right=True),
    Column("lost", right=True),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One run under its name."""

    name: str
    result: Result


def headline(recorded: Recorded, scenario: Scenario) -> Text:
    """What was replayed."""
    models = {model for machine in scenario.machines for model in machine.holdings}
    nodes = ", ".join(f"{safe(m.name)} {size(m.vram_mib)}" for m in scenario.machines)
    return Text(
        f"{counted(len(scenario.asks), 'request')} for {counted(len(models), 'model')} from"
        f" {clock(recorded.since_ms)} to {clock(recorded.until_ms)} on {nodes}"
    )


def off_share(recorded: Recorded, lived: Result) -> float | None:
    """How far the load-hours of a replay are from the recorded ones; None = none are recorded."""
    return (
        abs(lived.load_s - recorded.totals.load_s) / recorded.totals.load_s
        if recorded.totals.load_s
        else None
    )


def agreement(recorded: Recorded, lived: Result, rule: str) -> Text:
    """How far what is replayed can be believed."""
    off = off_share(recorded, lived)
    said = (
        f"as it was ({rule}): {hours(lived.load_s)} load-hours replayed,"
        f" {hours(recorded.totals.load_s)} recorded"
    )
    if off is None:
        return Text(f"{said}: nothing to compare with, indicative only", style="yellow")
    if off > INDICATIVE_SHARE:
        return Text(f"{said}: {off:.0%} off, indicative only", style="yellow")
    return Text(f"{said}: {off:.0%} off")


def hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f}"


def cells(row: Row) -> list[Cell]:
    """A run by `COLUMNS`."""
    result = row.result
    return [
        safe(row.name),
        hours(result.load_s),
        str(result.loads),
        _percent(result.cold, result.requests),
        span(result.wait_s(50)),
        span(result.wait_s(95)),
        _lost(result.lost.total()),
    ]


def _lost(count: int) -> Text:
    return Text(str(count), style="bold red" if count else "")


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ABSENT


def body(
    recorded: Recorded,
    prepared: Prepared,
    words: Sequence[str],
    lived: Result,
    rows: Sequence[Row],
) -> dict[str, object]:
    """All of it, for scripts."""
    return {
        "since_ms": recorded.since_ms,
        "until_ms": recorded.until_ms,
        "strategy": str(prepared.scenario.policy.eviction.strategy),
        "changes": list(words),
        "recorded": _figures(Result.of(recorded)),
        "replayed": _figures(lived),
        "off_share": off_share(recorded, lived),
        "rows": [{"by": row.name} | _figures(row.result) for row in rows],
        "notes": list(prepared.notes),
    }


def _figures(result: Result) -> dict[str, object]:
    return {
        "requests": result.requests,
        "load_s": round(result.load_s, 3),
        "loads": result.loads,
        "cold": result.cold,
        "wait_p50_s": result.wait_s(50),
        "wait_p95_s": result.wait_s(95),
        "lost": result.lost.total(),
        "lost_by_code": dict(result.lost),
    }
