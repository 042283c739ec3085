"""Puts a node's stream before a client of another dialect, streamed or whole.

`Translated` reads and writes; what is said is up to the `Words` of the client's dialect.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from aiohttp import web

from cortex.core.errors import CortexError, NodeProtocolError, NodeTruncatedError
from cortex.core.nodefaults import classify, classify_event
from cortex.core.stream import Usage
from cortex.core.translate.sse import EventTooLongError
from cortex.core.translate.stream import ComplaintError, TruncatedError
from cortex.gateway.errors import NodeFaultError
from cortex.gateway.line import Line
from cortex.gateway.opening import event_stream
from cortex.gateway.ports import Answer
from cortex.gateway.relay import ERROR_BODY_BYTES, Dialect, GapTimer, abort

PING_S = 10.0
"""Silence of the node after which the client is told that its request lives."""

Batch = list[dict[str, Any]]


class Words(Protocol):
    """One answer in the client's dialect."""

    @property
    def dialect(self) -> Dialect: ...

    def feed(self, data: bytes, /) -> Batch:
        """What these bytes of the node complete; raises `ComplaintError`."""
        ...

    def end(self) -> Batch:
        """The node's bytes have ended; raises `TruncatedError`."""
        ...

    def head(self) -> bytes:
        """What a stream begins with; empty once it was said."""
        ...

    @property
    def ping(self) -> bytes: ...

    def encode(self, batch: Batch) -> bytes: ...

    @property
    def tail(self) -> bytes:
        """What a stream that went well ends with."""
        ...

    def whole(self, batch: Batch) -> dict[str, Any]:
        """The answer as one body."""
        ...

    def counts(self) -> Usage | None:
        """What the node reported."""
        ...


class Translated:
    """A `Relay` that translates."""

    def __init__(self, words: Words, *, stream: bool) -> None:
        self._words = words
        self._stream = stream

    async def __call__(
        self,
        request: web.Request,
        sending: AbstractAsyncContextManager[Answer],
        line: Line,
        *,
        timer: GapTimer,
        headers: Mapping[str, str],
        opened: web.StreamResponse | None,
    ) -> web.StreamResponse:
        """Send the request on and translate the answer; raises as `relay.Passing` does."""
        response: web.StreamResponse | None = None
        try:
            async with timer, sending as answer:
                await _check(answer)
                batches = self._batches(answer, line, timer)
                if not self._stream:
                    return await self._whole(request, batches, line, headers)
                async for batch in batches:
                    if response is None:
                        response = opened or event_stream(request, headers)
                        if opened is None:
                            await response.prepare(request)
                            line.sending(response.status)
                    data = self._words.ping if batch is None else self._words.encode(batch)
                    await _write(response, self._words.head() + data, timer, line)
                assert response is not None, "a stream without an end raises"
                await response.write_eof(self._words.tail)
        except CortexError as exc:
            if response is None:
                raise
            line.failed(exc)
            await abort(request, response, exc, self._words.dialect)
        finally:
            counts = self._words.counts()
            if counts is not None:
                line.observed(counts, None)
        return response

    async def _whole(
        self,
        request: web.Request,
        batches: AsyncIterator[Batch | None],
        line: Line,
        headers: Mapping[str, str],
    ) -> web.StreamResponse:
        gathered: Batch = []
        async for batch in batches:
            gathered += batch or ()
        response = web.json_response(self._words.whole(gathered), headers=headers)
        await response.prepare(request)
        line.sending(response.status)
        await response.write_eof()
        return response

    async def _batches(
        self, answer: Answer, line: Line, timer: GapTimer
    ) -> AsyncIterator[Batch | None]:
        """What the answer becomes, batch by batch; None for every `PING_S` of silence."""
        try:
            while True:
                try:
                    async with asyncio.timeout(PING_S):
                        data = await answer.read_some()
                except TimeoutError:
                    yield None
                    continue
                batch = self._words.feed(data) if data else self._words.end()
                if batch:
                    line.real_bytes()
                    timer.touch()
                    yield batch
                if not data:
                    return
        except ComplaintError as exc:
            raise NodeFaultError(answer.node, classify_event(str(exc))) from exc
        except TruncatedError as exc:
            raise NodeTruncatedError("the node ended the stream in the middle") from exc
        except EventTooLongError as exc:
            raise NodeProtocolError(f"the node sent {exc}") from exc


async def _check(answer: Answer) -> None:
    if answer.status >= 400:
        body = await answer.read_at_most(ERROR_BODY_BYTES)
        raise NodeFaultError(answer.node, classify(answer.status, body))
    kind = answer.headers.get("Content-Type", "")
    if answer.status >= 300 or not kind.startswith("text/event-stream"):
        raise NodeProtocolError(f"the node answered HTTP {answer.status} with {kind[:60]!r}")


async def _write(
    response: web.StreamResponse, data: bytes, timer: GapTimer, line: Line
) -> None:
    timer.writing = True
    await response.write(data)
    timer.writing = False
    line.record.response_bytes += len(data)
