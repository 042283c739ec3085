"""An Anthropic Messages request as a chat completions request for a mistral.rs node."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cortex.core.translate.fields import list_of, required, text_of, wrong
from cortex.core.translate.thinking import format_of, omits_thinking, thinking_of
from cortex.core.translate.tools import choice_of, functions_of
from cortex.core.translate.turns import messages_of

_NUMBERS = ("temperature", "top_p", "top_k")
_EXTRAS = (
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "logit_bias",
    "grammar",
    "enable_thinking",
)
"""mistral.rs's own fields, for clients that know what they talk to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesRequest:
    """What is needed to ask a node and to put its answer into the client's words."""

    model: str
    stream: bool
    chat: dict[str, Any]
    """The chat completions body; it always streams, so that a client that hangs up stops the engine."""
    one_call: bool = False
    """Only the first tool call is wanted; nodes do not know how to make one only."""
    hides_thinking: bool = False
    nothing_to_say: bool = False
    """`max_tokens` is 0: the client only warms a cache, which no node can do for it."""


def read_messages_request(fields: Mapping[str, Any]) -> MessagesRequest:
    """Translate a body.

    Fields that mean nothing to a node are left out, never refused: clients cannot switch them off.

    Raises:
        RequestError: 400 naming the field: missing, of a wrong type, or not to be honoured.
    """
    model = text_of(required(fields, "model", ""), "model")
    limit = required(fields, "max_tokens", "")
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise wrong("max_tokens", "a whole number of at least 0 is wanted")
    turns = list_of(required(fields, "messages", ""), "messages")
    if not turns:
        raise wrong("messages", "at least one message is required")
    stream = fields.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise wrong("stream", "true or false is wanted")
    if fields.get("mcp_servers"):
        raise wrong("mcp_servers", "remote MCP servers are not reachable from here")
    functions = functions_of(fields["tools"], turns) if fields.get("tools") else []
    choice = choice_of(fields.get("tool_choice"), functions)
    chat: dict[str, Any] = {
        "model": model,
        "messages": messages_of(fields.get("system"), list(turns)),
        "max_tokens": limit,
        "stream": True,
        "stream_options": {"include_usage": True},
        **_numbers(fields),
        **{key: fields[key] for key in _EXTRAS if fields.get(key) is not None},
        **thinking_of(fields),
        **format_of(fields),
        **choice,
    }
    if functions:
        chat["tools"] = functions
    if stops := fields.get("stop_sequences"):
        chat["stop"] = [
            text_of(stop, "stop_sequences") for stop in list_of(stops, "stop_sequences")
        ]
    return MessagesRequest(
        model=model,
        stream=bool(stream),
        chat=chat,
        one_call=choice.get("parallel_tool_calls") is False,
        hides_thinking=omits_thinking(fields),
        nothing_to_say=limit == 0,
    )


def _numbers(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling numbers that are given: 0 is a value."""
    found = {key: fields[key] for key in _NUMBERS if fields.get(key) is not None}
    for key, value in found.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise wrong(key, "a number is wanted")
    return found
