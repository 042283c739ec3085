"""What cortex does to models, written into the state: loads, drains, unloads.

Each transition has a generation. Its later steps name it, and do nothing once a newer one has
begun or the node has restarted: a late answer finds nothing to change.
"""

import math
from dataclasses import dataclass, replace

from cortex.core.decisions import Load
from cortex.core.footprint import NOISE_MIB, floor_mib, is_out_of_memory, learned_mib
from cortex.core.health import CLOSED
from cortex.core.ids import ModelId, NodeName, RequestId
from cortex.core.records import EventKind
from cortex.core.snapshot import ModelStatus, ModelView
from cortex.core.warmth import is_warm, learned, read_since_mib
from cortex.fleet.lease import Held, Ref
from cortex.fleet.procedures import Freed
from cortex.fleet.state import FleetState


@dataclass(frozen=True, slots=True)
class Transition(Held):
    """A change of one model on one node that is under way."""

    ref: Ref
    model: ModelId
    generation: int
    request_id: RequestId | None = None
    """The request that it is for, which all that is said of it repeats; None = it is for no one."""

    def __str__(self) -> str:
        return f"{self.model} on {self.node}"


class Transitions:
    """Synchronous, as the state is."""

    def __init__(self, state: FleetState) -> None:
        self._state = state

    def begin_load(self, load: Load) -> tuple[Transition, tuple[Transition, ...]]:
        """Reserve the memory, and drain the victims; the first is the load's, then theirs.

        On a fresh `Load`, with no await since the snapshot it was made on.
        """
        view = self._state.model(load.node, load.model)
        assert view is not None
        assert view.status is ModelStatus.UNLOADED, f"{load.model} is {view.status}"
        node = self._state.node(load.node)
        total_mib = None if node is None else node.vram_total_mib
        # Later it may be otherwise: what is known of either changes while a load is under way.
        assert (view.size_mib or 0) <= (total_mib or math.inf), f"{load.model} is too large"
        if node is not None:
            view = replace(view, warm_at_start=is_warm(node, view))
        guess_mib = load.need_mib if load.guess else None
        if guess_mib is not None:
            view = replace(view, guess_mib=guess_mib)
        request_id = load.cause.request_id
        transition = self._enter(load.node, view, ModelStatus.LOADING, request_id)
        self._state.event(
            EventKind.LOAD,
            load.reason,
            load.node,
            load.model,
            need_mib=view.size_mib,
            guess_mib=guess_mib,
            guess=load.guess or None,
            evict=list(load.evict),
            strategy=self._state.policy.eviction.deciding.value,
            **_because(load),
        )
        victims = tuple(
            self._drain(
                load.node, victim, EventKind.EVICT, f"to make room for {load.model}", request_id
            )
            for victim in load.evict
        )
        for victim in load.evict:
            self._state.forecasts.outlook.gone(victim, self._state.clock.now_s())
        self._state.changed()
        return transition, victims

    def end_load(self, transition: Transition, *, load_s: float | None) -> None:
        """The node confirmed the load. `load_s` None: it had been loaded by someone else."""
        view, node = self._current(transition), self._state.node(transition.node)
        if view is None or node is None:
            return
        # As it was before it read the file.
        warm = view.warm_at_start
        read_mib = node.read_mib + (view.size_mib or 0)
        self._state.put(replace(node, read_mib=read_mib))
        self._leave(
            transition,
            replace(
                learned(view, load_s, warm=warm),
                status=ModelStatus.LOADED,
                read_at_mib=read_mib,
                loads=view.loads + (load_s is not None),
                last_used_at_ms=self._state.clock.now_ms(),
                resident_since_s=self._state.clock.now_s(),
                breaker=CLOSED,
            ),
        )
        self._say(
            EventKind.LOADED,
            "the node confirmed it",
            transition,
            load_s=None if load_s is None else round(load_s, 3),
            size_mib=view.size_mib,
            read_since_mib=read_since_mib(node, view),
            warm=warm,
        )
        self._state.changed()

    def learn_size(self, transition: Transition, taken_mib: int | None) -> None:
        """What the load just ended was seen to take; None = it could not be measured."""
        view = self._current(transition)
        if view is None:
            return
        size = learned_mib(view.size_mib, taken_mib, floor=view.out_of_memory)
        other_mib = abs((taken_mib or 0) - (view.size_mib or 0))
        if taken_mib is not None and (other_mib > NOISE_MIB or view.guess_mib is not None):
            was = "nobody knew" if view.size_mib is None else f"{view.size_mib} MiB expected"
            self._say(
                EventKind.SIZED,
                f"it took {taken_mib} MiB, {was}",
                transition,
                taken_mib=taken_mib,
                expected_mib=view.size_mib,
                guess_mib=view.guess_mib,
            )
        if view.size_mib is None and taken_mib is not None:
            view = self._read_after_all(transition, view, taken_mib)
        self._state.put_model(
            transition.node,
            replace(
                view,
                size_mib=self._configured(view.id) or size,
                took_mib=taken_mib,
                guess_mib=view.guess_mib if taken_mib is None else None,
                out_of_memory=False,
            ),
        )
        self._state.changed()

    def _read_after_all(
        self, transition: Transition, view: ModelView, taken_mib: int
    ) -> ModelView:
        """Count what a load read whose size nobody knew when it ended."""
        node = self._state.node(transition.node)
        assert node is not None
        self._state.put(replace(node, read_mib=node.read_mib + taken_mib))
        return replace(view, read_at_mib=(view.read_at_mib or 0) + taken_mib)

    def fail_load(
        self,
        transition: Transition,
        *,
        reason: str,
        wedged: bool = False,
        free_mib: int | None = None,
    ) -> None:
        """The load ended without a model.

        Opens the breaker, save for a first lack of memory: that is tried once more, with the
        model taken to need more than the `free_mib` there were.
        """
        view = self._current(transition)
        if view is None:
            return
        self._say(EventKind.LOAD_FAILED, reason, transition)
        if wedged and not view.wedged:
            self._say(EventKind.WEDGED, reason, transition)
        starved = is_out_of_memory(reason)
        if not starved or view.out_of_memory:
            view = self._state.failed(transition.node, view, reason, at_once=True)
        if starved:
            node = self._state.node(transition.node)
            total = node.vram_total_mib if node is not None else None
            floor = floor_mib(view.size_mib, free_mib, total)
            view = replace(view, out_of_memory=True, size_mib=floor)
        self._leave(
            transition,
            replace(view, status=ModelStatus.UNLOADED, wedged=view.wedged or wedged),
        )
        self._state.changed()

    def withdraw_load(self, transition: Transition, reason: str) -> None:
        """End a load before the node was asked for it; says nothing against the node."""
        view = self._current(transition)
        if view is not None:
            self._leave(transition, replace(view, status=ModelStatus.UNLOADED))
            self._say(EventKind.LOAD_ABANDONED, reason, transition)
            self._state.changed()

    def begin_drain(self, node: NodeName, model: ModelId, reason: str) -> Transition:
        """Take no new lease for a resident model; what runs goes on."""
        transition = self._drain(node, model, EventKind.DRAIN, reason)
        self._state.changed()
        return transition

    def revive(self, transition: Transition, reason: str, *, spared_s: float = 0.0) -> None:
        """Let a model that was being drained serve again, and spare it for `spared_s`."""
        view = self._current(transition)
        if view is None or view.status is not ModelStatus.DRAINING:
            return
        until_s = self._state.clock.now_s() + spared_s if spared_s else 0.0
        self._leave(
            transition,
            replace(view, status=ModelStatus.LOADED, undrainable_until_s=until_s),
        )
        self._say(EventKind.REVIVED, reason, transition)
        self._state.changed()

    def begin_unload(self, transition: Transition) -> bool:
        """From drained to unloading; False where the model is no longer ours to unload.

        Call it when `FleetState.idle` has returned, with no await between.
        """
        view = self._current(transition)
        if view is None or view.status is not ModelStatus.DRAINING:
            return False
        assert not view.in_flight, f"{transition} is in use"
        self._state.put_model(transition.node, replace(view, status=ModelStatus.UNLOADING))
        self._say(EventKind.UNLOAD, "drained", transition)
        self._state.changed()
        return True

    def end_unload(self, transition: Transition, freed: Freed) -> None:
        """The node let go of it: one cycle more."""
        view = self._current(transition)
        node = self._state.node(transition.node)
        if view is None or node is None:
            return
        if view.size_mib is None and freed.mib and freed.mib > 0:
            view = replace(view, size_mib=freed.mib)
        if freed.free_mib is not None:
            now_s = self._state.clock.now_s()
            node = replace(node, free_mib=freed.free_mib, free_read_s=now_s)
        self._state.put(replace(node, cycles=node.cycles + 1))
        self._leave(
            transition,
            replace(view, status=ModelStatus.UNLOADED, resident_since_s=None, took_mib=None),
        )
        self._say(EventKind.UNLOADED, "the node confirmed it", transition, freed_mib=freed.mib)
        self._note_residue(transition, freed.residue_mib or 0)
        self._state.changed()

    def _note_residue(self, transition: Transition, left_mib: int) -> None:
        """Add what an unload left behind, but no more than is in use and nobody is known to hold."""
        node = self._state.node(transition.node)
        if node is None:
            return
        before_mib = node.residue_mib
        residue_mib = max(0, before_mib + left_mib)
        if (unexplained_mib := node.unexplained_mib) is not None:
            residue_mib = min(residue_mib, max(0, unexplained_mib))
        self._state.put(replace(node, residue_mib=residue_mib))
        if (more_mib := residue_mib - before_mib) > 0:
            self._say(
                EventKind.LEAK,
                f"{more_mib} MiB did not come back",
                transition,
                residue_mib=more_mib,
            )

    def fail_unload(
        self, transition: Transition, reason: str, *, spared_s: float, serves: bool = False
    ) -> None:
        """It is still there and `serves`, or nobody knows: then it counts as gone until the node says.

        It is no victim for `spared_s`.
        """
        view = self._current(transition)
        if view is not None:
            self._leave(
                transition,
                replace(
                    view,
                    status=ModelStatus.LOADED if serves else ModelStatus.UNLOADED,
                    resident_since_s=view.resident_since_s if serves else None,
                    undrainable_until_s=self._state.clock.now_s() + spared_s,
                ),
            )
            self._say(EventKind.UNLOAD_FAILED, reason, transition)
            self._state.changed()

    def give_up(self, transition: Transition, reason: str, *, spared_s: float) -> None:
        """End a transition in whatever state it is; nothing if it has ended."""
        view = self._current(transition)
        match view.status if view is not None else None:
            case ModelStatus.LOADING:
                self.fail_load(transition, reason=reason)
            case ModelStatus.DRAINING:
                self.revive(transition, reason)
            case ModelStatus.UNLOADING:
                self.fail_unload(transition, reason, spared_s=spared_s)
            case _:
                pass

    def is_current(self, transition: Transition) -> bool:
        return self._current(transition) is not None

    def _drain(
        self,
        node: NodeName,
        model: ModelId,
        kind: EventKind,
        reason: str,
        request_id: RequestId | None = None,
    ) -> Transition:
        view = self._state.model(node, model)
        assert view is not None
        assert view.resident, f"{model} is {view.status} on {node}"
        transition = self._enter(node, view, ModelStatus.DRAINING, request_id)
        idle_ms = self._state.clock.now_ms() - view.last_used_at_ms
        self._say(
            kind,
            reason,
            transition,
            in_flight=view.in_flight,
            size_mib=view.size_mib,
            load_s=view.load_s,
            idle_s=round(idle_ms / 1000, 1) if view.last_used_at_ms else None,
        )
        return transition

    def _enter(
        self,
        node: NodeName,
        view: ModelView,
        status: ModelStatus,
        request_id: RequestId | None,
    ) -> Transition:
        generation = view.generation + 1
        loading = status is ModelStatus.LOADING
        self._state.moved(
            node,
            replace(
                view,
                status=status,
                reported_loading=False,
                reloading_since_s=self._state.clock.now_s() if loading else None,
                generation=generation,
            ),
        )
        return Transition(self._state.ref(node), view.id, generation, request_id)

    def _leave(self, transition: Transition, view: ModelView) -> None:
        self._state.moved(transition.node, view)

    def _current(self, transition: Transition) -> ModelView | None:
        """The view, unless a newer transition has begun: a late answer must not touch it."""
        if not self._state.is_known(transition.ref):
            return None
        view = self._state.model(transition.node, transition.model)
        return view if view is not None and view.generation == transition.generation else None

    def _configured(self, model: ModelId) -> int | None:
        rule = self._state.policy.models.get(model)
        return rule.size_mib if rule is not None else None

    def _say(
        self, kind: EventKind, reason: str, transition: Transition, **detail: object
    ) -> None:
        if transition.request_id is not None:
            detail["request_id"] = transition.request_id
        self._state.event(kind, reason, transition.node, transition.model, **detail)


def _because(load: Load) -> dict[str, object]:
    """Who had it begin, and which other ways there were, for the log."""
    cause = load.cause
    return {
        "by": cause.by,
        "request_id": cause.request_id,
        "waited_ms": round(cause.waited_s * 1000),
        "cost_s": _tenths(load.cost_s),
        "alternatives": [
            {
                "node": way.node,
                "evict": list(way.evict),
                "cost_s": _tenths(way.cost_s),
                "need_mib": way.need_mib,
                "available_mib": way.available_mib,
            }
            for way in load.alternatives()
        ],
    }


def _tenths(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
