"""Tool calls out of the fragments of a chat completions stream.

The protocol tells calls apart by `index`. Nodes do not all keep to it: some say index 0 of every
call, some none at all, some make up a new id for each fragment, some send arguments as an object.
"""

import json
from collections.abc import Iterator
from typing import Any

from cortex.core.jsontext import loads
from cortex.core.sse import MAX_EVENT_BYTES, EventTooLongError

MAX_CALLS = 1024
"""Tool calls of one answer; with more it is not believed. Their fragments together are bounded as
one event is, for they are kept until the calls are whole.
"""


class Call:
    """One tool call, as far as it has come."""

    __slots__ = ("_arguments", "_fields", "id", "name")

    def __init__(self, call_id: str, fields: dict[str, Any]) -> None:
        #: Whatever else its first fragment says.
        self._fields = fields
        self.id = call_id
        self.name = ""
        #: In pieces: adding to a string copies all that came before.
        self._arguments: list[str] = []

    @property
    def arguments(self) -> str:
        return "".join(self._arguments)

    def add(self, arguments: str) -> None:
        self._arguments.append(arguments)

    def whole(self) -> dict[str, Any]:
        """As it stands in an answer that was not streamed."""
        function = {"name": self.name, "arguments": self.arguments}
        return {**self._fields, "id": self.id, "function": function}

    @property
    def is_whole(self) -> bool:
        """Its arguments are JSON, or none: another fragment would spoil them."""
        try:
            loads(self.arguments or "{}")
        except (ValueError, RecursionError):
            return False
        return True


class Calls:
    """The calls of one answer, in the order in which they began."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._by_index: dict[int, Call] = {}
        self._size = 0

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls)

    def __bool__(self) -> bool:
        return bool(self._calls)

    def take(self, fragments: object) -> None:
        """Take the `tool_calls` of a delta; what has no shape of a call is passed over.

        Raises:
            EventTooLongError: They are without end.
        """
        for fragment in fragments if isinstance(fragments, list) else ():
            if isinstance(fragment, dict):
                self._add(fragment)

    def _add(self, fragment: dict[str, Any]) -> None:
        function = fragment.get("function")
        function = function if isinstance(function, dict) else {}
        call_id, name = _text(fragment.get("id")), _text(function.get("name"))
        arguments = function.get("arguments")
        if isinstance(arguments, dict | list):
            arguments = json.dumps(arguments, ensure_ascii=False)
        arguments = _text(arguments)
        self._size += len(call_id) + len(name) + len(arguments)
        if self._size > MAX_EVENT_BYTES:
            raise EventTooLongError(f"tool calls of more than {MAX_EVENT_BYTES} bytes")
        index = fragment.get("index")
        call = self._known(index, call_id, name) or self._new(fragment, call_id)
        call.id = call.id or call_id
        call.name = name or call.name
        if arguments:
            call.add(arguments)

    def _known(self, index: object, call_id: str, name: str) -> Call | None:
        """The call that a fragment goes on with; None = it begins one."""
        if isinstance(index, int):
            call = self._by_index.get(index)
        elif call_id:
            call = next((call for call in self._calls if call.id == call_id), None)
        else:
            call = self._calls[-1] if self._calls else None
        # Only a first fragment has a name; nodes that repeat it repeat the id, or the name, with it.
        if call is None or not name or not call.name:
            return call
        if call_id and call.id:
            return call if call_id == call.id else None
        return None if name != call.name or (call.arguments and call.is_whole) else call

    def _new(self, fragment: dict[str, Any], call_id: str) -> Call:
        if len(self._calls) >= MAX_CALLS:
            raise EventTooLongError(f"more than {MAX_CALLS} tool calls")
        fields = {k: v for k, v in fragment.items() if k not in ("id", "function")}
        call = Call(call_id, fields)
        self._calls.append(call)
        index = fragment.get("index")
        if isinstance(index, int):
            self._by_index[index] = call
        return call


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
