"""The front door: all that the gateway and the daemon want of the fleet, they ask here."""

import asyncio
import logging
from collections.abc import Mapping
from functools import partial

from cortex.core.decisions import Decision, Want
from cortex.core.errors import StoreError
from cortex.core.ids import ModelId, NodeName
from cortex.core.records import Recollection
from cortex.core.snapshot import ModelView, NodeView
from cortex.fleet.admission import Admission, Admitted
from cortex.fleet.affinity import Affinity
from cortex.fleet.agents import Agents
from cortex.fleet.defrag import Defrag
from cortex.fleet.guard import Guard
from cortex.fleet.keeper import Keeper
from cortex.fleet.keeping import node_record, residency_record
from cortex.fleet.lease import Beat, Lease
from cortex.fleet.lifecycle import Lifecycle
from cortex.fleet.observations import Observations
from cortex.fleet.operator import Operator
from cortex.fleet.policy import FleetPolicy
from cortex.fleet.poller import Poller
from cortex.fleet.ports import NodeControl, Ports
from cortex.fleet.state import FORGOTTEN, FleetState
from cortex.fleet.verdict import Verdict

log = logging.getLogger("cortex.fleet")


class Fleet:
    """The nodes, what they hold, and what is done with them. One event loop, no locks."""

    def __init__(
        self,
        policy: FleetPolicy,
        nodes: Mapping[NodeName, NodeControl],
        ports: Ports,
        recollection: Recollection = FORGOTTEN,
    ) -> None:
        """Build it; nothing is asked of a node before `run`.

        Args:
            policy: The configuration.
            nodes: How to speak to each node; looked up anew each time, and never without one that
                is still at work.
            ports: The rest of the world.
            recollection: From the store.
        """
        self.clock = clock = ports.clock
        self.waits = ports.waits
        self._nodes = nodes
        store, watcher = ports.store, ports.watcher
        self.guard = guard = Guard(clock, watcher.internal_error, ports.waits)
        self._state = state = FleetState(
            policy,
            clock=clock,
            journal=ports.journal,
            recollection=recollection,
            waits=ports.waits,
        )
        self._observations = Observations(state)
        self._poller = Poller(state, store=store, watcher=watcher, guard=guard)
        self._lifecycle = lifecycle = Lifecycle(
            state, store=store, client_of=self._client_of, watcher=watcher, guard=guard
        )
        self._admission = admission = Admission(
            state,
            begin_load=partial(lifecycle.load, awaited=True),
            nobody_waits=lifecycle.withdraw,
        )
        self.agents = Agents(state)
        self._defrag = Defrag(
            state,
            admission=admission,
            lifecycle=lifecycle,
            agents=self.agents,
            client_of=self._client_of,
            kick=self._poller.kick,
        )
        self._keeper = Keeper(state, admission, lifecycle)
        self.operator = Operator(
            state,
            store=store,
            admission=admission,
            lifecycle=lifecycle,
            defrag=self._defrag,
        )
        #: Which node served a conversation last.
        self.affinity = Affinity()
        #: The fleet at this moment; see `FleetState.snapshot`.
        self.snapshot = state.snapshot
        #: As `lease`, where it takes no wait; see `Admission.at_once`.
        self.lease_at_once = admission.at_once
        self.when_down = state.when_down
        self.when_renamed = state.when_renamed
        state.when_renamed += [self.affinity.rename, self.agents.rename, self._renamed]
        self._store = store
        self._group: asyncio.TaskGroup
        self._loops: list[asyncio.Task[None]] = []

    def run(self, group: asyncio.TaskGroup) -> None:
        """Poll, keep house and see to what is begun, in `group`, until `stop`."""
        self._group = group
        self._lifecycle.start(group)
        for name, work in (("keeper", self._keeper.run), ("defrag", self._defrag.run)):
            task = group.create_task(self.guard.keep(name, work), name=name)
            self._loops.append(task)
        if self._state.renamed_at_start:
            self._renamed(self._state.renamed_at_start)
        self._follow()

    def stop(self) -> None:
        """End every loop, and stop following what is under way."""
        self._lifecycle.stop()
        self._poller.stop()
        for task in self._loops:
            task.cancel()

    async def keep(self) -> None:
        """Write down all that the next start should know; last of all, for a load may just have ended.

        Raises:
            StoreError: The store does not take it.
        """
        views = self.snapshot().nodes.values()
        models = (
            residency_record(view.name, model)
            for view in views
            for model in view.models.values()
        )
        await self._store.save(*map(node_record, views), *models)

    def apply(self, policy: FleetPolicy) -> None:
        """Take over another configuration, and the clients in `nodes` as they are now."""
        self._state.apply(policy)
        self._follow()

    def _renamed(self, renames: Mapping[NodeName, NodeName]) -> None:
        work = partial(self._keep_names, renames)
        task = self._group.create_task(self.guard.keep("job", work), name="rename")
        self._loops.append(task)

    async def _keep_names(self, renames: Mapping[NodeName, NodeName]) -> None:
        try:
            await self._store.rename_nodes(renames)
        except StoreError as exc:
            log.warning("not renamed in the store", extra={"fields": {"reason": exc.message}})

    def described(self) -> dict[str, object]:
        """As it is configured, for the log."""
        return self._state.described()

    def node(self, name: NodeName) -> NodeView | None:
        return self._state.node(name)

    def model(self, name: NodeName, model: ModelId) -> ModelView | None:
        return self._state.model(name, model)

    def asked(self, want: Want) -> None:
        """A request has come; to be said once, whatever becomes of it."""
        try:
            self._state.asked(want.model)
        except Exception as exc:  # noqa: BLE001 - a forecast that fails costs no request
            self.guard.met("forecasts", exc, request_id=want.request_id)

    async def lease(self, want: Want, client: str = "", beat: Beat | None = None) -> Admitted:
        """A hold on the model, loaded first where need be; see `Admission.acquire`."""
        return await self._admission.acquire(want, client, beat)

    def ended(self, lease: Lease, verdict: Verdict) -> None:
        """Take a lease back, and what its request found out about the node."""
        if verdict.contradicts is not None:
            self._observations.contradicted(lease.node, lease.model, verdict.contradicts)
        if verdict.declined is not None:
            self._observations.declined(lease.node, lease.model, verdict.declined)
        if verdict.unreachable is not None:
            self._observations.refused(lease.node, verdict.unreachable)
        if verdict.ask_node:
            self._poller.kick(lease.node)
        self._state.release(lease, verdict)

    def blame(
        self, name: NodeName, model: ModelId, reason: str, *, client: str | None = None
    ) -> None:
        """Count a failure that was understood only after its lease had ended."""
        self._state.blame(name, model, reason, client=client)

    def explain(self, want: Want) -> Decision:
        """What would be decided for a request that came now."""
        return self._admission.explain(want)

    def depth(self) -> int:
        """Requests that wait."""
        return self._admission.depth()

    def depths(self) -> dict[ModelId, int]:
        """Requests that wait, by model."""
        return self._admission.depths()

    def oldest_s(self) -> dict[ModelId, float]:
        """How long the longest wait has lasted, by model; 0 = nobody waits."""
        return self._admission.oldest_s()

    def close(self, reason: str) -> None:
        """Refuse what waits and what comes."""
        self._admission.close(reason)

    def why_due(self, node: NodeView) -> str | None:
        """Why a node wants a restart; None = it does not."""
        return self._defrag.why_due(node)

    @property
    def asked_all(self) -> bool:
        """Every node has been asked at least once."""
        return self._poller.first_round_done

    def last_answer_age_s(self, name: NodeName) -> float | None:
        """Since the last poll that a node answered; None = it never did."""
        return self._poller.last_answer_age_s(name)

    def overdue(self) -> list[NodeName]:
        """Nodes whose polling loop stands still."""
        return self._poller.overdue()

    def _follow(self) -> None:
        nodes = self._nodes
        names = [node.name for node in self._state.policy.nodes]
        self._poller.follow(self._group, {name: nodes[name] for name in names})

    def _client_of(self, name: NodeName) -> NodeControl:
        return self._nodes[name]
