"""The admin API's bodies (`/cortex/v1/…`), shared by the gateway that writes them and the CLI that reads them.

Instants are `_at_ms` (UTC); durations carry their unit; None means unknown, never 0.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Body(BaseModel):
    """Base of every body: unknown fields are ignored, so that an older CLI reads a newer gateway."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)


class HealthBody(Body):
    """`GET /health`. `ok`; `degraded`: serving with a part missing; `impaired`: some model cannot be served."""

    status: str
    reasons: list[str] = []
    warnings: list[str] = []
    """What should be changed though nothing is missing; they leave `status` alone."""
    version: str = ""


class ModelOnNode(Body):
    """One model on one node."""

    node: str
    model: str
    status: str
    """loaded, unloaded, loading, draining, unloading, or wedged."""
    pinned: bool = False
    pin_floats: bool = False
    """Pinned wherever it is, not to this node."""
    in_flight: int = 0
    max_in_flight: int = 0
    last_used_at_ms: int | None = None
    size_mib: int | None = None
    load_s: float | None = None
    loading_since_ms: int | None = None
    """When the load that is under way began (UTC); `load_s` is what loads of it took."""
    loads: int = 0
    breaker_open: bool = False
    breaker_reason: str = ""
    last_failure: str = ""
    """Why it failed there last, where it has not served since."""
    tokens_per_s: float | None = None
    """Median over the recent requests of this process."""
    aliases: list[str] = []


class NodeStatus(Body):
    """One node."""

    name: str
    endpoint: str
    health: str
    """up, suspect, down, unknown."""
    reason: str = ""
    draining: bool = False
    drains: list[str] = []
    """Why it is draining: request, defrag, removed."""
    version: str | None = None
    vram_total_mib: int | None = None
    vram_used_mib: int | None = None
    """By what the node reports; where it reports nothing, the sizes of what is resident, if all are known."""
    vram_reserved_mib: int = 0
    in_flight: int = 0
    max_in_flight: int | None = None
    cycles: int = 0
    defrag_after_cycles: int = 0
    defrag_due: bool = False
    defrag_reason: str = ""
    residue_mib: int = 0
    """What unloads since the last restart did not give back."""
    agent_age_s: float | None = None
    """Since the last report of its agent; None = it has none."""
    may_load: bool = True
    no_load_reason: str = ""
    may_unload: bool = True
    no_unload_reason: str = ""
    last_poll_age_s: float | None = None
    models: list[ModelOnNode] = []


class StoreStatus(Body):
    """The SQLite file."""

    path: str
    ok: bool
    reason: str = ""
    size_bytes: int = 0
    queued_rows: int = 0
    dropped_rows: int = 0


class QueueBody(Body):
    """The requests that wait for one model."""

    model: str
    waiting: int
    oldest_at_ms: int | None = None
    clients: dict[str, int] = {}
    """Who waits, with how many; "" where nobody gave a name."""
    decision: str = ""
    """What would be done with one more now, as in `explain`."""
    reason: str = ""
    load_eta_s: float | None = None


class EvictionStatus(Body):
    """By which rule models go."""

    strategy: str = "lru"
    """`eviction.strategy` of the configuration."""
    deciding: str = "lru"
    """The one that is followed now: `lru` while forecasts cannot be, or do harm."""
    reason: str = ""
    """Why it is another; "" = it is the same."""


class StatusBody(Body):
    """`GET /cortex/v1/status`."""

    version: str
    health: HealthBody
    started_at_ms: int
    uptime_s: float
    draining: bool = False
    in_flight: int = 0
    queued: int = 0
    requests_total: int = 0
    nodes: list[NodeStatus] = []
    queues: list[QueueBody] = []
    """One for each model that requests wait for, the oldest first."""
    eviction: EvictionStatus = EvictionStatus()
    store: StoreStatus


class HistoryRow(Body):
    """One finished request. See `core.records.RequestRecord` for the meaning of each field."""

    id: int
    request_id: str
    started_at_ms: int
    route: str
    dialect: str
    model: str | None = None
    node: str | None = None
    client: str | None = None
    stream: bool = False
    status: int = 0
    outcome: str
    error_code: str | None = None
    error_message: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    ttft_ms: float | None = None
    duration_ms: float = 0.0
    tokens_per_s: float | None = None
    queue_ms: float = 0.0
    load_wait_ms: float = 0.0
    cold_start: bool = False
    attempts: int = 0


