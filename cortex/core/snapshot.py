"""The fleet at one instant, as frozen values. `fleet.state` makes them; decisions read them.

Units: memory in MiB, monotonic instants end in `_s`, wall-clock instants in `_at_ms` (UTC).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from cortex.core.footprint import least_mib
from cortex.core.health import CLOSED, UNSEEN, Breaker, Liveness, NodeHealth
from cortex.core.ids import ModelId, NodeName
from cortex.core.rules import EvictionRules
from cortex.core.traits import NOTHING, Traits

DEFAULT_PRIORITY = 100
FRESH_S = 5.0
"""How long a reading of a device's free memory is believed."""


class Drain(StrEnum):
    """Why a node is finishing what runs and takes nothing new."""

    REMOVED = "removed"
    """It left the configuration."""
    REQUEST = "request"
    """An operator asked."""
    DEFRAG = "defrag"
    """It is about to be restarted."""


class ModelStatus(StrEnum):
    """Where a model stands on one node."""

    LOADED = "loaded"
    UNLOADED = "unloaded"
    LOADING = "loading"
    """Being loaded, by cortex or (as `reloading`) by someone else."""
    DRAINING = "draining"
    """Loaded, finishing what runs, taking no new lease."""
    UNLOADING = "unloading"


V = TypeVar("V", "ModelView", "NodeView")


def evolve(view: V, **changes: object) -> V:
    """`dataclasses.replace` for what is done to many views at a time, at a tenth of the price.

    It copies the instance's dictionary instead of calling `__init__`, which is why the views have
    one; the type checker does not see the names.
    """
    changed = object.__new__(type(view))
    fields = changed.__dict__
    fields.update(view.__dict__, **changes)
    if "derived" in fields:
        fields["derived"] = {}
    return changed


@dataclass(frozen=True, kw_only=True)
class ModelView:
    """One model on one node."""

    id: ModelId
    status: ModelStatus = ModelStatus.UNLOADED
    reported_loading: bool = False
    """LOADING because its node says so: a load that cortex did not begin, ended by a poll."""
    wedged: bool = False
    """The node's `reloading` flag leaked: it may still serve, but cannot be loaded again until a restart."""
    stuck: bool = False
    """Wedged because `reloading` outlived the longest load; the node is believed when it says otherwise."""
    phantom: bool = False
    """Wedged, and no model of its node: a `reload` of a wrong name is listed for ever (contract §2.4)."""
    reloading_since_s: float | None = None
    """Since when its node says `reloading` (monotonic), or since cortex began to load it."""
    pinned: bool = False
    """Never unloaded to make room."""
    pin_floats: bool = False
    """Pinned wherever it is, not to this node: one copy anywhere is enough."""
    idle_unload_s: float | None = None
    """Unload after so long without use; None = never."""
    in_flight: int = 0
    """Leases held now, by cortex's own count."""
    max_in_flight: int = 32
    priority: int = DEFAULT_PRIORITY
    last_used_at_ms: int = 0
    """Wall clock, so that the LRU order survives a restart; 0 = never."""
    size_mib: int | None = None
    """From the configuration, else learned; None = unknown."""
    size_guess: str = ""
    """What `size_mib` is guessed by, where the planner had to; "" = it is the model's own."""
    guess_mib: int | None = None
    """What it was first taken to need where nobody had seen it, until a load is measured."""
    took_mib: int | None = None
    """What its present load was measured to take; None = it was not."""
    load_s: float | None = None
    """Learned load time in seconds (moving average); None = never loaded by cortex."""
    cold_load_s: float | None = None
    """Of the loads from disk, and from who knows where; see `warmth`."""
    warm_load_s: float | None = None
    loads: int = 0
    used_s: float = 0.0
    """When its last request ended (monotonic); 0 = none has."""
    answer_s: float = 0.0
    """How long its requests take from lease to end (moving average); 0 = none has ended yet."""
    read_at_mib: int | None = None
    """`NodeView.read_mib` after its last load there; None = none was counted."""
    warm_at_start: bool | None = None
    """Whether the load that is under way found its file in memory; see `warmth`."""
    resident_since_s: float | None = None
    """Monotonic; None = not resident, or for longer than this process knows."""
    undrainable_until_s: float = 0.0
    """A drain of it ran out of time: it is no victim before then (monotonic)."""
    out_of_memory: bool = False
    """Its last load ended for lack of memory."""
    breaker: Breaker = CLOSED
    generation: int = 0
    """Grows with every load or unload begun here; a late answer of an older one is ignored."""
    moved: int = 0
    """The count of moves in the fleet when this one last began or ended a move, or was contradicted; a
    listing that was asked for before then says nothing of it."""

    @property
    def resident(self) -> bool:
        """Held in memory and allowed to take a lease."""
        return self.status is ModelStatus.LOADED

    @property
    def moved_by_us(self) -> bool:
        """In a transition that cortex began, and that ends by the node's answer to cortex."""
        return (
            self.status is not ModelStatus.LOADED
            and self.status is not ModelStatus.UNLOADED
            and not self.reported_loading
        )

    @property
    def occupies(self) -> bool:
        """Uses, or may use, the node's memory."""
        return self.status is not ModelStatus.UNLOADED


