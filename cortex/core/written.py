"""What of a node's words may be written down: all that it does not repeat of the request. Pure.

An engine that quotes what it was asked would put prompts into the log and the history, which hold none.
"""

import re
from collections.abc import Iterator
from contextlib import suppress

from cortex.core.jsontext import loads

_QUOTED = re.compile(r"""(?<!\w)(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")(?!\w)""")
REPEATED = 16
"""So many letters and digits in a row, whatever stands between them, are no coincidence."""
MAX_REQUEST_BYTES = 256 * 1024
"""A larger request is not searched, which would take longer than an event loop may wait."""
INSTEAD = "…"


def unquoted(message: str) -> str:
    """A message of cortex's own without what it quotes, which may be what a client sent."""
    return _QUOTED.sub(INSTEAD, message)


def written(words: str, request: bytes) -> str:
    """The words without what they have from the request.

    Args:
        words: One line, as `nodefaults.spoken` makes it.
        request: The body that they answer, JSON, of `MAX_REQUEST_BYTES` at most; its `model` may be
            repeated.
    """
    asked = "\n".join(_squeezed(text)[0] for text in _texts(request))
    letters, places = _squeezed(words)
    hidden = bytearray(len(words))
    for at in range(len(letters) - REPEATED + 1):
        if letters[at : at + REPEATED] in asked:
            first, last = places[at], places[at + REPEATED - 1]
            hidden[first : last + 1] = b"\1" * (last + 1 - first)
    shown: list[str] = []
    for char, hide in zip(words, hidden, strict=True):
        if not hide:
            shown.append(char)
        elif not shown or shown[-1] != INSTEAD:
            shown.append(INSTEAD)
    return "".join(shown)


def _squeezed(text: str) -> tuple[str, list[int]]:
    """Letters and digits alone, in one case, and where each of them stands; no escapes as Rust prints."""
    places = [at for at, char in enumerate(text) if char.isalnum() and text[at - 1] != "\\"]
    # Some letters become two in lower case.
    return "".join([text[at].lower()[0] for at in places]), places


def _texts(request: bytes) -> Iterator[str]:
    """Every string of a body but the model's name, however deep."""
    with suppress(ValueError, RecursionError):
        body = loads(request)
        left = [{**body, "model": None} if isinstance(body, dict) else body]
        while left:
            value = left.pop()
            if isinstance(value, str):
                yield value
            elif isinstance(value, dict):
                left += [*value, *value.values()]
            elif isinstance(value, list):
                left += value
