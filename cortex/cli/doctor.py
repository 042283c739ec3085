"""`cortex doctor`: everything that could be wrong, a line each, with what to do."""

import argparse
import json
import os
import resource
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table
from rich.text import Text

from cortex import __version__
from cortex.adminapi import EventRow, EventsBody, NodeStatus, StatusBody
from cortex.cli.bodies import ask
from cortex.cli.check_config import summary
from cortex.cli.checks import machine, nodes, service, settings
from cortex.cli.checks.finding import Finding, Level, error, ok, warn
from cortex.cli.checks.models import Seen, models
from cortex.cli.client import Client
from cortex.cli.endpoint import reachable, resolve
from cortex.cli.exit_codes import Exit
from cortex.cli.failures import (
    CliError,
    ConfigFileError,
    KeyRefusedError,
    TemporaryError,
    UnreachableError,
)
from cortex.cli.progress import progress
from cortex.cli.surveying import survey_all
from cortex.cli.tables import Screen
from cortex.cli.text import counted, safe, span
from cortex.config.load import SYSTEM_FILE, find, load, state_path
from cortex.config.schema import Config
from cortex.core.errors import ConfigError
from cortex.core.records import EventKind, Recollection
from cortex.core.survey import Survey
from cortex.policies import files_wanted
from cortex.prepared import prepare

STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.ERROR: "bold red"}
ASK_S = 5.0
MOST_EVENTS = 200
"""So many unloads back is far enough for a fleet."""


def run(args: argparse.Namespace) -> int:
    """Look, print, and exit with 1 where something does not work."""
    found = list(_findings(args))
    counts = {level: sum(finding.level is level for finding in found) for level in Level}
    if args.json:
        print(json.dumps(_as_json(found, counts), indent=2))
    else:
        screen = Screen()
        screen.show(_table(found, screen))
        print(
            f"\n{counted(counts[Level.ERROR], 'error')}, {counted(counts[Level.WARN], 'warning')}"
        )
    return Exit.FAILURE if counts[Level.ERROR] else Exit.OK


def _findings(args: argparse.Namespace) -> Iterator[Finding]:
    unit = service.unit()
    gateway = _gateway(args)
    status = gateway.status
    try:
        path = Path(args.config) if args.config else None
        source = find(path, os.environ)
        config = load(path, os.environ)
        prepared = prepare(config, {})
    except ConfigError as exc:
        yield from map(_mistake, exc.lines)
        yield from gateway.found
        yield from service.service(unit, answers=gateway.answers)
        return
    yield ok("config", f"{source}: {summary(config)}")
    yield from settings.keys(config, os.environ)
    yield from settings.secrets(config, source)
    expires_at_s = None if prepared.pair is None else prepared.pair.expires_at_s
    yield from settings.certificate(expires_at_s, time.time())
    yield from gateway.found
    yield from _changed_since(config, status)
    yield from service.service(unit, answers=gateway.answers)
    ours = gateway.answers and gateway.url in _urls(config)
    if ours and status is not None:
        state = Path(status.store.path)
    else:
        state = _state(source, config, unit)
    yield from _addresses(config, ours=ours)
    found, remembered = machine.state(state)
    yield from found
    yield from machine.disk(state)
    limit = service.open_files(unit) or resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    yield from machine.files(limit, files_wanted(config))
    clients = [prepared.clients[name] for name in prepared.clients]
    with progress(f"asking {counted(len(clients), 'node')}"):
        surveys = dict(zip(map(str, prepared.clients), survey_all(clients), strict=True))
    yield from _fleet(config, surveys, gateway, remembered)


def _mistake(line: str) -> Finding:
    if "Permission denied" in line:
        return error("config", safe(line), machine.AS_ROOT)
    if line.startswith("no configuration"):
        return error(
            "config", safe(line), "`cortex init URL…` makes one from what the nodes say"
        )
    return error("config", safe(line))


@dataclass(frozen=True, slots=True)
class Gateway:
    """The gateway that the options, the environment or the configuration name."""

    url: str = ""
    found: tuple[Finding, ...] = ()
    answers: bool = False
    """A cortex does, whatever it says."""
    status: StatusBody | None = None
    unloads: Mapping[str, EventRow] = field(default_factory=dict)
    """The last one of each node that it remembers."""


def _gateway(args: argparse.Namespace) -> Gateway:
    try:
        client = Client(resolve(args), timeout_s=ASK_S)
    except ConfigFileError:
        return Gateway()  # told with the rest of the configuration
    url = client.endpoint.url
    try:
        status = ask(client, StatusBody, "/cortex/v1/status")
    except UnreachableError:
        advice = "`cortex serve` runs it, or systemctl start cortex"
        return Gateway(url, (warn("gateway", f"none answers at {url}", advice),))
    except (KeyRefusedError, TemporaryError) as exc:
        advice = "the rest is looked at without it"
        return Gateway(url, (warn("gateway", safe(exc), advice),), answers=True)
    except CliError as exc:
        return Gateway(url, (error("gateway", safe(exc)),))
    try:
        unloads = _unloads(client)
    except CliError:
        unloads = {}  # its own failing state file is told of already
    return Gateway(url, tuple(_told(url, status)), answers=True, status=status, unloads=unloads)


