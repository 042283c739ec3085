"""Planning for a thousand nodes and ten thousand models, and what a change of such a fleet costs.

Times are of the CPU, which leaves out what other programs of the machine take.
"""

import gc
import random
import time
from collections.abc import Callable
from dataclasses import replace

from bench.scale_polls import Silent, share
from cortex.core.decisions import Decision, Load, Reject, Serve, Wait, Want
from cortex.core.health import Liveness, NodeHealth
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import Listing, NodeInfo, ReportedStatus
from cortex.core.nearness import near_names
from cortex.core.plan import plan
from cortex.core.snapshot import FleetSnapshot, ModelStatus, ModelView, NodeView
from cortex.fleet.observations import Observations
from cortex.fleet.policy import FleetPolicy, ModelPolicy, NodePolicy
from cortex.fleet.state import FleetState
from cortex.fleet.verdict import SERVED
from cortex.telemetry.clock import SystemClock

NOUNS = ("instruct", "chat", "base", "coder")

UP = Liveness(NodeHealth.UP)
EVERYWHERE = ModelId("everywhere")
SAMPLES = 400
NOW_S = 1000.0


def kind(decision: Decision) -> str:
    match decision:
        case Serve():
            return "serve"
        case Load(evict=()):
            return "load"
        case Load():
            return "load, victims"
        case Wait():
            return "wait"
        case Reject():
            return "reject"


def took_us(call: Callable[[], object], times: int = SAMPLES) -> list[float]:
    found = []
    for _ in range(times):
        began_ns = time.thread_time_ns()
        call()
        found.append((time.thread_time_ns() - began_ns) / 1e3)
    return found


def listed(rng: random.Random, nodes: int, models: int) -> list[list[ModelId]]:
    """What each node lists: 10 to 50 models. One is on every node, few on many, most on a handful."""
    names = [ModelId(f"organisation/model-{n:05}") for n in range(models - 1)]
    lists: list[list[ModelId]] = [[EVERYWHERE] for _ in range(nodes)]
    sizes = [rng.randrange(10, 51) for _ in range(nodes)]
    for number, name in enumerate(names):
        copies = nodes // 4 if number < 10 else 1 + number % 3
        for at in rng.sample(range(nodes), copies):
            lists[at].append(name)
    for of_node, size in zip(lists, sizes, strict=True):
        of_node += rng.sample(names, max(0, size - len(of_node)))
    return [list(dict.fromkeys(of_node)) for of_node in lists]


def mixed(rng: random.Random, nodes: int, models: int) -> FleetSnapshot:
    """A fleet at work: memory nine tenths full, pins, use, a few nodes down, a few sizes unknown."""
    views = {}
    for number, names in enumerate(listed(rng, nodes, models)):
        total = rng.choice([24, 48, 80, 192]) * 1024
        held, in_flight, views_here = 0, 0, {}
        for name in rng.sample(names, len(names)):
            size = rng.randrange(2, 60) * 1024
            loaded = held + size <= total and rng.random() < 0.7
            held += size if loaded else 0
            busy = rng.choice([0, 0, 0, 1, 4]) if loaded else 0
            in_flight += busy
            views_here[name] = ModelView(
                id=name,
                status=ModelStatus.LOADED if loaded else ModelStatus.UNLOADED,
                size_mib=size if rng.random() < 0.95 else None,
                in_flight=busy,
                max_in_flight=4,
                pinned=loaded and rng.random() < 0.1,
                last_used_at_ms=rng.randrange(10**6),
            )
        name = NodeName(f"node{number:04}")
        views[name] = NodeView(
            name=name,
            liveness=UP if rng.random() < 0.98 else Liveness(NodeHealth.DOWN, 3, "no answer"),
            vram_total_mib=total,
            free_mib=total - held,
            in_flight=in_flight,
            models=views_here,
        )
    return _fleet(views)


def _fleet(views: dict[NodeName, NodeView]) -> FleetSnapshot:
    locations: dict[ModelId, list[NodeName]] = {}
    for name in sorted(views):
        for model in views[name].models:
            locations.setdefault(model, []).append(name)
    return FleetSnapshot(nodes=views, locations={m: tuple(n) for m, n in locations.items()})


def bent(snapshot: FleetSnapshot, wish: str) -> FleetSnapshot:
    """The same fleet, made so that the model which is everywhere is decided as wished."""
    views = {}
    for name, node in snapshot.nodes.items():
        others = {model: view for model, view in node.models.items() if view.id != EVERYWHERE}
        total = node.vram_total_mib or 0
        size, status = 8 * 1024, ModelStatus.UNLOADED
        match wish:
            case "serve":
                status = ModelStatus.LOADED
            case "load":
                total = 4 * total
            case "load, victims" | "wait":
                busy = wish == "wait"
                others = {
                    model: replace(view, in_flight=int(busy), pinned=False, size_mib=9 * 1024)
                    if view.resident
                    else view
                    for model, view in others.items()
                }
                total = sum(view.size_mib or 0 for view in others.values() if view.resident)
                total = max(total, size)
            case "reject":
                others = {
                    m: replace(v, pinned=True, size_mib=9 * 1024) for m, v in others.items()
                }
                total = max(size, sum(v.size_mib or 0 for v in others.values() if v.resident))
        wanted = ModelView(id=EVERYWHERE, status=status, size_mib=size, max_in_flight=4)
        models = {EVERYWHERE: wanted, **others}
        if wish in ("load, victims", "wait", "reject") and not any(
            v.resident for v in others.values()
        ):
            total = size - 1
        views[name] = replace(
            node, models=models, vram_total_mib=total, free_mib=None, liveness=UP
        )
    return _fleet(views)


