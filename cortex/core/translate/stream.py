"""A chat completions stream as Anthropic events, however the bytes are cut.

One content block is open at a time. Everything in a chunk is taken in before its finish_reason is
acted upon, since mistral.rs packs text, a whole tool call, the end and the usage into one. The end
is told once, at `[DONE]`, so that a usage chunk after the finish_reason is counted.
"""

import json
from typing import Any

from cortex.core.jsontext import dumps, loads
from cortex.core.translate.answer import (
    SIGNATURE,
    arguments_of,
    stop_reason,
    stop_sequence,
    usage_of,
)
from cortex.core.translate.ids import ToolIds
from cortex.core.translate.sse import MAX_EVENT_BYTES, Event, EventTooLongError, SseReader

AnthropicEvent = dict[str, Any]
DONE = "[DONE]"
MAX_CALLS = 1024
"""Tool calls of one answer; with more it is not believed. Their fragments together are bounded as
one event is, for they are kept until the calls are whole.
"""


class ComplaintError(Exception):
    """The node reported an error in its stream; the text is its own."""


class TruncatedError(Exception):
    """The stream ended before its end was told."""


class _Call:
    """One tool call, as far as it has come."""

    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []


class MessageStream:
    """One answer. `feed` it the node's bytes, then `end` it; each gives the events to send."""

    def __init__(
        self,
        message_id: str,
        model: str,
        *,
        one_call: bool = False,
        hides_thinking: bool = False,
    ) -> None:
        self._id = message_id
        self._model = model
        self._one_call = one_call
        self._hides_thinking = hides_thinking
        self._reader = SseReader()
        self._ids = ToolIds()
        self._index = -1
        #: Kind of the open block: "text", "thinking", or "".
        self._open = ""
        self._calls: dict[object, _Call] = {}
        self._made_calls = 0
        self._calls_size = 0
        self._finish: str | None = None
        self._stopped_at: str | None = None
        self._usage: object = None
        self.done = False
        """The end has been told."""

    def anew(self) -> "MessageStream":
        """The same message, of which nothing was heard yet: another node begins it again."""
        return MessageStream(
            self._id,
            self._model,
            one_call=self._one_call,
            hides_thinking=self._hides_thinking,
        )

    @property
    def usage(self) -> dict[str, int] | None:
        """The counts in Anthropic's words; None where the node gave none."""
        return usage_of(self._usage) if self._usage is not None else None

    def start(self) -> list[AnthropicEvent]:
        """What comes before the first token."""
        message: dict[str, Any] = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_of(None),
        }
        return [{"type": "message_start", "message": message}, {"type": "ping"}]

    def feed(self, chunk: bytes) -> list[AnthropicEvent]:
        """The events that these bytes complete.

        Raises:
            ComplaintError: The node reported an error.
            EventTooLongError: An event, or the tool calls, are without end.
        """
        events: list[AnthropicEvent] = []
        for event in self._reader.feed(chunk):
            events += self._take(event)
        return events

    def end(self) -> list[AnthropicEvent]:
        """The node's bytes have ended.

        Raises:
            TruncatedError: Before it told of any end; never to be passed off as one.
        """
        if self.done:
            return []
        if self._finish is None:
            raise TruncatedError
        return self._finished()

    def _take(self, event: Event) -> list[AnthropicEvent]:
        if self.done:
            return []
        if event.data == DONE:
            return self._finished() if self._finish is not None else []
        try:
            chunk = loads(event.data)
        except (ValueError, RecursionError):
            raise ComplaintError(event.data[:2000]) from None
        if not isinstance(chunk, dict):
            raise ComplaintError(event.data[:2000])
        if chunk.get("error") is not None:
            raise ComplaintError(_words_of(chunk["error"]))
        if chunk.get("usage"):
            self._usage = chunk["usage"]
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            return []  # mistral.rs's own named events
        return [
            event
            for choice in choices
            if isinstance(choice, dict) and not choice.get("index")
            for event in self._take_choice(choice)
        ]

    def _take_choice(self, choice: dict[str, Any]) -> list[AnthropicEvent]:
        delta = choice.get("delta")
        events: list[AnthropicEvent] = []
        if isinstance(delta, dict):
            thought = delta.get("reasoning_content") or delta.get("reasoning")
            if isinstance(thought, str) and thought:
                events += self._say("thinking", thought)
            text = delta.get("content") or delta.get("refusal")
            if isinstance(text, str) and text:
                events += self._say("text", text)
            calls = delta.get("tool_calls")
            for position, call in enumerate(calls if isinstance(calls, list) else ()):
                if isinstance(call, dict):
                    self._collect(call, position)
        if choice.get("finish_reason"):
            self._finish = str(choice["finish_reason"])
            self._stopped_at = stop_sequence(choice)
        return events

    def _say(self, kind: str, text: str) -> list[AnthropicEvent]:
        events: list[AnthropicEvent] = []
        if self._open != kind:
            events += self._close()
            events += self._flush_calls()
            self._open = kind
            empty = {"thinking": {"thinking": "", "signature": ""}, "text": {"text": ""}}
            events.append(self._begin({"type": kind, **empty[kind]}))
        if kind == "text":
            events.append(self._delta({"type": "text_delta", "text": text}))
        elif not self._hides_thinking:
            events.append(self._delta({"type": "thinking_delta", "thinking": text}))
        return events

    def _collect(self, fragment: dict[str, Any], position: int) -> None:
        """Calls are told apart by `index`; where that is missing a new id is a new call."""
        call = self._calls.setdefault(self._key_of(fragment, position), _Call())
        function = fragment.get("function")
        if isinstance(fragment.get("id"), str) and fragment["id"]:
            call.id = fragment["id"]
        if isinstance(function, dict):
            if isinstance(function.get("name"), str) and function["name"]:
                call.name = function["name"]
            if isinstance(function.get("arguments"), str):
                call.arguments.append(function["arguments"])
                self._calls_size += len(function["arguments"])
        self._calls_size += len(call.id) + len(call.name)
        if self._calls_size > MAX_EVENT_BYTES:
            raise EventTooLongError(f"tool calls of more than {MAX_EVENT_BYTES} bytes")
        if self._made_calls + len(self._calls) > MAX_CALLS:
            raise EventTooLongError(f"more than {MAX_CALLS} tool calls")

    def _key_of(self, fragment: dict[str, Any], position: int) -> object:
        if isinstance(fragment.get("index"), int):
            return fragment["index"]
        if isinstance(fragment.get("id"), str) and fragment["id"]:
            return fragment["id"]
        return next(reversed(self._calls), position)

    def _flush_calls(self) -> list[AnthropicEvent]:
        """Every call collected so far, each a whole block: fragments may have come interleaved."""
        events: list[AnthropicEvent] = []
        for call in self._calls.values():
            if self._one_call and self._made_calls:
                break
            self._made_calls += 1
            call_id = self._ids.of(call.id or f"toolu_{self._id[4:]}_{self._made_calls}")
            block = {"type": "tool_use", "id": call_id, "name": call.name, "input": {}}
            arguments = json.dumps(arguments_of("".join(call.arguments)), ensure_ascii=False)
            events += [
                self._begin(block),
                self._delta({"type": "input_json_delta", "partial_json": arguments}),
                self._stop(),
            ]
        self._calls.clear()
        self._calls_size = 0
        return events

    def _finished(self) -> list[AnthropicEvent]:
        self.done = True
        events = self._close() + self._flush_calls()
        reason = stop_reason(self._finish, tool_use=self._made_calls > 0)
        if self._stopped_at is not None and reason == "end_turn":
            reason = "stop_sequence"
        delta = {
            "stop_reason": reason,
            "stop_sequence": self._stopped_at if reason == "stop_sequence" else None,
        }
        return [
            *events,
            {"type": "message_delta", "delta": delta, "usage": usage_of(self._usage)},
            {"type": "message_stop"},
        ]

    def _close(self) -> list[AnthropicEvent]:
        kind, self._open = self._open, ""
        if not kind:
            return []
        if kind == "thinking":
            signed = self._delta({"type": "signature_delta", "signature": SIGNATURE})
            return [signed, self._stop()]
        return [self._stop()]

    def _begin(self, block: dict[str, Any]) -> AnthropicEvent:
        self._index += 1
        return {"type": "content_block_start", "index": self._index, "content_block": block}

    def _delta(self, delta: dict[str, Any]) -> AnthropicEvent:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _stop(self) -> AnthropicEvent:
        return {"type": "content_block_stop", "index": self._index}


