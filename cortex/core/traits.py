"""What a model is made for and how much it takes in, as one source tells it."""

import re
from enum import StrEnum
from typing import NamedTuple

MAX_CONTEXT_TOKENS = 1_000_000_000
"""A model that is said to take more is not believed."""


class Kind(StrEnum):
    """What a model can be asked for."""

    CHAT = "chat"
    """Text in, text out: chats, completions, responses."""
    VISION = "vision"
    """Images in a chat."""
    EMBEDDINGS = "embeddings"
    IMAGE = "image"
    """Text in, an image out."""
    SPEECH = "speech"
    """Text in, speech out."""


class Traits(NamedTuple):
    """Of one model; None = the source does not say."""

    context_tokens: int | None = None
    """The longest prompt with its answer."""
    kinds: frozenset[Kind] | None = None
    """All that it can be asked for."""
    not_kinds: frozenset[Kind] = frozenset()
    """What it was asked for and has refused."""
    quantization: str | None = None


NOTHING = Traits()


def plausible_context(value: object) -> int | None:
    """A context length that a node, a file or a refusal gives, in tokens; None = not to be believed."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 < value <= MAX_CONTEXT_TOKENS else None


KINDS = {
    "chat": Kind.CHAT,
    "completions": Kind.CHAT,
    "messages": Kind.CHAT,
    "responses": Kind.CHAT,
    "embeddings": Kind.EMBEDDINGS,
    "images": Kind.IMAGE,
    "speech": Kind.SPEECH,
}
"""What a request asks for, by the `route` of metrics and history."""

# mistral.rs: "Prompt sequence length is greater than 8192, perhaps …"; vLLM, and OpenAI itself: "This model's maximum
# context length is 8192 tokens". From the very beginning: what follows may be a client's own words, and a limit that
# one client made up would be everybody's.
_LIMIT = re.compile(
    r"\s*(?:Prompt sequence length is greater than|This model's maximum context length is)"
    r" (\d{2,10})\b",
    re.IGNORECASE,
)
_WRONG_KIND = re.compile(
    r"\s*Received a request incompatible for this model's category", re.IGNORECASE
)


def refused(code: str, words: str, route: str) -> Traits | None:
    """What a node's refusal of a request tells of the model; None = nothing.

    Args:
        code: Of the error, as `nodefaults` has it.
        words: The node's own.
        route: Of the request.
    """
    if _WRONG_KIND.match(words):
        kind = KINDS.get(route, Kind.CHAT)
        # Of a chat it may be the image in it that is meant: it says nothing of other chats.
        return None if kind is Kind.CHAT else Traits(not_kinds=frozenset({kind}))
    found = _LIMIT.match(words) if code == "context_length_exceeded" else None
    tokens = plausible_context(int(found[1])) if found is not None else None
    return None if tokens is None else Traits(context_tokens=tokens)


def combined(older: Traits, newer: Traits) -> Traits:
    """What one source has said, the newest word first."""
    return Traits(
        newer.context_tokens if newer.context_tokens is not None else older.context_tokens,
        newer.kinds if newer.kinds is not None else older.kinds,
        older.not_kinds | newer.not_kinds,
        newer.quantization or older.quantization,
    )
