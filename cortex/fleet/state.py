"""The state of the fleet and its only writer. Every method is synchronous, hence atomic.

Views are frozen and replaced, never edited, so a snapshot is a handful of references. Decide on a
snapshot and commit with no `await` in between; after an `await`, choose again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cortex.core.health import CLOSED, NodeHealth
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import Listing, NodeInfo, ReportedStatus
from cortex.core.reconcile import averaged, reconcile
from cortex.core.records import (
    EventKind,
    FleetEvent,
    Memory,
)
from cortex.core.snapshot import (
    FleetSnapshot,
    ModelStatus,
    ModelView,
    NodeView,
)
from cortex.fleet.policy import FleetPolicy, govern, govern_model
from cortex.fleet.ports import Clock, Journal
from cortex.fleet.recollection import Recollection

FORGOTTEN = Memory()
"""A first start."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One request's hold on a resident model; give it back with `FleetState.release`."""

    node: NodeName
    model: ModelId


class FleetState:
    """Nodes, what they hold, and who is using it."""

    def __init__(
        self,
        policy: FleetPolicy,
        *,
        clock: Clock,
        journal: Journal,
        memory: Memory = FORGOTTEN,
    ) -> None:
        self._clock = clock
        self._journal = journal
        self._nodes: dict[NodeName, NodeView] = {}
        #: Runtime pins, kept over restarts; node None = wherever the model is.
        self._pins = set(memory.pins)
        self._recollection = Recollection(memory)
        self._revision = 0
        self._snapshot: FleetSnapshot | None = None
        self._locations: Mapping[ModelId, tuple[NodeName, ...]] | None = None
        #: Called after every change that may let a waiting request go on.
        self.on_change: Callable[[], None] = lambda: None
        self.policy = policy
        self.apply(policy)

    def snapshot(self) -> FleetSnapshot:
        """The fleet now; the same object until something changes."""
        if self._snapshot is None:
            if self._locations is None:
                self._locations = self._locate()
            self._snapshot = FleetSnapshot(
                revision=self._revision,
                nodes=dict(self._nodes),
                locations=self._locations,
                aliases=self.policy.aliases,
                allowed_nodes={
                    model: policy.nodes
                    for model, policy in self.policy.models.items()
                    if policy.nodes is not None
                },
            )
        return self._snapshot

    def node(self, name: NodeName) -> NodeView | None:
        return self._nodes.get(name)

    def apply(self, policy: FleetPolicy) -> None:
        """Take over a configuration: adds nodes, drains removed ones, changes limits and pins.

        What is resident stays resident; a removed node disappears once its last lease is back.
        """
        first = not self._nodes
        self.policy = policy
        wanted = {node.name for node in policy.nodes}
        for name in list(self._nodes):
            if name not in wanted:
                self._put(replace(self._nodes[name], draining=True))
                self._drop_if_idle(name)
        for node in policy.nodes:
            old = self._nodes.get(node.name)
            if old is None:
                old = self._recollection.node(node)
                if not first:
                    self._event(EventKind.NODE_ADDED, "added to the configuration", node.name)
            self._put(govern(replace(old, draining=False), policy, self._pins))
        self._changed()

    def pin(self, model: ModelId, node: NodeName | None) -> None:
        self._pins.add((node, model))
        self._event(EventKind.PIN, "pinned by request", node, model)
        self._regovern()

    def unpin(self, model: ModelId, node: NodeName | None) -> None:
        self._pins.discard((node, model))
        self._event(EventKind.UNPIN, "unpinned by request", node, model)
        self._regovern()

    def observe(self, name: NodeName, listing: Listing) -> None:
        """Take in a listing: the node is up, and its models are what it says.

        Save those that cortex is changing right now: that transition ends by its own answer.
        """
        node = self._nodes.get(name)
        if node is None:
            return
        if node.liveness.health is not NodeHealth.UP:
            self._event(EventKind.NODE_UP, "answered a poll", name)
        restarted = (
            node.boot_at_s is not None
            and listing.created_at_s is not None
            and node.boot_at_s != listing.created_at_s
        )
        if restarted:
            self._event(EventKind.NODE_RESTARTED, "its process start changed", name)
            node = replace(node, cycles=0, restarted_at_ms=self._clock.now_ms())
        models = {
            model: self._listed(node, model, status, listing, restarted=restarted)
            for model, status in listing.models.items()
        }
        for model, view in node.models.items():
            # A model that vanished while in use, or while cortex moves it, is between two states.
            if model not in models and (view.in_flight or view.status is ModelStatus.LOADING):
                models[model] = view
        self._put(
            replace(
                node,
                liveness=node.liveness.answered(),
                boot_at_s=listing.created_at_s or node.boot_at_s,
                models=models,
            )
        )
        self._changed()

    def learn(self, name: NodeName, info: NodeInfo) -> None:
        """Take in the device memory and version that a node reports."""
        node = self._nodes.get(name)
        if node is None:
            return
        policy = self.policy.node(name)
        configured = policy.vram_total_mib if policy is not None else None
        self._put(
            replace(
                node,
                version=info.version,
                free_mib=info.free_mib,
                vram_total_mib=configured or info.vram_total_mib,
            )
        )
        self._changed()

    def missed_poll(self, name: NodeName, reason: str) -> None:
        node = self._nodes.get(name)
        if node is None:
            return
        after = node.liveness.missed(
            reason=reason, failures_before_down=self.policy.failures_before_down
        )
        if after.health is NodeHealth.DOWN and node.liveness.health is not NodeHealth.DOWN:
            self._event(EventKind.NODE_DOWN, reason, name)
        self._put(replace(node, liveness=after))
        self._changed()

    def refused(self, name: NodeName, reason: str) -> None:
        """A request could not connect: the node is suspect until it answers a poll."""
        node = self._nodes.get(name)
        if node is None or node.liveness.health is not NodeHealth.UP:
            return
        self._event(EventKind.NODE_SUSPECT, reason, name)
        self._put(replace(node, liveness=node.liveness.refused(reason=reason)))
        self._changed()

    def contradicted(self, name: NodeName, model: ModelId, status: ModelStatus) -> None:
        """The node refused a request for a model thought loaded: believe it over the last poll.

        `status` is UNLOADED, or LOADING where someone else ordered a load; polls tell its end.
        """
        view = self._model(name, model)
        if view is not None and view.status is ModelStatus.LOADED:
            loading = status is ModelStatus.LOADING
            self._put_model(name, replace(view, status=status, reported_loading=loading))
            self._changed()

    def lease(self, name: NodeName, model: ModelId) -> Lease:
        """Hold a resident model for one request. Call it on a fresh `Serve`, with no await between."""
        node = self._nodes[name]
        view = node.models[model]
        assert view.resident, f"{model} is {view.status} on {name}"
        self._put_in_flight(node, view, +1)
        return Lease(name, model)

    def release(self, lease: Lease, *, failure: str | None = None, count: bool = True) -> None:
        """Give a lease back.

        Args:
            lease: From `lease`.
            failure: What the node did wrong; feeds the breaker.
            count: False leaves the breaker alone: the caller went away, or was at fault.
        """
        node = self._nodes[lease.node]
        view = node.models[lease.model]
        if failure is not None:
            view = self._failed(lease.node, view, failure)
        elif count and view.breaker is not CLOSED:
            view = replace(view, breaker=CLOSED)
        self._put_in_flight(node, replace(view, last_used_at_ms=self._clock.now_ms()), -1)
        if node.draining:
            self._drop_if_idle(lease.node)
        self.on_change()

    def begin_load(self, name: NodeName, model: ModelId, *, reason: str) -> int:
        """Reserve the memory and take the transition; returns its generation."""
        view = self._nodes[name].models[model]
        assert view.status is ModelStatus.UNLOADED, f"{model} is {view.status} on {name}"
        generation = view.generation + 1
        self._put_model(
            name,
            replace(
                view, status=ModelStatus.LOADING, reported_loading=False, generation=generation
            ),
        )
        self._event(EventKind.LOAD, reason, name, model, need_mib=view.size_mib)
        self._changed()
        return generation

    def end_load(
        self, name: NodeName, model: ModelId, generation: int, *, load_s: float | None
    ) -> None:
        """The node confirmed the load. `load_s` None: it had been loaded by someone else."""
        view = self._current(name, model, generation)
        if view is None:
            return
        self._put_model(
            name,
            replace(
                view,
                status=ModelStatus.LOADED,
                load_s=averaged(view.load_s, load_s),
                loads=view.loads + (load_s is not None),
                last_used_at_ms=self._clock.now_ms(),
                breaker=CLOSED,
            ),
        )
        took = None if load_s is None else round(load_s, 3)
        self._event(EventKind.LOADED, "the node confirmed it", name, model, load_s=took)
        self._changed()

    def fail_load(
        self,
        name: NodeName,
        model: ModelId,
        generation: int,
        *,
        reason: str,
        wedged: bool = False,
    ) -> None:
        """The load ended without a model; counts towards the breaker."""
        view = self._current(name, model, generation)
        if view is None:
            return
        self._event(EventKind.LOAD_FAILED, reason, name, model)
        if wedged and not view.wedged:
            self._event(EventKind.WEDGED, reason, name, model)
        failed = self._failed(name, view, reason, at_once=True)
        self._put_model(
            name, replace(failed, status=ModelStatus.UNLOADED, wedged=view.wedged or wedged)
        )
        self._changed()

    def check_invariants(self) -> None:
        """What must hold after every method; the tests call it at every teardown."""
        for node in self._nodes.values():
            assert node.in_flight == sum(m.in_flight for m in node.models.values()), node.name
            assert all(m.in_flight >= 0 for m in node.models.values()), node.name

    def _listed(
        self,
        node: NodeView,
        model: ModelId,
        status: ReportedStatus,
        listing: Listing,
        *,
        restarted: bool,
    ) -> ModelView:
        view = node.models.get(model) or self._first_seen(node.name, model)
        seen = reconcile(
            view, status, duplicated=model in listing.duplicated, restarted=restarted
        )
        if seen.wedged and not view.wedged:
            self._event(EventKind.WEDGED, "listed twice by its node", node.name, model)
        return seen

    def _first_seen(self, node: NodeName, model: ModelId) -> ModelView:
        view = self._recollection.model(node, model)
        return govern_model(node, view, self.policy, self._pins)

    def _failed(
        self, name: NodeName, view: ModelView, reason: str, *, at_once: bool = False
    ) -> ModelView:
        now_s = self._clock.now_s()
        breaker = view.breaker.failed(now_s=now_s, reason=reason, at_once=at_once)
        if breaker.open_until_s > now_s:
            self._event(
                EventKind.BREAKER_OPEN,
                reason,
                name,
                view.id,
                failures=breaker.failures,
                open_s=round(breaker.open_until_s - now_s, 1),
            )
        return replace(view, breaker=breaker)

    def _current(self, name: NodeName, model: ModelId, generation: int) -> ModelView | None:
        """The view, unless a newer transition has begun: a late answer must not touch it."""
        view = self._model(name, model)
        return view if view is not None and view.generation == generation else None

    def _model(self, name: NodeName, model: ModelId) -> ModelView | None:
        return self._nodes[name].models.get(model) if name in self._nodes else None

    def _put(self, node: NodeView) -> None:
        self._nodes[node.name] = node
        self._snapshot = None

    def _put_model(self, name: NodeName, view: ModelView) -> None:
        node = self._nodes[name]
        self._put(replace(node, models={**node.models, view.id: view}))

    def _put_in_flight(self, node: NodeView, view: ModelView, by: int) -> None:
        view = replace(view, in_flight=view.in_flight + by)
        self._put(
            replace(node, in_flight=node.in_flight + by, models={**node.models, view.id: view})
        )
        self._revision += 1

    def _changed(self) -> None:
        self._revision += 1
        self._snapshot = None
        self._locations = None
        self.on_change()

    def _regovern(self) -> None:
        for policy in self.policy.nodes:
            self._put(govern(self._nodes[policy.name], self.policy, self._pins))
        self._changed()

    def _drop_if_idle(self, name: NodeName) -> None:
        """A node that left the configuration goes with its last lease."""
        if self.policy.node(name) is None and not self._nodes[name].in_flight:
            del self._nodes[name]
            self._event(EventKind.NODE_REMOVED, "removed from the configuration", name)
            self._changed()

    def _locate(self) -> dict[ModelId, tuple[NodeName, ...]]:
        found: dict[ModelId, list[NodeName]] = {}
        for name in sorted(self._nodes):
            for model in self._nodes[name].models:
                found.setdefault(model, []).append(name)
        return {model: tuple(names) for model, names in found.items()}

    def _event(
        self,
        kind: EventKind,
        reason: str,
        node: NodeName | None = None,
        model: ModelId | None = None,
        **detail: Any,
    ) -> None:
        self._journal.record(
            FleetEvent(
                at_ms=self._clock.now_ms(),
                kind=kind,
                reason=reason,
                node=node,
                model=model,
                detail=detail,
            )
        )
