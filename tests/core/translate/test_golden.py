"""Whole exchanges, byte for byte, and histories that go there and back again."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.core.translate.request import read_messages_request
from cortex.core.translate.stream import MessageStream, encoded
from cortex.core.translate.to_chat import ChatStream
from cortex.core.translate.to_messages import messages_body

NODE = b"""\
data: {"id":"7","object":"chat.completion.chunk","choices":[{"index":0,"finish_reason":null,"delta":{"role":"assistant","content":null,"reasoning_content":"Hm."}}],"usage":null}

:

data: {"id":"7","object":"chat.completion.chunk","choices":[{"index":0,"finish_reason":null,"delta":{"role":"assistant","content":"I look."}}],"usage":null}

data: {"id":"7","object":"chat.completion.chunk","choices":[{"index":0,"finish_reason":"tool_calls","delta":{"role":"assistant","content":null,"tool_calls":[{"index":0,"id":"call-1f","type":"function","function":{"name":"f","arguments":"{\\"x\\":1}"}}]}}],"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}

data: [DONE]

"""
CLIENT = """\
event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0}}}

event: ping
data: {"type":"ping"}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Hm."}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"cortex"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"I look."}}

event: content_block_stop
data: {"type":"content_block_stop","index":1}

event: content_block_start
data: {"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"call-1f","name":"f","input":{}}}

event: content_block_delta
data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\\"x\\": 1}"}}

event: content_block_stop
data: {"type":"content_block_stop","index":2}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"input_tokens":5,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":7}}

event: message_stop
data: {"type":"message_stop"}

"""


def test_a_nodes_stream_as_an_anthropic_client_sees_it() -> None:
    stream = MessageStream("msg_1", "m")
    events = stream.start() + stream.feed(NODE) + stream.end()
    assert encoded(events).decode() == CLIENT


def test_and_that_as_a_chat_client_sees_it() -> None:
    chat = ChatStream("chatcmpl-1", "m", created_s=5, with_usage=True)
    chunks = chat.feed(CLIENT.encode()) + chat.end()
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "m"}
    deltas: list[tuple[dict[str, Any], str | None]] = [
        ({"role": "assistant", "content": ""}, None),
        ({"reasoning_content": "Hm."}, None),
        ({"content": "I look."}, None),
        (
            {
                "tool_calls": [
                    {
                        "index": 0,
                        "id": "call-1f",
                        "type": "function",
                        "function": {"name": "f", "arguments": ""},
                    }
                ]
            },
            None,
        ),
        ({"tool_calls": [{"index": 0, "function": {"arguments": '{"x": 1}'}}]}, None),
        ({}, "tool_calls"),
    ]
    told = [
        head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        for delta, finish in deltas
    ]
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert chunks == [*told, head | {"choices": [], "usage": usage}]


words = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=6)
calls = st.lists(
    st.tuples(
        st.sampled_from(["f", "g"]), st.dictionaries(words, st.integers(), max_size=2), words
    ),
    max_size=2,
)
exchanges = st.lists(st.tuples(words, words | st.none(), calls), min_size=1, max_size=3)


@settings(max_examples=200, deadline=None)
@given(exchanges, words | st.none())
def test_a_history_keeps_its_meaning_there_and_back(
    exchanges: list[tuple[str, str | None, list[tuple[str, dict[str, int], str]]]],
    system: str | None,
) -> None:
    turns: list[dict[str, Any]] = []
    for asked, answered, made in exchanges:
        turns.append({"role": "user", "content": [{"type": "text", "text": asked}]})
        said: list[dict[str, Any]] = [{"type": "text", "text": answered}] if answered else []
        ids = [f"t{len(turns)}_{n}" for n in range(len(made))]
        said += [
            {"type": "tool_use", "id": call_id, "name": name, "input": given}
            for call_id, (name, given, _) in zip(ids, made, strict=True)
        ]
        if said:
            turns.append({"role": "assistant", "content": said})
        if made:
            turns.append(
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": call_id,
                            "content": [{"type": "text", "text": result}],
                        }
                        for call_id, (_, _, result) in zip(ids, made, strict=True)
                    ],
                }
            )
    turns.append({"role": "user", "content": [{"type": "text", "text": "and now?"}]})
    original = {"model": "m", "max_tokens": 9, "messages": turns}
    if system:
        original["system"] = system
    back = messages_body(read_messages_request(original).chat)
    assert back.get("system") == system
    assert back["max_tokens"] == 9
    assert _said(back["messages"]) == _said(turns)


def _said(turns: list[dict[str, Any]]) -> list[tuple[str, object]]:
    """Who said what, in order; texts that follow each other are one, as turns of one role are."""
    told: list[tuple[str, Any]] = []
    for turn in turns:
        for block in turn["content"]:
            if block["type"] == "text" and told and told[-1][0] == f"{turn['role']} text":
                told[-1] = (told[-1][0], f"{told[-1][1]}\n{block['text']}")
            elif block["type"] == "text":
                told.append((f"{turn['role']} text", block["text"]))
            else:
                told.append((block["type"], block))
    return told
