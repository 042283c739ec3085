"""What changed since when: entries by section and key, each with the tick of its last change.

Entries are kept as the JSON they are sent as, so that a change is written once for all readers.
"""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

EVENTS_KEPT = 200
GONE_KEPT = 4096
"""Vanished entries that are remembered; a reader further behind is told everything again."""

Entries = Mapping[str, bytes]
"""Key to JSON."""


@dataclass(frozen=True, slots=True)
class Seen:
    """How far a reader has come."""

    tick: int = -1
    """-1 = it knows nothing."""
    events: int = 0
    """How many events there had been by then."""


NOTHING = Seen()


@dataclass(frozen=True, slots=True)
class Frame:
    """What a reader is told next."""

    whole: bool
    """It is everything, instead of what changed."""
    members: bytes
    """Of the JSON object, without its braces."""
    seen: Seen


@dataclass(frozen=True, slots=True)
class _Entry:
    tick: int
    data: bytes


class Changes:
    """The latest state, and for every part of it the tick at which it became so."""

    def __init__(self) -> None:
        self._seen = Seen(0, 0)
        self._sections: dict[str, dict[str, _Entry]] = {}
        self._single: dict[str, _Entry] = {}
        #: Section and key of vanished entries, oldest first.
        self._gone: deque[tuple[int, str, str]] = deque()
        #: Since this tick every vanished entry is remembered.
        self._gone_since = 0
        self._events: deque[_Entry] = deque(maxlen=EVENTS_KEPT)
        #: Frames of this tick by what their readers had seen.
        self._frames: dict[Seen, Frame] = {}

    def take(
        self, sections: Mapping[str, Entries], single: Entries, events: Iterable[bytes] = ()
    ) -> None:
        """Replace what is given of the state. Nothing happens where nothing is different.

        Args:
            sections: What consists of entries; one that is left out stays as it was.
            single: What is sent as a whole.
            events: New ones, oldest first.
        """
        tick = self._seen.tick + 1
        changed = False
        for name, data in single.items():
            old = self._single.get(name)
            if old is None or old.data != data:
                self._single[name] = _Entry(tick, data)
                changed = True
        for name, entries in sections.items():
            changed = self._take_section(name, entries, tick) or changed
        count = self._seen.events
        for event in events:
            self._events.append(_Entry(tick, event))
            count += 1
        if changed or count > self._seen.events:
            self._seen = Seen(tick, count)
            self._frames.clear()

    def _take_section(self, name: str, entries: Entries, tick: int) -> bool:
        kept = self._sections.setdefault(name, {})
        changed = False
        for key, data in entries.items():
            old = kept.get(key)
            # A dict that was not rebuilt holds the very same bytes.
            if old is None or (old.data is not data and old.data != data):
                kept[key] = _Entry(tick, data)
                changed = True
        if len(kept) == len(entries):
            return changed
        for key in [key for key in kept if key not in entries]:
            del kept[key]
            self._gone.append((tick, name, key))
            if len(self._gone) > GONE_KEPT:
                self._gone_since = self._gone.popleft()[0]
        return True

    def after(self, seen: Seen) -> Frame | None:
        """What a reader that has come so far does not know; None = nothing."""
        if seen.tick == self._seen.tick:
            return None
        if seen not in self._frames:
            self._frames[seen] = self._frame(seen)
        return self._frames[seen]

    def _frame(self, seen: Seen) -> Frame:
        whole = seen.tick < self._gone_since
        since = -1 if whole else seen.tick
        members = [
            b'"%s":%s' % (name.encode(), entry.data)
            for name, entry in self._single.items()
            if entry.tick > since
        ]
        for name, entries in self._sections.items():
            pairs = [(key, entry.data) for key, entry in entries.items() if entry.tick > since]
            if not whole:
                pairs += self._gone_from(name, since)
            if pairs:
                members.append(b'"%s":{%s}' % (name.encode(), b",".join(map(_pair, pairs))))
        members += self._told_of_events(since, seen.events)
        return Frame(whole, b",".join(members), self._seen)

    def _gone_from(self, section: str, since: int) -> Iterator[tuple[str, bytes]]:
        """Entries that vanished; one that came back later is told as what it is now."""
        now = self._sections[section]
        keys = {key for tick, name, key in self._gone if tick > since and name == section}
        return ((key, b"null") for key in keys if key not in now)

    def _told_of_events(self, since: int, count: int) -> Iterator[bytes]:
        events = [entry.data for entry in self._events if entry.tick > since]
        if events:
            yield b'"events":[%s]' % b",".join(events)
        skipped = self._seen.events - count - len(events)
        if since >= 0 and skipped > 0:
            yield b'"events_skipped":%d' % skipped


def _pair(pair: tuple[str, bytes]) -> bytes:
    return json.dumps(pair[0]).encode() + b":" + pair[1]
