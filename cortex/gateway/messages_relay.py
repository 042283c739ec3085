"""Puts a node's chat completions stream before an Anthropic client, streamed or whole."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager

from aiohttp import web

from cortex.core.errors import CortexError, NodeProtocolError, NodeTruncatedError
from cortex.core.nodefaults import classify, classify_event
from cortex.core.stream import Usage
from cortex.core.translate.sse import EventTooLongError
from cortex.core.translate.stream import (
    AnthropicEvent,
    ComplaintError,
    MessageStream,
    TruncatedError,
    WholeMessage,
    encoded,
)
from cortex.gateway.errors import NodeFaultError, anthropic_error
from cortex.gateway.line import Line
from cortex.gateway.opening import event_stream
from cortex.gateway.ports import Answer
from cortex.gateway.relay import ERROR_BODY_BYTES, Dialect, GapTimer, abort

PING_S = 10.0
"""Silence of the node after which the client is told that its request lives."""
PING: list[AnthropicEvent] = [{"type": "ping"}]


def error_event(error: CortexError, request_id: str) -> bytes:
    """The last event of a stream that failed; no `message_stop` follows it."""
    body = json.dumps(anthropic_error(error, request_id))
    return f"event: error\ndata: {body}\n\n".encode()


class MessagesRelay:
    """One answer's translation. It is a `Relay`, called once per node that is tried."""

    def __init__(self, message: MessageStream, *, stream: bool) -> None:
        self._message = message
        self._stream = stream
        #: The head of the message has been sent, by us or while the request still waited.
        self._begun = False

    @property
    def dialect(self) -> Dialect:
        return Dialect(waiting=self._waiting, error=error_event)

    def _waiting(self) -> bytes:
        """The head of the message once, then pings."""
        if self._begun:
            return encoded(PING)
        self._begun = True
        return encoded(self._message.start())

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
        """Send the request on and translate the answer; raises as `relay.relay` does."""
        response: web.StreamResponse | None = None
        try:
            async with timer, sending as answer:
                await _check(answer)
                events = _events(answer, self._message, line, timer)
                if not self._stream:
                    return await self._whole(request, events, line, headers)
                async for batch in events:
                    if response is None:
                        response = opened or event_stream(request, headers)
                        if opened is None:
                            await response.prepare(request)
                            line.sending(response.status)
                        if not self._begun:
                            self._begun = True
                            await _write(response, encoded(self._message.start()), timer, line)
                    await _write(response, encoded(batch), timer, line)
                assert response is not None, "a stream without an end raises"
                await response.write_eof()
        except CortexError as exc:
            if response is None:
                raise
            line.failed(exc)
            await abort(request, response, exc, self.dialect)
        finally:
            _account(line, self._message)
        return response

    async def _whole(
        self,
        request: web.Request,
        events: AsyncIterator[list[AnthropicEvent]],
        line: Line,
        headers: Mapping[str, str],
    ) -> web.StreamResponse:
        whole = WholeMessage()
        for event in self._message.start():
            whole.take(event)
        async for batch in events:
            for event in batch:
                whole.take(event)
        response = web.json_response(whole.message, headers=headers)
        await response.prepare(request)
        line.sending(response.status)
        await response.write_eof()
        return response


async def _check(answer: Answer) -> None:
    if answer.status >= 400:
        body = await answer.read_at_most(ERROR_BODY_BYTES)
        raise NodeFaultError(answer.node, classify(answer.status, body))
    kind = answer.headers.get("Content-Type", "")
    if answer.status >= 300 or not kind.startswith("text/event-stream"):
        raise NodeProtocolError(f"the node answered HTTP {answer.status} with {kind[:60]!r}")


async def _events(
    answer: Answer, message: MessageStream, line: Line, timer: GapTimer
) -> AsyncIterator[list[AnthropicEvent]]:
    """The events of the answer, batch by batch, with a ping for every `PING_S` of silence."""
    try:
        while True:
            try:
                async with asyncio.timeout(PING_S):
                    chunk = await answer.read_some()
            except TimeoutError:
                yield PING
                continue
            batch = message.feed(chunk) if chunk else message.end()
            if batch:
                line.real_bytes()
                timer.touch()
                yield batch
            if not chunk:
                return
    except ComplaintError as exc:
        raise NodeFaultError(answer.node, classify_event(str(exc))) from exc
    except TruncatedError as exc:
        raise NodeTruncatedError("the node ended the stream in the middle") from exc
    except EventTooLongError as exc:
        raise NodeProtocolError(f"the node sent {exc}") from exc


async def _write(
    response: web.StreamResponse, data: bytes, timer: GapTimer, line: Line
) -> None:
    timer.writing = True
    await response.write(data)
    timer.writing = False
    line.record.response_bytes += len(data)


def _account(line: Line, message: MessageStream) -> None:
    usage = message.usage
    if usage is not None:
        cached = usage["cache_read_input_tokens"]
        prompt = usage["input_tokens"] + cached
        line.observed(Usage(prompt, cached or None, usage["output_tokens"]), None)