class HistoryQuery(Body):
    """Filters of `GET /cortex/v1/history`; all that are given must hold. Newest first."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    model: str | None = None
    node: str | None = None
    client: str | None = None
    since_ms: int | None = None
    """Wall clock, inclusive."""
    until_ms: int | None = None
    """Wall clock, exclusive."""
    outcome: str | None = None
    """`ok`, `client_gone`, `error`, or an error code."""
    request_id: str | None = None
    """The value of `x-request-id`; a client that sends its own may have used it more than once."""
    slow_ms: float | None = None
    """Only requests that took at least this long."""
    after_id: int | None = None
    """Only rows newer than this id, oldest first: what `--follow` asks for."""
    before: str | None = Field(default=None, pattern=r"^-?\d{1,18}-\d{1,18}$")
    """Only what follows an earlier answer: its `next`."""
    limit: int = Field(default=50, ge=1, le=10_000)
    by: Literal["model", "client", "node"] | None = None
    """What statistics have a row for each of; None = model."""

    @property
    def position(self) -> tuple[int, int] | None:
        """`before` as the start time and the id of a row; the row itself is before it."""
        if self.before is None:
            return None
        at_ms, _, row_id = self.before.rpartition("-")
        return int(at_ms), int(row_id)


class HistoryBody(Body):
    rows: list[HistoryRow] = []
    next: str | None = None
    """Where older rows go on, for `before`; null = there are none. A search reads so many rows at a time:
    with filters it may come with fewer rows than `limit`, or with none."""
    last_id: int = 0
    """The newest row that was looked at, for `after_id`."""


class StatsRow(Body):
    """`--stats`: one model, client or node over the filtered requests; the other two are None."""

    model: str | None = None
    client: str | None = None
    node: str | None = None
    requests: int
    errors: int
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    ttft_p50_ms: float | None = None
    ttft_p95_ms: float | None = None
    duration_p50_ms: float | None = None
    duration_p95_ms: float | None = None
    tokens_per_s_p50: float | None = None
    tokens_per_s_p95: float | None = None
    """The 95th percentile is the fast end."""
    cold_starts: int = 0


class StatsBody(Body):
    rows: list[StatsRow] = []
    since_ms: int | None = None
    """Start of the oldest request counted, where older ones were left out; null = none was."""


class EventRow(Body):
    """One change of the fleet."""

    id: int
    at_ms: int
    kind: str
    reason: str
    node: str | None = None
    model: str | None = None
    detail: dict[str, Any] = {}


class EventQuery(Body):
    """Filters of `GET /cortex/v1/events`. Newest first, or oldest first after `after_id`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    kind: str | None = None
    node: str | None = None
    model: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    after_id: int | None = None
    before_id: int | None = None
    """Only what follows an earlier answer: its `next`."""
    limit: int = Field(default=50, ge=1, le=10_000)


class EventsBody(Body):
    rows: list[EventRow] = []
    next: int | None = None
    """Where older events go on, for `before_id`; null = there are none. As in `HistoryBody`, it may come
    with fewer rows than `limit`."""
    last_id: int = 0
    """The newest event that was looked at, for `after_id`."""


class PinBody(Body):
    """`POST /cortex/v1/models/pin` and `/unpin`: a runtime pin, kept over restarts."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    model: str
    node: str | None = None
    """None = on whatever node holds it."""


class ModelStatusBody(Body):
    """Answer of pin and unpin: the model on every node that lists it."""

    models: list[ModelOnNode] = []


class LoadBody(Body):
    """`POST /cortex/v1/models/load`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    model: str
    node: str | None = None
    """None = wherever it fits, or wherever it is."""


class UnloadBody(LoadBody):
    """`POST /cortex/v1/models/unload`."""

    force: bool = False
    """Even where the model is wedged, and will be gone until its node restarts."""


class NodeChange(Body):
    """Answer of `POST /cortex/v1/nodes/{name}/{drain,undrain,defrag}`."""

    node: str
    draining: bool
    in_flight: int
    detail: str = ""


class ConsideredBody(Body):
    """One node that was looked at for a request."""

    node: str
    verdict: str
    detail: str = ""
    need_mib: int | None = None
    available_mib: int | None = None
    total_mib: int | None = None
    in_flight: int = 0
    limit: int | None = None


class ExplainBody(Body):
    """`GET /cortex/v1/explain?model=…`: what would be done with a request that came now."""

    model: str
    decision: str
    """serve, load, wait or reject."""
    reason: str
    node: str | None = None
    evict: list[str] = []
    code: str | None = None
    """The error code of a reject."""
    load_eta_s: float | None = None
    retry_after_s: float | None = None
    recheck_after_s: float | None = None
    """When the answer may be another even if nothing changes."""
    considered: list[ConsideredBody] = []
