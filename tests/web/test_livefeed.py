"""What a reader is told adds up to the state, however seldom it asks."""

import json
import random
from typing import Any

import pytest

from cortex.gateway import livefeed
from cortex.gateway.livefeed import NOTHING, Changes, Seen


class Reader:
    """Keeps what it is told, as a page does."""

    def __init__(self) -> None:
        self.seen = NOTHING
        self.sections: dict[str, dict[str, Any]] = {}
        self.single: dict[str, Any] = {}
        self.events: list[Any] = []
        self.skipped = 0
        self.wholes = 0

    def read(self, changes: Changes) -> bool:
        frame = changes.after(self.seen)
        if frame is None:
            return False
        self.seen = frame.seen
        told = json.loads(b"{" + frame.members + b"}")
        if frame.whole:
            self.sections, self.single, self.events = {}, {}, []
            self.wholes += 1
        self.events += told.pop("events", [])
        self.skipped += told.pop("events_skipped", 0)
        for name, value in told.items():
            if name == "fleet":
                self.single[name] = value
                continue
            entries = self.sections.setdefault(name, {})
            for key, entry in value.items():
                if entry is None:
                    # Told only of what it had known, or of what came and went meanwhile.
                    entries.pop(key, None)
                else:
                    entries[key] = entry
        return True

    def known(self) -> dict[str, dict[str, Any]]:
        return {name: entries for name, entries in self.sections.items() if entries}


def written(entries: dict[str, Any]) -> dict[str, bytes]:
    return {key: json.dumps(entry).encode() for key, entry in entries.items()}


@pytest.mark.parametrize("seed", range(20))
def test_every_reader_ends_with_the_same_state(seed: int) -> None:
    """Readers of any pace, against a plain copy of what was put in."""
    chance = random.Random(seed)
    changes = Changes()
    readers = [(Reader(), pace) for pace in (1.0, 0.5, 0.1, 0.02)]
    truth: dict[str, dict[str, Any]] = {"nodes": {}, "models": {}}
    told = 0
    for _ in range(300):
        for entries in truth.values():
            for _ in range(chance.randrange(3)):
                key = f"k{chance.randrange(12)}"
                if chance.random() < 0.4:
                    entries.pop(key, None)
                else:
                    entries[key] = chance.randrange(5)
        fresh = [told + index for index in range(chance.randrange(4))]
        told += len(fresh)
        changes.take(
            {name: written(entries) for name, entries in truth.items()},
            {"fleet": json.dumps(chance.randrange(2)).encode()},
            [str(number).encode() for number in fresh],
        )
        for reader, pace in readers:
            if chance.random() < pace:
                reader.read(changes)
    for reader, _ in readers:
        reader.read(changes)
        assert reader.known() == {name: entries for name, entries in truth.items() if entries}
        assert reader.events == sorted(reader.events)
        assert reader.events[-1:] == [told - 1]
        assert not reader.read(changes)


def test_nothing_is_told_where_nothing_changed() -> None:
    changes, reader = Changes(), Reader()
    changes.take({"nodes": written({"a": 1})}, {})
    assert reader.read(changes)
    changes.take({"nodes": written({"a": 1})}, {})
    assert not reader.read(changes)


def test_a_section_that_is_left_out_stays() -> None:
    changes, reader = Changes(), Reader()
    changes.take({"nodes": written({"a": 1})}, {})
    changes.take({"models": written({"b": 2})}, {})
    reader.read(changes)
    assert reader.known() == {"nodes": {"a": 1}, "models": {"b": 2}}


def test_a_change_is_written_once_for_all_who_stand_at_the_same_place() -> None:
    changes = Changes()
    changes.take({"nodes": written({"a": 1, "b": 2})}, {})
    first = changes.after(NOTHING)
    assert first is not None
    assert changes.after(NOTHING) is first
    changes.take({"nodes": written({"a": 1, "b": 3})}, {})
    change = changes.after(first.seen)
    assert change is not None
    assert not change.whole
    assert change.members == b'"nodes":{"b":3}'
    assert changes.after(first.seen) is change


def test_a_reader_that_missed_events_is_told_how_many() -> None:
    changes, reader = Changes(), Reader()
    changes.take({"nodes": written({"a": 0})}, {})
    reader.read(changes)
    for number in range(livefeed.EVENTS_KEPT + 30):
        changes.take({}, {}, [str(number).encode()])
    reader.read(changes)
    assert len(reader.events) == livefeed.EVENTS_KEPT
    assert reader.skipped == 30
    late = Reader()
    late.read(changes)
    # Nobody who comes new has missed anything.
    assert (len(late.events), late.skipped) == (livefeed.EVENTS_KEPT, 0)


def test_a_reader_too_far_behind_is_told_everything_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(livefeed, "GONE_KEPT", 5)
    changes, reader, quick = Changes(), Reader(), Reader()
    changes.take({"nodes": written({"old": 1, "kept": 1})}, {})
    reader.read(changes)
    quick.read(changes)
    for number in range(20):
        changes.take({"nodes": written({"kept": 1, f"n{number}": 1})}, {})
        quick.read(changes)
    reader.read(changes)
    assert (reader.wholes, quick.wholes) == (2, 1)
    assert reader.known() == quick.known() == {"nodes": {"kept": 1, "n19": 1}}


def test_what_vanished_is_forgotten_in_the_end() -> None:
    changes = Changes()
    for number in range(3 * livefeed.GONE_KEPT):
        changes.take({"requests": written({str(number): 1})}, {})
    assert len(changes._gone) <= livefeed.GONE_KEPT


def test_a_position_from_before_is_no_position_here() -> None:
    changes = Changes()
    changes.take({"nodes": written({"a": 1})}, {})
    frame = changes.after(Seen(-1, 0))
    assert frame is not None
    assert frame.whole
