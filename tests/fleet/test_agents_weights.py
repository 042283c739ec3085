"""What an agent finds of models' files: for sizes that nobody knows, and for which loads will be short."""

from pathlib import Path

import pytest

from cortex.core.decisions import Load, Want
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import Listing, NodeInfo, ReportedStatus
from cortex.core.records import EventKind, Recollection, ResidencyRecord
from cortex.core.snapshot import Weights
from cortex.fleet.admission import Admission
from cortex.fleet.agents import Agents
from cortex.fleet.observations import Observations
from cortex.fleet.policy import FleetPolicy, NodePolicy
from cortex.fleet.state import FleetState
from cortex.fleet.transitions import Transitions
from tests.fleet.fakes import Events, HandClock
from tests.gateway.conftest import scripted
from tests.running import running

M, N = NodeName("m"), NodeName("n")
A, B = ModelId("a"), ModelId("b")


class Two:
    """Two nodes alike that list both models and hold none."""

    def __init__(self, *known: ResidencyRecord) -> None:
        self.clock, self.events = HandClock(), Events()
        self.state = FleetState(
            FleetPolicy(nodes=(NodePolicy(name=M), NodePolicy(name=N))),
            clock=self.clock,
            journal=self.events,
            recollection=Recollection(residency=known),
        )
        self.agents = Agents(self.state)
        self.transitions = Transitions(self.state)
        seen = Observations(self.state)
        for name in (M, N):
            models = {A: ReportedStatus.UNLOADED, B: ReportedStatus.UNLOADED}
            seen.informed(name, NodeInfo(version="0.9.2", vram_total_mib=24_000))
            seen.listed(name, Listing(created_at_s=1, models=models))

    def found(self, name: NodeName, **weights: Weights) -> None:
        files = {ModelId(model): found for model, found in weights.items()}
        self.agents.reported(name, can_restart=True, free_mib=None, acks=())
        self.agents.found(name, files)

    def load(self, model: ModelId) -> Load:
        decision = Admission(self.state, begin_load=lambda _: None).explain(Want(model))
        assert isinstance(decision, Load)
        return decision


def record(model: ModelId, node: NodeName = M, **more: object) -> ResidencyRecord:
    fields: dict[str, object] = {"node": node, "model": model, "status": "unloaded"}
    return ResidencyRecord(**(fields | more))  # type: ignore[arg-type]


def test_a_size_that_nobody_knows_is_guessed_by_the_files() -> None:
    there = Two()
    there.found(M, a=Weights(10_000, None))
    load = there.load(A)
    assert (load.node, load.need_mib) == (M, 12_000)
    assert load.guess == "its files of 10000 MiB × 1.2"
    assert load.reason.startswith("tried: perhaps 12000 MiB wanted")


def test_the_ratio_is_that_of_models_that_were_loaded() -> None:
    there = Two(record(B, size_mib=6000, loads=3))
    there.found(M, a=Weights(10_000, None), b=Weights(4000, None))
    assert (there.load(A).need_mib, there.load(A).guess) == (
        15_000,
        "its files of 10000 MiB × 1.5",
    )


def test_what_another_node_measured_is_better_and_no_guess_is_above_the_card() -> None:
    there = Two(record(A, N, size_mib=9000, loads=1))
    there.found(M, a=Weights(50_000, None))
    for entry in there.load(A).considered:
        assert entry.need_mib == 9000
    alone = Two()
    alone.found(M, a=Weights(50_000, None))
    assert alone.load(A).need_mib == 24_000


@pytest.mark.parametrize(("cached_mib", "goes_to", "warm"), [(9500, N, True), (100, M, False)])
def test_a_load_goes_where_the_files_are_in_memory(
    cached_mib: int, goes_to: NodeName, warm: bool
) -> None:
    known = {"size_mib": 11_000, "load_s": 30.0, "cold_load_s": 30.0, "warm_load_s": 5.0}
    there = Two(record(A, M, **known), record(A, N, **known))
    there.found(M, a=Weights(10_000, None))
    there.found(N, a=Weights(10_000, cached_mib))
    load = there.load(A)
    assert load.node == goes_to
    if not warm:
        return
    transition, _ = there.transitions.begin_load(load)
    # The load itself reads all of it, which says nothing about how it began.
    there.found(N, a=Weights(10_000, 10_000))
    there.transitions.end_load(transition, load_s=5.0)
    (loaded,) = (event for event in there.events.all if event.kind is EventKind.LOADED)
    assert loaded.detail["warm"] is True


def test_a_load_that_began_cold_is_cold_whatever_is_in_memory_at_its_end() -> None:
    there = Two(record(A, M, size_mib=11_000))
    there.found(M, a=Weights(10_000, 0))
    transition, _ = there.transitions.begin_load(there.load(A))
    there.found(M, a=Weights(10_000, 10_000))
    there.transitions.end_load(transition, load_s=40.0)
    view = there.state.model(M, A)
    assert view is not None
    assert (view.cold_load_s, view.warm_load_s) == (40.0, None)


def test_the_machines_memory_is_the_agents_word_where_the_node_has_none() -> None:
    there = Two()

    def ram_mib(told_mib: int | None) -> int | None:
        there.agents.found(M, {}, ram_total_mib=told_mib)
        node = there.state.node(M)
        assert node is not None
        return node.ram_total_mib

    assert ram_mib(None) is None
    assert ram_mib(64_000) == 64_000
    seen = Observations(there.state)
    seen.informed(M, NodeInfo(version="0.9.2", vram_total_mib=24_000))
    assert ram_mib(None) == 64_000
    seen.informed(M, NodeInfo(version="0.9.2", vram_total_mib=24_000, ram_total_mib=32_000))
    assert ram_mib(64_000) == 32_000


def test_of_an_agent_that_fell_silent_nothing_is_believed() -> None:
    there = Two()
    there.found(M, a=Weights(10_000, 10_000))
    there.clock.pass_s(60.0)
    there.agents.notice_lost()
    node = there.state.node(M)
    assert node is not None
    assert node.weights == {}
    there.found(M, a=Weights(10_000, 0))
    node = there.state.node(M)
    assert node is not None
    assert node.weights == {A: Weights(10_000, 0)}


async def test_explain_names_the_files_and_rubbish_is_refused(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t0ken")
    async with (
        scripted(["a"], unloaded=["a"], size_mib=9000, vram_total_mib=24_000) as node,
        running(tmp_path, [node], toml=f'[agent]\ntoken_file = "{token}"\n') as gateway,
    ):

        async def report(*weights: object) -> int:
            body = {"node": "n0", "weights": list(weights)}
            headers = {"Authorization": "Bearer t0ken"}
            reply = await gateway.post("/cortex/v1/agents/report", body, headers=headers)
            return reply.status

        assert (
            await report({"model": "a", "size_mib": 7000}, {"model": "?", "size_mib": 1}) == 200
        )
        told = (await gateway.get("/cortex/v1/explain?model=a")).json
        assert told["considered"][0]["need_mib"] == 8400
        assert (
            "its need is a guess: its files of 7000 MiB × 1.2"
            in told["considered"][0]["detail"]
        )
        for odd in (
            {"model": "a", "size_mib": -1},
            {"model": "a", "size_mib": 10**400},
            {"model": "a"},
            {"model": 5, "size_mib": 1},
            7,
        ):
            assert await report(odd) == 400