def _unloads(client: Client) -> dict[str, EventRow]:
    """The latest unload of each node, whether it went well or not."""
    last: dict[str, EventRow] = {}
    for kind in (EventKind.UNLOADED, EventKind.UNLOAD_FAILED):
        query = {"kind": kind.value, "limit": MOST_EVENTS}
        for row in ask(client, EventsBody, "/cortex/v1/events", query).rows:
            if row.node is not None and (row.node not in last or last[row.node].id < row.id):
                last[row.node] = row
    return last


def _told(url: str, status: StatusBody) -> list[Finding]:
    """What the gateway says of itself."""
    found = [ok("gateway", f"{url} answers, up {span(status.uptime_s)}")]
    if status.version != __version__:
        said = f"it is cortex {safe(status.version)}, and this command is {__version__}"
        found.append(warn("gateway", said, "restart it after an upgrade"))
    worst = error if status.health.status == "impaired" else warn
    found += [worst("gateway", safe(reason)) for reason in status.health.reasons]
    if not status.store.ok:
        found.append(error("gateway", f"its state file fails: {safe(status.store.reason)}"))
    return found


def _urls(config: Config) -> set[str]:
    """Where the configuration has a gateway answer."""
    return {reachable(config.gateway.listen, scheme) for scheme in ("http", "https")}


def _changed_since(config: Config, status: StatusBody | None) -> Iterator[Finding]:
    if status is None:
        return
    served = {(node.name, node.endpoint) for node in status.nodes}
    if served != {(node.name, node.endpoint) for node in config.nodes}:
        yield warn(
            "config",
            "the gateway that answers has other nodes than this file",
            "systemctl reload cortex, or --config names its file",
        )


def _state(source: Path, config: Config, unit: Mapping[str, str]) -> Path:
    """The state file: of the service, where the file is the service's."""
    directory = service.state_directory(unit)
    if directory is not None and source == SYSTEM_FILE:
        return state_path(config, {**os.environ, "STATE_DIRECTORY": directory})
    return state_path(config, os.environ)


def _addresses(config: Config, *, ours: bool) -> Iterator[Finding]:
    yield from machine.address("address", config.gateway.listen, ours=ours)
    if config.gateway.metrics_listen is not None:
        yield from machine.address("metrics", config.gateway.metrics_listen, ours=ours)


def _fleet(
    config: Config,
    surveys: Mapping[str, Survey],
    gateway: Gateway,
    remembered: Recollection,
) -> Iterator[Finding]:
    running: dict[str, NodeStatus] = {}
    if gateway.status is not None:
        running = {node.name: node for node in gateway.status.nodes}
    now_ms = time.time_ns() // 1_000_000
    sizes: dict[str, int] = {}
    load_s: dict[str, float] = {}
    copies = [(m.model, m.size_mib, m.load_s) for node in running.values() for m in node.models]
    copies += [(str(r.model), r.size_mib, r.load_s) for r in remembered.residency]
    for model, size_mib, took_s in copies:
        if size_mib is not None:
            sizes[model] = max(size_mib, sizes.get(model, 0))
        if took_s is not None:
            load_s[model] = max(took_s, load_s.get(model, 0.0))
    sizes |= {name: m.vram_mb for name, m in config.models.items() if m.vram_mb is not None}
    for node in config.nodes:
        yield from nodes.node(node, surveys[node.name], running.get(node.name), config)
        yield from nodes.unloads(node.name, gateway.unloads.get(node.name), now_ms)
    yield from models(config, Seen(surveys=surveys, sizes_mib=sizes))
    yield from settings.timeouts(config, load_s)
    yield from settings.priorities(config)


def _table(found: list[Finding], screen: Screen) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold", ratio=1)
    for finding in found:
        said = Text(finding.said)
        if finding.advice:
            said.append("\n→ " if screen.is_terminal else "; ")
            said.append(finding.advice, style="dim")
        table.add_row(
            Text(finding.level.value, style=STYLES[finding.level]), Text(finding.subject), said
        )
    return table


def _as_json(found: list[Finding], counts: Mapping[Level, int]) -> dict[str, object]:
    return {
        "errors": counts[Level.ERROR],
        "warnings": counts[Level.WARN],
        "findings": [
            {
                "level": finding.level.value,
                "subject": finding.subject,
                "said": finding.said,
                "advice": finding.advice or None,
            }
            for finding in found
        ],
    }
