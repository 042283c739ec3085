"""`cortex explain`: the planner's answer, with every node it looked at."""

import argparse

from rich.text import Text

from cortex.adminapi import ConsideredBody, ExplainBody
from cortex.cli.bodies import as_json, understood
from cortex.cli.client import Client
from cortex.cli.endpoint import resolve
from cortex.cli.exit_codes import Exit
from cortex.cli.tables import Cell, Column, Screen
from cortex.cli.text import ABSENT, name, safe, size, span

COLUMNS = (
    Column("node", elastic=True),
    Column("verdict"),
    Column("needs", right=True),
    Column("free", right=True),
    Column("total", right=True),
    Column("in flight", right=True),
    Column("why", elastic=True),
)
STYLES = {"serve": "green", "load": "cyan", "wait": "yellow", "reject": "bold red"}


def run(args: argparse.Namespace) -> int:
    """Print the decision; a reject is an answer too, and exits 0."""
    client = Client(resolve(args))
    answer = client.get("/cortex/v1/explain", {"model": args.model, "node": args.node})
    body = understood(ExplainBody, answer, client)
    if args.json:
        print(as_json(answer))
        return Exit.OK
    screen = Screen()
    screen.show(headline(body), *details(body))
    if body.considered:
        rows = [row(seen) for seen in body.considered]
        screen.show(Text(), screen.table(COLUMNS, rows))
    return Exit.OK


def headline(body: ExplainBody) -> Text:
    """The decision in a line."""
    line = Text(name(body.decision), style=STYLES.get(body.decision, ""))
    line.append(f" {safe(body.model)}", style="bold")
    if body.node:
        line.append(f" on {safe(body.node)}")
    if body.evict:
        line.append(f" after unloading {', '.join(map(safe, body.evict))}")
    if body.code:
        line.append(f" [{safe(body.code)}]")
    return line


def details(body: ExplainBody) -> list[Text]:
    """Its reason, and what takes how long."""
    lines = [Text(f"  {safe(body.reason)}")]
    times = {
        "the load takes about": body.load_eta_s,
        "may change by itself in": body.recheck_after_s,
        "worth trying again in": body.retry_after_s,
    }
    lines += [
        Text(f"  {words} {span(value)}") for words, value in times.items() if value is not None
    ]
    return lines


def row(seen: ConsideredBody) -> list[Cell]:
    """A node that was looked at, by `COLUMNS`."""
    in_flight = ABSENT if seen.limit is None else f"{seen.in_flight}/{seen.limit}"
    style = "green" if seen.verdict == "chosen" else ""
    return [
        name(seen.node),
        Text(name(seen.verdict.replace("_", " ")), style=style),
        size(seen.need_mib),
        size(seen.available_mib),
        size(seen.total_mib),
        in_flight,
        safe(seen.detail),
    ]
