"""`cortex status`: the fleet at one instant, or redrawn while it lives."""

import argparse
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

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
from cortex.cli.progress import unwind_at_sigterm
from cortex.cli.tables import Screen
from cortex.cli.text import span

PATH = "/cortex/v1/status"
_ENDS = (signal.SIGTERM, signal.SIGINT)


def run(args: argparse.Namespace) -> int:
    """Exit code 1 when the health is impaired."""
    client, screen = Client(resolve(args)), Screen()
    if args.watch is not None:
        _watch(client, screen, interval_s=args.watch, as_lines=args.json)
    answer = client.get(PATH)
    body = understood(StatusBody, answer, client)
    if args.json:
        print(as_json(answer))
    else:
        screen.show(*fleet_parts(body, screen, now_ms=_now_ms()))
    return Exit.FAILURE if body.health.status == "impaired" else Exit.OK


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Watched:
    """The last answer, and since when there is no newer one."""

    def __init__(self, client: Client, screen: Screen) -> None:
        self._client = client
        self._screen = screen
        self._last: StatusBody | None = None
        self._lost_s: float | None = None
        """Monotonic instant of the first failure in a row."""

    def parts(self) -> list[RenderableType]:
        """The fleet now, or as it was last seen under a line that says so.

        Raises:
            KeyRefusedError: The key will not get better by asking again.
        """
        try:
            self._last = understood(StatusBody, self._client.get(PATH), self._client)
        except KeyRefusedError:
            raise
        except CliError as error:
            if self._lost_s is None:
                self._lost_s = time.monotonic()
            lost = span(time.monotonic() - self._lost_s)
            parts: list[RenderableType] = [Text(f"no answer for {lost}: {error}", style="red")]
            if self._last is not None:
                parts += [Text("last seen:", style="dim"), Text()]
        else:
            self._lost_s = None
            parts = []
        if self._last is not None:
            parts += fleet_parts(self._last, self._screen, now_ms=_now_ms())
        return parts


def _watch(client: Client, screen: Screen, *, interval_s: float, as_lines: bool) -> NoReturn:
    """Redraw until Ctrl-C. Only a refused key ends it early: anything else may pass."""
    if as_lines:
        _repeat(interval_s, lambda: _print_line(client))
    view = Watched(client, screen)
    if not screen.is_terminal:
        _repeat(interval_s, lambda: screen.show(*view.parts(), Text()))
    # The terminal gets its own screen back only if SIGTERM unwinds the stack as well.
    unwind_at_sigterm()
    parts = view.parts()
    # One that came while the screen is being taken would leave it taken.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    with Live(Group(*parts), console=screen.console, screen=True, auto_refresh=False) as live:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS)
        _repeat(interval_s, lambda: live.update(Group(*view.parts()), refresh=True))


def _repeat(interval_s: float, draw: Callable[[], None]) -> NoReturn:
    while True:
        draw()
        time.sleep(interval_s)


def _print_line(client: Client) -> None:
    try:
        print(as_json(client.get(PATH), lines=True), flush=True)
    except KeyRefusedError:
        raise
    except CliError as error:
        print(f"cortex: {error}", file=sys.stderr)
