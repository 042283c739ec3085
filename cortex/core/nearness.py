"""Names that were perhaps meant by one that nobody knows."""

import difflib
from collections.abc import Collection, Iterator
from heapq import nlargest

ALL_COMPARED = 150
"""As many names as can be compared one by one, at some ten microseconds each."""
PIECES = 8
HITS = 40
"""As often as one piece is looked for."""
COMPARED = 16
"""Of many names, those that share the most pieces with the one that was asked for."""
LONGEST = 200


def near_names(asked: str, names: Collection[str]) -> list[str]:
    """The three nearest of `names`, best first; fewer where fewer are near.

    Among many, only those that share some letters in a row are compared: a search for each piece in
    all names at once takes some milliseconds for ten thousand of them.
    """
    asked = asked[:LONGEST]
    some = names if len(names) <= ALL_COMPARED else _alike(asked, names)
    lowered: dict[str, str] = {}
    for name in some:
        lowered.setdefault(name.lower(), name)
    found = difflib.get_close_matches(asked.lower(), lowered, n=3)
    return [lowered[name] for name in found]


def _alike(asked: str, names: Collection[str]) -> list[str]:
    """Those that share the most pieces with `asked`; of a piece that many share, some."""
    text = "\n".join(names)
    lowered = text.lower()
    if len(lowered) != len(text):
        return []  # letters that are two in lower case: nothing would be in its place
    pieces = _pieces(asked.lower())
    spans = {span for piece in pieces for span in _found(lowered, piece)}
    alike: list[tuple[int, int, str]] = []
    for start, end in spans:
        name = lowered[start:end]
        shared = sum([piece in name for piece in pieces])
        # Of those that share as much, the one of about the same length.
        alike.append((shared, -abs(end - start - len(asked)), text[start:end]))
    return [name for *_, name in nlargest(COMPARED, alike)]


def _pieces(asked: str) -> list[str]:
    """Some letters in a row, from all over the name; the name itself where it is no longer."""
    size = 4 if len(asked) > 8 else 3
    last = max(1, len(asked) - size + 1)
    step = -(-last // PIECES)
    return list(dict.fromkeys(asked[at : at + size] for at in range(0, last, step)))


def _found(text: str, piece: str) -> Iterator[tuple[int, int]]:
    """Begin and end of the names that have this piece."""
    end = 0
    for _ in range(HITS):
        at = text.find(piece, end)
        if at < 0:
            return
        end = text.find("\n", at)
        end = end if end >= 0 else len(text)
        yield text.rfind("\n", 0, at) + 1, end
