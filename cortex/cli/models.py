"""`cortex models`: the catalogue that clients see."""

import argparse
from collections.abc import Iterator, Mapping

from rich.text import Text

from cortex.cli.bodies import as_json
from cortex.cli.client import Client, not_cortex
from cortex.cli.endpoint import resolve
from cortex.cli.exit_codes import Exit
from cortex.cli.fleet_view import STATUS_STYLES
from cortex.cli.tables import Cell, Column, Screen
from cortex.cli.text import ABSENT, safe

PATH = "/v1/models"
COLUMNS = (
    Column("model", elastic=True),
    Column("status"),
    Column("in flight", right=True),
    Column("context", right=True),
    Column("for"),
    Column("quantized"),
    Column("on", elastic=True),
)
ALWAYS = 3
"""Columns from there on to the last are shown where there is something in them."""


def run(args: argparse.Namespace) -> int:
    """Print one row per model and alias."""
    client, screen = Client(resolve(args)), Screen()
    answer = client.get(PATH)
    entries = list(entries_of(answer, client))
    if args.json:
        print(as_json(answer))
    elif entries:
        screen.show(screen.table(*_filled([_row(entry) for entry in entries])))
    elif screen.is_terminal:
        screen.show(Text("no node lists a model yet", style="yellow"))
    return Exit.OK


Entry = Mapping[str, object]


def entries_of(answer: object, client: Client) -> Iterator[Entry]:
    """The entries of the list.

    Raises:
        CliError: The answer is no list of models.
    """
    listed = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(listed, list):
        raise not_cortex(client.endpoint, f"no list of models from {PATH}")
    for entry in listed:
        if isinstance(entry, dict) and isinstance(entry.get("id"), str):
            yield entry


def _filled(rows: list[list[Cell]]) -> tuple[list[Column], list[list[Cell]]]:
    """The columns without those that would be empty."""
    last = len(COLUMNS) - 1
    kept = [
        at
        for at in range(len(COLUMNS))
        if not ALWAYS <= at < last or any(row[at] != ABSENT for row in rows)
    ]
    return [COLUMNS[at] for at in kept], [[row[at] for at in kept] for row in rows]


def _row(entry: Entry) -> list[Cell]:
    status = safe(entry.get("status") or ABSENT)
    places = [place for place in _list(entry.get("locations")) if isinstance(place, dict)]
    in_flight = [n for place in places if isinstance(n := place.get("in_flight"), int)]
    where = ", ".join(map(_place, places))
    parent = entry.get("parent")
    if parent:
        where = f"alias of {safe(parent)}" + (f": {where}" if where else "")
    return [
        safe(entry["id"]),
        Text(status, style=STATUS_STYLES.get(status, "")),
        str(sum(in_flight)) if in_flight else ABSENT,
        f"{context:,}" if isinstance(context := entry.get("context_length"), int) else ABSENT,
        safe(",".join(map(str, _list(entry.get("modalities")))) or ABSENT),
        safe(entry.get("quantization") or ABSENT),
        where,
    ]


def _place(place: Entry) -> str:
    star = "*" if place.get("pinned") else ""
    status = place.get("status")
    return f"{safe(place.get('node', '?'))}{star}" + (f" {safe(status)}" if status else "")


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
