"""What the chaos suite found, each as a small story of its own."""

import asyncio

from cortex.core.decisions import Load
from cortex.core.health import NodeHealth
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import LifecycleAnswer, Listing, NodeInfo, ReportedStatus, Work
from cortex.core.snapshot import ModelStatus
from cortex.fleet.guard import Guard
from cortex.fleet.lifecycle import Lifecycle
from cortex.fleet.observations import Observations
from cortex.fleet.policy import FleetPolicy, NodePolicy
from cortex.fleet.procedures import Freed
from cortex.fleet.state import FleetState
from cortex.fleet.transitions import Transitions
from cortex.telemetry.clock import SystemClock
from tests.fleet.fakes import Events, Kept, Watched

N, A, B = NodeName("n"), ModelId("a"), ModelId("b")


def listing(created_at_s: int, **models: str) -> Listing:
    statuses = {ModelId(model): ReportedStatus(status) for model, status in models.items()}
    return Listing(created_at_s=created_at_s, models=statuses)


def test_a_restart_ends_the_unload_of_a_model_that_is_not_listed_just_then() -> None:
    """A node that unloads lists the model nowhere for a moment; it may be a new process by then."""
    events = Events()
    state = FleetState(
        FleetPolicy(nodes=(NodePolicy(name=N),)), clock=SystemClock(), journal=events
    )
    observations, transitions = Observations(state), Transitions(state)
    observations.listed(N, listing(1, a="loaded", b="unloaded"))
    load = Load(node=N, model=B, reason="", evict=(A,))
    loading, (victim,) = transitions.begin_load(load)
    assert transitions.begin_unload(victim)
    observations.listed(N, listing(2, b="loaded"))
    view = state.node(N)
    assert view is not None
    assert view.liveness.health is NodeHealth.UP
    assert {m.id: m.status for m in view.models.values()} == {
        A: ModelStatus.UNLOADED,
        B: ModelStatus.LOADED,
    }
    # The late answers find nothing to change.
    cycles = view.cycles
    transitions.end_unload(victim, Freed())
    transitions.end_load(loading, load_s=1.0)
    assert state.node(N) == view
    assert view.cycles == cycles == 0
    assert "unloaded" not in events.kinds
    assert "loaded" not in events.kinds


class Restarting:
    """A node that turns out to be a new process when its memory is read."""

    def __init__(self, observations: Observations) -> None:
        self._observations = observations
        self.unloads = 0

    async def list_models(self) -> Listing:
        raise AssertionError("nobody polls here")

    async def system_info(self) -> NodeInfo:
        self._observations.listed(N, listing(2, a="loaded"))
        return NodeInfo(version="0.9.2", vram_total_mib=8000, free_mib=2000)

    async def model_status(self, model: ModelId) -> LifecycleAnswer:
        raise AssertionError(f"nobody asks for {model}")

    async def reload(self, model: ModelId) -> LifecycleAnswer:
        raise AssertionError(f"nobody loads {model}")

    async def unload(self, model: ModelId) -> LifecycleAnswer:
        self.unloads += 1
        return LifecycleAnswer(status=ReportedStatus.UNLOADED)

    async def wake(self, model: ModelId, work: Work) -> str | None:
        raise AssertionError(f"nobody wakes {model}")

    async def probe(self, model: ModelId) -> None:
        raise AssertionError(f"nobody probes {model}")


async def test_a_node_that_restarted_meanwhile_is_not_told_to_unload() -> None:
    """Its new process may be serving the model by then, and an unload would cut that."""
    events = Events()
    state = FleetState(
        FleetPolicy(nodes=(NodePolicy(name=N),)), clock=SystemClock(), journal=events
    )
    observations = Observations(state)
    observations.listed(N, listing(1, a="loaded"))
    node = Restarting(observations)
    lifecycle = Lifecycle(
        state,
        store=Kept(),
        client_of=lambda _: node,
        watcher=Watched(),
        guard=Guard(SystemClock()),
    )
    async with asyncio.TaskGroup() as group:
        lifecycle.start(group)
        why = await lifecycle.unload(N, A, "by request")
    assert why == "the node did not let go of it"
    assert node.unloads == 0
    view = state.model(N, A)
    assert view is not None
    assert view.resident
