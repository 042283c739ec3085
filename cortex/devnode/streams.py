"""Copies pieces to the client as server-sent events, and misbehaves on request (contract §4)."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from aiohttp import web

from cortex.devnode import errors
from cortex.devnode.engine import Collected, End, Piece
from cortex.devnode.errors import EngineGoneError, RefusalError
from cortex.devnode.knobs import Knobs
from cortex.devnode.metrics import METRICS
from cortex.devnode.replies import DONE, Frames
from cortex.devnode.residency import Seat

if TYPE_CHECKING:
    from cortex.devnode.node import Node

COMMENT: Final = b":\n\n"


class KeepAlive:
    """Sends something whenever a stream was idle for a while; one timer, re-armed lazily."""

    def __init__(self, node: "Node", response: web.StreamResponse, beat: bytes) -> None:
        self._node = node
        self._response = response
        self._beat = beat
        self._loop = asyncio.get_running_loop()
        self._period_s = node.knobs.keepalive_s
        self._timer: asyncio.TimerHandle | None = None
        self.last_s = self._loop.time()
        if self._period_s > 0:
            self._timer = self._loop.call_at(self.last_s + self._period_s, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        now_s = self._loop.time()
        if now_s - self.last_s >= self._period_s:
            self.last_s = now_s
            self._node.leave(self._send())
        self._timer = self._loop.call_at(self.last_s + self._period_s, self._tick)

    async def _send(self) -> None:
        # A client that left is noticed by the stream itself.
        if not await written(self._response, self._beat):
            self.stop()


async def written(response: web.StreamResponse, chunk: bytes) -> bool:
    """Write `chunk`, or say that there is nobody to write to."""
    try:
        await response.write(chunk)
    except ConnectionError:
        return False
    return True


def fault_of(knobs: Knobs) -> tuple[int, str] | None:
    """(chunks before it, kind) of the misbehaviour that is switched on, if any."""
    faults = (
        (knobs.drop_after_chunks, "drop"),
        (knobs.eof_after_chunks, "eof"),
        (knobs.stall_after_chunks, "stall"),
        (knobs.endless_keepalives, "keepalives"),
        (knobs.crash_after_chunks, "crash"),
    )
    return next(((after, kind) for after, kind in faults if after is not None), None)


class Stream:
    """One streamed answer."""

    def __init__(self, node: "Node", request: web.Request) -> None:
        self._node = node
        self._request = request
        self.collected = Collected()
        self.failed: str | None = None
        """Why the answer is not complete, if it is not."""
        self.response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )

    @property
    def unheard(self) -> bool:
        """The client has hung up."""
        transport = self._request.transport
        return transport is None or transport.is_closing()

    async def run(
        self,
        seat: Seat,
        frames: Frames,
        pieces: AsyncGenerator[Piece, None],
        beat: bytes = COMMENT,
        *,
        collect: bool = False,
    ) -> web.StreamResponse:
        """Send headers and all frames. Raises `EngineGoneError` when cut."""
        response = self.response
        await response.prepare(self._request)
        opening = frames.open()
        if opening:
            await response.write(opening)
        keepalive = KeepAlive(self._node, response, beat)
        try:
            async with aclosing(pieces), seat.slots:
                await self._pump(frames, pieces, keepalive, collect=collect)
            if self._node.knobs.oddity == "open_end":
                await asyncio.Event().wait()
        except EngineGoneError:
            raise
        except RefusalError as error:
            self.failed = str(error)
            await self._refuse(frames, error, keepalive)
        finally:
            keepalive.stop()
        return response

    async def _pump(
        self,
        frames: Frames,
        pieces: AsyncGenerator[Piece, None],
        keepalive: KeepAlive,
        *,
        collect: bool,
    ) -> None:
        write, clock = self.response.write, asyncio.get_running_loop().time
        stats, token = self._node.stats, self._request.app[METRICS].tokens(self._request)
        fault = fault_of(self._node.knobs)
        fault_at = -1 if fault is None else fault[0]
        sent = 0
        async for piece in pieces:
            if sent == fault_at and fault is not None:
                return await self._misbehave(fault[1], keepalive)
            if collect:
                self.collected.add(piece)
            if type(piece) is str:
                await write(frames.text(piece))
            elif isinstance(piece, End):
                await write(frames.end(piece))
            else:
                await write(frames.reasoning(str(getattr(piece, "text", ""))))
            sent += 1
            stats.generated += 1
            token()
            keepalive.last_s = clock()
        if sent == fault_at and fault is not None:
            return await self._misbehave(fault[1], keepalive)
        if frames.done:
            await write(frames.done)
        return None

    async def _misbehave(self, kind: str, keepalive: KeepAlive) -> None:
        self.failed = kind
        if kind == "eof":
            return
        if kind == "drop":
            if self._request.transport is not None:
                self._request.transport.abort()
            return
        if kind == "crash":
            self._node.crash()
            return
        if kind == "stall":
            keepalive.stop()
        await asyncio.Event().wait()

    async def _refuse(self, frames: Frames, error: RefusalError, keepalive: KeepAlive) -> None:
        own = frames.error(error)
        if own is not None:
            await self.response.write(own)
            return
        event = errors.stream_error(str(error), as_json=self._node.profile.json_stream_errors)
        await self.response.write(event)
        if not self._node.profile.cut_streams_end:
            await self.hang(keepalive)
        await self.response.write(DONE)

    async def hang(self, keepalive: KeepAlive | None = None) -> None:
        """Send keep-alives for ever, as 0.7.0 did after the end of an engine."""
        keepalive = keepalive or KeepAlive(self._node, self.response, COMMENT)
        try:
            await asyncio.Event().wait()
        finally:
            keepalive.stop()
