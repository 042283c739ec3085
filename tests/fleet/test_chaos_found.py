"""What the chaos suite found, each as a small story of its own."""

from cortex.core.decisions import Load
from cortex.core.health import NodeHealth
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import Listing, ReportedStatus
from cortex.core.records import FleetEvent
from cortex.core.snapshot import ModelStatus
from cortex.fleet.observations import Observations
from cortex.fleet.policy import FleetPolicy, NodePolicy
from cortex.fleet.state import FleetState
from cortex.fleet.transitions import Freed, Transitions
from cortex.telemetry.clock import SystemClock

N, A, B = NodeName("n"), ModelId("a"), ModelId("b")


class Events:
    def __init__(self) -> None:
        self.kinds: list[str] = []

    def record(self, event: FleetEvent) -> None:
        self.kinds.append(event.kind.value)


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
