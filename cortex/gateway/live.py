"""`GET /cortex/v1/live`: the fleet as one stream of states, for the page and `cortex top`.

Server-sent events, at most four a second, each with a `LiveFrame` (`cortex.liveapi`) as its data:

- `event: state`, once, first: everything. Whatever the reader knew before is void.
- `event: change`: what became different since this reader's last event. A section that is missing
  did not change. In `nodes`, `models`, `requests` and `queues` an entry stands for itself as a whole,
  and null means that it is gone. Keys only tell entries apart (`models`: node and model; `requests`: a
  number); names are in the entries. `fleet` comes whole. `events` are appended.
- `: ping` where nothing changed for 15 s.

`state` carries the latest events of the fleet too. At most `MAX_REQUESTS` requests are listed, the
oldest; `fleet.in_flight` counts all.

A reader has no queue here: it has seen the fleet up to some tick, and gets what changed since then when
it can take more. A slow one gets fewer, larger steps; one that reads nothing at all is cut after a while.
Frames are built when a reader asks, once for all of them, so nothing is done while nobody reads.
"""

import asyncio
from contextlib import suppress

from aiohttp import web

from cortex.adminapi import EventQuery, EventRow
from cortex.core.errors import CortexError
from cortex.gateway.livefeed import EVENTS_KEPT, NOTHING, Changes, Seen
from cortex.gateway.liveview import LiveView
from cortex.gateway.ports import Follower
from cortex.gateway.services import SERVICES, Services

LOOK_S = 0.25
"""Between two looks at the fleet."""
PING_S = 15.0
STALL_S = 30.0
"""A reader that takes nothing for so long is cut."""
PAST_S = 2.0
"""What the store gets to tell of earlier events."""


class Live:
    """The feed of one gateway: one state for all readers, made only while there are any."""

    def __init__(self, svc: Services) -> None:
        self._svc = svc
        self._opening = asyncio.Lock()
        self.readers = 0
        self._look_s = 0.0
        self._forget()

    def _forget(self) -> None:
        self._changes = Changes()
        self._view = LiveView(self._svc)
        self._follower: Follower | None = None
        self._past: list[EventRow] = []
        self._last_event = 0

    async def enter(self) -> None:
        """One reader more; the first has the latest events read from the store."""
        self.readers += 1
        try:
            async with self._opening:
                if self._follower is None:
                    await self._follow()
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """One reader less; the last takes everything along."""
        self.readers -= 1
        if not self.readers:
            self._forget()

    async def _follow(self) -> None:
        # First, so that nothing falls in between.
        follower = self._svc.ledger.subscribe()
        with suppress(CortexError, TimeoutError):
            async with asyncio.timeout(PAST_S):
                rows = (await self._svc.ledger.events(EventQuery(limit=EVENTS_KEPT))).rows
                self._past = rows[::-1]
        self._follower = follower
        self._look_s = 0.0

    async def next_look(self) -> None:
        """Wait until the fleet may be looked at again."""
        await asyncio.sleep(max(0.0, self._look_s - asyncio.get_running_loop().time()))

    def event_for(self, seen: Seen) -> tuple[Seen, bytes] | None:
        """The event that brings a reader up to date; None = it is."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._look_s:
            self._look_s = now_s + LOOK_S
            self._changes.take(
                self._view.sections(), self._view.single(), map(_json, self._new_events())
            )
        frame = self._changes.after(seen)
        if frame is None:
            return None
        kind = b"state" if frame.whole else b"change"
        at_ms = self._svc.fleet.clock.now_ms()
        head = b'event: %s\ndata: {"at_ms":%d,' % (kind, at_ms)
        return frame.seen, head + frame.members + b"}\n\n"

    def _new_events(self) -> list[EventRow]:
        assert self._follower is not None
        rows = [*self._past, *self._follower.take()]
        self._past = []
        new = []
        for row in rows:
            # One that was committed while the store was read is among both.
            if row.id > self._last_event:
                self._last_event = row.id
                new.append(_brief(row))
        return new


def _brief(row: EventRow) -> EventRow:
    """Without what only a later reader needs: a start tells of every node and model."""
    short = {name: value for name, value in row.detail.items() if not isinstance(value, dict)}
    return row if len(short) == len(row.detail) else row.model_copy(update={"detail": short})


LIVE = web.AppKey("live", Live)


async def live(request: web.Request) -> web.StreamResponse:
    """The handler: tell, wait for the next look, tell what changed."""
    svc, feed = request.app[SERVICES], request.app[LIVE]
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
        }
    )
    await feed.enter()
    try:
        await response.prepare(request)
        await _tell(request, response, feed, svc)
    except TimeoutError:
        _cut(request)
    finally:
        feed.leave()
    return response


async def _tell(
    request: web.Request, response: web.StreamResponse, feed: Live, svc: Services
) -> None:
    """Write until the reader leaves, stalls (`TimeoutError`), or its key is taken away."""
    loop = asyncio.get_running_loop()
    keyring = svc.keyring
    seen, told_s = NOTHING, loop.time()
    while True:
        if svc.keyring is not keyring:
            # The configuration was read again; the reader comes back if its key still fits.
            _cut(request)
            return
        event = feed.event_for(seen)
        data = b": ping\n\n" if loop.time() - told_s >= PING_S else b""
        if event is not None:
            seen, data = event
        if data:
            async with asyncio.timeout(STALL_S):
                await response.write(data)
            told_s = loop.time()
        await feed.next_look()


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _json(row: EventRow) -> bytes:
    return row.model_dump_json().encode()
