"""What answers a connection: inference read here, everything else given to aiohttp.

aiohttp's server costs several times what cortex itself does for a request, so plain requests to
inference routes, which are nearly all, are read by `http1` and answered by `reply`. The first
request that is anything else takes its connection to aiohttp for good, which calls the same
handlers: one way of answering, two of reading.
"""

import asyncio
import logging
import re
import resource
from collections.abc import Awaitable, Callable
from typing import cast

from cortex.core.errors import CapacityError
from cortex.gateway.call import Call, request_id_of
from cortex.gateway.errors import Unread, error_answer
from cortex.gateway.http1 import MAX_HEAD_BYTES, HeadReader
from cortex.gateway.reply import Reply, header_lines

FIRST_S = 30.0
"""A new connection may be silent for so long."""
IDLE_S = 75.0
"""A connection may be silent for so long between two requests."""
LINGER_S = 5.0
"""Time for an answer to leave, or the rest of a refused body to come, before the connection is cut."""
WRITTEN_S = 1.0
"""Aiohttp writes an answer no later than this after it has it."""
HIGH_WATER_BYTES = 256 * 1024
"""Of a body or of further requests that nobody has asked for yet, before the client is held back."""
HOUSEKEEPING_S = 1.0
KEPT_FILES = 256
"""Descriptors that no further client gets, at most: for nodes, the state file and what is next."""
KEPT_SHARE = 8
"""Where there are few descriptors, one in so many is kept."""
SHED_SHARE = 4
"""Where they run out, one in so many of the connections that nobody uses is closed at once."""
TOLD_EVERY_S = 60.0
START = b"POST /v1/"
"""How every request begins that is read here."""
_BARE = re.compile(rb"\r(?!\n|\Z)|(?<!\r)\n")
"""Half a line end."""

log = logging.getLogger("cortex.listen")

Handler = Callable[[Call], Awaitable[None]]


