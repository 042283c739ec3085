"""`cortex top`: the fleet, live, in a terminal; one picture without one; its states as lines of JSON."""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import aclosing

from rich.console import Console

from cortex.adminapi import ExplainBody
from cortex.cli.bodies import as_json
from cortex.cli.client import TIMEOUT_S, Client, StreamEndedError
from cortex.cli.endpoint import resolve
from cortex.cli.exit_codes import Exit
from cortex.cli.failures import CliError, UnreachableError
from cortex.cli.tables import Screen
from cortex.cli.top_bar import ASCII, UNICODE, Glyphs
from cortex.cli.top_feed import explained, follow, frames
from cortex.cli.top_keys import Extent, View, press
from cortex.cli.top_picture import Picture
from cortex.cli.top_terminal import Terminal, usable
from cortex.cli.top_view import Lost, Scene, full, page
from cortex.liveapi import LiveFrame

DRAW_S = 0.5
EXPLAIN_S = 1.0
"""Between two looks at what would be done."""


def run(args: argparse.Namespace) -> int:
    client = Client(resolve(args))
    if args.json:
        return asyncio.run(_lines(client, once=args.once))
    if not args.once and usable():
        return asyncio.run(Top(client, Screen().console).run())
    if not args.once:
        print("cortex: no terminal to draw on, so this is one picture", file=sys.stderr)
    return asyncio.run(_once(client))


async def _first(client: Client) -> Picture:
    try:
        async with asyncio.timeout(TIMEOUT_S), aclosing(frames(client)) as coming:
            async for frame, whole in coming:
                return Picture().after(frame, whole=whole)
    except TimeoutError as error:
        raise UnreachableError(f"no picture from {client.endpoint} in time") from error
    raise StreamEndedError("the gateway ended the feed at once")


async def _once(client: Client) -> int:
    picture, screen = await _first(client), Screen()
    scene = Scene(picture, picture.at_ms, glyphs=_glyphs(screen.console))
    screen.show(*page(scene, screen.width))
    return Exit.OK


async def _lines(client: Client, *, once: bool) -> int:
    """The whole state at every change, so that a reader has nothing to put together."""
    if once:
        _print(await _first(client))
        return Exit.OK
    picture = Picture()

    def take(frame: LiveFrame, whole: bool) -> None:  # noqa: FBT001 - the feed's shape
        nonlocal picture
        picture = picture.after(frame, whole=whole)
        _print(picture)

    raise await follow(client, take, lambda error: print(f"cortex: {error}", file=sys.stderr))


def _print(picture: Picture) -> None:
    print(as_json(picture.frame().model_dump(mode="json"), lines=True), flush=True)


def _glyphs(console: Console) -> Glyphs:
    return UNICODE if console.encoding.startswith("utf") else ASCII


class Top:
    """The state of one session on a terminal; what it shows is worked out by pure functions."""

    def __init__(
        self, client: Client, console: Console, *, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._now_s = now_s
        self._glyphs = _glyphs(console)
        self._terminal = Terminal(
            console, key=self._pressed, changed=self._redraw, ended=self._end
        )
        self._picture = Picture()
        self._came_s = 0.0
        """When the last frame came."""
        self._lost: tuple[float, int, str] | None = None
        """Since when nothing comes, on both clocks, and why."""
        self._still: Scene | None = None
        """What is on show while it is paused."""
        self._view = View()
        self._extent = Extent(0, 0, 1)
        self._why: ExplainBody | str | None = None
        """What the gateway says of the model that somebody chose."""
        self._asked = asyncio.Event()
        """Another one was chosen, or none any more."""
        self._wake = asyncio.Event()
        self._code: int | None = None
        self._failure: CliError | None = None

    async def run(self) -> int:
        """Until a key, a signal, or a key of the gateway's that is refused."""
        with self._terminal.taken():
            async with asyncio.TaskGroup() as group:
                feed = group.create_task(self._feed(), name="top.feed")
                explaining = group.create_task(self._explain(), name="top.explain")
                await self._draw_on()
                feed.cancel()
                explaining.cancel()
        if self._failure is not None:
            raise self._failure
        return self._code or Exit.OK

    async def _feed(self) -> None:
        self._failure = await follow(self._client, self._take, self._lose)
        self._end(0)

    async def _explain(self) -> None:
        """As long as a model is chosen, ask what would be done with a request for it."""
        while True:
            self._asked.clear()
            model = self._view.why
            if model:
                why: ExplainBody | str
                try:
                    why = await explained(self._client, model)
                except CliError as error:
                    why = str(error)
                if model == self._view.why:
                    self._why = why
                    self._redraw()
            try:
                async with asyncio.timeout(EXPLAIN_S if model else None):
                    await self._asked.wait()
            except TimeoutError:
                continue

    async def _draw_on(self) -> None:
        while self._code is None and not self._view.quit:
            self._wake.clear()
            width, height = self._terminal.fit()
            picture, self._extent = full(self._scene(), width, height)
            self._terminal.show(picture)
            try:
                async with asyncio.timeout(DRAW_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _scene(self) -> Scene:
        lost = None
        now_s = self._now_s()
        if self._lost is not None:
            since_s, at_ms, why = self._lost
            lost = Lost(at_ms, now_s - since_s, why)
            # The ages of a stale picture stay what they were.
            now_s = since_s
        if self._still is not None:
            still = self._still
            return Scene(still.picture, still.now_ms, self._view, lost, self._why, self._glyphs)
        now_ms = self._picture.at_ms + round((now_s - self._came_s) * 1000)
        return Scene(self._picture, now_ms, self._view, lost, self._why, self._glyphs)

    def _take(self, frame: LiveFrame, whole: bool) -> None:  # noqa: FBT001 - the feed's shape
        first = self._picture.fleet is None or self._lost is not None
        self._picture = self._picture.after(frame, whole=whole)
        self._came_s = self._now_s()
        self._lost = None
        if first:
            self._redraw()

    def _lose(self, error: CliError) -> None:
        since = self._lost or (self._now_s(), time.time_ns() // 1_000_000, "")
        self._lost = (since[0], since[1], str(error))
        self._redraw()

    def _pressed(self, key: str) -> None:
        view = press(self._view, key, self._extent)
        if view.paused != self._view.paused:
            self._still = self._scene() if view.paused else None
        if view.why != self._view.why:
            self._why = None
            self._asked.set()
        if view is not self._view:
            self._view = view
            self._redraw()

    def _redraw(self) -> None:
        self._wake.set()

    def _end(self, number: int) -> None:
        """A signal wants it to end, or 0: nothing more will come."""
        self._code = 128 + number if number else Exit.OK
        self._wake.set()