def at_work(snapshot: FleetSnapshot, asked: int) -> dict[str, list[float]]:
    """µs of each decision for so many of its models, and for the one that is everywhere, by kind."""
    found: dict[str, list[float]] = {}
    names = sorted(snapshot.locations)
    for model in [*random.Random(1).sample(names, min(asked, len(names))), EVERYWHERE]:
        want = Want(model=model)
        for _ in range(2):
            began_ns = time.thread_time_ns()
            decision = plan(snapshot, want, now_s=NOW_S)
            us = (time.thread_time_ns() - began_ns) / 1e3
            found.setdefault(kind(decision), []).append(us)
    found["all"] = [us for each in list(found.values()) for us in each]
    return found


def everywhere(snapshot: FleetSnapshot, wish: str) -> tuple[list[float], list[float]]:
    """µs of a decision for the model on all nodes: with their figures known, and all just changed."""
    fleet = bent(snapshot, wish)
    want = Want(model=EVERYWHERE)
    gc.collect()
    gc.freeze()
    decided = kind(plan(fleet, want, now_s=NOW_S))
    assert decided == wish, (decided, wish)
    known = took_us(lambda: plan(fleet, want, now_s=NOW_S), 200)
    changed = []
    for _ in range(20):
        fresh = replace(fleet, nodes={n: replace(v) for n, v in fleet.nodes.items()})
        gc.collect(1)
        changed += took_us(lambda f=fresh: plan(f, want, now_s=NOW_S), 1)
    return known, changed


def planning(nodes: int, models: int) -> dict[str, float]:
    """p99 in µs of each kind of decision; the median where a thousand nodes have just changed."""
    snapshot = mixed(random.Random(1), nodes, models)
    gc.collect()
    gc.freeze()
    found = at_work(snapshot, 4000)
    figures = {f"fleet at work: {name}": share(found[name], 0.99) for name in sorted(found)}
    for wish in ("serve", "load", "load, victims", "wait", "reject"):
        known, changed = everywhere(snapshot, wish)
        figures[f"{nodes} copies: {wish}"] = share(known, 0.99)
        figures[f"{nodes} copies, all just changed: {wish}"] = share(changed, 0.5)
    return figures


def near_ms(models: int) -> float:
    """p99 of the time in which names like an unknown one are found, each a letter short."""
    rng = random.Random(3)
    names = [f"organisation-{n % 97}/model-{n:05}-{rng.choice(NOUNS)}" for n in range(models)]
    took: list[float] = []
    for name in rng.sample(names, 200):
        began_s = time.thread_time()
        near_names(name[:9] + name[10:], names)
        took.append((time.thread_time() - began_s) * 1e3)
    return share(took, 0.99)


def changes(nodes: int, models: int) -> dict[str, float]:
    """Median in µs of one change of the state and the snapshot after it."""
    rng = random.Random(2)
    lists = listed(rng, nodes, models)
    names = [NodeName(f"node{number:04}") for number in range(nodes)]
    state = FleetState(
        FleetPolicy(
            nodes=tuple(NodePolicy(name=name) for name in names),
            models={ModelId("x"): ModelPolicy(priority=5)},
        ),
        clock=SystemClock(),
        journal=Silent(),
    )
    observations = Observations(state)
    listings = [
        Listing(created_at_s=1, models=dict.fromkeys(of_node, ReportedStatus.LOADED))
        for of_node in lists
    ]
    first = []
    for name, listing in zip(names, listings, strict=True):
        began_ns = time.thread_time_ns()
        observations.listed(name, listing)
        state.snapshot()
        first.append((time.thread_time_ns() - began_ns) / 1e3)
        info = NodeInfo(version="0.9.1", vram_total_mib=1 << 20, free_mib=1 << 10)
        observations.informed(name, info)
    turn = iter(range(10**9))

    def leased() -> None:
        at = next(turn) % nodes
        lease = state.lease(names[at], EVERYWHERE)
        state.snapshot()
        state.release(lease, SERVED)
        state.snapshot()

    def polled() -> None:
        at = next(turn) % nodes
        observations.listed(names[at], listings[at])
        state.snapshot()

    def unloaded() -> None:
        at = next(turn) % nodes
        status = ReportedStatus.UNLOADED if next(turn) % 2 else ReportedStatus.LOADED
        changed = {**listings[at].models, lists[at][-1]: status}
        observations.listed(names[at], Listing(created_at_s=1, models=changed))
        state.snapshot()

    return {
        "a node's first listing": share(first, 0.5),
        "a listing without news": share(took_us(polled), 0.5),
        "a listing with news": share(took_us(unloaded), 0.5),
        "a lease and its release": share(took_us(leased), 0.5),
    }
