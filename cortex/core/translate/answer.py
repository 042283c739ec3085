"""Pieces of an Anthropic answer that the whole and the streamed form share."""

from typing import Any

from cortex.core.jsontext import loads_exactly
from cortex.core.stream import believed

SIGNATURE = "cortex"
"""The signature of a thinking block must be a string; it comes back and is dropped then."""

_STOP_REASONS = {
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


def stop_reason(finish: str | None, *, tool_use: bool) -> str:
    """Anthropic's word for the end. A call that was made is one, whatever the node says."""
    if finish == "length":
        return "max_tokens"
    if tool_use:
        return "tool_use"
    return _STOP_REASONS.get(finish or "", "end_turn")


def stop_sequence(choice: dict[str, Any]) -> str | None:
    """The stop string that was hit, where the node says; mistral.rs does not."""
    for key in ("stop_reason", "matched_stop"):
        if isinstance(choice.get(key), str):
            return str(choice[key])
    return None


def usage_of(usage: object) -> dict[str, int]:
    """Anthropic's counts: what was read from a cache is not counted twice. Unknown counts are 0."""
    fields = usage if isinstance(usage, dict) else {}
    prompt = _count(fields.get("prompt_tokens"))
    details = fields.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return {
        "input_tokens": max(0, prompt - cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": _count(fields.get("completion_tokens")),
    }


def arguments_of(text: str | None) -> dict[str, Any]:
    """A tool call's input: always an object; what is none is kept where the client can see it."""
    if not text or text == "null":
        return {}
    try:
        parsed = loads_exactly(text.encode())
    except (ValueError, RecursionError):
        return {"_raw": text}
    return parsed if isinstance(parsed, dict) else {"_raw": text}


def _count(value: object) -> int:
    return believed(value) or 0
