"""`cortex status`: the fleet at one instant, or redrawn while it lives."""

import argparse
import signal
import time
from collections.abc import Callable
from types import FrameType

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from cortex.adminapi import StatusBody
from cortex.cli.bodies import as_json, understood
from cortex.cli.client import Client
from cortex.cli.endpoint import resolve
from cortex.cli.exit_codes import Exit
from cortex.cli.failures import CliError, KeyRefusedError
from cortex.cli.fleet_view import fleet_parts
from cortex.cli.tables import Screen
from cortex.cli.text import span

PATH = "/cortex/v1/status"
IMPAIRED = "impaired"


def run(args: argparse.Namespace) -> int:
    """Exit code 1 when the health is impaired."""
    client, screen = Client(resolve(args)), Screen()
    if args.watch is not None:
        return _watch(client, screen, interval_s=args.watch, json=args.json)
    answer = client.get(PATH)
    body = understood(StatusBody, answer, client)
    if args.json:
        print(as_json(answer))
    else:
        screen.show(*fleet_parts(body, screen, now_ms=_now_ms()))
    return Exit.FAILURE if body.health.status == IMPAIRED else Exit.OK


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _watch(client: Client, screen: Screen, *, interval_s: float, json: bool) -> int:
    """Redraw until Ctrl-C. Only a refused key ends it early: anything else may pass."""
    if json:
        _repeat(interval_s, lambda: _print_json(client))
    view = Watched(client, screen)
    if not screen.is_terminal:
        _repeat(interval_s, lambda: screen.show(*view.parts(), Text()))
    # The terminal gets its own screen back only if SIGTERM unwinds the stack too.
    signal.signal(signal.SIGTERM, _unwind)
    with Live(console=screen.console, screen=True, auto_refresh=False) as live:
        _repeat(interval_s, lambda: live.update(Group(*view.parts()), refresh=True))
    raise AssertionError("unreachable")
