"""What the handlers of inference routes look up in a request's head; the same for all that repeat it."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from cortex.core.fields import Fields
from cortex.core.ids import RequestId

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_AFFINITY_HEADERS = (
    "x-session-affinity",
    "x-session-id",
    "session-id",
    "x-claude-code-session-id",
)
_FORWARDED = ("Accept", "OpenAI-Beta", "anthropic-version", "anthropic-beta")
"""Request headers a node may see; never the client's credentials."""
_ADDED = (
    # It was read as JSON, whatever curl called it.
    ("Content-Type", "application/json"),
    # Compressed answers could not be watched, and no node compresses.
    ("Accept-Encoding", "identity"),
)


class Facts(NamedTuple):
    """Of one head."""

    origin: str | None
    """The page that asks."""
    by_page: bool
    """A browser sends it for a page."""
    request_id: RequestId | None
    """The client's own, where it can be used."""
    conversation: str | None
    """The client's name for it."""
    forwarded: Fields
    """What a node is sent, the request id apart."""


def facts_of(headers: Mapping[str, str]) -> Facts:
    """Look them up."""
    inbound = headers.get("x-request-id", "")
    conversation = next(filter(None, map(headers.get, _AFFINITY_HEADERS)), None)
    forwarded = [
        (name, value)
        for name in _FORWARDED
        if (value := headers.get(name)) is not None and value.isascii()
    ]
    return Facts(
        headers.get("Origin"),
        "Origin" in headers or "Sec-Fetch-Site" in headers,
        RequestId(inbound) if _REQUEST_ID.fullmatch(inbound) else None,
        None if conversation is None else conversation[:200],
        (*forwarded, *_ADDED),
    )
