"""What the readers of every dialect's stream share: its JSON, its errors, its ends that are none."""

from typing import Any

from cortex.core.jsontext import loads
from cortex.core.sse import Event
from cortex.core.stream import complaint

GIVEN_UP = frozenset({"error", "abort", "aborted", "cancelled", "canceled"})
"""What nodes call an end that is none."""


class ComplaintError(Exception):
    """The node reported an error in its stream; the text is the data of its event."""


class TruncatedError(Exception):
    """The stream ended before its end was told, or by giving up."""


def json_of(event: Event) -> dict[str, Any]:
    """The object that an event holds.

    Raises:
        ComplaintError: It is an error, by its name, by its fields, or by being no JSON.
    """
    try:
        fields = loads(event.data)
    except (ValueError, RecursionError):
        raise ComplaintError(event.data) from None
    if event.name == "error" or not isinstance(fields, dict) or complaint(fields):
        raise ComplaintError(event.data)
    return fields


def refuse_giving_up(reason: str) -> None:
    """Raise `TruncatedError` where a node's reason to finish is that it gave up."""
    if reason in GIVEN_UP:
        raise TruncatedError(f"the node gave up in the middle: {reason}")
