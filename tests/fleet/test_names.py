"""A node is the process at its endpoint, whatever the configuration calls it."""

import asyncio
from pathlib import Path

import pytest

from cortex.core.decisions import Load, Want
from cortex.core.identity import renamed
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import Listing, ReportedStatus
from cortex.core.records import NodeRecord, Recollection, ResidencyRecord
from cortex.core.snapshot import Drain, ModelStatus
from cortex.fleet.fleet import Fleet
from cortex.fleet.observations import Observations
from cortex.fleet.policy import FleetPolicy, NodePolicy
from cortex.fleet.procedures import Freed
from cortex.fleet.state import FleetState
from cortex.fleet.transitions import Transitions
from cortex.fleet.verdict import SERVED
from tests.fleet.conftest import held
from tests.fleet.fakes import Events, HandClock, Kept, Node, ports
from tests.gateway.conftest import scripted
from tests.running import Running, running, until

N, M, RENAMED = NodeName("n"), NodeName("m"), NodeName("o")
A, B = ModelId("a"), ModelId("b")


@pytest.mark.parametrize(
    ("known", "wanted", "renames"),
    [
        ({"n": "u"}, {"n": "u"}, {}),
        ({"n": "u"}, {"m": "u"}, {"n": "m"}),
        ({"n": "u"}, {"m": "v"}, {}),
        ({"n": "u"}, {"n": "v"}, {}),
        ({"n": ""}, {"m": ""}, {}),
        # Two change their names for each other's.
        ({"n": "u", "m": "v"}, {"n": "v", "m": "u"}, {"n": "m", "m": "n"}),
        # A new machine gets the old name.
        ({"n": "u"}, {"n": "v", "m": "u"}, {"n": "m"}),
        # An old name of the same machine, long forgotten.
        ({"old": "u", "n": "u"}, {"n": "u"}, {}),
        ({"n": "u", "old": "u"}, {"n": "u"}, {}),
    ],
)
def test_who_is_called_otherwise(
    known: dict[str, str], wanted: dict[str, str], renames: dict[str, str]
) -> None:
    assert renamed(known, wanted) == renames  # type: ignore[arg-type]


def policy(**endpoints: str) -> FleetPolicy:
    return FleetPolicy(
        nodes=tuple(
            NodePolicy(name=NodeName(name), endpoint=endpoint)
            for name, endpoint in endpoints.items()
        ),
        poll_interval_s=0.001,
    )


def listing(**models: str) -> Listing:
    statuses = {ModelId(model): ReportedStatus(status) for model, status in models.items()}
    return Listing(created_at_s=1, models=statuses)


@pytest.fixture
def state() -> FleetState:
    state = FleetState(policy(n="u", m="v"), clock=HandClock(), journal=Events())
    observations = Observations(state)
    observations.listed(N, listing(a="loaded", b="unloaded"))
    observations.listed(M, listing(a="loaded"))
    return state


def test_a_renamed_node_keeps_its_leases_and_its_transitions(state: FleetState) -> None:
    transitions = Transitions(state)
    lease = state.lease(N, A)
    load, (victim,) = transitions.begin_load(Load(node=N, model=B, reason="", evict=(A,)))
    state.pin(B, N)
    state.drain(N, Drain.REQUEST, "by request")
    state.apply(policy(o="u", m="v"))
    state.check_invariants()
    assert list(state.snapshot().nodes) == ["o", "m"]
    assert state.snapshot().locations == {A: ("m", "o"), B: ("o",)}
    node = state.node(RENAMED)
    assert node is not None
    assert (node.in_flight, node.drains) == (1, {Drain.REQUEST})
    assert node.models[B].pinned
    assert (lease.node, load.node) == (RENAMED, RENAMED)
    state.release(lease, SERVED)
    assert transitions.begin_unload(victim)
    transitions.end_unload(victim, Freed())
    transitions.end_load(load, load_s=2.0)
    view = state.model(RENAMED, B)
    assert view is not None
    assert (view.status, view.load_s) == (ModelStatus.LOADED, 2.0)
    assert state.snapshot().nodes[RENAMED].cycles == 1
    state.check_invariants()


