"""What nodes of other makes, and proxies in front of them, do to a stream: legal, wrong, or cut short.

Each is a function from the bytes of one event to those that are sent instead; `open_end` and
`stale_connection` are no changes of bytes, and are done where connections are.
"""

import json
from collections.abc import Callable
from typing import Any, Final, Literal, get_args

from cortex.devnode.engine import End, Json
from cortex.devnode.errors import RefusalError
from cortex.devnode.replies import DONE, Frames

Oddity = Literal[
    # Legal.
    "empty_data",
    "error_null",
    "crlf",
    "byte_order_mark",
    "data_lines",
    "pings",
    "no_done",
    "no_finish",
    "open_end",
    # Wrong, and understood all the same.
    "same_index",
    "no_index",
    "call_fragments",
    "object_arguments",
    "stale_connection",
    # Cut short.
    "empty_finish",
    "finish_error",
    "finish_abort",
    "error_late",
]
NAMES: Final = frozenset(get_args(Oddity))
PREFIX: Final = b"data: "
Change = Callable[[bytes], bytes]


def odd(frames: Frames, oddity: Oddity | None) -> Frames:
    """The frames with one oddity, or as they are."""
    return frames if oddity is None else OddFrames(frames, oddity)


class OddFrames:
    """Frames whose bytes are changed on their way out."""

    def __init__(self, frames: Frames, oddity: Oddity) -> None:
        self._frames = frames
        self._change = _CHANGES.get(oddity, bytes)
        self._opened = False
        ends = oddity not in ("no_done", "empty_finish")
        self.done = self._change(frames.done) if frames.done and ends else b""

    def open(self) -> bytes:
        return self._change(self._frames.open())

    def text(self, text: str) -> bytes:
        return self._out(self._frames.text(text))

    def reasoning(self, text: str) -> bytes:
        return self._out(self._frames.reasoning(text))

    def end(self, end: End) -> bytes:
        return self._out(self._frames.end(end))

    def error(self, error: RefusalError) -> bytes | None:
        return self._frames.error(error)

    def _out(self, event: bytes) -> bytes:
        first = not self._opened
        self._opened = True
        if self._change is _byte_order_mark and not first:
            return event
        return self._change(event)


def _parsed(event: bytes, change: Callable[[Json], list[Json]]) -> bytes:
    """Change the JSON of an event of a chat; others stay."""
    if not event.startswith(PREFIX + b"{"):
        return event
    made = change(json.loads(event.removeprefix(PREFIX)))
    return b"".join(
        PREFIX + json.dumps(each, separators=(",", ":")).encode() + b"\n\n" for each in made
    )


def _finishing(reason: str | None) -> Change:
    def change(chunk: Json) -> list[Json]:
        for choice in chunk.get("choices", ()):
            if choice.get("finish_reason"):
                choice["finish_reason"] = reason
        return [chunk]

    return lambda event: _parsed(event, change)


def _calls(chunk: Json) -> list[Json]:
    return [
        call
        for choice in chunk.get("choices", ())
        for call in (choice.get("delta") or {}).get("tool_calls") or ()
    ]


def _same_index(chunk: Json) -> list[Json]:
    """Each call twice, all of index 0, with ids of their own."""
    for choice in chunk.get("choices", ()):
        delta = choice.get("delta") or {}
        for call in list(delta.get("tool_calls") or ()):
            delta["tool_calls"].append({**call, "id": f"{call['id']}-2"})
    for call in _calls(chunk):
        call["index"] = 0
    return [chunk]


def _no_index(chunk: Json) -> list[Json]:
    for call in _calls(chunk):
        del call["index"]
    return [chunk]


def _object_arguments(chunk: Json) -> list[Json]:
    for call in _calls(chunk):
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return [chunk]


def _call_fragments(chunk: Json) -> list[Json]:
    """A call in pieces of a few letters, with a line end and a thought between them."""
    calls = _calls(chunk)
    if not calls:
        return [chunk]
    made: list[Json] = []

    def say(**delta: Any) -> None:
        choice = {**chunk["choices"][0], "delta": delta, "finish_reason": None}
        made.append({**chunk, "choices": [choice], "usage": None})

    for call in calls:
        function = call["function"]
        said = function["arguments"]
        say(tool_calls=[{**call, "function": {**function, "arguments": ""}}])
        for at in range(0, len(said), 5):
            piece = {"index": call["index"], "function": {"arguments": said[at : at + 5]}}
            say(content="\n")
            say(reasoning_content="hm")
            say(tool_calls=[piece])
    last = {**chunk["choices"][0], "delta": {"content": None}}
    return [*made, {**chunk, "choices": [last]}]


def _byte_order_mark(event: bytes) -> bytes:
    return b"\xef\xbb\xbf" + event


_CHANGES: dict[str, Change] = {
    "empty_data": lambda event: b"data:\n\ndata: \n\ndata\n\n" + event,
    "error_null": lambda event: event.replace(b"data: {", b'data: {"error":null,', 1),
    "crlf": lambda event: event.replace(b"\n", b"\r\n"),
    "byte_order_mark": _byte_order_mark,
    "data_lines": lambda event: event.replace(b',"', b',\ndata: "'),
    "pings": lambda event: b'event: ping\ndata: {"type": "ping"}\n\n: hi\n\n' + event,
    "no_finish": _finishing(None),
    "empty_finish": _finishing(""),
    "finish_error": _finishing("error"),
    "finish_abort": _finishing("abort"),
    "same_index": lambda event: _parsed(event, _same_index),
    "no_index": lambda event: _parsed(event, _no_index),
    "call_fragments": lambda event: _parsed(event, _call_fragments),
    "object_arguments": lambda event: _parsed(event, _object_arguments),
    "error_late": lambda event: (
        b'data: {"error":{"message":"engine state lock is poisoned"}}\n\n'
        if event == DONE
        else event
    ),
}
