"""The state of the fleet and its only writer. Every method is synchronous, hence atomic.

Views are frozen and replaced, never edited, so a snapshot is a handful of references. Decide on a
snapshot and commit with no `await` in between; after an `await`, choose again.

What the nodes say comes in through `observations`, what cortex does to them through `transitions`.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from cortex.core.clock import Clock
from cortex.core.health import CLOSED
from cortex.core.identity import moved, renamed
from cortex.core.ids import ModelId, NodeName
from cortex.core.locations import NOTHING, relocated
from cortex.core.records import EventKind, FleetEvent, Recollection
from cortex.core.snapshot import Drain, FleetSnapshot, ModelStatus, ModelView, NodeView
from cortex.core.use import given_back, served, taken
from cortex.fleet import invariants
from cortex.fleet.described import described
from cortex.fleet.forecasts import Forecasts
from cortex.fleet.keeping import Remembered, renamed_pins
from cortex.fleet.lease import Lease, Ref
from cortex.fleet.policy import FleetPolicy, govern, govern_model
from cortex.fleet.ports import Journal
from cortex.fleet.verdict import Verdict
from cortex.fleet.waits import WAITS, Waits

FORGOTTEN = Recollection()
"""A first start."""


class FleetState:
    """Nodes, what they hold, and who is using it."""

    def __init__(
        self,
        policy: FleetPolicy,
        *,
        clock: Clock,
        journal: Journal,
        recollection: Recollection = FORGOTTEN,
        waits: Waits = WAITS,
    ) -> None:
        self.clock = clock
        self.waits = waits
        self._journal = journal
        self._nodes: dict[NodeName, NodeView] = {}
        self._refs: dict[NodeName, Ref] = {}
        #: Runtime pins, kept over restarts; node None = wherever the model is.
        self._pins = set(recollection.pins)
        self._remembered = Remembered(recollection)
        self.forecasts = Forecasts(
            recollection.past, now_s=clock.now_s(), now_ms=clock.now_ms()
        )
        self._revision = 0
        #: Counts what changes a model's place other than by a listing; see `ModelView.moved`.
        self.moves = 0
        self._snapshot: FleetSnapshot | None = None
        #: Replaced for the models that a node newly lists, or no longer does: all of it is nodes x models.
        self._locations: Mapping[ModelId, tuple[NodeName, ...]] = {}
        #: Called after every change that somebody may be waiting for.
        self.listeners: list[Callable[[], None]] = []
        #: Called with old names and new ones, when nodes are called otherwise.
        self.when_renamed: list[Callable[[Mapping[NodeName, NodeName]], None]] = []
        #: Old names to new ones, of what the store remembers; nobody listened then.
        self.renamed_at_start: Mapping[NodeName, NodeName] = {}
        #: Called with the reason when a node is found down.
        self.when_down: list[Callable[[NodeName, str], None]] = []
        self.policy = policy
        self.apply(policy)

    def snapshot(self) -> FleetSnapshot:
        """The fleet now; the same object until something but the use of its models changes."""
        if self._snapshot is None:
            self._snapshot = FleetSnapshot(
                revision=self._revision,
                nodes=dict(self._nodes),
                locations=self._locations,
                aliases=self.policy.aliases,
                allowed_nodes=self.policy.allowed_nodes,
                max_copies=self.policy.max_copies,
                traits=self.policy.traits,
                eviction=self.policy.eviction,
                pins=self._all_pins,
            )
        return self._snapshot

    def described(self) -> dict[str, object]:
        """As it is configured, for the log."""
        return described(self.policy, self.snapshot(), self._remembered.nodes)

    def node(self, name: NodeName) -> NodeView | None:
        return self._nodes.get(name)

    def model(self, name: NodeName, model: ModelId) -> ModelView | None:
        return self._nodes[name].models.get(model) if name in self._nodes else None

    def apply(self, policy: FleetPolicy) -> None:
        """Take over a configuration: adds nodes, drains removed ones, changes limits and pins.

        What is resident stays resident; a removed node disappears once its last lease is back.
        """
        first = not self._nodes
        self.forecasts.follow(policy.eviction.strategy)
        outlook = self.forecasts.outlook
        rules = replace(
            policy.eviction, drain_after_s=self.waits.drain_after_s, outlook=outlook
        )
        self.policy = policy = replace(policy, eviction=rules)
        self._note_pins()
        wanted = {node.name: node.endpoint for node in policy.nodes}
        here = {name: node.endpoint for name, node in self._nodes.items()}
        gone = {n: url for n, url in self._remembered.endpoints.items() if n not in here}
        renames = renamed(gone | here, wanted)
        if renames:
            self._rename(renames)
        for name in list(self._nodes):
            if name not in wanted:
                self._mark(name, Drain.REMOVED)
                self._drop_if_idle(name)
        for node in policy.nodes:
            old = self._nodes.get(node.name)
            if old is None:
                old = self._remembered.node(node, self.clock.now_ms())
                if not first:
                    self.event(EventKind.NODE_ADDED, "added to the configuration", node.name)
            drains = old.drains - {Drain.REMOVED}
            back = replace(
                old, drains=drains, endpoint=node.endpoint, fresh_s=self.waits.fresh_s
            )
            self.put(govern(back, policy, self._pins))
        if renames:
            # In the order of the configuration, those that still leave at the end.
            self._nodes = {name: self._nodes[name] for name in wanted} | self._nodes
        self.changed()

    def pin(self, model: ModelId, node: NodeName | None) -> None:
        self._pins.add((node, model))
        self._note_pins()
        self.event(EventKind.PIN, "pinned by request", node, model)
        self._regovern()

    def unpin(self, model: ModelId, node: NodeName | None) -> None:
        self._pins.discard((node, model))
        self._note_pins()
        self.event(EventKind.UNPIN, "unpinned by request", node, model)
        self._regovern()

    def drain(self, name: NodeName, why: Drain, reason: str) -> None:
        """Give the node nothing new; what runs goes on."""
        node = self._nodes.get(name)
        if node is not None and why not in node.drains:
            self._mark(name, why)
            self.event(EventKind.DRAIN, reason, name)
            self.changed()

    def undrain(self, name: NodeName, why: Drain, reason: str) -> None:
        node = self._nodes.get(name)
        if why is Drain.REQUEST:
            self._remembered.drained.discard(name)
        if node is not None and why in node.drains:
            self.put(replace(node, drains=node.drains - {why}))
            self.event(EventKind.UNDRAIN, reason, name)
            self.changed()

    def asked(self, model: ModelId) -> None:
        """A request for it has come, whatever becomes of it; once a request."""
        now_s, forecasts = self.clock.now_s(), self.forecasts
        forecasts.outlook.demand.asked(model, now_s)
        if forecasts.trial is not None and forecasts.tried(
            self.snapshot(), model, now_s=now_s, now_ms=self.clock.now_ms()
        ):
            why_not = forecasts.outlook.why_not
            reason = f"not by forecast: {why_not}" if why_not else "by forecast again"
            self.event(EventKind.RULE, reason, strategy=self.policy.eviction.deciding.value)
            self.changed()

    def lease(self, name: NodeName, model: ModelId) -> Lease:
        """Hold a resident model for one request. Call it on a fresh `Serve`, with no await between."""
        node = self._nodes[name]
        view = node.models[model]
        assert view.status is ModelStatus.LOADED, f"{model} is {view.status} on {name}"
        taken(node, view)
        return Lease(self._refs[name], model, self.clock.now_s())

    def release(self, lease: Lease, verdict: Verdict) -> None:
        """Give a lease back, with what it says of the model: its breaker, its last use."""
        name = lease.ref.name
        if self._refs.get(name) is not lease.ref:
            return  # another node has taken its name, and it is gone
        node = self._nodes[name]
        view = node.models[lease.model]
        given_back(node, view)
        if verdict.used:
            now_s, now_ms = self.clock.now_s(), self.clock.now_ms()
            served(view, now_s=now_s, now_ms=now_ms, took_s=now_s - lease.since_s)
        failure = verdict.failure
        if failure is not None:
            began_s = lease.since_s
            view = self.failed(name, view, failure, client=verdict.client, began_s=began_s)
            self.put_model(name, view)
        elif verdict.count and view.breaker is not CLOSED:
            self.put_model(name, replace(view, breaker=CLOSED))
        if node.drains:
            self._drop_if_idle(name)
        self.tell()

    def blame(
        self, name: NodeName, model: ModelId, reason: str, *, client: str | None = None
    ) -> None:
        """Count a failure that was understood only after its lease was given back."""
        view = self.model(name, model)
        if view is not None:
            self.put_model(name, self.failed(name, view, reason, client=client))
            self.changed()

    async def idle(self, ref: Ref, model: ModelId) -> None:
        """Return when nobody uses the model, or its node is gone; the caller's deadline bounds it."""
        await self.until(
            lambda: (
                not self.is_known(ref)
                or (view := self.model(ref.name, model)) is None
                or not view.in_flight
            )
        )

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return as soon as `holds`, asked after every change; the caller's deadline bounds it."""
        changed = asyncio.Event()
        self.listeners.append(changed.set)
        try:
            while not holds():
                changed.clear()
                await changed.wait()
        finally:
            self.listeners.remove(changed.set)

    def check_invariants(self) -> None:
        """What must hold after every method; the tests call it after every step."""
        invariants.check(self._nodes.values())

    # The rest is for `observations` and `transitions`, which write on this class's behalf.

    def put(self, node: NodeView) -> None:
        old = self._nodes.get(node.name)
        listed = old.models.keys() if old is not None else NOTHING
        if listed != node.models.keys():
            come, gone = node.models.keys() - listed, listed - node.models.keys()
            self._locations = relocated(self._locations, node.name, gone=gone, come=come)
        if old is None:
            self._refs[node.name] = Ref(node.name)
        self._nodes[node.name] = node
        self._snapshot = None

    def moved(self, name: NodeName, view: ModelView) -> None:
        """As `put_model`, of what no listing that is under way can know of."""
        self.moves += 1
        self.put_model(name, replace(view, moved=self.moves))
        if Drain.REMOVED in self._nodes[name].drains:
            self._drop_if_idle(name)

    def ref(self, name: NodeName) -> Ref:
        return self._refs[name]

    def is_known(self, ref: Ref) -> bool:
        """The node is still here, under whatever name."""
        return self._refs.get(ref.name) is ref

    def put_model(self, name: NodeName, view: ModelView) -> None:
        node = self._nodes[name]
        self.put(replace(node, models={**node.models, view.id: view}))

    def govern(self, node: NodeView) -> NodeView:
        """The node with the configuration and the pins applied."""
        return govern(node, self.policy, self._pins)

    def first_seen(self, node: NodeName, model: ModelId) -> ModelView:
        """A model that a node lists for the first time, with what is remembered of it."""
        view = self._remembered.model(node, model, self.clock.now_ms())
        return govern_model(node, view, self.policy, self._pins)

    def failed(
        self,
        name: NodeName,
        view: ModelView,
        reason: str,
        *,
        at_once: bool = False,
        client: str | None = None,
        began_s: float = math.inf,
    ) -> ModelView:
        """The view with one more failure on its breaker; see `Breaker.failed`."""
        now_s = self.clock.now_s()
        breaker = view.breaker.failed(
            now_s=now_s,
            reason=reason,
            at_once=at_once,
            client=client,
            began_s=began_s,
            pauses=self.waits.breaker,
        )
        if breaker is not view.breaker and breaker.open_until_s > now_s:
            self.event(
                EventKind.BREAKER_OPEN,
                reason,
                name,
                view.id,
                failures=breaker.failures,
                open_s=round(breaker.open_until_s - now_s, 1),
            )
        return replace(view, breaker=breaker)

    def changed(self) -> None:
        """Something a waiting request may hang on is different now."""
        self._revision += 1
        self._snapshot = None
        self.tell()

    def event(
        self,
        kind: EventKind,
        reason: str,
        node: NodeName | None = None,
        model: ModelId | None = None,
        **detail: Any,
    ) -> None:
        self._journal.record(
            FleetEvent(
                at_ms=self.clock.now_ms(),
                kind=kind,
                reason=reason,
                node=node,
                model=model,
                detail=detail,
            )
        )

    def tell(self) -> None:
        """Have whoever waits look at the fleet again."""
        for listener in self.listeners:
            listener()

    def _mark(self, name: NodeName, why: Drain) -> None:
        node = self._nodes[name]
        if why is Drain.REQUEST:
            self._remembered.drained.add(name)
        self.put(replace(node, drains=node.drains | {why}))

    def _rename(self, renames: Mapping[NodeName, NodeName]) -> None:
        """The same nodes under other names: with their leases, transitions, and all that is known.

        A restart for defragmentation that is under way is given up: it goes by the name.
        """
        self._remembered.rename(renames)
        self._pins = renamed_pins(self._pins, renames)
        self._note_pins()
        self._nodes = {
            name: replace(node, name=name, drains=node.drains - {Drain.DEFRAG})
            if node.name != name
            else node
            for name, node in moved(self._nodes, renames).items()
        }
        self._refs = moved(self._refs, renames)
        for name, ref in self._refs.items():
            ref.name = name
        self._locations = {}
        for name, node in self._nodes.items():
            self._locations = relocated(self._locations, name, come=node.models.keys())
        for old, new in renames.items():
            if new in self._nodes:
                self.event(EventKind.CONFIG, f"{old} is called {new} now", new)
        self.renamed_at_start = {} if self.when_renamed else dict(renames)
        for tell in self.when_renamed:
            tell(renames)

    def _note_pins(self) -> None:
        configured = {(node.name, model) for node in self.policy.nodes for model in node.pinned}
        self._all_pins = frozenset(configured | self._pins)

    def _regovern(self) -> None:
        for policy in self.policy.nodes:
            self.put(self.govern(self._nodes[policy.name]))
        self.changed()

    def _drop_if_idle(self, name: NodeName) -> None:
        """A node that left the configuration goes with its last lease and its last transition."""
        node = self._nodes[name]
        moving = any(model.moved_by_us for model in node.models.values())
        if self.policy.node(name) is None and not node.in_flight and not moving:
            self._remembered.keep(node)
            del self._nodes[name]
            del self._refs[name]
            self._locations = relocated(self._locations, name, gone=node.models.keys())
            self.event(EventKind.NODE_REMOVED, "removed from the configuration", name)
            self.changed()
