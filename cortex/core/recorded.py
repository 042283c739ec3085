"""What a log tells of a span of time, for a replay of it: the requests, and the fleet as it was at the end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cortex.core.ids import ModelId, NodeName
from cortex.core.records import UNTOLD, Past


class Ask(NamedTuple):
    """One recorded request for a model."""

    at_ms: int
    model: ModelId
    client: str
    held_s: float | None
    """From lease to end; None = it never got one."""
    waited_s: float
    cold: bool
    lost: str = ""
    """The error code where it was refused for want of room, or waited too long; "" = it was not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedModel:
    """What is known of one model on one node."""

    size_mib: int | None = None
    load_s: float | None = None
    cold_load_s: float | None = None
    warm_load_s: float | None = None
    loads: int = 0
    """Of cortex, there; where there was none, a size is but what it must take at least."""
    loads_before: int = 0
    """Of these, before the first request: from them on load times are known."""
    resident: bool = False
    """Before the first request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedNode:
    """One node."""

    name: NodeName
    vram_mib: int | None
    ram_mib: int | None = None
    version: str | None = None
    models: Mapping[ModelId, RecordedModel] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What the span cost, as it was recorded."""

    loads: int = 0
    load_s: float = 0.0
    unload_s: float | None = None
    """What an unload took, median; None = none is recorded."""


NOTHING = Totals()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A span of the log."""

    since_ms: int
    until_ms: int
    asks: tuple[Ask, ...]
    """Oldest first."""
    nodes: tuple[RecordedNode, ...]
    configured: Mapping[str, object]
    """The detail of the newest start or reload; empty = the log has none that says more than that."""
    pins: frozenset[tuple[NodeName | None, ModelId]] = frozenset()
    """Runtime pins; node None = wherever the model is."""
    totals: Totals = NOTHING
    past: Past = UNTOLD
    """Before the first request."""
