"""`cortex replay`: what the fleet would have done otherwise, by its own log and its own code."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from cortex.cli import replay_view
from cortex.cli.bodies import as_json
from cortex.cli.exit_codes import Exit
from cortex.cli.failures import CliError, UsageError
from cortex.cli.history_file import configured_file, recorded
from cortex.cli.replay_view import Row
from cortex.cli.tables import Screen
from cortex.cli.text import safe
from cortex.core.ids import ModelId
from cortex.core.recorded import Recorded
from cortex.core.rules import Strategy
from cortex.replay import changes
from cortex.replay.changes import Change, singles, with_foresight, with_strategy
from cortex.replay.pool import RunFailedError, run_all
from cortex.replay.run import Result
from cortex.replay.scenario import Prepared, Scenario, ScenarioError, scenario_of


def run(args: argparse.Namespace) -> int:
    """Read, live through it as often as is asked, and print what came of it.

    Raises:
        CliError: The file cannot be read, or tells too little.
    """
    if args.advise and args.strategy:
        raise UsageError(
            "replay: --advise tries every rule; --strategy is for a table without it"
        )
    path = Path(args.db) if args.db else configured_file(args.config, args.verb)
    span = recorded(path, args.since or 0)
    try:
        lived = scenario_of(span)
        prepared = scenario_of(span, {ModelId(m): size_mib for m, size_mib in args.model})
        changed, words = _changed(args, prepared.scenario, span)
        plans = _advice(changed) if args.advise else _rules(args, changed)
        results = _run([lived.scenario, *(plan for _, plan in plans)])
    except (ScenarioError, RunFailedError) as error:
        raise CliError(f"{path}: {error}") from error
    rows = [Row(name, result) for (name, _), result in zip(plans, results[1:], strict=True)]
    if args.advise:
        rows[1:] = _best_first(rows[0], rows[1:])
    _show(args, span, prepared, words, results[0], rows)
    return Exit.OK


def _changed(
    args: argparse.Namespace, scenario: Scenario, span: Recorded
) -> tuple[Scenario, list[str]]:
    """The fleet with what the options change, and that in words."""
    known = {model for node in span.nodes for model in node.models}
    for model, _ in args.model:
        if model not in known:
            raise ScenarioError(f"no node lists {model}")
    wanted: list[Change] = [
        *map(changes.removed, args.without),
        *map(changes.added, args.add_node),
        *map(changes.pin, args.pin),
    ]
    for change in wanted:
        scenario = change.applied(scenario)
    sized = [f"{model} of {size_mib} MiB" for model, size_mib in args.model]
    return scenario, [*sized, *(change.words for change in wanted)]


Plans = Sequence[tuple[str, Scenario]]


def _rules(args: argparse.Namespace, scenario: Scenario) -> Plans:
    plans = [(str(rule), with_strategy(scenario, rule)) for rule in Strategy]
    plans.append(("future", with_foresight(scenario)))
    return [plan for plan in plans if args.strategy in (None, plan[0])]


def _advice(scenario: Scenario) -> Plans:
    """As it is, then every single change of it."""
    tried = [(change.words, change.applied(scenario)) for change in singles(scenario)]
    return [("no further change", scenario), *tried]


def _best_first(before: Row, rows: Sequence[Row]) -> list[Row]:
    """By load-hours; last what loses requests for them that are served today."""

    def badness(row: Row) -> tuple[bool, float]:
        return row.result.lost.total() > before.result.lost.total(), row.result.load_s

    return sorted(rows, key=badness)


def _run(scenarios: Sequence[Scenario]) -> list[Result]:
    with _bar(sum(len(scenario.asks) for scenario in scenarios)) as tell:
        return run_all(scenarios, tell)


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], object]]:
    """How many requests have been lived through, on a terminal's stderr; else nothing."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    columns = (TextColumn("replaying"), BarColumn(), TimeRemainingColumn())
    # Without a thread of its own: processes are forked meanwhile.
    bar = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
    task = bar.add_task("", total=total)

    def tell(come: int) -> None:
        bar.update(task, completed=come, refresh=True)

    with bar:
        yield tell


def _show(
    args: argparse.Namespace,
    span: Recorded,
    prepared: Prepared,
    words: Sequence[str],
    lived: Result,
    rows: Sequence[Row],
) -> None:
    rule = prepared.scenario.policy.eviction.strategy
    if args.json:
        print(as_json(replay_view.body(span, prepared, words, lived, rows)))
        return
    screen = Screen()
    screen.show(replay_view.headline(span, prepared.scenario))
    screen.show(replay_view.agreement(span, lived, rule))
    if words:
        screen.show(Text("with " + ", ".join(map(safe, words))))
    table = [replay_view.cells(row) for row in (Row("recorded", Result.of(span)), *rows)]
    screen.show(Text(), screen.table(replay_view.COLUMNS, table))
    for note in prepared.notes:
        print(f"cortex: {safe(note)}", file=sys.stderr)