def test_two_nodes_change_names(state: FleetState) -> None:
    first, second = state.lease(N, A), state.lease(M, A)
    state.apply(policy(n="v", m="u"))
    assert (first.node, second.node) == (M, N)
    assert B in state.snapshot().nodes[M].models
    assert B not in state.snapshot().nodes[N].models
    state.release(first, SERVED)
    assert [state.snapshot().nodes[name].in_flight for name in (N, M)] == [1, 0]
    state.release(second, SERVED)
    state.check_invariants()


def test_who_loses_the_name_is_gone_with_all_that_held_it(state: FleetState) -> None:
    """`m` leaves, and `n` is called so; a late end of a request of the first changes nothing."""
    transitions = Transitions(state)
    lease = state.lease(M, A)
    unload = transitions.begin_drain(M, A, "by request")
    state.apply(policy(m="u"))
    assert list(state.snapshot().nodes) == ["m"]
    state.release(lease, SERVED)
    assert not transitions.begin_unload(unload)
    node = state.node(M)
    assert node is not None
    assert (node.in_flight, node.models[A].status) == (0, ModelStatus.LOADED)
    state.check_invariants()


def test_a_node_that_comes_back_is_remembered(state: FleetState) -> None:
    transitions = Transitions(state)
    load, _ = transitions.begin_load(Load(node=N, model=B, reason=""))
    transitions.end_load(load, load_s=3.0)
    transitions.learn_size(load, 5000)
    unload = transitions.begin_drain(N, B, "by request")
    assert transitions.begin_unload(unload)
    transitions.end_unload(unload, Freed())
    state.drain(N, Drain.REQUEST, "by request")
    used_ms = state.snapshot().nodes[N].models[B].last_used_at_ms
    state.apply(policy(m="v"))
    assert state.node(N) is None
    # Under another name, even.
    state.apply(policy(m="v", o="u"))
    node = state.node(RENAMED)
    assert node is not None
    assert (node.cycles, node.drains) == (1, {Drain.REQUEST})
    view = node.models[B]
    assert (view.size_mib, view.load_s, view.last_used_at_ms) == (5000, 3.0, used_ms)
    # A late answer of before finds a newer generation.
    assert view.generation >= unload.generation
    assert not transitions.is_current(unload)


def test_a_node_leaves_with_its_last_transition(state: FleetState) -> None:
    transitions = Transitions(state)
    load, _ = transitions.begin_load(Load(node=N, model=B, reason=""))
    state.apply(policy(m="v"))
    assert state.node(N) is not None
    # It comes back while it loads, and nothing has happened.
    state.apply(policy(n="u", m="v"))
    assert transitions.is_current(load)
    state.apply(policy(m="v"))
    transitions.end_load(load, load_s=1.0)
    assert state.node(N) is None


def test_what_was_renamed_while_nobody_ran_is_found_by_its_endpoint() -> None:
    recollection = Recollection(
        nodes=(NodeRecord(name=N, endpoint="u", cycles=7), NodeRecord(name=M, cycles=3)),
        residency=(ResidencyRecord(node=N, model=A, status="loaded", size_mib=5000),),
        drained=frozenset({N}),
        pins=frozenset({(N, A)}),
    )
    state = FleetState(
        policy(o="u"), clock=HandClock(), journal=Events(), recollection=recollection
    )
    node = state.node(RENAMED)
    assert node is not None
    assert (node.cycles, node.drains) == (7, {Drain.REQUEST})
    assert (node.models[A].size_mib, node.models[A].pinned) == (5000, True)
    assert state.renamed_at_start == {N: RENAMED}


async def test_a_fleet_keeps_the_new_names() -> None:
    store, node = Kept(), Node("b", loaded=("a",))
    nodes = {N: node}
    fleet = Fleet(policy(n="u"), nodes, ports(store=store))
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        fleet.run(group)
        while not fleet.asked_all:
            await asyncio.sleep(0.001)
        await fleet.operator.pin(A, N)
        await fleet.operator.drain(N)
        await fleet.operator.undrain(N)
        fleet.affinity.served(A, "talk", N)
        fleet.agents.reported(N, can_restart=True, free_mib=None, acks=())
        admitted = await fleet.lease(Want(model=A))
        nodes[RENAMED] = node
        fleet.apply(policy(o="u"))
        assert fleet.asked_all
        assert fleet.affinity.preferred(A, "talk") == RENAMED
        assert fleet.agents.can_restart(RENAMED)
        fleet.ended(admitted.lease, SERVED)
        while store.pins != {(RENAMED, A)}:
            await asyncio.sleep(0.001)
        fleet.stop()


