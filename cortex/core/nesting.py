"""What brackets a piece of JSON leaves open or closes, at the speed of searching bytes.

A body may be fifty megabytes of brackets and commas: to look at each of them would take a minute.
"""

from typing import NamedTuple

_ALL = bytes(range(256))
_NO_BRACKETS = bytes(set(_ALL) - set(b"[]{}"))
BARE = b" \t\r\n0123456789+-.eEtrufalsn"
"""What numbers, literals and blanks are made of; NaN and Infinity are not."""
_OUTSIDE = BARE + b"[]{}:,"
_CLOSING = b"]}"


class NestingError(ValueError):
    """Brackets that do not match, too many in each other, or what no JSON has outside of a string."""


class Nesting(NamedTuple):
    """What is left once all that a piece opens and closes again is taken away."""

    closed: bytes
    """The brackets that it closes without having opened them, in order."""
    opened: bytes
    """Those that it leaves open."""
    in_string: bool
    """It ends within a string."""


def nesting(piece: bytes, *, in_string: bool, deepest: int) -> Nesting:
    """Read a piece of JSON that begins and ends between two characters, escapes being one.

    Args:
        piece: Of any kind of nested content.
        in_string: It begins within a string.
        deepest: Brackets in each other that are allowed.

    Raises:
        NestingError: No JSON has this in it.
    """
    unescaped = piece.replace(b"\\\\", b"\0\0").replace(b'\\"', b"\0\0")
    parts = unescaped.split(b'"')
    outside = b"".join(parts[in_string::2])
    if outside.translate(None, _OUTSIDE):
        raise NestingError("a character stands where none may")
    left = outside.translate(None, _NO_BRACKETS)
    for _ in range(deepest):
        fewer = left.replace(b"[]", b"").replace(b"{}", b"")
        if len(fewer) == len(left):
            break
        left = fewer
    opened = left.lstrip(_CLOSING)
    if b"]" in opened or b"}" in opened:
        raise NestingError("its brackets do not match")
    return Nesting(left[: len(left) - len(opened)], opened, in_string is (len(parts) % 2 == 1))


def whole_escapes(data: bytes, start: int, stop: int) -> int:
    """`stop`, or one less where it would cut an escape in two."""
    piece = data[start:stop]
    return stop - (len(piece) - len(piece.rstrip(b"\\"))) % 2
