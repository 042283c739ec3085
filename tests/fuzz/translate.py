"""The translations: requests both ways and answers both ways; only `RequestError`, and always JSON."""

import json
from typing import Any

from cortex.core.errors import RequestError
from cortex.core.jsontext import loads_exactly
from cortex.core.translate.reading import ComplaintError, TruncatedError
from cortex.core.translate.request import read_messages_request
from cortex.core.translate.stream import MessageStream, WholeMessage
from cortex.core.translate.to_chat import ChatStream, WholeChat
from cortex.core.translate.to_messages import messages_body
from tests.fuzz.cutting import pieces

_MESSAGES = b"""{"model":"m","max_tokens":5,"system":[{"type":"text","text":"s"}],"messages":[{"role":"user","content":"hi"},
{"role":"assistant","content":[{"type":"tool_use","id":"t1","name":"f","input":{"a":1}}]},{"role":"user","content":[
{"type":"tool_result","tool_use_id":"t1","content":[{"type":"text","text":"x"}]}]}],"tools":[{"name":"f","input_schema":{}}],
"tool_choice":{"type":"auto"},"thinking":{"type":"enabled","budget_tokens":1024},"stop_sequences":["x"],"temperature":1}"""
_CHAT = b"""{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"a"},
{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]},{"role":"assistant","content":null,"tool_calls":[
{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"c","content":"r"}],
"tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"tool_choice":"auto","stop":"x","max_tokens":3}"""
_CHUNKS = b"""data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":"a"},"finish_reason":null}]}

data: {"choices":[{"index":0,"delta":{"reasoning_content":"t","tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"}]}

data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":1}}}

data: [DONE]

"""
_EVENTS = b"""event: message_start
data: {"type":"message_start","message":{"id":"m","content":[],"usage":{"input_tokens":3}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"t","name":"f","input":{}}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{}"}}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}

event: message_stop
data: {"type":"message_stop"}

"""
_RAW = (
    b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f",'
    b'"arguments":"{\\"a\\":NaN}"}}]},"finish_reason":"tool_calls"}]}\n\ndata: [DONE]\n\n'
)
SEEDS = [
    b"\x02" + _RAW,
    b"\x00" + _MESSAGES,
    b"\x01" + _CHAT,
    b"\x06" + _CHUNKS,
    b"\x0b" + _EVENTS,
]


def one(data: bytes) -> None:
    kind, body = data[0] if data else 0, data[1:]
    match kind % 4:
        case 0:
            _request(body, lambda fields: read_messages_request(fields).chat)
        case 1:
            _request(body, messages_body)
        case 2:
            assert _message([body]) == _message(pieces(body, kind))
        case _:
            assert _chat([body]) == _chat(pieces(body, kind))


def _request(body: bytes, translate: Any) -> None:
    try:
        fields = loads_exactly(body)
    except (ValueError, RecursionError):
        return
    if not isinstance(fields, dict):
        return
    try:
        translated = translate(fields)
    except RequestError:
        return
    json.dumps(translated, ensure_ascii=False, allow_nan=False).encode()


def _message(parts: list[bytes]) -> object:
    stream, whole = MessageStream("id", "m"), WholeMessage()
    events = stream.start()
    ending = ""
    try:
        for part in parts:
            events += stream.feed(part)
        events += stream.end()
    except (ComplaintError, TruncatedError) as exc:
        ending = type(exc).__name__
    for event in events:
        whole.take(event)
    json.dumps(whole.message, allow_nan=False)
    return ending or events


def _chat(parts: list[bytes]) -> object:
    stream, whole = ChatStream("id", "m", created_s=1, with_usage=True), WholeChat()
    chunks = []
    ending = ""
    try:
        for part in parts:
            chunks += stream.feed(part)
        chunks += stream.end()
    except (ComplaintError, TruncatedError) as exc:
        ending = type(exc).__name__
    for chunk in chunks:
        whole.take(chunk)
    if chunks:
        json.dumps(whole.completion(stream.usage))
    return ending or chunks
