"""What is written down: one record a request, one event a change of the fleet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from cortex.core.ids import ModelId, NodeName, RequestId


class Outcome(StrEnum):
    """How a request ended. Rows with ERROR carry an error code."""

    OK = "ok"
    CLIENT_GONE = "client_gone"
    ERROR = "error"


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """One request, filled in as it proceeds and written once at its end.

    Token counts a node did not report stay None: never 0, never guessed. Durations in
    milliseconds; `ttft_ms` counts from the arrival of the request.
    """

    request_id: RequestId
    started_at_ms: int
    route: str
    """`chat`, `completions`, `embeddings`, `images`, `speech`, `responses`."""
    dialect: str = "openai"
    model: ModelId | None = None
    """The resolved id; None while unknown. What the client asked for is never a label."""
    node: NodeName | None = None
    client: str | None = None
    stream: bool = False
    status: int = 0
    """HTTP status sent; 0 when nothing was sent."""
    outcome: Outcome = Outcome.OK
    error_code: str | None = None
    error_message: str | None = None
    """Why, in words: cortex's own, or a node's without what they repeat of the request."""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    ttft_ms: float | None = None
    duration_ms: float = 0.0
    tokens_per_s: float | None = None
    """Completion tokens over the time from the first to the last byte of a stream."""
    queue_ms: float = 0.0
    """Wait for a slot, load wait excluded."""
    load_wait_ms: float = 0.0
    cold_start: bool = False
    attempts: int = 0
    """Nodes tried; above 1 means that a retry happened before the first byte."""
    response_id: str | None = None
    """`resp_…` of the Responses API: which node holds that conversation's state."""
    request_bytes: int = 0
    response_bytes: int = 0


class EventKind(StrEnum):
    """What can happen to the fleet; the `kind` of an event."""

    NODE_UP = "node_up"
    NODE_DOWN = "node_down"
    NODE_SUSPECT = "node_suspect"
    NODE_RESTARTED = "node_restarted"
    NODE_ADDED = "node_added"
    NODE_REMOVED = "node_removed"
    LOAD = "load"
    """A load has begun."""
    LOADED = "loaded"
    SIZED = "sized"
    """A load was seen to take another size than was known."""
    LOAD_FAILED = "load_failed"
    LOAD_ABANDONED = "load_abandoned"
    """Nobody waited for it any more before the node was asked."""
    EVICT = "evict"
    """A model is chosen to make room, and drained."""
    REVIVED = "revived"
    """A model that was being drained stays after all."""
    UNLOAD = "unload"
    """An unload has begun: nothing runs there any more."""
    UNLOADED = "unloaded"
    UNLOAD_FAILED = "unload_failed"
    LEAK = "leak"
    """An unload did not give the memory back."""
    WEDGED = "wedged"
    DRAIN = "drain"
    UNDRAIN = "undrain"
    DEFRAG = "defrag"
    """A step of a restart for defragmentation; `detail.step` names it."""
    AGENT_UP = "agent_up"
    AGENT_LOST = "agent_lost"
    PIN = "pin"
    UNPIN = "unpin"
    BREAKER_OPEN = "breaker_open"
    RULE = "rule"
    """Another rule decides which models go: forecasts, or no more."""
    CONFIG = "config"
    START = "start"
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetEvent:
    """One change, with the reason it was made; recorded at the moment it is committed."""

    at_ms: int
    kind: EventKind
    reason: str
    node: NodeName | None = None
    model: ModelId | None = None
    detail: Mapping[str, object] = field(default_factory=dict)
    """JSON-serialisable numbers behind the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidencyRecord:
    """What is remembered of one (node, model) over restarts."""

    node: NodeName
    model: ModelId
    status: str
    last_used_at_ms: int = 0
    loads: int = 0
    load_s: float | None = None
    cold_load_s: float | None = None
    warm_load_s: float | None = None
    size_mib: int | None = None
    read_at_mib: int | None = None
    """`NodeRecord.read_mib` after its last load there; None = none was counted."""
    gone: bool = False
    """Its node lists it no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """What is remembered of one node over restarts."""

    name: NodeName
    endpoint: str = ""
    """Where it was reached; "" = that was not kept."""
    cycles: int = 0
    boot_at_s: int | None = None
    last_restart_at_ms: int | None = None
    health: str = "unknown"
    version: str | None = None
    residue_mib: int = 0
    vram_total_mib: int | None = None
    """None = not known now; what was kept of it before stays."""
    ram_total_mib: int | None = None
    """Likewise."""
    read_mib: int = 0
    """What its loads have read, all together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What the log tells of requests and of models that had to go; each oldest first."""

    asked_at_ms: Mapping[ModelId, Sequence[int]] = field(default_factory=dict)
    """The latest requests for each model."""
    stayed_s: Sequence[float] = ()
    """How long after its last use each had to go."""


UNTOLD = Past()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recollection:
    """Everything the store gives back to the fleet at start."""

    nodes: tuple[NodeRecord, ...] = ()
    residency: tuple[ResidencyRecord, ...] = ()
    drained: frozenset[NodeName] = frozenset()
    """Nodes that an operator took out of service."""
    pins: frozenset[tuple[NodeName | None, ModelId]] = frozenset()
    """Runtime pins; node None = wherever the model is."""
    past: Past = UNTOLD
