"""What chat and completion answers look like, whole and as frames of a stream (contract §1.4, §4)."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from aiohttp import web

from cortex.devnode.engine import Collected, End, Json, ToolCall, Usage
from cortex.devnode.errors import RefusalError

DONE: Final = b"data: [DONE]\n\n"
escape = json.encoder.encode_basestring_ascii


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What every chunk of one answer repeats."""

    id: str
    model: str
    """The name the engine goes by, which is not an alias."""
    created: int
    created_in_ms: bool = False
    request: Json
    requested: str = ""
    """The model as the client named it."""

    @property
    def chunk_created(self) -> int:
        """`created` as this version's chunks state it."""
        return self.created * 1000 if self.created_in_ms else self.created


class Frames(Protocol):
    """Turns pieces into the bytes of one kind of stream."""

    done: bytes
    """After the last frame; empty where the dialect has no terminator."""

    def open(self) -> bytes:
        """Sent with the headers, before any piece."""
        ...

    def text(self, text: str) -> bytes: ...
    def reasoning(self, text: str) -> bytes: ...
    def end(self, end: End) -> bytes: ...

    def error(self, error: RefusalError) -> bytes | None:
        """The dialect's own error event, or None for the OpenAI-style one plus `done`."""
        ...


def compact(value: object) -> bytes:
    """JSON without blanks."""
    return json.dumps(value, separators=(",", ":")).encode()


def data(value: object) -> bytes:
    """One `data:` frame."""
    return b"data: " + compact(value) + b"\n\n"


def answer_json(value: object, status: int = 200) -> web.Response:
    """A JSON answer as mistral.rs writes it, without blanks."""
    return web.Response(body=compact(value), status=status, content_type="application/json")


def usage_json(usage: Usage) -> dict[str, Any]:
    """`usage` with mistral.rs's speeds (tokens per second) and times (seconds)."""
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    total_s = usage.prompt_s + usage.completion_s
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "avg_tok_per_sec": _rate(prompt + completion, total_s),
        "avg_prompt_tok_per_sec": _rate(prompt, usage.prompt_s),
        "avg_compl_tok_per_sec": _rate(completion, usage.completion_s),
        "total_time_sec": total_s,
        "total_prompt_time_sec": usage.prompt_s,
        "total_completion_time_sec": usage.completion_s,
    }


def _rate(tokens: int, seconds: float) -> float:
    return round(tokens / seconds, 3) if seconds > 0 else 1.0


