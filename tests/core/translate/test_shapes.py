"""JSON of any shape is survived: what is no field of ours is as if it were not there."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.jsontext import dumps
from cortex.core.sse import EventTooLongError
from cortex.core.translate.gather import ChatGather
from cortex.core.translate.reading import ComplaintError, TruncatedError
from cortex.core.translate.stream import MessageStream, WholeMessage, encoded
from cortex.core.translate.to_chat import ChatStream, WholeChat
from cortex.gateway.words import GatheredWords, OpenAIWords

ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.just("half \ud83d of a pair"),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)
CHAT: dict[str, Any] = {
    "choices": [
        {
            "index": 0,
            "delta": {
                "content": "x",
                "reasoning_content": "y",
                "tool_calls": [
                    {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            "finish_reason": "stop",
            "stop_reason": "x",
        }
    ],
    "usage": {
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "prompt_tokens_details": {"cached_tokens": 1},
    },
}
MESSAGES: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"usage": {"input_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "x"}},
    {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "tool_use", "id": "c", "name": "f"},
    },
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}},
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "thinking_delta", "thinking": "x"},
    },
    {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "input_json_delta", "partial_json": "{}"},
    },
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "x"}, "usage": {"output_tokens": 1}},
    {"type": "error", "error": {"message": "x"}},
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value, the whole apart."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, item in inner:
        found.append((*path, key))
        if isinstance(item, dict | list):
            found += places(item, (*path, key))
    return found


def put(value: Any, path: tuple[Any, ...], odd: Any) -> Any:
    if not path:
        return odd
    copied = value.copy()
    copied[path[0]] = put(value[path[0]], path[1:], odd)
    return copied


@pytest.mark.parametrize("path", places(CHAT), ids=str)
@settings(max_examples=25, deadline=None)
@given(odd=ODD)
def test_a_chat_chunk_of_any_shape(path: tuple[Any, ...], odd: Any) -> None:
    stream = MessageStream("msg_1", "m1")
    whole = WholeMessage()
    with contextlib.suppress(ComplaintError, TruncatedError, EventTooLongError):
        told = stream.start()
        for chunk in (put(CHAT, path, odd), CHAT, put(CHAT, path, odd)):
            told += stream.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        told += stream.end()
        for event in told:
            whole.take(event)
        json.dumps([whole.message, stream.usage])
        assert encoded(told)


GATHERED = {
    **CHAT,
    "choices": [{**CHAT["choices"][0], "logprobs": {"content": [{"token": "x"}]}}],
}


@pytest.mark.parametrize("path", places(GATHERED), ids=str)
@settings(max_examples=25, deadline=None)
@given(odd=ODD)
def test_a_chat_chunk_of_any_shape_is_gathered(path: tuple[Any, ...], odd: Any) -> None:
    gathered = ChatGather()
    with contextlib.suppress(ComplaintError, TruncatedError, EventTooLongError):
        for chunk in (put(GATHERED, path, odd), GATHERED, put(GATHERED, path, odd)):
            gathered.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        gathered.end()
        whole = GatheredWords(gathered).whole()
        assert dumps(whole)
        assert whole["choices"][0]["finish_reason"]
        GatheredWords(gathered).counts()


CASES = [
    pytest.param(event, path, id=f"{event['type']} {path}")
    for event in MESSAGES
    for path in places(event)
]


@pytest.mark.parametrize(("event", "path"), CASES)
@settings(max_examples=25, deadline=None)
@given(odd=ODD)
def test_a_messages_event_of_any_shape(
    event: dict[str, Any], path: tuple[Any, ...], odd: Any
) -> None:
    stream = ChatStream("chatcmpl-1", "m1", created_s=1, with_usage=True)
    whole = WholeChat()
    told = []
    with contextlib.suppress(ComplaintError, TruncatedError, EventTooLongError):
        start, stop = MESSAGES[0], {"type": "message_stop"}
        for said in (start, put(event, path, odd), MESSAGES[3], put(event, path, odd), stop):
            told += stream.feed(b"data: " + json.dumps(said).encode() + b"\n\n")
        told += stream.end()
        for chunk in told:
            whole.take(chunk)
        json.dumps(whole.completion(stream.usage))
        assert OpenAIWords(stream).encode(told)
