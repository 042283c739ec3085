"""What is on show and how a key changes it: pure, from the bytes of a terminal to the next view."""

from codecs import getincrementaldecoder
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TypeVar

ESC = "\x1b"
LONGEST_FILTER = 60
_LONGEST_SEQUENCE = 16
"""An escape sequence that is longer is noise."""

_SEQUENCES = {
    "[A": "up",
    "[B": "down",
    "OA": "up",
    "OB": "down",
    "[5~": "page up",
    "[6~": "page down",
    "[H": "home",
    "[F": "end",
    "OH": "home",
    "OF": "end",
    "[1~": "home",
    "[4~": "end",
    "[Z": "back tab",
}
_NAMED = {
    "\t": "tab",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\b": "backspace",
    "\x15": "kill",
}


class Pane(IntEnum):
    """The tables, from top to bottom; their keys count from 1."""

    NODES = 0
    MODELS = 1
    REQUESTS = 2
    QUEUE = 3
    EVENTS = 4


class Keys:
    """Bytes to names of keys. What may be the start of a sequence is kept until `flush`."""

    def __init__(self) -> None:
        # A filter may hold any letter, and one may come in two reads.
        self._decoder = getincrementaldecoder("utf-8")("replace")
        self._kept = ""

    @property
    def waits(self) -> bool:
        """There is an Esc of which nobody knows yet whether it stands alone."""
        return bool(self._kept)

    def feed(self, data: bytes) -> list[str]:
        """The keys that are complete by now."""
        text = self._kept + self._decoder.decode(data)
        self._kept = ""
        keys = []
        while text:
            if text[0] == ESC:
                taken = _sequence(text)
                if not taken:
                    self._kept = text
                    break
                keys.append(_SEQUENCES.get(text[1:taken], "" if taken > 1 else "escape"))
                text = text[taken:]
                continue
            keys.append(_NAMED.get(text[0], text[0] if text[0].isprintable() else ""))
            text = text[1:]
        return [key for key in keys if key]

    def flush(self) -> list[str]:
        """Nothing followed: it was the key itself."""
        kept, self._kept = self._kept, ""
        return ["escape"] if kept else []


def _sequence(text: str) -> int:
    """The length of the sequence that `text` begins with; 0 = more has to come."""
    if len(text) == 1:
        return 0
    if text[1] not in "[O":
        return 1
    for index, char in enumerate(text[2:_LONGEST_SEQUENCE], 2):
        if "@" <= char <= "~":
            return index + 1
    return 0 if len(text) < _LONGEST_SEQUENCE else _LONGEST_SEQUENCE


T = TypeVar("T")
_PANES = len(Pane)


@dataclass(frozen=True, slots=True)
class View:
    """What somebody chose to see."""

    focus: Pane = Pane.NODES
    sorts: tuple[int, ...] = (0,) * _PANES
    """By pane, which of its orders."""
    reversed: tuple[bool, ...] = (False,) * _PANES
    tops: tuple[int, ...] = (0,) * _PANES
    """By pane, the first row on show."""
    cursors: tuple[int, ...] = (0,) * _PANES
    """By pane, the row that Enter is for."""
    filter: str = ""
    typing: bool = False
    """Keys are letters of the filter."""
    paused: bool = False
    help: bool = False
    why: str = ""
    """The model whose next request is explained; "" = none."""
    quit: bool = False


@dataclass(frozen=True, slots=True)
class Extent:
    """The focused table as it was drawn last: how far one can scroll, how many orders it has."""

    rows: int
    visible: int
    orders: int
    models: tuple[str, ...] = ()
    """Of each row; "" = it is of none."""


def press(view: View, key: str, extent: Extent) -> View:
    """The view after a key; the same one where the key means nothing."""
    if view.typing:
        return _typed(view, key)
    if view.help or view.why:
        # Any key leads back; q still ends.
        return replace(view, help=False, why="", quit=key in {"q", "Q"})
    if key in _MOVES:
        return _scrolled(view, key, extent)
    if key.isdecimal() and len(key) == 1:
        index = ord(key) - ord("1")
        return replace(view, focus=Pane(index)) if 0 <= index < _PANES else view
    return _commanded(view, key, extent)


def _typed(view: View, key: str) -> View:
    match key:
        case "escape":
            return replace(view, typing=False, filter="")
        case "enter":
            return replace(view, typing=False)
        case "backspace":
            return _filtered(view, view.filter[:-1])
        case "kill":
            return _filtered(view, "")
        case _:
            return _filtered(view, view.filter + key) if len(key) == 1 else view


def _filtered(view: View, text: str) -> View:
    start = (0,) * _PANES
    return replace(view, filter=text[:LONGEST_FILTER], tops=start, cursors=start)


def _commanded(view: View, key: str, extent: Extent) -> View:
    focus = view.focus
    match key:
        case "q" | "Q":
            return replace(view, quit=True)
        case "s":
            order = (view.sorts[focus] + 1) % max(1, extent.orders)
            return replace(view, sorts=_with(view.sorts, focus, order))
        case "r":
            return replace(view, reversed=_with(view.reversed, focus, not view.reversed[focus]))
        case "tab" | "back tab":
            step = 1 if key == "tab" else -1
            return replace(view, focus=Pane((focus + step) % _PANES))
        case "p":
            return replace(view, paused=not view.paused)
        case _:
            return _opened(view, key, extent)


def _opened(view: View, key: str, extent: Extent) -> View:
    match key:
        case "enter":
            at = view.cursors[view.focus]
            return replace(view, why=extent.models[at] if at < len(extent.models) else "")
        case "/":
            return replace(view, typing=True)
        case "escape":
            return _filtered(view, "")
        case "?":
            return replace(view, help=True)
        case _:
            return view


_MOVES = {"up", "down", "page up", "page down", "home", "end", "k", "j"}


def _scrolled(view: View, key: str, extent: Extent) -> View:
    last = max(0, extent.rows - 1)
    page = max(1, extent.visible - 1)
    steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -page, "page down": page}
    at = min(view.cursors[view.focus], last)
    at = max(0, min(last, {"home": 0, "end": last}.get(key, at + steps.get(key, 0))))
    top = first_shown(view.tops[view.focus], at, extent.rows, extent.visible)
    return replace(
        view,
        tops=_with(view.tops, view.focus, top),
        cursors=_with(view.cursors, view.focus, at),
    )


def first_shown(top: int, cursor: int, rows: int, visible: int) -> int:
    """The first row on show, by that of before: the cursor's is among them, and no line is left empty."""
    least = max(0, cursor - max(1, visible) + 1)
    return max(0, min(max(least, min(top, cursor)), rows - visible))


def _with(values: tuple[T, ...], index: int, value: T) -> tuple[T, ...]:
    return (*values[:index], value, *values[index + 1 :])
