"""Server-sent events from bytes, however they are cut (WHATWG HTML, §9.2)."""

from typing import NamedTuple

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""A longer event is not believed; a whole tool call may be large."""
_LINE_COST = 64
"""What a line costs beyond its text, counted so that a million empty ones are no way around."""


class Event(NamedTuple):
    """One event. `name` is "" where the stream gives none."""

    name: str
    data: str


class EventTooLongError(ValueError):
    """An event grew beyond `MAX_EVENT_BYTES`."""


class SseReader:
    """`feed` it bytes; it gives the events that they complete."""

    __slots__ = ("_data", "_line", "_name", "_size")

    def __init__(self) -> None:
        #: The beginning of a line. Grown in place: adding to `bytes` copies all that came before.
        self._line = bytearray()
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes. Comments, ids and retry times are left out.

        Raises:
            EventTooLongError: The event under way is too long.
        """
        events: list[Event] = []
        # Only whole lines are decoded: a character may be cut in two by a packet.
        *lines, rest = chunk.split(b"\n")
        if lines and self._line:
            lines[0] = bytes(self._line + lines[0])
            self._line.clear()
        for line in lines:
            event = self._take(line.removesuffix(b"\r"))
            if event is not None:
                events.append(event)
        self._line += rest
        if self._size + len(self._line) > MAX_EVENT_BYTES:
            raise EventTooLongError(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return events

    def _take(self, line: bytes) -> Event | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value.decode(errors="replace"))
            self._size += len(value) + _LINE_COST
        elif field == b"event":
            self._name = value.decode(errors="replace")
        return None

    def _dispatch(self) -> Event | None:
        data, name = self._data, self._name
        self._data, self._name, self._size = [], "", 0
        return Event(name, "\n".join(data)) if data else None
