"""A node that never comes to an end is noticed before it has cost much memory or time."""

import json
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from cortex.core.sse import MAX_EVENT_BYTES, EventTooLongError, SseReader
from cortex.core.stream import MAX_TOKENS, Usage, Watch
from cortex.core.translate.answer import usage_of
from cortex.core.translate.calls import MAX_CALLS
from cortex.core.translate.stream import MessageStream
from cortex.core.translate.to_chat import ChatStream

KIB = 1024
MIB = 1024 * KIB


def pieces(start: bytes, piece: bytes, limit_bytes: int = 64 * MIB) -> Iterator[bytes]:
    yield start
    for _ in range(limit_bytes // len(piece)):
        yield piece


@pytest.mark.parametrize(
    "stream",
    [
        lambda: pieces(b"data: ", b"x" * 1000),
        lambda: pieces(b"data: ", b"x" * 256 * KIB),
        lambda: pieces(b"", b"data:\n" * 10_000),
        lambda: pieces(b"", b"data:ab\n" * 10_000),
        lambda: pieces(b"event: ", b"x" * 64 * KIB),
        lambda: pieces(b": comment ", b"x" * 64 * KIB),
    ],
    ids=[
        "a line",
        "a line in large pieces",
        "empty lines",
        "short lines",
        "a name",
        "a comment",
    ],
)
def test_an_event_without_end_is_given_up(stream: Callable[[], Iterator[bytes]]) -> None:
    reader = SseReader()
    tracemalloc.start()
    try:
        with pytest.raises(EventTooLongError):
            for piece in stream():
                reader.feed(piece)
        assert tracemalloc.get_traced_memory()[1] < 5 * MAX_EVENT_BYTES
    finally:
        tracemalloc.stop()


def test_an_event_of_nearly_the_limit_is_read_in_small_pieces() -> None:
    reader = SseReader()
    text = "x" * (MAX_EVENT_BYTES - 100)
    data = f"data: {text}\n\n".encode()
    events = [e for at in range(0, len(data), 777) for e in reader.feed(data[at : at + 777])]
    assert [event.data for event in events] == [text]


def call(number: int, arguments: str) -> bytes:
    fragment = {"index": number, "id": f"c{number}", "function": {"arguments": arguments}}
    choice = {"index": 0, "delta": {"tool_calls": [fragment]}}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def text() -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'


@pytest.mark.parametrize(
    "events",
    [
        lambda: (call(0, "x" * 10_000) for _ in range(10_000)),
        lambda: (call(number, "") for number in range(100_000)),
        lambda: (part for number in range(100_000) for part in (call(number, ""), text())),
    ],
    ids=["one call", "many calls", "many calls, each told"],
)
def test_tool_calls_without_end_are_given_up(events: Callable[[], Iterator[bytes]]) -> None:
    stream = MessageStream("msg_1", "m1")
    with pytest.raises(EventTooLongError, match="tool calls"):
        for event in events():
            stream.feed(event)


def test_as_many_tool_calls_as_are_believed_are_told() -> None:
    stream = MessageStream("msg_1", "m1")
    for number in range(MAX_CALLS):
        stream.feed(call(number, "{}"))
    told = stream.feed(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n')
    told += stream.end()
    assert sum(event["type"] == "content_block_stop" for event in told) == MAX_CALLS


def test_tool_blocks_of_the_other_dialect_have_an_end_too() -> None:
    stream = ChatStream("chatcmpl-1", "m1", created_s=1, with_usage=True)
    with pytest.raises(EventTooLongError, match="tool calls"):
        for number in range(MAX_CALLS + 1):
            block = {"type": "tool_use", "id": "a", "name": "b"}
            event = {"type": "content_block_start", "index": number, "content_block": block}
            stream.feed(b"data: " + json.dumps(event).encode() + b"\n\n")


@pytest.mark.parametrize("count", [-1, MAX_TOKENS + 1, 10**30, 10**4200, True, 1.5, "7"])
def test_a_count_that_is_none_is_not_reported(count: object) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": 3}
    watch = Watch(sse=False)
    watch.see(json.dumps({"usage": usage}).encode())
    assert watch.usage() == Usage(completion_tokens=3)
    assert usage_of(usage)["input_tokens"] == 0
    chat = ChatStream("chatcmpl-1", "m1", created_s=1, with_usage=True)
    event = {"type": "message_delta", "usage": {"input_tokens": count, "output_tokens": 3}}
    chat.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    assert chat.usage is not None
    assert (chat.usage["prompt_tokens"], chat.usage["completion_tokens"]) == (0, 3)


@pytest.mark.parametrize("nested", [b"[" * 30_000, b'{"a":' * 6000], ids=["lists", "objects"])
def test_nesting_without_end_is_no_usage_and_no_message(nested: bytes) -> None:
    watch = Watch(sse=True)
    watch.see(b'data: {"usage": {"a": ' + nested.replace(b"{", b"[") + b"}}\n\n")
    assert watch.usage() == Usage()
    fault = Watch(sse=True).see(b"event: error\ndata: " + nested + b"\n\n")
    assert not isinstance(fault, bytes)
    assert len(fault.said) <= 20_000
