"""What an agent beside a node and the gateway say to each other: `POST /cortex/v1/agents/report`."""

from pydantic import Field

from cortex.adminapi import Body
from cortex.core.traits import MAX_CONTEXT_TOKENS

MOST_MIB = 1 << 40
"""An exbibyte: above any machine, and far below where figures run over."""


class GpuReading(Body):
    """One accelerator as its driver sees it, use by other processes included."""

    index: int
    name: str = ""
    total_mib: int
    used_mib: int
    utilization_pct: int | None = None
    temperature_c: int | None = None

    @property
    def free_mib(self) -> int:
        return self.total_mib - self.used_mib


class WeightsReading(Body):
    """The files of one model on the node's machine."""

    model: str
    """As the node lists it."""
    size_mib: int = Field(ge=0, le=MOST_MIB)
    cached_mib: int | None = Field(None, ge=0, le=MOST_MIB)
    """What of them the machine's memory holds; None = the agent may not know."""
    context_tokens: int | None = Field(None, ge=1, le=MAX_CONTEXT_TOKENS)
    """The longest prompt with its answer, as what lies beside the weights says."""
    kinds: list[str] | None = None
    """Words of `core.traits.Kind`; others are passed over."""
    quantization: str | None = Field(None, max_length=64)


class CommandAck(Body):
    """What became of a command."""

    id: str
    ok: bool
    detail: str = ""


class AgentReport(Body):
    """`POST /cortex/v1/agents/report`, every few seconds from beside a node."""

    node: str
    """The node's name in the gateway's configuration."""
    agent_version: str = ""
    can_restart: bool = False
    """Whether a restart command is configured; without one, `restart` is refused."""
    node_ok: bool = False
    """Whether the local node answered just now."""
    node_reason: str = ""
    gpus: list[GpuReading] = Field(default_factory=list)
    gpu_reason: str = ""
    """Why readings are missing, all of them or those of some GPUs; "" where none is."""
    ram_total_mib: int | None = Field(None, ge=0, le=MOST_MIB)
    """The machine's own memory, which holds the files that were read last."""
    weights: list[WeightsReading] = Field(default_factory=list)
    """Of models whose files were found; not those of all."""
    acks: list[CommandAck] = Field(default_factory=list)
    """Commands of earlier replies that were carried out or refused, repeated until a reply came."""


class AgentCommand(Body):
    """Something the agent is to do, at most once. Repeated in every reply until acknowledged.

    One at a time: a second one is left to a later reply. One that an agent began and never finished, because it was
    killed, is acknowledged as failed by the next.
    """

    id: str
    action: str
    """`restart`: restart the node's service."""
    issued_at_ms: int
    max_age_s: float = 60.0
    """Not carried out when `age_s` exceeds this."""
    age_s: float = 0.0
    """How long ago it was issued, by the gateway's clock: the two clocks need not agree."""


class AgentReply(Body):
    """What the gateway says to a report."""

    commands: list[AgentCommand] = Field(default_factory=list)
    interval_s: float = 2.0
    """When to report next."""
