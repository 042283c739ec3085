"""What the nodes say, written into the state: polls, system information, refused connections."""

from collections.abc import Mapping
from dataclasses import replace

from cortex.core.health import NodeHealth
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import Listing, NodeInfo, ReportedStatus
from cortex.core.reconcile import agrees, reconcile
from cortex.core.records import EventKind
from cortex.core.snapshot import ModelStatus, ModelView, NodeView, Weights
from cortex.core.traits import NOTHING, Kind, Traits, combined
from cortex.fleet.state import FleetState


class Observations:
    """Synchronous, as the state is. A node that was removed meanwhile is ignored."""

    def __init__(self, state: FleetState) -> None:
        self._state = state

    def listed(self, name: NodeName, listing: Listing, fence: int | None = None) -> None:
        """Take in a listing: the node is up, and its models are what it says.

        Save those that cortex is changing right now, for that transition ends by its own answer,
        and those that have moved since the listing was asked for: `fence` was `FleetState.moves`
        then, None = just now.
        """
        fence = self._state.moves if fence is None else fence
        state = self._state
        node = state.node(name)
        if node is None:
            return
        if self._says_nothing_new(node, listing):
            state.tell()
            return
        if node.liveness.health is not NodeHealth.UP:
            state.event(EventKind.NODE_UP, "answered a poll", name)
        restarted = (
            node.boot_at_s is not None
            and listing.created_at_s is not None
            and node.boot_at_s != listing.created_at_s
        )
        if restarted:
            state.event(EventKind.NODE_RESTARTED, "its process start changed", name)
            node = replace(
                node,
                cycles=0,
                residue_mib=0,
                restarted_at_ms=state.clock.now_ms(),
                listed={},
                declined={},
            )
        models = {
            model: self._listed(node, model, status, listing, restarted=restarted, fence=fence)
            for model, status in listing.models.items()
        }
        for model, view in node.models.items():
            # A model that vanished while in use, or while cortex moves it, is between two states.
            between = view.in_flight or view.moved_by_us or view.moved > fence
            if model not in models and between:
                models[model] = view if not restarted else self._ended(view)
        fresh = state.govern(
            replace(
                node,
                liveness=node.liveness.answered(listing.remark),
                boot_at_s=listing.created_at_s or node.boot_at_s,
                models=models,
                listed=_told(node.listed, listing.traits),
            )
        )
        # The same view where nothing is new, with all that was derived from it.
        state.put(fresh if fresh != state.node(name) else state.node(name) or fresh)
        state.changed()

    def informed(self, name: NodeName, info: NodeInfo) -> None:
        """Take in the device memory and version that a node reports."""
        state = self._state
        node = state.node(name)
        if node is None:
            return
        policy = state.policy.node(name)
        configured = policy.vram_total_mib if policy is not None else None
        fresh = replace(
            node,
            version=info.version,
            device_mib=info.vram_total_mib,
            free_mib=info.free_mib,
            free_read_s=state.clock.now_s(),
            vram_total_mib=configured or info.vram_total_mib,
            ram_total_mib=info.ram_total_mib or node.ram_total_mib,
        )
        state.put(state.govern(fresh))
        state.changed()

    def kinds(self, name: NodeName, kinds: Mapping[ModelId, frozenset[Kind]]) -> None:
        """Take in what a node says its models are for."""
        node = self._state.node(name)
        if node is not None and kinds:
            told = {model: Traits(kinds=found) for model, found in kinds.items()}
            self._state.put(replace(node, listed=_told(node.listed, told)))

    def declined(self, name: NodeName, model: ModelId, traits: Traits) -> None:
        """Take in what the refusal of a request tells of the model; true until the node restarts."""
        node = self._state.node(name)
        if node is not None and model in node.models:
            declined = _told(node.declined, {model: traits})
            if declined != node.declined:
                self._state.put(replace(node, declined=declined))

    def measured(self, name: NodeName, *, free_mib: int) -> None:
        """Take in the free memory that an agent reads beside the node."""
        node = self._state.node(name)
        if node is None:
            return
        now_s = self._state.clock.now_s()
        self._state.put(replace(node, free_mib=free_mib, free_read_s=now_s))
        if node.free_mib != free_mib:
            self._state.changed()

    def weighed(
        self,
        name: NodeName,
        weights: Mapping[ModelId, Weights],
        *,
        ram_total_mib: int | None = None,
    ) -> None:
        """Take in what an agent finds of models' files beside the node; empty = it is silent.

        The machine's memory is believed of the node first.
        """
        node = self._state.node(name)
        if node is None:
            return
        ram_mib = node.ram_total_mib or ram_total_mib
        if (node.weights, node.ram_total_mib) != (weights, ram_mib):
            self._state.put(replace(node, weights=weights, ram_total_mib=ram_mib))

    def silent(self, name: NodeName, reason: str) -> None:
        """A poll got no answer in time. A node that loads for cortex is excused (contract §2.2).

        Its load has a deadline of its own, and a node that is gone refuses connections.
        """
        node = self._state.node(name)
        if node is None or not any(
            model.moved_by_us and model.status is ModelStatus.LOADING
            for model in node.models.values()
        ):
            self.missed_poll(name, reason)

    def missed_poll(self, name: NodeName, reason: str) -> None:
        state = self._state
        node = state.node(name)
        if node is None:
            return
        reason = _unnamed(reason, name)
        after = node.liveness.missed(
            reason=reason, failures_before_down=state.policy.failures_before_down
        )
        fell = after.health is NodeHealth.DOWN and node.liveness.health is not NodeHealth.DOWN
        if fell:
            state.event(EventKind.NODE_DOWN, reason, name)
        state.put(replace(node, liveness=after))
        state.changed()
        if fell:
            for tell in state.when_down:
                tell(name, reason)

    def refused(self, name: NodeName, reason: str) -> None:
        """A request could not connect: the node is suspect until it answers a poll."""
        state = self._state
        node = state.node(name)
        if node is None or node.liveness.health is not NodeHealth.UP:
            return
        reason = _unnamed(reason, name)
        state.event(EventKind.NODE_SUSPECT, reason, name)
        state.put(replace(node, liveness=node.liveness.refused(reason=reason)))
        state.changed()

    def contradicted(self, name: NodeName, model: ModelId, status: ModelStatus) -> None:
        """The node refused a request for a model thought loaded: believe it over the last poll.

        `status` is UNLOADED, or LOADING where someone else ordered a load; polls tell its end.
        """
        view = self._state.model(name, model)
        if view is not None and view.status is ModelStatus.LOADED:
            loading = status is ModelStatus.LOADING
            self._state.moved(name, replace(view, status=status, reported_loading=loading))
            self._state.changed()

    def _says_nothing_new(self, node: NodeView, listing: Listing) -> bool:
        """The node is as it was when it was last heard, which is what nearly every poll tells."""
        models, now_ms = node.models, self._state.clock.now_ms()
        return (
            node.liveness == node.liveness.answered(listing.remark)
            and listing.created_at_s in (None, node.boot_at_s)
            and not listing.duplicated
            and listing.models.keys() == models.keys()
            and (not listing.traits or _told(node.listed, listing.traits) == node.listed)
            and all(
                agrees(models[model], status) and models[model].last_used_at_ms <= now_ms
                for model, status in listing.models.items()
            )
        )

    def _ended(self, view: ModelView) -> ModelView:
        """A model that its restarted node does not list: what was under way has ended there too."""
        return reconcile(
            view,
            ReportedStatus.UNLOADED,
            duplicated=False,
            restarted=True,
            now_s=self._state.clock.now_s(),
            load_timeout_s=self._state.policy.load_timeout_s,
        )

    def _listed(
        self,
        node: NodeView,
        model: ModelId,
        status: ReportedStatus,
        listing: Listing,
        *,
        restarted: bool,
        fence: int,
    ) -> ModelView:
        known = node.models.get(model)
        if known is not None and known.moved > fence and not restarted:
            return known
        view = known or self._state.first_seen(node.name, model)
        now_s, longest_s = self._state.clock.now_s(), self._state.policy.load_timeout_s
        # A node has all its models from its start: one that joins its list as reloading is none.
        if (
            known is None
            and node.liveness.health is NodeHealth.UP
            and not restarted
            and status is ReportedStatus.RELOADING
        ):
            view = replace(view, reloading_since_s=now_s - longest_s, phantom=True)
        now_ms = self._state.clock.now_ms()
        if view.last_used_at_ms > now_ms:
            # The clock was ahead, and was put back.
            view = replace(view, last_used_at_ms=now_ms)
        if node.liveness.missed_polls or node.liveness.health is not NodeHealth.UP:
            # Its failures were those of the node, which stood still or was away, and is back.
            view = replace(view, breaker=view.breaker.tried_again())
        seen = reconcile(
            view,
            status,
            duplicated=model in listing.duplicated,
            restarted=restarted,
            now_s=now_s,
            load_timeout_s=longest_s,
        )
        if seen.wedged and not view.wedged:
            why = _why_wedged(seen, longest_s)
            self._state.event(EventKind.WEDGED, why, node.name, model)
        return seen


def _told(
    before: Mapping[ModelId, Traits], now: Mapping[ModelId, Traits]
) -> Mapping[ModelId, Traits]:
    if not now:
        return before
    changed = {model: combined(before.get(model, NOTHING), said) for model, said in now.items()}
    return {**before, **changed}


def _why_wedged(view: ModelView, load_timeout_s: float) -> str:
    if view.phantom:
        return "reloading, and no model of its node"
    return f"reloading for {load_timeout_s:g} s" if view.stuck else "listed twice by its node"


def _unnamed(reason: str, node: NodeName) -> str:
    """Wherever a node's state is shown, its name stands beside it."""
    return reason.removeprefix(f"{node}: ")
