"""Asks every node what it holds, each in its own task, and tells the state."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from cortex.core.errors import NodeError, NodeUntriedError, StoreError
from cortex.core.health import NodeHealth
from cortex.core.ids import NodeName
from cortex.core.snapshot import NodeView
from cortex.fleet.guard import Guard
from cortex.fleet.keeping import node_record, residency_record
from cortex.fleet.observations import Observations
from cortex.fleet.ports import FleetStore, NodeControl, Watcher
from cortex.fleet.state import FleetState

log = logging.getLogger("cortex.poller")

FIRST_GAP_S = 0.002
"""Between the first polls of two nodes, so that a thousand do not all begin at once."""
TURN_SHARE = 0.02
"""Share of an interval by which a node's turn may be taken early or late."""
_GOLDEN = 0.6180339887498949
"""Steps of this share of an interval spread any number of nodes evenly over it."""


class Poller:
    """One polling loop a node; `kick` makes the next poll happen at once.

    Each node is polled at its own time of the interval, so that polls never bunch: neither after a
    start nor after an outage that all of them shared.
    """

    def __init__(
        self,
        state: FleetState,
        *,
        store: FleetStore,
        watcher: Watcher,
        guard: Guard,
    ) -> None:
        self._state = state
        self._observations = Observations(state)
        self._store = store
        self._clock = state.clock
        self._watcher = watcher
        self._guard = guard
        self._nodes: Mapping[NodeName, NodeControl] = {}
        self._tasks: dict[NodeName, asyncio.Task[None]] = {}
        self._kicks: dict[NodeName, asyncio.Event] = {}
        self._last_answer_s: dict[NodeName, float] = {}
        self._asked_all = False
        #: Nodes whose first poll has ended, either way.
        self._asked: set[NodeName] = set()
        #: What was saved of a node last, and the view it was taken from: the same one needs no look.
        self._saved: dict[NodeName, tuple[NodeView, object]] = {}
        #: Nodes that would not tell their memory when they were asked last.
        self._uninformed: set[NodeName] = set()
        self._turned_s: dict[NodeName, float] = {}
        self._followed = 0

    @property
    def first_round_done(self) -> bool:
        """True once every node has been asked at least once."""
        self._asked_all = self._asked_all or self._tasks.keys() <= self._asked
        return self._asked_all

    def last_answer_age_s(self, name: NodeName) -> float | None:
        at_s = self._last_answer_s.get(name)
        return None if at_s is None else self._clock.now_s() - at_s

    def overdue(self) -> list[NodeName]:
        """Nodes whose loop has not come round in the longest time that a turn can take."""
        policy = self._state.policy
        longest_s = (
            policy.poll_interval_s + 3 * policy.poll_timeout_s + self._state.waits.overdue_s
        )
        now_s = self._clock.now_s()
        return [name for name in self._tasks if now_s - self._turned_s[name] > longest_s]

    def follow(self, group: asyncio.TaskGroup, nodes: Mapping[NodeName, NodeControl]) -> None:
        """Poll exactly these nodes from now on, each through the client given here."""
        for name in [name for name in self._tasks if self._nodes[name] is not nodes.get(name)]:
            self._tasks.pop(name).cancel()
            self._asked.discard(name)
        self._nodes = nodes
        new = [name for name in nodes if name not in self._tasks]
        for place, name in enumerate(new):
            self._kicks[name] = asyncio.Event()
            self._turned_s[name] = self._clock.now_s()
            self._followed += 1
            work = self._guard.keep(
                "poll",
                partial(
                    self._poll_for_ever,
                    name,
                    nodes[name],
                    begin_s=place * FIRST_GAP_S,
                    phase=self._followed * _GOLDEN % 1.0,
                ),
                failed=partial(self._failed, name),
            )
            self._tasks[name] = group.create_task(work, name=f"poll {name}")

    def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    def kick(self, name: NodeName) -> None:
        """Poll this node now: something it answered contradicts what was believed."""
        if name in self._kicks:
            self._kicks[name].set()

    async def _poll_for_ever(
        self, name: NodeName, node: NodeControl, *, begin_s: float, phase: float
    ) -> None:
        await asyncio.sleep(begin_s)
        informed = False
        while True:
            kick = self._kicks[name]
            kick.clear()
            self._turned_s[name] = self._clock.now_s()
            boot_before = self._boot(name)
            policy, waits = self._state.policy, self._state.waits
            answered = await self._poll(name, node, policy.poll_timeout_s)
            if not answered and self._nearly_down(name):
                answered = await self._poll(
                    name, node, min(waits.probe_s, policy.poll_timeout_s)
                )
            if answered and (not informed or self._boot(name) != boot_before):
                informed = await self._inform(name, node)
            elif not answered and self._health(name) is NodeHealth.DOWN:
                informed = False
            self._asked.add(name)
            await self._save(name)
            # A node that just missed a poll is asked again sooner, so that one lost packet does
            # not cost a whole interval of doubt.
            pause_s = policy.poll_interval_s if answered else policy.poll_interval_s / 2
            if self._loads_for_others(name):
                pause_s = min(pause_s, waits.loading_interval_s)
            try:
                async with asyncio.timeout(self._until_turn_s(pause_s, phase)):
                    await kick.wait()
            except TimeoutError:
                pass

    def _failed(self, name: NodeName, error: Exception) -> None:
        """A bug that this node brings about is this node's trouble only."""
        self._asked.add(name)
        self._observations.missed_poll(name, f"internal error: {type(error).__name__}")

    def _until_turn_s(self, period_s: float, phase: float) -> float:
        """How long until the node's own time of the period comes round."""
        left_s = (phase * period_s - self._clock.now_s()) % period_s
        # A timer may fire a moment early by this clock: its turn is not taken twice.
        return left_s if left_s > TURN_SHARE * period_s else left_s + period_s

    async def _poll(self, name: NodeName, node: NodeControl, timeout_s: float) -> bool:
        began_s, fence = self._clock.now_s(), self._state.moves
        try:
            async with asyncio.timeout(timeout_s):
                listing = await node.list_models()
        except TimeoutError:
            self._observations.silent(name, f"no answer in {timeout_s:g} s")
        except NodeUntriedError as exc:
            log.warning("not polled", extra={"fields": {"node": name, "reason": exc.message}})
        except NodeError as exc:
            self._observations.missed_poll(name, exc.message)
        else:
            now_s = self._clock.now_s()
            self._last_answer_s[name] = now_s
            self._watcher.polled(name, ok=True, duration_s=now_s - began_s)
            self._observations.listed(name, listing, fence)
            return True
        self._watcher.polled(name, ok=False, duration_s=self._clock.now_s() - began_s)
        return False

    async def _inform(self, name: NodeName, node: NodeControl) -> bool:
        """Read version and memory on discovery; a node that will not say stays usable without."""
        try:
            async with asyncio.timeout(self._state.policy.poll_timeout_s * 2):
                info = await node.system_info()
        except (TimeoutError, NodeError) as exc:
            if name not in self._uninformed:
                # It is asked again with every poll, and told of once.
                self._uninformed.add(name)
                fields = {"node": name, "reason": str(exc) or "no answer in time"}
                log.warning("no system info", extra={"fields": fields})
            return False
        self._uninformed.discard(name)
        self._observations.informed(name, info)
        await self._ask_kinds(name, node)
        return True

    async def _ask_kinds(self, name: NodeName, node: NodeControl) -> None:
        """Read what its models are for; most nodes do not say, and are no worse for it."""
        with contextlib.suppress(TimeoutError, NodeError):
            async with asyncio.timeout(self._state.policy.poll_timeout_s):
                self._observations.kinds(name, await node.kinds())

    async def _save(self, name: NodeName) -> None:
        """Keep what changed for the next start."""
        view = self._state.node(name)
        before, saved = self._saved.get(name, (None, None))
        if view is None or view is before:
            return
        node = node_record(view)
        records = [residency_record(name, model) for model in view.models.values()]
        # Last-used times travel with the request log; a change of theirs alone is not written here.
        fingerprint = (node, tuple(replace(record, last_used_at_ms=0) for record in records))
        if saved != fingerprint:
            try:
                await self._store.save_listing(node, records)
            except StoreError as exc:
                fields = {"node": name, "reason": exc.message}
                log.warning("not saved", extra={"fields": fields})
                return
        self._saved[name] = view, fingerprint

    def _boot(self, name: NodeName) -> int | None:
        view = self._state.node(name)
        return view.boot_at_s if view is not None else None

    def _nearly_down(self, name: NodeName) -> bool:
        """One more missed poll, and the node is down."""
        view = self._state.node(name)
        missed = 0 if view is None else view.liveness.missed_polls
        return 0 < missed == self._state.policy.failures_before_down - 1

    def _loads_for_others(self, name: NodeName) -> bool:
        view = self._state.node(name)
        return view is not None and any(m.reported_loading for m in view.models.values())

    def _health(self, name: NodeName) -> NodeHealth:
        view = self._state.node(name)
        return view.liveness.health if view is not None else NodeHealth.UNKNOWN
