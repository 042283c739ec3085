"""The path that a client means: base URLs are given with and without `/v1` and slashes."""

import re
from functools import lru_cache

_TAILS = frozenset(
    {
        "chat/completions",
        "completions",
        "embeddings",
        "images/generations",
        "audio/speech",
        "responses",
        "messages",
        "messages/count_tokens",
        "models",
    }
)
"""What may follow `/v1/`."""
_VERSIONS = re.compile(r"/+(?:v1(?:/+|\Z))*")


@lru_cache(maxsize=256)
def canonical(path: str) -> str:
    """The path as it is routed; one that means nothing here stays as it is.

    `/chat/completions`, `/v1//chat/completions`, `/v1/v1/messages` and `/v1/models/` are slips that
    clients' settings make: each SDK adds another part of the path by itself.
    """
    found = _VERSIONS.match(path)
    tail = path[found.end() :] if found else ""
    plain = re.sub("/+", "/", tail).rstrip("/")
    if plain in _TAILS:
        return f"/v1/{plain}"
    head, _, rest = tail.partition("/")
    # Ids may hold slashes, and what follows their first one is theirs.
    if head in ("models", "responses") and rest.strip("/"):
        return f"/v1/{head}/{rest.lstrip('/')}"
    return path
