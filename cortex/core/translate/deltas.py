"""Texts out of the events of a chat stream that differ in nothing else, without reading the rest again.

Nearly every chunk of a stream is such an event: of some 250 bytes, five are news. Once two in a row
were the same but for their text, what stands before and behind it is known, and further ones are
taken apart by it. Anything else is left to whoever reads whole events, and what was known with it.
"""

import re
from typing import Any

from cortex.core.jsontext import loads

_TEXT = re.compile(rb'"delta":\{(?:[^{}\[\]]*?,)?"content": ?"((?:[^"\\\n]++|\\.)*+)"')
# Whole strings, one a line, each of which means the same by itself as beside the others: no half of a
# surrogate pair, nothing that JSON does not allow.
_STRINGS = re.compile(
    rb'(?:(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4})*+\n)++'
)
_SAID = frozenset({"content", "role"})


class Deltas:
    """What is known of a stream's events."""

    __slots__ = ("_between", "_candidate", "_shape")

    def __init__(self) -> None:
        #: What stands before the text of an event, and behind it.
        self._shape: tuple[bytes, bytes] | None = None
        self._between = b""
        self._candidate: tuple[bytes, bytes] | None = None

    def texts(self, data: bytes) -> list[str] | None:
        """The texts of the events in `data`; None = these are not whole events of the known shape."""
        if self._shape is None:
            return None
        before, behind = self._shape
        if not (data.startswith(before) and data.endswith(behind)):
            return None
        if len(data) < len(before) + len(behind):
            return None
        strings = data[len(before) : -len(behind)].split(self._between)
        if _STRINGS.fullmatch(b"\n".join(strings) + b"\n") is None:
            return None
        try:
            texts: list[str] = loads(b'["' + b'","'.join(strings) + b'"]')
        except ValueError:
            return None  # no UTF-8
        return texts

    def learn(self, data: bytes) -> None:
        """Look at the last events of what was read as whole events just now."""
        if not data.endswith(b"\n\n"):
            self._shape = self._candidate = None
            return
        for event in data[:-2].rsplit(b"\n\n", 2)[-2:]:
            shape = _shape(event + b"\n\n")
            same = shape is not None and shape == self._candidate
            self._shape = shape if same else None
            self._candidate = shape
        if self._shape is not None:
            before, behind = self._shape
            self._between = behind + before


def _shape(event: bytes) -> tuple[bytes, bytes] | None:
    """What stands before and behind the text of an event that has a text and nothing else to tell."""
    found = _TEXT.search(event)
    if found is None or not event.startswith(b"data: {") or event.count(b"\n") != 2:
        return None
    try:
        chunk, text = loads(event[6:]), loads(b'"%b"' % found[1])
    except (ValueError, RecursionError):
        return None
    if not isinstance(chunk, dict) or not _tells(chunk, text):
        return None
    return event[: found.start(1)], event[found.end(1) :]


def _tells(chunk: dict[str, Any], text: object) -> bool:
    """This text, and nothing else that means something."""
    choices = chunk.get("choices")
    if any(chunk.get(name) for name in ("usage", "error", "type")):
        return False
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return False
    choice = choices[0]
    delta = choice.get("delta")
    if any(choice.get(name) for name in ("index", "finish_reason", "logprobs")):
        return False
    return (
        isinstance(delta, dict)
        and delta.get("content") == text
        and isinstance(delta.get("role", ""), str | None)
        and not any(value for name, value in delta.items() if name not in _SAID)
    )
