"""The bodies of `GET /cortex/v1/live`; what they mean together is in `gateway/live.py`."""

from pydantic import Field

from cortex.adminapi import Body, EventRow, HealthBody, ModelOnNode, NodeStatus, QueueBody


class LiveFleet(Body):
    """What concerns the gateway as a whole."""

    version: str
    health: HealthBody
    started_at_ms: int
    draining: bool = False
    in_flight: int = 0
    """Inference requests inside the gateway, waiting ones included."""
    queued: int = 0
    requests_total: int = 0
    store_ok: bool = True


class LiveNode(NodeStatus):
    """A node as in `status`, without its models and without ages, which would change at every look."""

    vram_known_mib: int = 0
    """What its residents are known to hold."""
    vram_outside_mib: int | None = None
    """Used beyond that: other processes, and models of unknown size (`sizes_known` is false then).

    A load under way is no outside use, though the node's memory fills with it.
    """
    sizes_known: bool = True
    has_agent: bool = False


class LiveRequest(Body):
    """One inference request that has not ended."""

    request_id: str
    route: str
    dialect: str
    state: str
    """`reading` its body, `waiting` for a lease, `sent` to the node, `answering`."""
    model: str | None = None
    node: str | None = None
    client: str | None = None
    stream: bool = False
    started_at_ms: int
    ttft_ms: float | None = None
    events: int = 0
    """Events of the answer's stream so far. A mistral.rs node sends one a token."""
    events_per_s: float | None = None
    """Since the first; None before the second, and for answers sent whole."""
    attempts: int = 0
    cold_start: bool = False


class LiveFrame(Body):
    """The data of one event of `GET /cortex/v1/live`; the rules are in `gateway/live.py`."""

    at_ms: int
    """The gateway's clock, to tell ages by."""
    fleet: LiveFleet | None = None
    nodes: dict[str, LiveNode | None] = Field(default_factory=dict)
    models: dict[str, ModelOnNode | None] = Field(default_factory=dict)
    requests: dict[str, LiveRequest | None] = Field(default_factory=dict)
    queues: dict[str, QueueBody | None] = Field(default_factory=dict)
    events: list[EventRow] = Field(default_factory=list)
    """New ones, oldest first; their details without the configuration."""
    events_skipped: int = 0
    """How many came in between that this reader was too slow for."""
