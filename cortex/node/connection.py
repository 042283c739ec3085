"""A connection to a node, and one exchange after another on it.

An `asyncio.Protocol` of our own instead of aiohttp's client, which is most of what a request costs:
no task, no timer and no stream object per exchange, and content is handed over as it arrived.
"""

import asyncio
import select
import ssl
from collections.abc import AsyncIterator, Callable
from typing import cast

from cortex.node.http1 import (
    MAX_HEAD_BYTES,
    MAX_PROVISIONAL,
    BadAnswerError,
    Decoder,
    Head,
    decoder_for,
    read_head,
)

LINGER_S = 1.0
"""Time for a body to end once the answer in it has ended."""
HIGH_WATER_BYTES = 128 * 1024
"""Content that may wait for its reader before the node is held back."""


class LostConnectionError(ConnectionError):
    """It ended before the answer did."""


class Connection(asyncio.Protocol):
    """One connection; at most one exchange at a time."""

    __slots__ = (
        "_decoder",
        "_error",
        "_full",
        "_linger",
        "_loop",
        "_lost",
        "_method",
        "_over",
        "_paused",
        "_poll",
        "_provisional",
        "_raw",
        "_ready",
        "_ready_bytes",
        "_refused",
        "_sent",
        "_take",
        "_then",
        "_transport",
        "_waiter",
        "answered",
        "idle_since_s",
        "reused",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._lost = False
        #: The kernel takes no more of our request for now.
        self._full = False
        #: The node is held back.
        self._paused = False
        #: Made once the connection is kept.
        self._poll: select.poll | None = None
        self.idle_since_s = 0.0
        #: There was another exchange on it before.
        self.reused = False
        self._begin("")

    def _begin(self, method: str) -> None:
        self._method = method
        self._raw = b""
        self._provisional = 0
        #: The head of the answer, once it is there.
        self.answered: Head | None = None
        self._decoder: Decoder | None = None
        self._ready: list[bytes] = []
        self._ready_bytes = 0
        self._sent = False
        self._take: Callable[[bytes], object] | None = None
        #: `take` needs no more.
        self._over = False
        self._then: Callable[[Connection], None] | None = None
        self._linger: asyncio.TimerHandle | None = None
        #: `take` raised the error.
        self._refused = False

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport over TLS is one by its methods only.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            decoder = self._decoder
            if decoder is None:
                data = self._heads(data)
                decoder = self._decoder
                if decoder is None:
                    return
            content = decoder.feed(data)
            take = self._take
            if take is None:
                self._keep(content, decoder)
                return
            if content:
                try:
                    take(content)
                except Exception as exc:  # noqa: BLE001 - raised by `pour`, where somebody waits
                    self._refused = True
                    self._take = None
                    self.fail(exc)
                    return
            if decoder.ended:
                self._end(decoder)
        except BadAnswerError as exc:
            # It may never be raised, and its traceback leads back here.
            self.fail(exc.with_traceback(None))

    def eof_received(self) -> None:
        """Nothing to add: the transport closes itself, and `connection_lost` follows."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._decoder is None or exc is not None or not self._decoder.eof():
            self._error = self._error or LostConnectionError(*_reason(exc))
        self._wake()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._wake()

    # What the client calls.

    @property
    def usable(self) -> bool:
        """Another exchange may begin."""
        return not self._lost and self._error is None

    def fit(self) -> bool:
        """Another exchange may begin, and nothing lies in the kernel that the loop has yet to see.

        Whatever lies there, bytes or an end, was not asked for, and must not become the answer to
        the next request.
        """
        if self._lost or self._error is not None:
            return False
        if self._poll is None:
            self._poll = select.poll()
            socket = self._transport.get_extra_info("socket")
            self._poll.register(socket.fileno(), select.POLLIN)
        return not self._poll.poll(0)

    @property
    def unheard(self) -> bool:
        """Not a byte of an answer has come."""
        return self.answered is None and not self._raw and not self._provisional

    @property
    def finished(self) -> bool:
        """Request and answer are whole, and the connection outlives them."""
        head, decoder = self.answered, self._decoder
        if head is None or decoder is None or self._lost or self._error is not None:
            return False
        return decoder.ended and head.keep_alive and self._sent and not self._ready

    @property
    def lags(self) -> bool:
        """The answer in its body has ended, and the body itself is about to."""
        ended = self._decoder is None or self._decoder.ended
        return self._over and not ended and self.usable

    def when_ended(self, then: Callable[["Connection"], None]) -> None:
        """Have `then` called once the body has ended, or the connection for want of that."""
        self.resume()
        self._then = then
        self._linger = self._loop.call_later(LINGER_S, self.abort)

    def send(self, method: str, head: bytes, body: bytes | None) -> None:
        """Send a request."""
        self._begin(method)
        self._transport.write(head + body if body else head)
        self._sent = True

    async def send_in_parts(self, method: str, head: bytes, body: AsyncIterator[bytes]) -> None:
        """Send a request; a node that answers early need not be sent the rest.

        Raises:
            LostConnectionError: The node hung up.
            BadAnswerError: It answered something else than HTTP.
        """
        self._begin(method)
        self._transport.write(head)
        async for part in body:
            if self.answered is not None:
                return
            self._transport.write(part)
            while self._full and self.answered is None:
                await self.wait()
        self._sent = True

    @property
    def ended(self) -> bool:
        """The body has come to its end, and all of it was taken."""
        return self._decoder is not None and self._decoder.ended and not self._ready

    def ready(self) -> bytes:
        """The content that has come since the last call, and b"" where none has."""
        ready = self._ready
        if not ready:
            return b""
        self._ready = []
        self._ready_bytes = 0
        if self._paused:
            self.resume()
        return ready[0] if len(ready) == 1 else b"".join(ready)

    async def read(self) -> bytes:
        """As `ready`, but waits for some; b"" at the end.

        Raises:
            LostConnectionError, BadAnswerError: The rest will not come.
        """
        while not self._ready:
            assert self._decoder is not None
            if self._decoder.ended:
                return b""
            await self.wait()
        return self.ready()

    async def pour(self, take: Callable[[bytes], object]) -> None:
        """Hand the content over as it comes; returns at its end, or once it was `enough`.

        Raises:
            LostConnectionError, BadAnswerError: The rest will not come.
            Exception: Whatever `take` raised; the connection is cut then.
        """
        assert self._decoder is not None
        ready, self._ready = self._ready, []
        for content in ready:
            if not self._over:
                take(content)
        self._take = take
        try:
            while self._refused or not (self._over or self._decoder.ended):
                await self.wait()
        finally:
            self._take = None
            if self._refused and self._error is not None:
                # Also where nobody waits for it any more.
                self._spent(self._error)

    def enough(self) -> None:
        """The answer in the body is whole: whatever else is in it is not waited for."""
        self._over = True
        self._take = None
        self._wake()

    def pause(self) -> None:
        """Hold the node back."""
        if not self._paused and not self._lost:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if not self._lost:
                self._transport.resume_reading()

    def abort(self) -> None:
        """Cut it, which stops an engine."""
        self._transport.abort()

    def _heads(self, data: bytes) -> bytes:
        """Take a head, read over provisional ones; returns what came behind it."""
        if not self._method:
            raise BadAnswerError("an answer that nobody asked for")
        self._raw = self._raw + data if self._raw else data
        while 0 <= (end := self._raw.find(b"\r\n\r\n")) <= MAX_HEAD_BYTES:
            head = read_head(self._raw[:end])
            rest, self._raw = self._raw[end + 4 :], b""
            if head.status >= 200:
                # In this order: who waits for the head takes the decoder for granted.
                self._decoder = decoder_for(head, self._method)
                self.answered = head
                return rest
            self._raw = rest
            self._provisional += 1
            if self._provisional > MAX_PROVISIONAL:
                raise BadAnswerError("provisional answers without end")
        if len(self._raw) > MAX_HEAD_BYTES:
            raise BadAnswerError("a head without end")
        return b""

    def _end(self, decoder: Decoder) -> None:
        if decoder.rest:
            # Whatever it is, it belongs to no answer: this one is whole, the connection is not.
            self._error = self._error or BadAnswerError("more than one answer")
            self._transport.abort()
        self._wake()

    def _keep(self, content: bytes, decoder: Decoder) -> None:
        """For whoever reads next."""
        if content:
            self._ready.append(content)
            self._ready_bytes += len(content)
            if self._ready_bytes > HIGH_WATER_BYTES:
                self.pause()
        self._end(decoder)

    def fail(self, error: Exception) -> None:
        """Cut it; whoever waits for it gets `error`."""
        self._error = self._error or error
        self._transport.abort()
        self._wake()

    def _wake(self) -> None:
        if self._then is not None and not self.lags:
            then, self._then = self._then, None
            if self._linger is not None:
                self._linger.cancel()
            then(self)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _spent(self, error: Exception) -> Exception:
        """To be raised once: kept here, it would keep all that it went through."""
        self._error = LostConnectionError("failed before")
        return error

    def wait(self) -> asyncio.Future[None]:
        """Done once something has come; no coroutine, since every request waits.

        Raises:
            LostConnectionError, BadAnswerError: Nothing will.
        """
        if self._error is not None:
            raise self._spent(self._error)
        self._waiter = self._loop.create_future()
        return self._waiter


def _reason(exc: Exception | None) -> tuple[object, ...]:
    if isinstance(exc, ssl.SSLError):
        return ("does not keep to TLS",)
    return exc.args if exc is not None and exc.args else ("closed the connection",)
