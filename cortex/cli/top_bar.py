"""A node's memory as a bar, split by resident model; signs alone tell the parts, without colours too."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import ascii_lowercase

from rich.text import Text

from cortex.adminapi import ModelOnNode
from cortex.cli.text import ABSENT
from cortex.liveapi import LiveNode

HOLDS = {"loaded", "draining", "unloading"}
"""States in which a model's memory is in use; one that loads is in what is reserved."""
_UNMARKED = "+"
"""For models after the last letter."""


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The signs of a bar."""

    model: str
    reserved: str
    outside: str
    unknown: str
    """Used, but models of unknown size are part of it."""
    free: str
    up: str
    down: str
    rule: str


UNICODE = Glyphs("█", "▒", "▚", "?", "·", "▲", "▼", "─")
ASCII = Glyphs("#", "=", "x", "?", ".", "^", "v", "-")

# Blue and orange stay apart for every kind of colour blindness.
_MODEL_STYLES = ("#56b4e9", "#e69f00")
RESERVED_STYLE = "#009e73"
OUTSIDE_STYLE = "#cc79a7"


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the bar."""

    mib: int
    first: str
    """The sign of its first cell: a model's letter."""
    fill: str
    style: str


def marks(models: Iterable[ModelOnNode]) -> dict[tuple[str, str], str]:
    """By node and model, the letter of what holds memory there; every node begins with a."""
    letters: dict[tuple[str, str], str] = {}
    counts: dict[str, int] = {}
    for model in sorted(models, key=lambda model: (model.node, model.model)):
        if model.status in HOLDS:
            index = counts.get(model.node, 0)
            counts[model.node] = index + 1
            letter = ascii_lowercase[index] if index < len(ascii_lowercase) else _UNMARKED
            letters[model.node, model.model] = letter
    return letters


def parts(node: LiveNode, models: Sequence[ModelOnNode], glyphs: Glyphs) -> list[Part]:
    """What the bar shows from left to right, without what is free."""
    letters = marks(models)
    found: list[Part] = []
    for model in sorted(models, key=lambda model: model.model):
        if (model.node, model.model) in letters and model.size_mib:
            style = _MODEL_STYLES[len(found) % len(_MODEL_STYLES)]
            letter = letters[model.node, model.model]
            found.append(Part(model.size_mib, letter, glyphs.model, style))
    # A wedged copy is known to hold memory and has no letter.
    more = node.vram_known_mib - sum(part.mib for part in found)
    if more > 0:
        style = _MODEL_STYLES[len(found) % len(_MODEL_STYLES)]
        found.append(Part(more, _UNMARKED, glyphs.model, style))
    reserved = glyphs.reserved
    found.append(Part(node.vram_reserved_mib, reserved, reserved, RESERVED_STYLE))
    outside = glyphs.outside if node.sizes_known else glyphs.unknown
    found.append(Part(node.vram_outside_mib or 0, outside, outside, OUTSIDE_STYLE))
    return found


def bar(node: LiveNode, models: Sequence[ModelOnNode], *, width: int, glyphs: Glyphs) -> Text:
    """The whole bar, `width` cells wide; `-` where the node's memory is unknown."""
    total = node.vram_total_mib
    if not total:
        return Text(ABSENT, style="dim")
    text = Text()
    end_mib = 0
    for part in parts(node, models, glyphs):
        begin = len(text)
        end_mib += part.mib
        cells = min(width, round(width * end_mib / total)) - begin
        if cells > 0:
            marked = part.first != part.fill
            text.append(part.first, style=f"{part.style} reverse" if marked else part.style)
            text.append(part.fill * (cells - 1), style=part.style)
    return text.append(glyphs.free * (width - len(text)), style="dim")
