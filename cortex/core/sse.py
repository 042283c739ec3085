"""Server-sent events from bytes, however they are cut (WHATWG HTML, §9.2.6)."""

from typing import NamedTuple

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""A longer event is not believed; a whole tool call may be large."""
_LINE_COST = 64
"""What a line costs beyond its text, counted so that a million empty ones are no way around."""
_BOM = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event, and where it stands in the chunk that completed it."""

    name: str
    """"" where the stream gives none."""
    data: str
    start: int = 0
    """Where its first line begins; 0 also for one that began in an earlier chunk."""


class EventTooLongError(ValueError):
    """An event grew beyond `MAX_EVENT_BYTES`."""


class SseReader:
    """`feed` it bytes; it gives the events that they complete.

    Args:
        keep_bytes: Remember no more than about this much of an event, and let it be of any length;
            None = an event beyond `MAX_EVENT_BYTES` is an error.
    """

    __slots__ = (
        "_after_cr",
        "_at_start",
        "_data",
        "_keep_bytes",
        "_line",
        "_name",
        "_open",
        "_size",
        "_start",
        "settled",
    )

    def __init__(self, *, keep_bytes: int | None = None) -> None:
        self._keep_bytes = keep_bytes
        #: The beginning of a line. Grown in place: adding to `bytes` copies all that came before.
        self._line = bytearray()
        #: The last chunk ended with CR: a LF that comes next belongs to it.
        self._after_cr = False
        self._at_start = True
        self._name = ""
        self._data: list[str] = []
        self._size = 0
        #: Some line of an event has come, and where in the present chunk the event begins.
        self._open = False
        self._start = 0
        #: Up to here in the last chunk nothing is pending: neither an event nor part of a line.
        self.settled = 0

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes. Comments, ids and retry times are left out.

        Raises:
            EventTooLongError: The event under way is too long.
        """
        events: list[Event] = []
        at = 1 if self._after_cr and chunk.startswith(b"\n") else 0
        if chunk:
            self._after_cr = False
        self._start = 0
        self.settled = 0 if self._open or self._line else at
        # Only whole lines are decoded: a character may be cut in two by a packet.
        for line in (chunk[at:] if at else chunk).splitlines(keepends=True):
            begins = 0 if self._line else at
            at += len(line)
            if line[-1] not in b"\r\n":
                self._keep(line)
                break
            event = self._take(self._whole(line.rstrip(b"\r\n")), begins)
            if event is not None:
                events.append(event)
            if not self._open:
                self.settled = at
        self._after_cr = self._after_cr or chunk.endswith(b"\r")
        return events

    @property
    def under_way(self) -> bool:
        """Something has come of an event that is not complete yet; a comment is nothing."""
        return self._open or (bool(self._line) and not self._line.startswith(b":"))

    def rest(self) -> Event | None:
        """What has come of the event under way; None = nothing that could become one."""
        data, name = list(self._data), self._name
        field, value = _field(bytes(self._line))
        if field == b"data":
            data.append(value.decode(errors="replace"))
        elif field == b"event":
            name = value.decode(errors="replace")
        return Event(name, "\n".join(data)) if data or name else None

    def _keep(self, piece: bytes) -> None:
        room = self._keep_bytes
        if room is None:
            self._line += piece
            if self._size + len(self._line) > MAX_EVENT_BYTES:
                raise EventTooLongError(f"an event of more than {MAX_EVENT_BYTES} bytes")
        else:
            self._line += piece[: max(1, room - len(self._line))]

    def _whole(self, end: bytes) -> bytes:
        """The line whose end this is."""
        line = end
        if self._line:
            line = bytes(self._line + end)
            self._line.clear()
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        return line

    def _take(self, line: bytes, begins: int) -> Event | None:
        if not line:
            return self._dispatch()
        field, value = _field(line)
        if not field:
            return None  # a comment
        if not self._open:
            self._open, self._start = True, begins
        if field == b"data":
            self._add(value)
        elif field == b"event":
            self._name = value.decode(errors="replace")
        return None

    def _add(self, value: bytes) -> None:
        room = self._keep_bytes
        if room is not None:
            if self._size > room:
                return
            value = value[:room]
        self._size += len(value) + _LINE_COST
        if room is None and self._size > MAX_EVENT_BYTES:
            raise EventTooLongError(f"an event of more than {MAX_EVENT_BYTES} bytes")
        self._data.append(value.decode(errors="replace"))

    def _dispatch(self) -> Event | None:
        data, name, start = self._data, self._name, self._start
        self._data, self._name, self._size = [], "", 0
        self._open, self._start = False, 0
        return Event(name, "\n".join(data), start) if data else None


def _field(line: bytes) -> tuple[bytes, bytes]:
    """Name and value; the name is empty in a comment."""
    name, _, value = line.partition(b":")
    return name, value.removeprefix(b" ")
