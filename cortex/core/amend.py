"""A request in the form that a node takes: changed only where it was refused, and only so that it means the same."""

import re
from collections.abc import Collection
from enum import StrEnum
from typing import Any


class Amendment(StrEnum):
    """One change of form."""

    ONE_LIMIT = "one_limit"
    """Without the other name of the limit: to mistral.rs both are one field (contract §1.4)."""
    JOINED_TEXT = "joined_text"
    """With text parts as one string in every message but a user's, where mistral.rs takes no parts."""


_REFUSALS = (
    (
        Amendment.ONE_LIMIT,
        re.compile(r".{0,200}\bduplicate field `max_(?:completion_)?tokens`"),
    ),
    (Amendment.JOINED_TEXT, re.compile(r"\s*Role for an image message must be `?user\b")),
)


def wish(refusal: str) -> Amendment | None:
    """What a node that refuses a request in these words would rather be sent, if that is known."""
    return next((wanted for wanted, words in _REFUSALS if words.match(refusal)), None)


def amended(body: dict[str, Any], wishes: Collection[Amendment]) -> dict[str, Any] | None:
    """A copy of a chat or completion request with these changes; None where there is nothing to change."""
    changed = dict(body)
    if Amendment.ONE_LIMIT in wishes and {"max_tokens", "max_completion_tokens"} <= body.keys():
        # The newer name wins, as it does at OpenAI, unless it says nothing.
        newer = body["max_completion_tokens"] is not None
        del changed["max_tokens" if newer else "max_completion_tokens"]
    messages = body.get("messages")
    if Amendment.JOINED_TEXT in wishes and isinstance(messages, list):
        changed["messages"] = [_joined(message) for message in messages]
    return None if changed == body else changed


def _joined(message: Any) -> Any:
    if not isinstance(message, dict) or message.get("role") == "user":
        return message
    parts = message.get("content")
    if not isinstance(parts, list) or not parts:
        return message
    texts = [part.get("text") for part in parts if _is_text(part)]
    if len(texts) < len(parts):
        return message
    return message | {"content": "\n".join(texts)}


def _is_text(part: Any) -> bool:
    return (
        isinstance(part, dict)
        and part.get("type", "text") == "text"
        and isinstance(part.get("text"), str)
    )