def with_name(gateway: Running, old: str, new: str) -> None:
    text = gateway.source.read_text()
    gateway.source.write_text(text.replace(f'name = "{old}"', f'name = "{new}"'))
    gateway.daemon._reload()


async def test_a_stream_goes_on_over_a_rename_and_is_waited_for(tmp_path: Path) -> None:
    sizes = '[models."a"]\nvram_mb = 15000\n[models."b"]\nvram_mb = 15000\n'
    async with (
        scripted(
            {"a": 15_000, "b": 15_000}, unloaded=["b"], token_interval_s=0.01, tokens=60
        ) as node,
        running(tmp_path, [node], toml=sizes) as gateway,
    ):
        body = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        async with gateway.http.post(
            gateway.url + "/v1/chat/completions", json=body | {"max_tokens": 60}
        ) as response:
            assert response.status == 200
            with_name(gateway, "n0", "gpu")
            # The model in use is not thrown out from under it.
            reply = await gateway.chat("b", max_tokens=1)
            assert (reply.status, reply.headers["x-cortex-node"]) == (200, "gpu")
            text = await response.text()
        assert text.endswith("data: [DONE]\n\n")
        assert (await gateway.get("/ready")).status == 200
        events = [(row["kind"], row["node"]) for row in await gateway.events()]
        assert ("evict", "gpu") in events
        assert ("unloaded", "gpu") in events
        [status] = (await gateway.status())["nodes"]
        assert (status["name"], status["in_flight"], status["cycles"]) == ("gpu", 0, 1)


async def test_a_stored_response_is_found_under_the_new_name(tmp_path: Path) -> None:
    async with scripted(["a"]) as node, running(tmp_path, [node]) as gateway:
        made = await gateway.post("/v1/responses", {"model": "a", "input": "hi"})
        assert made.status == 200
        path = f"/v1/responses/{made.json['id']}"
        with_name(gateway, "n0", "gpu")
        reply = await gateway.get(path)
        assert (reply.status, reply.headers["x-cortex-node"]) == (200, "gpu")
        # By the log as well, once it has left the memory.
        await gateway.flushed()

        async def renamed_in_the_log() -> bool:
            store = gateway.daemon._store
            return await store.node_of_response(made.json["id"]) == "gpu"

        await until(renamed_in_the_log, "the log to have the new name")


async def test_the_store_has_the_new_names_at_the_next_start(tmp_path: Path) -> None:
    async with scripted(["a"], endless=True, token_interval_s=0.01) as node:
        async with running(tmp_path, [node]) as gateway:
            pinned = await gateway.post("/cortex/v1/models/pin", {"model": "a", "node": "n0"})
            assert pinned.status == 200
            assert (await gateway.post("/cortex/v1/nodes/n0/drain")).status == 200
            with_name(gateway, "n0", "gpu")

            async def saved() -> bool:
                recollection = await gateway.daemon._store.recall()
                return recollection.pins == {("gpu", "a")} and recollection.drained == {"gpu"}

            await until(saved, "the new name to be kept")
            assert (await gateway.post("/cortex/v1/nodes/gpu/undrain")).status == 200
            async with held(gateway, "a") as [name]:
                assert name == "gpu"
        # Renamed back while nothing runs: `running` calls its nodes n0, n1…
        async with running(tmp_path, [node]) as gateway:
            view = gateway.services.fleet.model("n0", "a")
            assert (view.pinned, view.last_used_at_ms > 0) == (True, True)

            async def renamed_back() -> bool:
                return (await gateway.daemon._store.recall()).pins == {("n0", "a")}

            await until(renamed_back, "the old name to be kept again")