def needed_mib(model: ModelView) -> int:
    """The least free memory in which it is worth a try; with less than its size it failed, if so."""
    size_mib = model.size_mib or 0
    return size_mib if model.out_of_memory else least_mib(size_mib)


@dataclass(frozen=True, slots=True)
class Occupancy:
    """What the models of one node come to."""

    moving: ModelView | None
    reserved_mib: int
    held_mib: int
    """What residents, loads apart, are known to hold."""
    unknown: int
    """Models in memory whose size nobody knows."""
    count: int
    """Models in memory."""


class Weights(NamedTuple):
    """A model's files on a node's machine, as an agent beside it finds them."""

    size_mib: int
    cached_mib: int | None
    """What the machine's memory holds of them; None = the agent cannot tell."""
    traits: Traits = NOTHING
    """What they say of it."""


@dataclass(frozen=True, kw_only=True)
class NodeView:
    """One node: what it holds and whether it may be given work."""

    name: NodeName
    endpoint: str = ""
    """Where its process listens, which is what makes it the same node under another name."""
    liveness: Liveness = UNSEEN
    drains: frozenset[Drain] = frozenset()
    """Why it takes no new lease and no load; empty = it does."""
    vram_total_mib: int | None = None
    device_mib: int | None = None
    """Total device memory as the node itself reports it, whatever the configuration says."""
    free_mib: int | None = None
    """Free device memory as it was last read; None = the node reports none."""
    fresh_s: float = FRESH_S
    """How long such a reading is believed."""
    free_read_s: float | None = None
    """When that was (monotonic); None = just now."""
    max_in_flight: int | None = None
    in_flight: int = 0
    uses: int = 0
    """Grows with every lease, and with the end of one."""
    no_load_reason: str | None = None
    """Why it is not told to load, as where `lifecycle` is off; None = it may be."""
    no_unload_reason: str | None = None
    """The same for unloads; also where one would destroy the model."""
    models: Mapping[ModelId, ModelView] = field(default_factory=dict)
    version: str | None = None
    boot_at_s: int | None = None
    """The node's `created`: unix seconds of its process start; a change means it restarted."""
    restarted_at_ms: int | None = None
    """When cortex last saw it restart, wall clock."""
    cycles: int = 0
    """Verified unloads since the node's last restart (drives defragmentation)."""
    ram_total_mib: int | None = None
    """The machine's own memory, which holds the files that were read last; None = not reported."""
    read_mib: int = 0
    """What loads have read there, all together, as far as their sizes were known."""
    weights: Mapping[ModelId, Weights] = field(default_factory=dict)
    """Of the models whose files an agent found; empty = there is no agent, or it is silent."""
    listed: Mapping[ModelId, Traits] = field(default_factory=dict)
    """What the node itself says of its models."""
    declined: Mapping[ModelId, Traits] = field(default_factory=dict)
    """What its refusals since its restart say of them."""
    residue_mib: int = 0
    """Memory that unloads since the last restart did not give back."""
    derived: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What was computed from this very view, kept with it: a view never changes, a fleet of a
    thousand is planned for a thousand times a second. `replace` begins with none."""

    @property
    def may_load(self) -> bool:
        return self.no_load_reason is None

    @property
    def may_unload(self) -> bool:
        return self.no_unload_reason is None

    @property
    def draining(self) -> bool:
        return bool(self.drains)

    @property
    def keeps(self) -> bool:
        """What it holds counts as there: it is not gone, and not on its way out of service."""
        return self.liveness.health is not NodeHealth.DOWN and not self.drains - {Drain.DEFRAG}

    @property
    def routable(self) -> bool:
        return self.liveness.health is NodeHealth.UP and not self.drains

    @property
    def moving(self) -> ModelView | None:
        """A model that is being loaded or unloaded there.

        One at a time a node: a load runs inline in the node's server and sizes itself by the
        memory that is free just then, and only a quiet node shows what a model takes.
        """
        return self.occupancy.moving

    @property
    def reserved_mib(self) -> int:
        """Memory promised to loads that are under way."""
        return self.occupancy.reserved_mib

    @property
    def largest(self) -> ModelView | None:
        """Of its models that of the largest size, known or shared out; None = no size can be said."""
        if "largest" not in self.derived:
            sized = [
                (size, view.id, view)
                for view in self.models.values()
                if (size := self.size_of(view) if view.occupies else view.size_mib) is not None
            ]
            self.derived["largest"] = max(sized, default=(0, "", None))[2]
        found: ModelView | None = self.derived["largest"]
        return found

    @property
    def occupancy(self) -> Occupancy:
        """Computed once a view."""
        known: Occupancy | None = self.derived.get("occupancy")
        if known is None:
            known = self.derived["occupancy"] = _occupancy(self.models.values())
        return known

    def available_mib(self, now_s: float) -> int | None:
        """min(free as read, total - what residents are known to hold) - reserved; None = unknown.

        A reading older than `fresh_s` does not count: what others freed since must not keep a
        model out for ever, and a load reads anew before it begins.
        """
        free = self.free_mib
        if self.free_read_s is not None and now_s - self.free_read_s > self.fresh_s:
            free = None
        total, occupancy = self.vram_total_mib, self.occupancy
        if total is not None:
            left = total - occupancy.held_mib
            free = left if free is None or left < free else free
        return None if free is None else free - occupancy.reserved_mib

    @property
    def unexplained_mib(self) -> int | None:
        """In use as it was last read, and not known to be held by a model; None = it was never read.

        What a load has reserved need not be in use yet.
        """
        if self.vram_total_mib is None or self.free_mib is None:
            return None
        return self.vram_total_mib - self.free_mib - self.occupancy.held_mib

    def size_of(self, model: ModelView) -> int | None:
        """What `model` holds there; a size nobody knows is an even share of what is unaccounted for.

        None where even that cannot be said. The only model there may have outgrown its size.
        """
        if self.vram_total_mib is None or self.free_mib is None:
            return model.size_mib
        occupancy = self.occupancy
        if model.size_mib is not None:
            if occupancy.count > 1:
                return model.size_mib
            used_mib = self.vram_total_mib - self.free_mib - self.residue_mib
            return max(model.size_mib, used_mib)
        known = occupancy.held_mib + occupancy.reserved_mib
        return max(0, self.vram_total_mib - self.free_mib - known) // max(1, occupancy.unknown)


def _occupancy(models: Iterable[ModelView]) -> Occupancy:
    moving, reserved, held, unknown, count = None, 0, 0, 0, 0
    for model in models:
        status = model.status
        if status is ModelStatus.UNLOADED:
            continue
        count += 1
        if moving is None and status is not ModelStatus.LOADED:
            moving = model
        if model.size_mib is None:
            unknown += 1
        elif status is ModelStatus.LOADING:
            reserved += model.size_mib
        else:
            held += model.size_mib
    return Occupancy(moving, reserved, held, unknown, count)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSnapshot:
    """Every node at one revision. `revision` grows with each change of the state."""

    revision: int = 0
    nodes: Mapping[NodeName, NodeView] = field(default_factory=dict)
    locations: Mapping[ModelId, tuple[NodeName, ...]] = field(default_factory=dict)
    """Which nodes list a model, in name order, whatever its status or theirs."""
    aliases: Mapping[str, ModelId] = field(default_factory=dict)
    allowed_nodes: Mapping[ModelId, frozenset[NodeName]] = field(default_factory=dict)
    """`[models."ID"] nodes`: where a model may run; absent = anywhere."""
    max_copies: Mapping[ModelId, int] = field(default_factory=dict)
    """`[models."ID"] max_copies`; absent = as many as there is free memory for."""
    traits: Mapping[ModelId, Traits] = field(default_factory=dict)
    """What the configuration says of models."""
    eviction: EvictionRules = field(default_factory=EvictionRules)
    pins: frozenset[tuple[NodeName | None, ModelId]] = frozenset()
    """What shall be kept where, by the configuration or by request; node None = anywhere."""
    derived: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What was computed from it, kept with it; none of it hangs on what is in flight."""

    def resolve(self, name: str) -> ModelId | None:
        """The model that a client-facing name means, or None when nothing here knows it."""
        if name in self.locations:
            return ModelId(name)
        meant = self.aliases.get(name)
        return meant if meant in self.locations else None

    def pin_absent(self, model: ModelView) -> bool:
        """A pinned model is not in memory where its pin wants it.

        A pin that names no node is content with one copy anywhere.
        """
        if not model.pinned or (model.resident and not model.pin_floats):
            return False
        if not model.pin_floats:
            return True
        return not any(
            node.keeps and node.models[model.id].resident for node in self.holders(model.id)
        )

    def holders(self, model: ModelId) -> Iterator["NodeView"]:
        """Every node that lists a model."""
        return (self.nodes[name] for name in self.locations.get(model, ()))
