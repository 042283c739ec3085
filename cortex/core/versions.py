"""What a node's version can be trusted with (contract §8): pure."""

import re

_NUMBERS = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")
FIRST_SAFE_UNLOAD = (0, 9, 1)
"""Before it, a node forgets the model that is unloaded, and keeps its memory."""


FIRST_TO_END_CUT_STREAMS = (0, 8, 0)


def what_lacks(version: str | None) -> list[str]:
    """What a node of this version cannot do and later ones can, in words for an operator.

    What its unloads do is `why_unload_destroys`'s to say.
    """
    numbers = _NUMBERS.match(version or "")
    if numbers is None:
        return []
    lacks = []
    if tuple(map(int, numbers.groups())) < FIRST_TO_END_CUT_STREAMS:
        lacks.append(
            f"mistral.rs {version} never ends a stream that an unload cuts; limits.idle_timeout_s does"
        )
    return lacks


def why_unload_destroys(version: str | None) -> str | None:
    """Why the node must not be told to unload; None = it may be.

    A node that reports no version is older than any that is known to be safe. How many models it
    has does not matter: 0.8.1, started from a file, loses its only one as well.
    """
    numbers = _NUMBERS.match(version or "")
    if numbers is None:
        return (
            "its mistral.rs does not tell its version; before 0.9.1 an unload destroys models"
        )
    if tuple(map(int, numbers.groups())) < FIRST_SAFE_UNLOAD:
        return (
            f"mistral.rs {version} destroys models on unload; 0.9.1 is the first that does not"
        )
    return None
