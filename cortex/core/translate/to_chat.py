"""An Anthropic stream as chat completions chunks, however the bytes are cut."""

from typing import Any

from cortex.core.sse import Event, EventTooLongError, SseReader
from cortex.core.stream import believed
from cortex.core.translate.calls import MAX_CALLS
from cortex.core.translate.reading import TruncatedError, json_of, refuse_giving_up

Chunk = dict[str, Any]

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


_TYPE_STOP = "message_stop"
_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)


class ChatStream:
    """One answer. `feed` it the node's bytes, then `end` it; each gives the chunks to send."""

    def __init__(
        self, completion_id: str, model: str, *, created_s: int, with_usage: bool
    ) -> None:
        self._head = {
            "id": completion_id,
            "object": "chat.completion.chunk",
            "created": created_s,
            "model": model,
        }
        self._with_usage = with_usage
        self._reader = SseReader()
        self._usage: dict[str, int] = {}
        #: Number of the tool call, by index of its content block; and those that said nothing yet.
        self._calls: dict[int, int] = {}
        self._silent: set[int] = set()
        #: A finish_reason was told: the end needs one, and one only.
        self._finished = False
        self.heard = 0
        """Events of the node that were more than a sign of life."""
        self.done = False
        """The end has been told."""

    @property
    def usage(self) -> dict[str, Any] | None:
        """The counts in OpenAI's words; None where the node gave none."""
        if not self._usage:
            return None
        cached = self._usage.get("cache_read_input_tokens", 0)
        written = self._usage.get("cache_creation_input_tokens", 0)
        prompt = self._usage.get("input_tokens", 0) + cached + written
        completion = self._usage.get("output_tokens", 0)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def feed(self, data: bytes) -> list[Chunk]:
        """The chunks that these bytes complete.

        Raises:
            ComplaintError: The node reported an error.
            TruncatedError: It gave up, in so many words.
        """
        return [chunk for event in self._reader.feed(data) for chunk in self._take(event)]

    def end(self) -> list[Chunk]:
        """The node's bytes have ended.

        Raises:
            TruncatedError: Before it told of any end.
        """
        rest = None if self.done else self._reader.rest()
        chunks = [] if rest is None or _TYPE_STOP not in rest.data else self._take(rest)
        if not self.done:
            raise TruncatedError("the node ended the stream in the middle")
        return chunks

    def _take(self, event: Event) -> list[Chunk]:
        if self.done or not event.data.strip():
            return []
        fields = json_of(event)
        self.heard += fields.get("type") != "ping"
        if str(fields.get("type")).startswith("message_"):
            return self._frame(fields)
        return self._block(fields)

    def _frame(self, fields: dict[str, Any]) -> list[Chunk]:
        match fields["type"]:
            case "message_start":
                self._count(_object(fields.get("message")).get("usage"))
                return [self._chunk({"role": "assistant", "content": ""})]
            case "message_delta":
                self._count(fields.get("usage"))
                reason = _text(_object(fields.get("delta")).get("stop_reason"))
                return self._finish(reason) if reason else []
            case "message_stop":
                self.done = True
                return self._finish("end_turn") + self._totals()
            case _:
                return []

    def _finish(self, reason: str) -> list[Chunk]:
        refuse_giving_up(reason)
        if self._finished:
            return []
        self._finished = True
        return [self._chunk({}, _FINISH.get(reason, "stop"))]

    def _block(self, fields: dict[str, Any]) -> list[Chunk]:
        match fields.get("type"):
            case "content_block_start":
                return self._begin(fields)
            case "content_block_delta":
                return self._delta(fields)
            case "content_block_stop":
                return self._stop(_index(fields))
            case _:
                return []

    def _begin(self, fields: dict[str, Any]) -> list[Chunk]:
        block = _object(fields.get("content_block"))
        if block.get("type") == "tool_use":
            index = _index(fields)
            self._calls.setdefault(index, len(self._calls))
            self._silent.add(index)
            function = {"name": _text(block.get("name")), "arguments": ""}
            return [
                self._call(index, id=_text(block.get("id")), type="function", function=function)
            ]
        if block.get("type") == "text" and _text(block.get("text")):
            return [self._chunk({"content": block["text"]})]
        return []

    def _delta(self, fields: dict[str, Any]) -> list[Chunk]:
        delta = _object(fields.get("delta"))
        match delta.get("type"):
            case "text_delta":
                return [self._chunk({"content": _text(delta.get("text"))})]
            case "thinking_delta":
                return [self._chunk({"reasoning_content": _text(delta.get("thinking"))})]
            case "input_json_delta" if _text(delta.get("partial_json")):
                index = _index(fields)
                self._silent.discard(index)
                return [self._call(index, function={"arguments": delta["partial_json"]})]
            case _:
                return []

    def _stop(self, index: int) -> list[Chunk]:
        """A call without any arguments has an empty object of them."""
        if index not in self._silent:
            return []
        self._silent.discard(index)
        return [self._call(index, function={"arguments": "{}"})]

    def _totals(self) -> list[Chunk]:
        if not self._with_usage or self.usage is None:
            return []
        return [{**self._head, "choices": [], "usage": self.usage}]

    def _call(self, index: int, **fields: object) -> Chunk:
        number = self._calls.setdefault(index, len(self._calls))
        if number >= MAX_CALLS:
            raise EventTooLongError(f"more than {MAX_CALLS} tool calls")
        return self._chunk({"tool_calls": [{"index": number, **fields}]})

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> Chunk:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {**self._head, "choices": [choice]}

    def _count(self, usage: object) -> None:
        """Counts are cumulative: a later one replaces an earlier."""
        if isinstance(usage, dict):
            told = {key: believed(usage.get(key)) for key in _COUNTS}
            self._usage |= {key: n for key, n in told.items() if n is not None}


class WholeChat:
    """Gathers the chunks of one answer into the completion that a client without streaming gets."""

    def __init__(self) -> None:
        self._head: Chunk = {}
        self._content: list[str] = []
        self._thoughts: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._arguments: dict[int, list[str]] = {}
        self._finish: str | None = None

    def take(self, chunk: Chunk) -> None:
        self._head = self._head or chunk
        for choice in chunk["choices"]:
            delta = choice["delta"]
            self._content.append(delta.get("content") or "")
            self._thoughts.append(delta.get("reasoning_content") or "")
            self._finish = choice["finish_reason"] or self._finish
            for call in delta.get("tool_calls", []):
                self._add(call)

    def _add(self, call: dict[str, Any]) -> None:
        known = self._calls.setdefault(
            call["index"], {"function": {"name": "", "arguments": ""}}
        )
        known |= {key: call[key] for key in ("id", "type") if key in call}
        function = call["function"]
        known["function"]["name"] = function.get("name") or known["function"]["name"]
        self._arguments.setdefault(call["index"], []).append(function.get("arguments", ""))

    def completion(self, usage: dict[str, Any] | None) -> dict[str, Any]:
        """The `chat.completion`."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(self._content) or None,
        }
        if any(self._thoughts):
            message["reasoning_content"] = "".join(self._thoughts)
        if self._calls:
            for index, pieces in self._arguments.items():
                self._calls[index]["function"]["arguments"] = "".join(pieces)
            message["tool_calls"] = list(self._calls.values())
        choice = {"index": 0, "message": message, "finish_reason": self._finish}
        head = {key: self._head[key] for key in ("id", "created", "model")}
        return {**head, "object": "chat.completion", "choices": [choice], "usage": usage}


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _index(fields: dict[str, Any]) -> int:
    index = fields.get("index")
    return index if isinstance(index, int) else 0
