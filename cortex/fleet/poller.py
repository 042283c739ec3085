"""Asks every node what it holds, each in its own task, and tells the state."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from cortex.core.errors import NodeError, StoreError
from cortex.core.health import NodeHealth
from cortex.core.ids import NodeName
from cortex.fleet.observations import Observations
from cortex.fleet.ports import Clock, FleetMemory, NodeControl
from cortex.fleet.recollection import node_record, residency_record
from cortex.fleet.state import FleetState

log = logging.getLogger("cortex.poller")


@dataclass(frozen=True, slots=True, kw_only=True)
class PollPolicy:
    interval_s: float
    timeout_s: float


class PollObserver(Protocol):
    """Told of every poll; for metrics."""

    def __call__(self, name: NodeName, *, ok: bool, duration_s: float) -> None: ...


class Poller:
    """One polling loop a node; `kick` makes the next poll happen at once."""

    def __init__(
        self,
        state: FleetState,
        *,
        memory: FleetMemory,
        clock: Clock,
        policy: PollPolicy,
        observed: PollObserver,
    ) -> None:
        self._state = state
        self._observations = Observations(state)
        self._memory = memory
        self._clock = clock
        self.policy = policy
        self._observed = observed
        self._nodes: Mapping[NodeName, NodeControl] = {}
        self._tasks: dict[NodeName, asyncio.Task[None]] = {}
        self._kicks: dict[NodeName, asyncio.Event] = {}
        self._last_answer_s: dict[NodeName, float] = {}
        #: Nodes whose first poll has ended, either way.
        self._asked: set[NodeName] = set()
        self._saved: dict[NodeName, object] = {}

    @property
    def first_round_done(self) -> bool:
        """True once every node has been asked at least once."""
        return self._tasks.keys() <= self._asked

    def last_answer_age_s(self, name: NodeName) -> float | None:
        at_s = self._last_answer_s.get(name)
        return None if at_s is None else self._clock.now_s() - at_s

    def follow(self, group: asyncio.TaskGroup, nodes: Mapping[NodeName, NodeControl]) -> None:
        """Poll exactly these nodes from now on, each through the client given here."""
        for name in [name for name in self._tasks if self._nodes[name] is not nodes.get(name)]:
            self._tasks.pop(name).cancel()
            self._asked.discard(name)
        self._nodes = nodes
        for name, node in nodes.items():
            if name not in self._tasks:
                self._kicks[name] = asyncio.Event()
                self._tasks[name] = group.create_task(
                    self._poll_for_ever(name, node), name=f"poll {name}"
                )

    def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    def kick(self, name: NodeName) -> None:
        """Poll this node now: something it answered contradicts what was believed."""
        if name in self._kicks:
            self._kicks[name].set()

    async def _poll_for_ever(self, name: NodeName, node: NodeControl) -> None:
        informed = False
        while True:
            kick = self._kicks[name]
            kick.clear()
            boot_before = self._boot(name)
            answered = await self._poll(name, node)
            if answered and (not informed or self._boot(name) != boot_before):
                informed = await self._inform(name, node)
            elif not answered and self._health(name) is NodeHealth.DOWN:
                informed = False
            self._asked.add(name)
            await self._save(name)
            # A node that just missed a poll is asked again sooner, so that one lost packet does
            # not cost a whole interval of doubt.
            pause_s = self.policy.interval_s if answered else self.policy.interval_s / 2
            try:
                async with asyncio.timeout(pause_s):
                    await kick.wait()
            except TimeoutError:
                pass

    async def _poll(self, name: NodeName, node: NodeControl) -> bool:
        began_s = self._clock.now_s()
        try:
            async with asyncio.timeout(self.policy.timeout_s):
                listing = await node.list_models()
        except TimeoutError:
            self._observations.missed_poll(name, f"no answer in {self.policy.timeout_s:g} s")
        except NodeError as exc:
            self._observations.missed_poll(name, exc.message)
        else:
            now_s = self._clock.now_s()
            self._last_answer_s[name] = now_s
            self._observed(name, ok=True, duration_s=now_s - began_s)
            self._observations.listed(name, listing)
            return True
        self._observed(name, ok=False, duration_s=self._clock.now_s() - began_s)
        return False

    async def _inform(self, name: NodeName, node: NodeControl) -> bool:
        """Read version and memory on discovery; a node that will not say stays usable without."""
        try:
            async with asyncio.timeout(self.policy.timeout_s * 2):
                info = await node.system_info()
        except (TimeoutError, NodeError) as exc:
            log.warning("no system info", extra={"fields": {"node": name, "reason": str(exc)}})
            return False
        self._observations.informed(name, info)
        return True

    async def _save(self, name: NodeName) -> None:
        """Keep what changed for the next start."""
        view = self._state.node(name)
        if view is None:
            return
        node = node_record(view)
        records = [residency_record(name, model) for model in view.models.values()]
        # Last-used times travel with the request log; a change of theirs alone is not written here.
        fingerprint = (node, tuple(replace(record, last_used_at_ms=0) for record in records))
        if self._saved.get(name) == fingerprint:
            return
        try:
            await self._memory.save_node(node)
            await self._memory.save_residency(*records)
        except StoreError as exc:
            log.warning("not saved", extra={"fields": {"node": name, "reason": exc.message}})
        else:
            self._saved[name] = fingerprint

    def _boot(self, name: NodeName) -> int | None:
        view = self._state.node(name)
        return view.boot_at_s if view is not None else None

    def _health(self, name: NodeName) -> NodeHealth:
        view = self._state.node(name)
        return view.liveness.health if view is not None else NodeHealth.UNKNOWN
