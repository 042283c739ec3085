"""A chat completions stream as Anthropic events, however the bytes are cut.

One content block is open at a time. Everything in a chunk is taken in before its finish_reason is
acted upon, since mistral.rs packs text, a whole tool call, the end and the usage into one. The end
is told once, at `[DONE]`, so that a usage chunk after the finish_reason is counted. Tool calls are
told then too: fragments of several come interleaved, and text or thoughts between those of one.
"""

import json
from typing import Any

from cortex.core.jsontext import dumps
from cortex.core.sse import Event, SseReader
from cortex.core.stream import DONE
from cortex.core.translate.answer import (
    SIGNATURE,
    arguments_of,
    stop_reason,
    stop_sequence,
    usage_of,
)
from cortex.core.translate.calls import Calls
from cortex.core.translate.deltas import Deltas
from cortex.core.translate.ids import ToolIds
from cortex.core.translate.reading import TruncatedError, json_of, refuse_giving_up

AnthropicEvent = dict[str, Any]


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
        self._deltas = Deltas()
        self._ids = ToolIds()
        self._index = -1
        #: Kind of the open block: "text", "thinking", or "".
        self._open = ""
        self._calls = Calls()
        #: Blanks beside a tool call: text of their own only if more text follows.
        self._blanks = ""
        self._finish: str | None = None
        self._stopped_at: str | None = None
        self._usage: object = None
        self.heard = 0
        """Events of the node that were more than a sign of life, whether or not they are told."""
        self.done = False
        """The end has been told."""

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
            TruncatedError: It gave up, in so many words.
            EventTooLongError: An event, or the tool calls, are without end.
        """
        events: list[AnthropicEvent] = []
        texts = None if self._reader.under_way else self._deltas.texts(chunk)
        if texts is not None and not self.done:
            self.heard += len(texts)
            for text in texts:
                if text:
                    events += self._text(text)
            return events
        for event in self._reader.feed(chunk):
            events += self._take(event)
        self._deltas.learn(chunk)
        return events

    def end(self) -> list[AnthropicEvent]:
        """The node's bytes have ended.

        Raises:
            TruncatedError: Before it told of any end; never to be passed off as one.
        """
        # What needs no empty line any more to be understood.
        rest = self._reader.rest()
        events = self._take(rest) if rest is not None and rest.data.strip() == DONE else []
        if not self.done:
            if self._finish is None:
                raise TruncatedError("the node ended the stream in the middle")
            events += self._finished()
        return events

    def _take(self, event: Event) -> list[AnthropicEvent]:
        data = event.data.strip()
        if self.done or not data:
            return []
        if data == DONE:
            if self._finish is None and not all(call.is_whole for call in self._calls):
                raise TruncatedError("the node ended a tool call in the middle")
            return self._finished()
        chunk = json_of(event)
        self.heard += chunk.get("type") != "ping"
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
                events += self._text(text)
            self._calls.take(delta.get("tool_calls"))
        if choice.get("finish_reason"):
            self._finish = str(choice["finish_reason"])
            self._stopped_at = stop_sequence(choice)
            refuse_giving_up(self._finish)
        return events

    def _text(self, text: str) -> list[AnthropicEvent]:
        text, self._blanks = self._blanks + text, ""
        if self._calls and self._open != "text" and text.isspace():
            self._blanks = text
            return []
        return self._say("text", text)

    def _say(self, kind: str, text: str) -> list[AnthropicEvent]:
        events: list[AnthropicEvent] = []
        if self._open != kind:
            events += self._close()
            self._open = kind
            empty = {"thinking": {"thinking": "", "signature": ""}, "text": {"text": ""}}
            events.append(self._begin({"type": kind, **empty[kind]}))
        if kind == "text":
            events.append(self._delta({"type": "text_delta", "text": text}))
        elif not self._hides_thinking:
            events.append(self._delta({"type": "thinking_delta", "thinking": text}))
        return events

    def _tool_blocks(self) -> list[AnthropicEvent]:
        events: list[AnthropicEvent] = []
        for number, call in enumerate(self._calls, 1):
            call_id = self._ids.of(call.id or f"toolu_{self._id[4:]}_{number}")
            block = {"type": "tool_use", "id": call_id, "name": call.name, "input": {}}
            arguments = json.dumps(arguments_of(call.arguments), ensure_ascii=False)
            events += [
                self._begin(block),
                self._delta({"type": "input_json_delta", "partial_json": arguments}),
                self._stop(),
            ]
            if self._one_call:
                break
        return events

    def _finished(self) -> list[AnthropicEvent]:
        self.done = True
        events = self._close() + self._tool_blocks()
        reason = stop_reason(self._finish, tool_use=bool(self._calls))
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
