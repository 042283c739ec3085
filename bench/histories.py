"""Made-up fleets and made-up clients: histories that no rule was built on.

Everything is drawn from a seed, so that a history is the same on every machine. A fleet has two to five
unlike cards and one and a half to three times as many models as they hold. What its clients do is one of
`KINDS`.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from cortex.core.ids import ModelId, NodeName
from cortex.core.recorded import Ask
from cortex.core.rules import EvictionRules
from cortex.fleet.policy import FleetPolicy, NodePolicy
from cortex.replay.scenario import Holding, Machine, Scenario

BEGAN_MS = 1_800_000_000_000
HOUR_S, DAY_S = 3600.0, 86_400.0
CARDS_GIB = (12, 16, 24, 24, 48, 80)
DISKS_MIB_PER_S = (250, 500, 1000, 2000, 3000)
MEMORIES_GIB = (32, 64, 128, 256)
CACHES_MIB_PER_S = (4000, 6000, 10_000)
"""The pace of a load from the machine's memory."""
LOAD_AT_LEAST_S, UNLOAD_S = 1.5, 1.0
MODELS_AT_LEAST = 6


class Come(NamedTuple):
    """A request: when, for which model, and how long its answer takes."""

    at_s: float
    model: ModelId
    held_s: float


@dataclass(frozen=True, slots=True)
class Clients:
    """What the clients of one history have in common."""

    rng: random.Random
    models: Sequence[ModelId]
    """The most wanted first."""
    weights: Sequence[float]
    days: float

    @property
    def span_s(self) -> float:
        return self.days * DAY_S

    def turns(
        self, at_s: float, model: ModelId, count: int, apart_s: float, answer_s: float
    ) -> Iterator[Come]:
        """Requests one after another, medians given."""
        for _ in range(count):
            yield Come(at_s, model, self.rng.lognormvariate(math.log(answer_s), 0.7))
            at_s += self.rng.lognormvariate(math.log(apart_s), 0.9)

    def some(self, mean: float) -> int:
        """A number from one on."""
        return 1 + int(self.rng.expovariate(1 / mean))


Kind = Callable[[Clients, int], Iterator[Come]]
"""Requests in any order, of which so many are taken; there may be no end to them."""


def people(clients: Clients, _: int) -> Iterator[Come]:
    """Conversations by day, each with one model; few models have most of them."""
    yield from _conversations(clients, lambda _: clients.weights)


def favourites(clients: Clients, _: int) -> Iterator[Come]:
    """The same, but another model is the favourite every day."""
    of_day = [
        clients.rng.sample(clients.weights, len(clients.weights))
        for _ in range(math.ceil(clients.days) + 1)
    ]
    yield from _conversations(clients, lambda at_s: of_day[int(at_s / DAY_S)])


def _conversations(
    clients: Clients, weights: Callable[[float], Sequence[float]]
) -> Iterator[Come]:
    rng = clients.rng
    while True:
        at_s = rng.uniform(0, clients.span_s)
        # From seven to nine, most in between; some at night.
        by_day = math.sin((at_s % DAY_S / HOUR_S - 7) / 14 * math.pi)
        if rng.random() < 0.08 + 0.92 * max(0.0, by_day):
            (model,) = rng.choices(clients.models, weights(at_s))
            yield from clients.turns(at_s, model, clients.some(6), 45, 7.5)


def jobs(clients: Clients, count: int) -> Iterator[Come]:
    """Agents, each of which asks one model a few times every so many minutes."""
    rng = clients.rng
    agents = [
        (rng.choice(clients.models), rng.choice((600, 900, 1800, 3600, 7200, 21_600)))
        for _ in range(rng.randrange(4, 12))
    ]
    each = max(1, round(count / sum(clients.span_s / every_s for _, every_s in agents)))
    runs = [
        (start_s, model)
        for model, every_s in agents
        for start_s in _every(every_s, rng.uniform(0, every_s), clients.span_s)
    ]
    for start_s, model in rng.sample(runs, len(runs)):
        late_s = abs(rng.gauss(0, 10))
        yield from clients.turns(start_s + late_s, model, each, 7.5, 9)


def _every(apart_s: float, first_s: float, until_s: float) -> Iterator[float]:
    while first_s < until_s:
        yield first_s
        first_s += apart_s