class Fronts:
    """All connections of one listener, and what they share."""

    def __init__(
        self,
        *,
        handler: Handler,
        paths: frozenset[str],
        aiohttp_protocol: Callable[[], asyncio.Protocol],
        head_timeout_s: float,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.handler = handler
        self.heads = HeadReader(paths)
        self.aiohttp_protocol = aiohttp_protocol
        self.head_timeout_s = head_timeout_s
        self.open: set[Front] = set()
        #: Set once no further request is to be taken.
        self.closing = False
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        #: A new connection with this number has all lower ones taken: the system gives the lowest.
        self._most_files = limit - min(KEPT_FILES, limit // KEPT_SHARE)
        self._told_s = -TOLD_EVERY_S
        self._every_s = min(HOUSEKEEPING_S, head_timeout_s / 4)
        self._timer = self.loop.call_later(self._every_s, self._keep_house)

    def __call__(self) -> asyncio.Protocol:
        return Front(self)

    def make_room(self, front: "Front") -> None:
        """Where descriptors run out, close who is not served: the longest idle, else `front` itself."""
        opened = front.transport.get_extra_info("socket")
        if opened is None or opened.fileno() < self._most_files:
            return
        idle = [other for other in self.open if other.is_idle and other is not front]
        idle.sort(key=lambda other: other.deadline_s)
        closed = idle[: len(idle) // SHED_SHARE + 1]
        for other in closed:
            other.transport.abort()
        if not closed:
            front.refuse()
        if self.loop.time() - self._told_s >= TOLD_EVERY_S:
            self._told_s = self.loop.time()
            log.warning(
                "descriptors run out: LimitNOFILE= of the service, ulimit -n",
                extra={"fields": {"connections": len(self.open), "closed_idle": len(closed)}},
            )

    def close_idle(self) -> None:
        """Let nothing new begin; what is being answered goes on."""
        self.closing = True
        for front in tuple(self.open):
            front.close_idle()

    async def close(self) -> None:
        """Cut every connection that is still there, and wait until its handler has noticed."""
        self._timer.cancel()
        tasks = [front.task for front in self.open if front.task is not None]
        for front in tuple(self.open):
            front.transport.abort()
        if tasks:
            await asyncio.wait(tasks, timeout=LINGER_S)

    def _keep_house(self) -> None:
        """Close what is overdue: one timer for all, since most deadlines never come."""
        now_s = self.loop.time()
        for front in [front for front in self.open if front.deadline_s < now_s]:
            front.transport.abort()
        self._timer = self.loop.call_later(self._every_s, self._keep_house)


class Front(asyncio.Protocol):
    """One connection; a `call.Source` and a `reply.Wire`."""

    __slots__ = (
        "_aiohttp",
        "_awaits_head",
        "_fronts",
        "_held",
        "_holds_back",
        "_left",
        "_pieces",
        "_pieces_bytes",
        "_remote",
        "_waiter",
        "deadline_s",
        "declared",
        "full",
        "held_bytes",
        "on_room",
        "path",
        "task",
        "transport",
    )

    def __init__(self, fronts: Fronts) -> None:
        self._fronts = fronts
        self.transport: asyncio.Transport
        self.full = False
        self.on_room: Callable[[], None] | None = None
        #: When the connection is cut (the loop's time); infinite while it is somebody else's to say.
        self.deadline_s = fronts.loop.time() + FIRST_S
        #: Of aiohttp's: the next byte is one of a new head.
        self._awaits_head = False
        #: Its owner, from the first request on that is not plain.
        self._aiohttp: asyncio.Protocol | None = None
        #: Bytes behind the request that is being answered, or of a head on its way.
        self._held = b""
        self._holds_back = False
        self._remote: str | None = None
        self.task: asyncio.Task[None] | None = None
        #: Of the request with which aiohttp got the connection, as far as it could be told.
        self.path = "/"
        # The body of the request that is being answered.
        self.declared: int | None = None
        self.held_bytes = 0
        self._left = 0
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0
        self._waiter: asyncio.Future[None] | None = None

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport over TLS is one by its methods only.
        self.transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._remote = str(peer[0]) if isinstance(peer, tuple) else None
        self._fronts.open.add(self)
        self._fronts.make_room(self)

    def data_received(self, data: bytes) -> None:
        if self._aiohttp is not None:
            if self._awaits_head:
                self._awaits_head = False
                self.deadline_s = self._fronts.loop.time() + self._fronts.head_timeout_s
            self._aiohttp.data_received(data)
            return
        if self._left:
            data = self._take_body(data)
        if not data:
            return
        if not self._held and self.task is None:
            self.deadline_s = self._fronts.loop.time() + self._fronts.head_timeout_s
        self._held = self._held + data if self._held else data
        if self.task is None:
            self._next()
        elif len(self._held) > HIGH_WATER_BYTES:
            self._hold_back()

    def eof_received(self) -> bool | None:
        return None if self._aiohttp is None else self._aiohttp.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fronts.open.discard(self)
        if self._aiohttp is not None:
            self._aiohttp.connection_lost(exc)
        if self.task is not None:
            # Whoever hangs up wants no answer, which stops the engine.
            self.task.cancel()

    def pause_writing(self) -> None:
        self.full = True
        if self._aiohttp is not None:
            self._aiohttp.pause_writing()

    def resume_writing(self) -> None:
        self.full = False
        if self._aiohttp is not None:
            self._aiohttp.resume_writing()
        if self.on_room is not None:
            self.on_room()

    # The body.

    @property
    def complete(self) -> bool:
        return not self._left

    def whole(self) -> bytes | None:
        if self._left or len(self._pieces) != 1:
            return None
        self._pieces_bytes = 0
        return self._pieces.pop()

    async def read(self) -> bytes:
        while not self._pieces:
            if not self._left:
                return b""
            self._waiter = self._fronts.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        # A large body comes in many pieces, but is read faster than it comes: this list stays short.
        data = self._pieces.pop(0)
        self._pieces_bytes -= len(data)
        if self._holds_back and self._pieces_bytes <= HIGH_WATER_BYTES:
            self._let_go()
        return data

    def _take_body(self, data: bytes) -> bytes:
        """What belongs to the body; returns the rest."""
        piece, rest = data, b""
        if len(data) > self._left:
            piece, rest = data[: self._left], data[self._left :]
        self._left -= len(piece)
        if self.task is None:
            # Refused before it was read: nobody will.
            if not self._left:
                self._begin_anew()
            return rest
        self._pieces.append(piece)
        self._pieces_bytes += len(piece)
        if self._pieces_bytes > HIGH_WATER_BYTES and self._left:
            self._hold_back()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        return rest

    # One request after the other.

    def _next(self) -> None:
        """Begin the request whose head has come, if it has."""
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            if _hopeless(self._held):
                self._to_aiohttp()
            return
        found = self._fronts.heads.read(self._held[: end + 2])
        if found is None:
            self._to_aiohttp()
            return
        head, length = found
        rest, self._held = self._held[end + 4 :], b""
        self.declared = length
        if len(rest) == length:
            # Head and body came together, as nearly always.
            if length:
                self._pieces.append(rest)
                self._pieces_bytes = length
            rest = b""
        else:
            self._left = length
        self.deadline_s = float("inf")
        call = Call(
            head.path,
            head.headers,
            head.facts,
            self._remote,
            self,
            self,
            keep_alive=head.keep_alive and not self._fronts.closing,
        )
        self.task = self._fronts.loop.create_task(self._answer(call))
        if rest and self._left:
            rest = self._take_body(rest)
        self._held = rest

    async def _answer(self, call: Call) -> None:
        try:
            await self._fronts.handler(call)
        finally:
            self.task = None
            self.on_room = None
            self._pieces.clear()
            self._pieces_bytes = 0
            if not call.reply.ended:
                # Cut by the handler, or never begun: the client is gone.
                self.close()
            elif not call.reply.keep_alive or self._fronts.closing:
                self.close()
            else:
                self._begin_anew()

    def _begin_anew(self) -> None:
        """Another request may come, once the rest of a refused body is read over."""
        if self.transport.is_closing():
            return
        wait_s = LINGER_S if self._left else IDLE_S
        self.deadline_s = self._fronts.loop.time() + wait_s
        if self._holds_back:
            self._let_go()
        if self._held and not self._left:
            self.deadline_s = self._fronts.loop.time() + self._fronts.head_timeout_s
            self._next()

    def close_idle(self) -> None:
        if self._aiohttp is None and self.task is None:
            self.close()

    def close(self) -> None:
        """Close once all is sent; what the client has not taken by then is lost."""
        self.deadline_s = self._fronts.loop.time() + LINGER_S
        self.transport.close()

    @property
    def is_idle(self) -> bool:
        """No request is being answered on it: whoever has it may open another."""
        if self.deadline_s == float("inf") or self.transport.is_closing():
            return False
        written_s = self.deadline_s - IDLE_S + WRITTEN_S
        return self._aiohttp is None or self._fronts.loop.time() >= written_s

    def refuse(self) -> None:
        """Say that there is no descriptor for it, whatever it is about to ask."""
        request_id = request_id_of({})
        full = CapacityError("this gateway has as many connections as it can")
        reply = Reply(self, f"x-request-id: {request_id}\r\n", keep_alive=False)
        status, headers, body = error_answer(Unread("/"), full, request_id)
        reply.send(status, header_lines(headers), body)
        self.close()

    def is_heard(self) -> None:
        """Aiohttp has a whole head: what is due now is an answer."""
        self._awaits_head = False
        self.deadline_s = float("inf")

    def is_answered(self) -> None:
        """Aiohttp has the answer, and the client has time to read it, and to ask again."""
        self._awaits_head = True
        self.deadline_s = self._fronts.loop.time() + IDLE_S

    def _to_aiohttp(self) -> None:
        self._aiohttp = self._fronts.aiohttp_protocol()
        held, self._held = self._held, b""
        target = held.split(b" ", 2)[1:2] if held[:1].isalpha() else []
        self.path = (
            target[0][:200].partition(b"?")[0].decode("ascii", "replace") if target else "/"
        )
        self._aiohttp.connection_made(self.transport)
        self._aiohttp.data_received(held)

    def _hold_back(self) -> None:
        if not self._holds_back:
            self._holds_back = True
            self.transport.pause_reading()

    def _let_go(self) -> None:
        self._holds_back = False
        if not self.transport.is_closing():
            self.transport.resume_reading()


def _hopeless(start: bytes) -> bool:
    """No head that `http1` could read will come of this; aiohttp has the words to say so."""
    return (
        len(start) > MAX_HEAD_BYTES
        or not START.startswith(start[: len(START)])
        or _BARE.search(start) is not None
    )