def tool_calls_json(calls: Sequence[ToolCall]) -> list[dict[str, Any]] | None:
    """Whole calls, or None when there are none: the key is always there."""
    if not calls:
        return None
    return [
        {
            "index": index,
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for index, call in enumerate(calls)
    ]


def logprobs_json(head: Head, texts: Sequence[str | None]) -> Json | None:
    """What a request that wants `logprobs` is told of each piece; made up, but of the right form."""
    if not head.request.get("logprobs"):
        return None
    tokens = [
        {"token": text, "logprob": -0.25, "bytes": list(text.encode())}
        for text in texts
        if text
    ]
    most = int(head.request.get("top_logprobs") or 0) > 0
    return {"content": [{**token, "top_logprobs": [token] if most else []} for token in tokens]}


class ChatFrames:
    """`chat.completion.chunk`: the role in every delta, finish and usage in the last chunk."""

    done = DONE

    def __init__(self, head: Head) -> None:
        self._head = head
        self._before = (
            f'data: {{"id":{escape(head.id)},"choices":[{{"finish_reason":null,"index":0,'
            '"delta":{"content":'
        ).encode()
        self._after = (
            f',"role":"assistant","tool_calls":null}},"logprobs":null}}],'
            f'"created":{head.chunk_created},'
            f'"model":{escape(head.model)},"system_fingerprint":"local",'
            '"object":"chat.completion.chunk","usage":null}\n\n'
        ).encode()

    def open(self) -> bytes:
        return b""

    def text(self, text: str) -> bytes:
        if self._head.request.get("logprobs"):
            return self._chunk({"content": text, "tool_calls": None}, None, None)
        return self._before + escape(text).encode() + self._after

    def reasoning(self, text: str) -> bytes:
        delta = {"content": None, "tool_calls": None, "reasoning_content": text}
        return self._chunk(delta, None, None)

    def end(self, end: End) -> bytes:
        delta = {"content": end.text, "tool_calls": tool_calls_json(end.tool_calls)}
        return self._chunk(delta, end.finish_reason, usage_json(end.usage))

    def error(self, _error: RefusalError) -> bytes | None:
        return None

    def _chunk(self, delta: Mapping[str, Any], reason: str | None, usage: Any) -> bytes:
        choice = {
            "finish_reason": reason,
            "index": 0,
            "delta": {"content": delta["content"], "role": "assistant", **delta},
            "logprobs": logprobs_json(self._head, [delta["content"]]),
        }
        return data(
            {
                "id": self._head.id,
                "choices": [choice],
                "created": self._head.chunk_created,
                "model": self._head.model,
                "system_fingerprint": "local",
                "object": "chat.completion.chunk",
                "usage": usage,
            }
        )


class TextFrames:
    """Chunks of `/v1/completions`: no usage anywhere."""

    done = DONE

    def __init__(self, head: Head) -> None:
        self._before = (f'data: {{"id":{escape(head.id)},"choices":[{{"text":').encode()
        self._after = (
            f'}}],"created":{head.chunk_created},"model":{escape(head.model)},'
            '"system_fingerprint":"local","object":"text_completion"}\n\n'
        ).encode()

    def open(self) -> bytes:
        return b""

    def text(self, text: str) -> bytes:
        return self._chunk(text, b"null")

    def reasoning(self, text: str) -> bytes:
        return self._chunk(text, b"null")

    def end(self, end: End) -> bytes:
        return self._chunk(end.text or "", escape(end.finish_reason).encode())

    def error(self, _error: RefusalError) -> bytes | None:
        return None

    def _chunk(self, text: str, reason: bytes) -> bytes:
        return (
            self._before
            + escape(text).encode()
            + b',"index":0,"logprobs":null,"finish_reason":'
            + reason
            + self._after
        )


def _finish(answer: Collected) -> str:
    return "error" if answer.end is None else answer.end.finish_reason


def _usage(answer: Collected) -> dict[str, Any]:
    if answer.end is not None:
        return usage_json(answer.end.usage)
    return usage_json(Usage(prompt_tokens=0, completion_tokens=len(answer.text)))


def chat_whole(head: Head, answer: Collected) -> Json:
    """`chat.completion`; an answer without an end is the `partial_response` of an error."""
    calls = tool_calls_json(answer.end.tool_calls) if answer.end else None
    message: Json = {
        "content": "".join(answer.text) if answer.text or not calls else None,
        "role": "assistant",
        "tool_calls": calls,
    }
    if answer.reasoning:
        message["reasoning_content"] = "".join(answer.reasoning)
    logprobs = logprobs_json(head, answer.text)
    return {
        "id": head.id,
        "choices": [
            {
                "finish_reason": _finish(answer),
                "index": n,
                "message": message,
                "logprobs": logprobs,
            }
            for n in range(head.request.get("n") or 1)
        ],
        "created": head.created,
        "model": head.model,
        "system_fingerprint": "local",
        "object": "chat.completion",
        "usage": _usage(answer),
    }


def text_whole(head: Head, answer: Collected) -> Json:
    """`text_completion`."""
    echo = str(head.request["prompt"]) if head.request.get("echo") else ""
    text = echo + "".join(answer.text)
    return {
        "id": head.id,
        "choices": [
            {"finish_reason": _finish(answer), "index": n, "text": text, "logprobs": None}
            for n in range(head.request.get("n") or 1)
        ],
        "created": head.created,
        "model": head.model,
        "system_fingerprint": "local",
        "object": "text_completion",
        "usage": _usage(answer),
    }


def now_s() -> int:
    """Wall clock, unix seconds, as answers state it."""
    return int(time.time())