def batches(clients: Clients, count: int) -> Iterator[Come]:
    """Every night one of the less wanted models has a long list to work off."""
    rng, nights = clients.rng, math.ceil(clients.days)
    for night in range(nights):
        model = rng.choice(clients.models[len(clients.models) // 3 :])
        at_s = night * DAY_S + rng.uniform(0, 5) * HOUR_S
        yield from clients.turns(at_s, model, math.ceil(count / nights), 8, 12)


def in_turn(clients: Clients, _: int) -> Iterator[Come]:
    """The large models one after another, a few requests each."""
    rng = clients.rng
    rare = clients.models[-max(3, len(clients.models) // 3) :]
    number, at_s = 0, 0.0
    while True:
        model = rare[number % len(rare)] if rng.random() < 0.8 else rng.choice(rare)
        for come in clients.turns(at_s, model, clients.some(8), 25, 10):
            yield come
            at_s = come.at_s
        at_s = (at_s + 25 + rng.expovariate(1 / 400)) % clients.span_s
        number += 1


KINDS: Mapping[str, Mapping[Kind, float]] = {
    "people": {people: 1},
    "favourites": {favourites: 1},
    "jobs": {jobs: 0.6, people: 0.4},
    "batches": {batches: 0.5, people: 0.5},
    "in turn": {in_turn: 0.6, people: 0.4},
    "all of it": {jobs: 0.3, batches: 0.3, people: 0.4},
}
"""What share of the requests comes of whom."""


@dataclass(frozen=True, slots=True)
class History:
    """One fleet with its requests, on machines that keep files in memory and on such as do not."""

    name: str
    cached: Scenario
    uncached: Scenario


def made(seed: int, kind: str, count: int) -> History:
    """The history of that seed and kind, of so many requests."""
    rng = random.Random(f"{kind} {seed}")
    cards = [rng.choice(CARDS_GIB) * 1024 for _ in range(rng.randrange(2, 6))]
    sizes = _sizes(rng, cards)
    # Small models are asked for more often, as a rule.
    order = sorted(sizes, key=lambda model: sizes[model] + rng.uniform(0, 12 * 1024))
    slope = rng.uniform(0.7, 1.3)
    weights = [1 / place**slope for place in range(1, len(order) + 1)]
    clients = Clients(rng, order, weights, rng.uniform(2, 6))
    come = sorted(
        each
        for requests, share in KINDS[kind].items()
        for each in islice(requests(clients, round(count * share)), round(count * share))
    )
    asked = {each.model for each in come}
    machines = [_machine(rng, number, mib, sizes) for number, mib in enumerate(cards)]
    asks = tuple(
        Ask(BEGAN_MS + round(1000 * at_s), model, "client", held_s, 0.0, cold=False)
        for at_s, model, held_s in come
    )
    return History(
        f"{kind} {seed}",
        _scenario([_for(machine, asked, cached=True) for machine in machines], asks),
        _scenario([_for(machine, asked, cached=False) for machine in machines], asks),
    )


def _sizes(rng: random.Random, cards: Sequence[int]) -> dict[ModelId, int]:
    """MiB of each model; none is larger than the largest card."""
    wanted = sum(cards) * rng.uniform(1.5, 3.0)
    sizes: dict[ModelId, int] = {}
    while wanted > 0 or len(sizes) < MODELS_AT_LEAST:
        mib = round(1024 * max(1.5, rng.lognormvariate(2.4, 0.75)))
        mib = min(mib, max(cards) - 1024)
        sizes[ModelId(f"model-{len(sizes):02}")] = mib
        wanted -= mib
    return sizes


def _machine(
    rng: random.Random, number: int, vram_mib: int, sizes: Mapping[ModelId, int]
) -> Machine:
    disk, cache = rng.choice(DISKS_MIB_PER_S), rng.choice(CACHES_MIB_PER_S)
    return Machine(
        name=NodeName(f"gpu{number + 1}"),
        vram_mib=vram_mib,
        ram_mib=rng.choice(MEMORIES_GIB) * 1024,
        version="0.9.2",
        holdings={
            model: Holding(
                mib,
                LOAD_AT_LEAST_S + mib / disk,
                resident=False,
                warm_s=LOAD_AT_LEAST_S + mib / cache,
            )
            for model, mib in sizes.items()
            if mib <= vram_mib
        },
    )


def _for(machine: Machine, asked: set[ModelId], *, cached: bool) -> Machine:
    return replace(
        machine,
        ram_mib=machine.ram_mib if cached else None,
        holdings={
            model: there if cached else there._replace(warm_s=there.load_s)
            for model, there in machine.holdings.items()
            if model in asked
        },
    )


def _scenario(machines: Sequence[Machine], asks: tuple[Ask, ...]) -> Scenario:
    nodes = tuple(
        NodePolicy(name=each.name, endpoint=each.name, vram_total_mib=each.vram_mib)
        for each in machines
    )
    return Scenario(
        policy=FleetPolicy(nodes=nodes, models={}, eviction=EvictionRules()),
        machines=tuple(machines),
        asks=asks,
        pins=frozenset(),
        answer_s={ask.model: 0.0 for ask in asks},
        unload_s=UNLOAD_S,
    )
