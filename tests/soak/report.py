"""A run for people: a table, the course of memory as a small chart, and the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.soak.run import Report

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60


def chart(values: Sequence[float], width: int = WIDTH) -> str:
    """One bar for each part of the run, from the least value to the greatest."""
    if not values:
        return ""
    step = max(1, -(-len(values) // width))
    means = [
        sum(part) / len(part)
        for i in range(0, len(values), step)
        if (part := values[i : i + step])
    ]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(BARS[int((mean - low) / span * (len(BARS) - 1))] for mean in means)


def show(report: Report, console: Console) -> None:
    table = Table(title="at rest, and the most in between", title_justify="left")
    for name in ("", "after the warm-up", "at the end", "most under load", "course"):
        table.add_column(name, justify="left" if name in ("", "course") else "right")
    rows = (
        ("memory, MiB", "rss_mib", ".1f"),
        ("sockets to clients", "sockets", "d"),
        ("sockets to nodes", "node_sockets", "d"),
        ("other descriptors", "files", "d"),
        ("threads", "threads", "d"),
        ("tasks", "tasks", "d"),
        ("leases", "leases", "d"),
        ("in flight", "in_flight", "d"),
        ("queued", "queued", "d"),
        ("database, MiB", "database_mib", ".1f"),
        ("GET /health, ms", "answer_ms", ".1f"),
    )
    for title, name, form in rows:
        course = [getattr(sample, name) for sample in report.samples]
        most = format(max(course), form) if course else ""
        before, after = getattr(report.warm, name), getattr(report.end, name)
        table.add_row(title, format(before, form), format(after, form), most, chart(course))
    console.print(table)
    verdict = report.verdict
    console.print(f"faults: {_counts(report.faults)}")
    console.print(f"requests: {sum(report.requests.values())}: {_counts(report.requests)}")
    console.print(
        f"failed, explained by a fault: {verdict.explained}: {_counts(report.failed)}"
    )
    short = "" if verdict.memory_judged else ", not judged: the run is too short"
    console.print(f"memory growth since the warm-up: {verdict.growth:+.1%}{short}")
    for violation in verdict.violations:
        console.print(f"VIOLATION {violation}", style="bold red", markup=False)
    if not verdict.violations:
        console.print("nothing leaked, nothing lost", style="green")


def as_json(report: Report) -> dict[str, Any]:
    """Plain figures; samples under their names."""
    return {
        "options": asdict(report.options),
        "violations": report.verdict.violations,
        "explained": report.verdict.explained,
        "memory_growth": report.verdict.growth,
        "memory_judged": report.verdict.memory_judged,
        "warm": asdict(report.warm),
        "end": asdict(report.end),
        "samples": [asdict(sample) for sample in report.samples],
        "faults": dict(report.faults),
        "requests": dict(report.requests),
        "failed": dict(report.failed),
        "events": report.events,
    }


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
