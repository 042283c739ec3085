"""Restarts a node whose memory is in pieces, one node at a time, without anybody noticing.

due → (pinned models get a copy elsewhere) → drained → restarted by its agent → healthy → models
back → one token asked for → in service. A step that fails puts the node back into service and is
tried again later. Nothing of this is kept over a restart of the gateway: the nodes' own word and
the cycle counts, which are, suffice to begin again.
"""

import asyncio
from collections.abc import Callable

from cortex.core.decisions import Decision, Load, Wait, Want
from cortex.core.defrag import bring_back, needs_copy, why_due
from cortex.core.errors import ConflictError, NodeError
from cortex.core.health import NodeHealth
from cortex.core.ids import ModelId, NodeName
from cortex.core.records import EventKind
from cortex.core.snapshot import Drain, ModelStatus, ModelView, NodeView
from cortex.fleet.admission import Admission
from cortex.fleet.agents import Agents
from cortex.fleet.lifecycle import Lifecycle
from cortex.fleet.ports import NodeControl
from cortex.fleet.state import FleetState


class _StepFailedError(Exception):
    """The node goes back into service as it is."""


class Defrag:
    """One loop, hence one node at a time."""

    def __init__(
        self,
        state: FleetState,
        *,
        admission: Admission,
        lifecycle: Lifecycle,
        agents: Agents,
        client_of: Callable[[NodeName], NodeControl],
        kick: Callable[[NodeName], None],
    ) -> None:
        self._state = state
        self._waits = state.waits
        self._admission = admission
        self._lifecycle = lifecycle
        self._agents = agents
        self._client_of = client_of
        self._kick = kick
        self._requested: set[NodeName] = set()
        #: Since when each node is due (monotonic), and when it may be tried again.
        self._due_s: dict[NodeName, float] = {}
        self._not_before_s: dict[NodeName, float] = {}

    def request(self, name: NodeName) -> None:
        """Have the node restarted as soon as that is safe.

        Raises:
            ConflictError: No agent beside it could do so.
        """
        if not self._agents.can_restart(name):
            raise ConflictError(
                f"no agent beside {name} could restart it; restart its service by hand",
                code="no_agent",
            )
        self._requested.add(name)
        self._not_before_s.pop(name, None)

    def why_due(self, node: NodeView) -> str | None:
        """Why the node wants a restart; None = it does not."""
        if node.name in self._requested:
            return "asked for"
        return why_due(node, after_cycles=self._state.policy.defrag_after_cycles)

    async def run(self) -> None:
        """For ever."""
        while True:
            self._agents.notice_lost()
            for name in self._state.snapshot().nodes:
                # A restart takes minutes, and the configuration may change meanwhile.
                node = self._state.node(name)
                if node is not None and self._notice(node):
                    await self._restart(name)
            await asyncio.sleep(self._waits.defrag_look_s)

    def _notice(self, node: NodeView) -> bool:
        """Tell once that a node is due; True when its turn has come."""
        why = self.why_due(node)
        if why is None:
            self._due_s.pop(node.name, None)
            return False
        now_s = self._state.clock.now_s()
        able = self._agents.can_restart(node.name)
        if node.name not in self._due_s:
            self._due_s[node.name] = now_s
            self._say(node.name, "due", why if able else f"{why}; no agent could restart it")
        patient = (
            self._wanted(node)
            and node.name not in self._requested
            and now_s - self._due_s[node.name] < self._waits.defrag_grace_s
        )
        # What is being loaded would serve nobody whom it is loaded for.
        ready = node.liveness.health is NodeHealth.UP and node.moving is None and not patient
        return able and ready and now_s >= self._not_before_s.get(node.name, 0.0)

    def _wanted(self, node: NodeView) -> bool:
        """Somebody uses it, or waits for what it could serve."""
        waits_for = self._admission.depths().keys()
        return node.in_flight > 0 or not waits_for.isdisjoint(node.models)

    async def _restart(self, name: NodeName) -> None:
        self._requested.discard(name)
        began_s = self._state.clock.now_s()
        try:
            await self._copy_pinned(name)
            # A load that began meanwhile is for somebody who would get nothing of it.
            await self._until(
                name, self._waits.defrag_drain_s, "still moving", lambda node: not node.moving
            )
            self._state.drain(name, Drain.DEFRAG, "to be restarted")
            before = await self._quiet(name)
            await self._command(name)
            await self._healthy(name, before)
            await self._refill(name, before)
            await self._probe(name)
        except Exception as exc:
            self._not_before_s[name] = self._state.clock.now_s() + self._waits.defrag_retry_s
            if not isinstance(exc, _StepFailedError):
                raise
            self._say(name, "failed", str(exc))
        else:
            took_s = self._state.clock.now_s() - began_s
            self._say(name, "done", f"back in service after {took_s:.0f} s")
        finally:
            self._due_s.pop(name, None)
            self._state.undrain(name, Drain.DEFRAG, "back in service")

    async def _copy_pinned(self, name: NodeName) -> None:
        """Give every pinned model that only this node holds a copy where one fits."""
        self._there(name)
        for model in needs_copy(self._state.snapshot(), name):
            decision = await self._elsewhere(name, model)
            if not isinstance(decision, Load):
                continue  # nowhere else: without this node it waits for the restart
            self._say(name, "copy", f"{model} goes to {decision.node} meanwhile")
            why = await self._lifecycle.load(decision)
            if why is not None:
                raise _StepFailedError(f"{model} did not load on {decision.node}: {why}")

    async def _elsewhere(self, name: NodeName, model: ModelId) -> Decision:
        """What would become of `model` without the node, once that is more than "wait"."""
        want = Want(model=model, excluded=frozenset({name}))
        try:
            async with asyncio.timeout(self._waits.defrag_copy_s):
                await self._state.until(
                    lambda: not isinstance(self._admission.explain(want), Wait)
                )
        except TimeoutError as exc:
            raise _StepFailedError(
                f"no room for pinned {model} in {self._waits.defrag_copy_s:g} s"
            ) from exc
        return self._admission.explain(want)

    async def _quiet(self, name: NodeName) -> NodeView:
        """Wait until nothing runs or moves there; returns the node as it is then."""
        return await self._until(
            name,
            self._waits.defrag_drain_s,
            "still in use",
            lambda node: not node.in_flight and not node.moving,
        )

    async def _command(self, name: NodeName) -> None:
        if not self._agents.can_restart(name):
            raise _StepFailedError("its agent fell silent")
        self._say(name, "restart", "its agent is told")
        try:
            async with asyncio.timeout(self._waits.defrag_command_s):
                failure = await self._agents.restart(name)
        except TimeoutError as exc:
            raise _StepFailedError(
                f"no word from its agent within {self._waits.defrag_command_s:g} s"
            ) from exc
        if failure is not None:
            raise _StepFailedError(f"its agent could not restart it: {failure}")

    async def _healthy(self, name: NodeName, before: NodeView) -> None:
        self._kick(name)
        await self._until(
            name,
            self._waits.defrag_restart_s,
            "not back",
            lambda node: (
                node.liveness.health is NodeHealth.UP and node.boot_at_s != before.boot_at_s
            ),
        )

    async def _refill(self, name: NodeName, before: NodeView) -> None:
        """Pinned models first, then those used last; what does not fit stays out."""
        for model in bring_back(before):
            node = self._state.node(name)
            if node is None or model not in node.models:
                continue
            load = _if_it_fits(node, node.models[model], self._state.clock.now_s())
            if load is not None:
                await self._lifecycle.load(load)

    async def _probe(self, name: NodeName) -> None:
        """One token from the model used last, so that clients do not find out first."""
        node = self._state.node(name)
        resident = [] if node is None else bring_back(node)
        if not resident:
            return
        try:
            async with asyncio.timeout(self._waits.defrag_token_s):
                await self._client_of(name).probe(resident[0])
        except (TimeoutError, NodeError) as exc:
            why = str(exc) or f"no token within {self._waits.defrag_token_s:g} s"
            raise _StepFailedError(f"restarted, but {resident[0]} fails: {why}") from exc

    async def _until(
        self, name: NodeName, within_s: float, otherwise: str, holds: Callable[[NodeView], bool]
    ) -> NodeView:
        """The node once `holds`.

        Raises:
            _StepFailedError: Not in time, or the node left the configuration.
        """

        def settled() -> bool:
            node = self._state.node(name)
            return node is None or holds(node)

        try:
            async with asyncio.timeout(within_s):
                await self._state.until(settled)
        except TimeoutError as exc:
            raise _StepFailedError(f"{otherwise} after {within_s:g} s") from exc
        return self._there(name)

    def _there(self, name: NodeName) -> NodeView:
        """The node as it is now.

        Raises:
            _StepFailedError: It left the configuration.
        """
        node = self._state.node(name)
        if node is None:
            raise _StepFailedError("it left the configuration")
        return node

    def _say(self, name: NodeName, step: str, reason: str) -> None:
        self._state.event(EventKind.DEFRAG, reason, name, step=step)


def _if_it_fits(node: NodeView, model: ModelView, now_s: float) -> Load | None:
    if model.status is not ModelStatus.UNLOADED or model.wedged or node.moving is not None:
        return None
    size, free = model.size_mib, node.available_mib(now_s)
    if size is not None and free is not None and size > free:
        return None
    return Load(
        node=node.name, model=model.id, need_mib=size, reason="brought back after a restart"
    )