class WholeMessage:
    """Gathers the events of one answer into the message that a client without streaming gets."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        #: What the open block says, in pieces: adding to a string copies all that came before.
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._json: list[str] = []

    def take(self, event: AnthropicEvent) -> None:
        match event["type"]:
            case "message_start":
                self._message = {**event["message"], "content": []}
            case "content_block_start":
                self._message["content"].append(dict(event["content_block"]))
            case "content_block_delta":
                self._add(self._message["content"][-1], event["delta"])
            case "content_block_stop":
                self._end(self._message["content"][-1])
            case "message_delta":
                self._message |= {**event["delta"], "usage": event["usage"]}
            case _:
                pass

    def _add(self, block: dict[str, Any], delta: dict[str, Any]) -> None:
        match delta["type"]:
            case "text_delta":
                self._text.append(delta["text"])
            case "thinking_delta":
                self._thoughts.append(delta["thinking"])
            case "signature_delta":
                block["signature"] = delta["signature"]
            case "input_json_delta":
                self._json.append(delta["partial_json"])
            case _:
                pass

    def _end(self, block: dict[str, Any]) -> None:
        match block["type"]:
            case "text":
                block["text"] += "".join(self._text)
            case "thinking":
                block["thinking"] += "".join(self._thoughts)
            case "tool_use":
                block["input"] = arguments_of("".join(self._json))
            case _:
                pass
        for pieces in (self._text, self._thoughts, self._json):
            pieces.clear()

    @property
    def message(self) -> dict[str, Any]:
        return self._message


def encoded(events: list[AnthropicEvent]) -> bytes:
    """The events as bytes; the name of each is its type, or clients drop it."""
    return b"".join(
        [
            b"event: %b\ndata: %b\n\n" % (event["type"].encode(), dumps(event))
            for event in events
        ]
    )


def _words_of(error: object) -> str:
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return str(error["message"])
    return str(error)[:2000]
