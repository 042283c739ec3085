"""Which nodes have an agent beside them, and what the agents are asked to do."""

import asyncio
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cortex.core.identity import moved
from cortex.core.ids import ModelId, NodeName
from cortex.core.records import EventKind
from cortex.core.snapshot import Weights
from cortex.fleet.observations import Observations
from cortex.fleet.state import FleetState

RESTART = "restart"
TOTALS_DIFFER_SHARE = 0.1
"""What an agent and its node may differ by about the memory of the same GPUs."""


NOTHING_FOUND: Mapping[ModelId, Weights] = {}


@dataclass(slots=True)
class Command:
    """Something an agent is asked to do, at most once."""

    id: str
    action: str
    issued_s: float
    issued_at_ms: int
    ended: asyncio.Future[str | None]
    """None once it was carried out; else why it was not."""


@dataclass(slots=True)
class _Agent:
    seen_s: float
    can_restart: bool
    lost: bool = False
    total_mib: int | None = None
    """Of the GPUs that it reads."""
    command: Command | None = None


class Agents:
    """The agents' own registry; commands live until acknowledged or too old."""

    def __init__(self, state: FleetState) -> None:
        self._state = state
        self._observations = Observations(state)
        self._agents: dict[NodeName, _Agent] = {}

    def reported(
        self,
        name: NodeName,
        *,
        can_restart: bool,
        free_mib: int | None,
        total_mib: int | None = None,
        acks: Iterable[tuple[str, str | None]],
    ) -> Sequence[Command]:
        """Take in a report; returns the commands that are still to be carried out.

        `free_mib` and `total_mib` are of the GPUs that it reads; they are used where the total is the
        node's own. `acks` are (command id, failure or None).
        """
        now_s = self._state.clock.now_s()
        agent = self._agents.get(name)
        if agent is None or agent.lost:
            self._state.event(EventKind.AGENT_UP, "it reports", name)
        if agent is None:
            agent = self._agents[name] = _Agent(now_s, can_restart)
        agent.seen_s, agent.can_restart, agent.lost = now_s, can_restart, False
        agent.total_mib = total_mib
        if free_mib is not None and self.why_unused(name) is None:
            self._observations.measured(name, free_mib=free_mib)
        command = agent.command
        for command_id, failure in acks:
            if command is not None and command.id == command_id and not command.ended.done():
                command.ended.set_result(failure)
        if command is None or command.ended.done() or self._too_old(command):
            agent.command = None
            return ()
        return (command,)

    def found(
        self,
        name: NodeName,
        weights: Mapping[ModelId, Weights],
        *,
        ram_total_mib: int | None = None,
    ) -> None:
        """Take in the files of the node's models, and the memory of its machine, until it falls silent."""
        self._observations.weighed(name, weights, ram_total_mib=ram_total_mib)

    def rename(self, renames: Mapping[NodeName, NodeName]) -> None:
        """The same nodes are called otherwise."""
        self._agents = moved(self._agents, renames)

    def can_restart(self, name: NodeName) -> bool:
        """Whether an agent beside the node reported lately that it can."""
        agent = self._agents.get(name)
        return agent is not None and agent.can_restart and not self._silent(agent)

    def why_unused(self, name: NodeName) -> str | None:
        """Why what an agent reads of the GPUs is not used; None = it is, or there is nothing."""
        agent, node = self._agents.get(name), self._state.node(name)
        read = None if agent is None else agent.total_mib
        own = None if node is None else node.device_mib
        if read is None or own is None or abs(read - own) <= TOTALS_DIFFER_SHARE * own:
            return None
        return (
            f"the agent beside {name} reads GPUs of {read} MiB, the node has {own} MiB:"
            " tell the agent which are the node's (--gpus)"
        )

    def age_s(self, name: NodeName) -> float | None:
        """Since its last report; None = there never was one."""
        agent = self._agents.get(name)
        return None if agent is None else self._state.clock.now_s() - agent.seen_s

    def restart(self, name: NodeName) -> asyncio.Future[str | None]:
        """Have the next replies to the node's agent say so, until it acknowledges.

        Returns:
            None once the node was restarted; else why not. The caller's deadline bounds it.
        """
        clock = self._state.clock
        ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._agents[name].command = Command(
            secrets.token_hex(8), RESTART, clock.now_s(), clock.now_ms(), ended
        )
        return ended

    def notice_lost(self) -> None:
        """Tell of agents that fell silent, once each."""
        for name, agent in self._agents.items():
            if not agent.lost and self._silent(agent):
                agent.lost = True
                self._observations.weighed(name, NOTHING_FOUND)
                why = f"silent for {self._state.waits.agent_lost_s:g} s"
                self._state.event(EventKind.AGENT_LOST, why, name)

    def _silent(self, agent: _Agent) -> bool:
        return self._state.clock.now_s() - agent.seen_s > self._state.waits.agent_lost_s

    def _too_old(self, command: Command) -> bool:
        return self._state.clock.now_s() - command.issued_s > self._state.waits.command_s
