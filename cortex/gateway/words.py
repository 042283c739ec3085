"""How each dialect says an answer: heads, pings, events, ends."""

import json
from typing import Any, Protocol

from cortex.core.errors import CortexError
from cortex.core.jsontext import dumps
from cortex.core.stream import UNREPORTED, Usage, usage_counts
from cortex.core.translate.gather import ChatGather
from cortex.core.translate.stream import MessageStream, WholeMessage, encoded
from cortex.core.translate.to_chat import ChatStream, WholeChat
from cortex.gateway.errors import anthropic_error
from cortex.gateway.relay import OPENAI, Dialect
from cortex.gateway.translated import Batch


def _anthropic_error_event(error: CortexError, request_id: str) -> bytes:
    """The last event of a stream that failed; no `message_stop` follows it."""
    body = json.dumps(anthropic_error(error, request_id))
    return f"event: error\ndata: {body}\n\n".encode()


ANTHROPIC = Dialect(
    waiting=lambda: b": waiting for the model\n\n", error=_anthropic_error_event
)
"""For an answer that a node gives in Anthropic's own words: its head is the node's to send."""


def dialect_with(head: "Head") -> Dialect:
    """Anthropic's, with this head as the first sign of life and pings after it."""
    return Dialect(
        waiting=lambda: head.take() or AnthropicWords.ping, error=_anthropic_error_event
    )


class Head:
    """The first events of a message. Sent once, whichever node goes on with it."""

    def __init__(self, message: MessageStream) -> None:
        self._left = encoded(message.start())

    def take(self) -> bytes:
        """The events; empty once they were taken."""
        taken, self._left = self._left, b""
        return taken


class Heard(Protocol):
    """A stream as far as it was read."""

    heard: int
    done: bool


class _Reading:
    """How far the words of a node's stream have come."""

    def __init__(self, stream: Heard) -> None:
        self._stream = stream

    @property
    def heard(self) -> int:
        return self._stream.heard

    @property
    def done(self) -> bool:
        return self._stream.done


class AnthropicWords(_Reading):
    """A chat stream for an Anthropic client."""

    ping = encoded([{"type": "ping"}])
    tail = b""

    def __init__(self, message: MessageStream, head: Head) -> None:
        super().__init__(message)
        self._message = message
        self._whole = WholeMessage()
        self.feed = message.feed
        self.end = message.end
        self.head = head.take
        self.dialect = dialect_with(head)

    def encode(self, batch: Batch) -> bytes:
        return encoded(batch)

    def gather(self, batch: Batch) -> None:
        if not self._whole.message:
            batch = [*self._message.start(), *batch]
        for event in batch:
            self._whole.take(event)

    def whole(self) -> dict[str, Any]:
        return self._whole.message

    def counts(self) -> Usage:
        usage = self._message.usage
        if usage is None:
            return UNREPORTED
        cached = usage["cache_read_input_tokens"]
        return Usage(usage["input_tokens"] + cached, cached or None, usage["output_tokens"])


class GatheredWords(_Reading):
    """A chat stream for a client that wants the whole answer, in the same dialect."""

    dialect = OPENAI
    ping = tail = b""

    def __init__(self, chat: ChatGather) -> None:
        super().__init__(chat)
        self._chat = chat

    def feed(self, data: bytes) -> Batch:
        self._chat.feed(data)
        return []

    def end(self) -> Batch:
        self._chat.end()
        return []

    def head(self) -> bytes:
        return b""

    def encode(self, _batch: Batch) -> bytes:
        return b""

    def gather(self, _batch: Batch) -> None:
        """Nothing: it is gathered as it is fed."""

    def whole(self) -> dict[str, Any]:
        return self._chat.whole()

    def counts(self) -> Usage:
        return usage_counts(self._chat.usage)


class OpenAIWords(_Reading):
    """An Anthropic stream for a client of chat completions."""

    dialect = OPENAI
    ping = b": ping\n\n"
    tail = b"data: [DONE]\n\n"

    def __init__(self, chat: ChatStream) -> None:
        super().__init__(chat)
        self._chat = chat
        self._whole = WholeChat()
        self.feed = chat.feed
        self.end = chat.end

    def head(self) -> bytes:
        return b""

    def encode(self, batch: Batch) -> bytes:
        return b"".join([b"data: %b\n\n" % dumps(chunk) for chunk in batch])

    def gather(self, batch: Batch) -> None:
        for chunk in batch:
            self._whole.take(chunk)

    def whole(self) -> dict[str, Any]:
        return self._whole.completion(self._chat.usage)

    def counts(self) -> Usage:
        usage = self._chat.usage
        if usage is None:
            return UNREPORTED
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return Usage(usage["prompt_tokens"], cached or None, usage["completion_tokens"])
