"""What a model can do, put together from all that is said of it; and which requests that rules out."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from cortex.core.ids import ModelId
from cortex.core.snapshot import FleetSnapshot, NodeView
from cortex.core.traits import NOTHING, Kind, Traits

V = TypeVar("V")
LEAST_BYTES_A_WORD = 2
"""A letter and what parts it from the next: a text of so many bytes has at most half as many words."""
_WORD = re.compile(r"\S+")
_FILES = "agent beside "


class Known(NamedTuple, Generic[V]):
    """A fact, and who says so."""

    value: V
    source: str
    """`configuration`, or `node n0`, `agent beside n0`, `refusal by n0`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """Of one model in this fleet; None = nobody says."""

    context_tokens: Known[int] | None = None
    kinds: Known[frozenset[Kind]] | None = None
    quantization: Known[str] | None = None
    size_mib: Known[int] | None = None
    longest: Known[int] | None = None
    """No node takes a longer prompt; None = one of them may."""
    never: dict[Kind, str]
    """What no node serves it for, and who says so."""


def abilities(snapshot: FleetSnapshot, model: ModelId) -> Abilities:
    """Of a model that some node lists; computed once for a state of the fleet."""
    key = "abilities", model
    known: Abilities | None = snapshot.derived.get(key)
    if known is None:
        known = snapshot.derived[key] = _abilities(snapshot, model)
    return known


def _abilities(snapshot: FleetSnapshot, model: ModelId) -> Abilities:
    configured = snapshot.traits.get(model, NOTHING)
    nodes = list(snapshot.holders(model))
    said = [list(_said(node, model, configured)) for node in nodes]
    contexts = [_first(one, lambda traits: traits.context_tokens) for one in said]
    told = [context for context in contexts if context is not None]
    context = max(told, key=lambda known: known.value, default=None)
    kinds = [_first(one, lambda traits: traits.kinds) for one in said]
    return Abilities(
        context_tokens=context,
        kinds=next((known for known in kinds if known is not None), None),
        quantization=next(
            (
                known
                for one in said
                if (known := _first(one, lambda traits: traits.quantization)) is not None
            ),
            None,
        ),
        size_mib=_size(nodes, model),
        longest=context if len(told) == len(contexts) else None,
        never=_never(said),
    )


def _said(node: NodeView, model: ModelId, configured: Traits) -> Iterator[Known[Traits]]:
    """What is said of the model there, whoever is believed most first."""
    if configured is not NOTHING:
        yield Known(configured, "configuration")
    if (declined := node.declined.get(model)) is not None:
        yield Known(declined, f"refusal by {node.name}")
    if (listed := node.listed.get(model)) is not None:
        yield Known(listed, f"node {node.name}")
    if (files := node.weights.get(model)) is not None:
        yield Known(files.traits, f"{_FILES}{node.name}")


def _first(
    said: Sequence[Known[Traits]], part: Callable[[Traits], V | None]
) -> Known[V] | None:
    for traits, source in said:
        if (value := part(traits)) is not None:
            return Known(value, source)
    return None


def _never(said: Sequence[Sequence[Known[Traits]]]) -> dict[Kind, str]:
    """What every node is known not to serve it for."""
    if not said:
        return {}
    ruled_out = [dict(_ruled_out(one)) for one in said]
    return {
        kind: source
        for kind, source in ruled_out[0].items()
        if all(kind in other for other in ruled_out[1:])
    }


def _ruled_out(said: Sequence[Known[Traits]]) -> Iterator[tuple[Kind, str]]:
    kinds = _first(said, lambda traits: traits.kinds)
    guessed = kinds is not None and kinds.source.startswith(_FILES)
    for kind in Kind:
        if guessed and kind is Kind.EMBEDDINGS:
            continue  # many a model that embeds has the files of one that chats
        if kinds is not None and kind not in kinds.value:
            yield kind, kinds.source
        elif kinds is None or kinds.source != "configuration":
            for traits, source in said:
                if kind in traits.not_kinds:
                    yield kind, source
                    break


def _size(nodes: Sequence[NodeView], model: ModelId) -> Known[int] | None:
    """What it takes of a device, as it is configured or was measured; else how large its files are."""
    for node in nodes:
        view = node.models.get(model)
        if view is not None and view.size_mib is not None and not view.size_guess:
            return Known(view.size_mib, f"memory of {node.name}")
    for node in nodes:
        if (files := node.weights.get(model)) is not None:
            return Known(files.size_mib, f"{_FILES}{node.name}")
    return None


def least_tokens(fields: Mapping[str, Any]) -> int:
    """How many tokens the prompt of a request has at least; 0 where it may be cut to fit.

    Tokenizers part a text at white space before anything else (byte pair encoding as in GPT-2,
    SentencePiece with its default `split_by_whitespace`), so that a word is one token or more.

    Args:
        fields: Of the body, in any dialect. Of several prompts in one the longest counts.
    """
    if fields.get("truncate_sequence") or fields.get("truncation") == "auto":
        return 0
    words = sum(_words(fields.get(key)) for key in ("messages", "system", "instructions"))
    asked = fields.get("prompt", fields.get("input"))
    if isinstance(asked, list) and all(isinstance(one, str) for one in asked):
        return words + max(map(_words, asked), default=0)
    return words + _words(asked)


def _words(value: object) -> int:
    """Of all text that is in it; what says of what kind something is, is none."""
    left, words = [value], 0
    while left:
        match left.pop():
            case str(text):
                words += sum(1 for _ in _WORD.finditer(text))
            case list(entries):
                left += entries
            case dict(entry):
                left += (entry.get(key) for key in ("content", "text"))
            case _:
                pass
    return words
