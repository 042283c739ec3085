"""Server-sent events, read line by line."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event; `id` is the last one that the stream gave."""

    data: str
    event: str = "message"
    id: str | None = None


def parse_sse(lines: Iterable[bytes]) -> Iterator[SseEvent]:
    """The events of a stream; one that is cut off before its blank line is dropped, as the standard says."""
    data: list[str] = []
    kind, last_id = "", None
    for raw in lines:
        line = raw.decode(errors="replace").rstrip("\r\n")
        if not line:
            if data:
                yield SseEvent("\n".join(data), kind or "message", last_id)
            data, kind = [], ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "data":
                data.append(value)
            case "event":
                kind = value
            case "id" if "\0" not in value:
                last_id = value
            case _:
                pass
