"""The Anthropic routes of a node: `/v1/messages` and `count_tokens` (contract §1.4, §4)."""

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from cortex.devnode import bodies, errors
from cortex.devnode.engine import Ask, Collected, End, Json
from cortex.devnode.errors import InvalidError, NoDefaultError, RefusalError
from cortex.devnode.inference import Inference
from cortex.devnode.replies import Head, answer_json, compact, escape
from cortex.devnode.streams import Stream

if TYPE_CHECKING:
    from cortex.devnode.node import Node

PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'
STOP_REASONS: Final = {"length": "max_tokens", "tool_calls": "tool_use"}
COPIED: Final = ("model", "stream", "max_tokens", "temperature", "top_p", "top_k")
BLOCKS: Final = frozenset(
    {"text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking"}
)
TOOL_CHOICES: Final = {"auto": "auto", "any": "auto", "none": "none"}


def event(kind: str, **fields: object) -> bytes:
    """One named event whose data repeats the name."""
    return f"event: {kind}\ndata: ".encode() + compact({"type": kind, **fields}) + b"\n\n"


class MessageFrames:
    """message_start … message_stop; `input_tokens` is 0 and is never corrected.

    Nothing comes before the first token but a `ping` after every idle interval.
    """

    done = b""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._index = -1
        self._open = ""
        self._begun = False

    def open(self) -> bytes:
        return b""

    def _start(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        usage = {"input_tokens": 0, "output_tokens": 0}
        return event("message_start", message=_message(self._head, [], None, usage))

    def text(self, text: str) -> bytes:
        return self._block("text", {"type": "text", "text": ""}) + self._delta(
            '{"type":"text_delta","text":', text
        )

    def reasoning(self, text: str) -> bytes:
        return self._block("thinking", {"type": "thinking", "thinking": ""}) + self._delta(
            '{"type":"thinking_delta","thinking":', text
        )

    def _delta(self, start: str, text: str) -> bytes:
        return (
            "event: content_block_delta\n"
            f'data: {{"type":"content_block_delta","index":{self._index},'
            f'"delta":{start}{escape(text)}}}}}\n\n'
        ).encode()

    def _block(self, kind: str, block: Mapping[str, Any]) -> bytes:
        if self._open == kind:
            return b""
        before = self._start() + self._close()
        self._open = kind
        self._index += 1
        return before + event("content_block_start", index=self._index, content_block=block)

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return event("content_block_stop", index=self._index)

    def end(self, end: End) -> bytes:
        parts = [self._start()]
        if end.text is not None:
            parts.append(self.text(end.text))
        for call in end.tool_calls:
            block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            parts.append(self._block(call.id, block))
            parts.append(
                self._delta('{"type":"input_json_delta","partial_json":', call.arguments)
            )
        parts.append(self._close())
        delta = {"stop_reason": _stop_reason(end), "stop_sequence": None}
        usage = {"output_tokens": end.usage.completion_tokens}
        parts += (event("message_delta", delta=delta, usage=usage), event("message_stop"))
        return b"".join(parts)

    def error(self, error: RefusalError) -> bytes | None:
        body = errors.anthropic_body(error.anthropic_status, str(error))
        return b"event: error\ndata: " + compact(body) + b"\n\n"


def _stop_reason(end: End) -> str:
    # A stop string is reported as end_turn: mistral.rs does not tell which one it was.
    return STOP_REASONS.get(end.finish_reason, "end_turn")


def _message(head: Head, content: list[Json], stop: str | None, usage: Json) -> Json:
    return {
        "id": head.id,
        "type": "message",
        "role": "assistant",
        "content": content,
        "model": head.model,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": usage,
    }


def message_whole(head: Head, answer: Collected) -> Json:
    """A whole `message`."""
    end = answer.end
    assert end is not None
    content: list[Json] = []
    if answer.reasoning:
        content.append({"type": "thinking", "thinking": "".join(answer.reasoning)})
    if answer.text:
        content.append({"type": "text", "text": "".join(answer.text)})
    content += [
        {"type": "tool_use", "id": c.id, "name": c.name, "input": json.loads(c.arguments)}
        for c in end.tool_calls
    ]
    usage = {
        "input_tokens": end.usage.prompt_tokens,
        "output_tokens": end.usage.completion_tokens,
    }
    return _message(head, content, _stop_reason(end), usage)


class Messages:
    """Handlers."""

    def __init__(self, node: "Node", inference: Inference) -> None:
        self._node = node
        self._inference = inference

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/messages."""
        body = to_chat(await bodies.read(request, messages=list))
        ask = Ask(kind="chat", model="", body=body, max_tokens=bodies.max_tokens(body))
        async with self._inference.admitted():
            if body.get("stream"):
                stream = Stream(self._node, request)
                return await self._inference.stream(stream, ask, MessageFrames, beat=PING)
            head, answer, error = await self._inference.whole(ask)
            if error is not None:
                raise error
            return answer_json(message_whole(head, answer))

    async def count_tokens(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/messages/count_tokens, with its two traps.

        1. Since 0.9.1 the model is checked, but the default model's tokenizer counts.
        2. A caller that hangs up while it waits makes the engine panic: everyone on that
           model loses their answer. It waits for the step of whatever is being generated.
        """
        node = self._node
        body = to_chat(await bodies.read(request, messages=list))
        model = node.residency.named(bodies.model_of(body))
        node.residency.check_known(model)
        counting = node.residency.default if node.profile.count_tokens_by_default else model
        seat = node.residency.loaded.get(counting or "")
        if seat is None:
            raise NoDefaultError("engine state lock is poisoned")
        node.stats.counts += 1
        try:
            await asyncio.sleep(self._queue_s(seat.model))
        except asyncio.CancelledError:
            seat.cut()
            seat.next_id = 0
            raise
        counting_job = node.engine.count_tokens(seat.model, body)
        return answer_json({"input_tokens": await node.see_through(counting_job)})

    def _queue_s(self, model: str) -> float:
        """A count takes its turn between two steps of the engine."""
        knobs = self._node.knobs
        busy = self._node.stats.in_flight[model] > 0
        step_s = max(knobs.first_token_s, knobs.token_interval_s) if busy else 0.0
        return knobs.count_tokens_delay_s + step_s


def to_chat(body: Json) -> Json:
    """The chat request mistral.rs makes of a message request.

    Raises:
        InvalidError: A block or role it does not support.
    """
    chat: Json = {key: body[key] for key in COPIED if key in body}
    messages: list[Json] = []
    if body.get("system"):
        messages.append({"role": "system", "content": _text(body["system"])})
    for message in body["messages"]:
        messages += _turn(message)
    chat["messages"] = messages
    if body.get("stop_sequences"):
        chat["stop"] = body["stop_sequences"]
    if body.get("tools"):
        chat["tools"] = [_tool(tool) for tool in body["tools"]]
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "tool":
        chat["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif isinstance(choice, dict):
        chat["tool_choice"] = TOOL_CHOICES.get(str(choice.get("type")), "auto")
    thinking = body.get("thinking")
    if isinstance(thinking, dict):
        chat["enable_thinking"] = thinking.get("type") != "disabled"
    return chat


def _tool(tool: Json) -> Json:
    function = {"name": tool.get("name"), "description": tool.get("description")}
    function["parameters"] = tool.get("input_schema")
    return {"type": "function", "function": function}


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "\n".join(str(b.get("text", "")) for b in blocks if isinstance(b, dict))


def _turn(message: object) -> list[Json]:
    """The chat messages of one turn: tool results become messages of their own."""
    if not isinstance(message, dict) or "content" not in message:
        raise InvalidError("messages: missing field `content`")
    role, content = message.get("role"), message["content"]
    if role not in ("user", "assistant", "system"):
        raise InvalidError(f"messages: unsupported role `{role}`")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    unsupported = {str(block.get("type")) for block in content} - BLOCKS
    if unsupported:
        raise InvalidError(f"Unsupported Anthropic content block `{min(unsupported)}`.")
    results = [_result(block) for block in content if block["type"] == "tool_result"]
    texts = [str(block.get("text", "")) for block in content if block["type"] == "text"]
    calls = [_call(block) for block in content if block["type"] == "tool_use"]
    own: Json = {"role": role, "content": "\n".join(texts) if texts else None}
    if calls:
        own["tool_calls"] = calls
    return [*results, own] if texts or calls else results


def _result(block: Json) -> Json:
    text = _text(block.get("content"))
    return {"role": "tool", "content": text, "tool_call_id": block.get("tool_use_id")}


def _call(block: Json) -> Json:
    function = {"name": block.get("name"), "arguments": json.dumps(block.get("input"))}
    return {"id": block.get("id"), "type": "function", "function": function}
