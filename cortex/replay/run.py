"""One run of a scenario: the fleet's own state, transitions and admission, on a clock that leaps.

What is played is what lies outside them: clients that ask when they asked, nodes that take as long
for a load as it took. So a replay decides as the gateway does, and cannot drift from it.
"""

import asyncio
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from cortex.core.decisions import Load, Want
from cortex.core.errors import CapacityError
from cortex.core.housekeeping import absent_pins, idle_for_too_long
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import Listing, NodeInfo, ReportedStatus
from cortex.core.percentile import nearest_rank
from cortex.core.recorded import Ask, Recorded
from cortex.core.records import (
    EventKind,
    FleetEvent,
    NodeRecord,
    Recollection,
    ResidencyRecord,
)
from cortex.core.use import used_as_if
from cortex.core.warmth import is_warm
from cortex.fleet.admission import Admission, Admitted
from cortex.fleet.lease import Lease
from cortex.fleet.observations import Observations
from cortex.fleet.procedures import Freed
from cortex.fleet.state import FleetState
from cortex.fleet.transitions import Transition, Transitions
from cortex.fleet.verdict import SERVED
from cortex.replay.scenario import Machine, Scenario
from cortex.replay.virtual import LoopClock, VirtualLoop

FIRST_S = 10.0
"""Of the run, when the first request comes; what is pinned is there by then."""
HOUSE_SHARE = 0.1
"""How often idle models are looked for, in shares of the shortest time after which one goes."""
NEVER_MS = 1 << 53


@dataclass(slots=True)
class Result:
    """What a run came to, or a recorded span."""

    requests: int = 0
    loads: int = 0
    load_s: float = 0.0
    """Of all loads together."""
    cold: int = 0
    """Requests that waited for a load."""
    lost: Counter[str] = field(default_factory=Counter)
    """Requests that were refused, by error code."""
    waits_s: "array[float]" = field(default_factory=lambda: array("d"))
    """Of those that were served."""

    @classmethod
    def of(cls, recorded: Recorded) -> Self:
        """What a span came to as it was recorded."""
        asks, totals = recorded.asks, recorded.totals
        return cls(
            requests=len(asks),
            loads=totals.loads,
            load_s=totals.load_s,
            cold=sum(ask.cold for ask in asks),
            lost=Counter(ask.lost for ask in asks if ask.lost),
            waits_s=array("d", [ask.waited_s for ask in asks if not ask.lost]),
        )

    def wait_s(self, percent: int) -> float | None:
        """The wait that so many percent of those served did not exceed; None = nobody was served."""
        return nearest_rank(sorted(self.waits_s), percent)


def run(
    scenario: Scenario, progress: Callable[[int], object] = lambda _: None, every: int = 500
) -> Result:
    """Live through it; `progress` is told how many requests have come, after `every` so many."""

    async def main() -> Result:
        return await _World(scenario).live(progress, every)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


class _Tally:
    """The journal of a run: what its loads cost."""

    def __init__(self, result: Result) -> None:
        self._result = result

    def record(self, event: FleetEvent) -> None:
        if event.kind is EventKind.LOADED:
            self._result.loads += 1
            load_s = event.detail["load_s"]
            assert isinstance(load_s, float)
            self._result.load_s += load_s


class _World:
    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._loop = asyncio.get_running_loop()
        self._result = Result(requests=len(scenario.asks))
        first_ms = scenario.asks[0].at_ms
        #: From the log's clock to the loop's.
        self._offset_s = self._loop.time() + FIRST_S - first_ms / 1000
        self._state = FleetState(
            scenario.policy,
            clock=LoopClock(round(-1000 * self._offset_s)),
            journal=_Tally(self._result),
            recollection=_recollection(scenario),
        )
        self._transitions = Transitions(self._state)
        self._admission = Admission(
            self._state, begin_load=self._begin_load, nobody_waits=self._withdraw
        )
        self._holdings = {
            (machine.name, model): holding
            for machine in scenario.machines
            for model, holding in machine.holdings.items()
        }
        self._draining: dict[ModelId, asyncio.Timeout] = {}
        self._foresight = _Foresight(scenario.asks) if scenario.foresight else None
        self._group: asyncio.TaskGroup
        self._left = len(scenario.asks)
        self._over = asyncio.Event()
        observations = Observations(self._state)
        for machine in scenario.machines:
            info = NodeInfo(
                version=machine.version,
                vram_total_mib=machine.vram_mib,
                ram_total_mib=machine.ram_mib,
            )
            observations.informed(machine.name, info)
            observations.listed(machine.name, _listing(machine, self._pinned(machine.name)))
        if self._foresight is not None:
            for model in scenario.answer_s:
                self._foresight.restore(self._state, model)

    def _pinned(self, name: NodeName) -> frozenset[ModelId]:
        rule = self._scenario.policy.node(name)
        return self._scenario.pins | (frozenset() if rule is None else rule.pinned)

    async def live(self, progress: Callable[[int], object], every: int) -> Result:
        async with asyncio.TaskGroup() as self._group:
            house = [
                self._group.create_task(self._keep_house(), name="house"),
                self._group.create_task(self._load_pinned(), name="pins"),
            ]
            for at, ask in enumerate(self._scenario.asks):
                # All of one moment come before anything that follows from them.
                due_s = self._offset_s + ask.at_ms / 1000
                if due_s > self._loop.time():
                    await asyncio.sleep(due_s - self._loop.time())
                self._arrive(ask)
                if at % every == every - 1:
                    progress(at + 1)
            await self._over.wait()
            for task in house:
                task.cancel()
        return self._result

    def _arrive(self, ask: Ask) -> None:
        if self._foresight is not None:
            self._foresight.passed(self._state, ask.model, ask.at_ms)
        self._state.asked(ask.model)
        want = Want(ask.model)
        lease = self._admission.at_once(want)
        if lease is not None:
            self._served(ask, Admitted(lease))
        else:
            self._group.create_task(self._wait(ask, want), name="wait")

    async def _wait(self, ask: Ask, want: Want) -> None:
        try:
            admitted = await self._admission.acquire(want, ask.client)
        except CapacityError as exc:
            self._result.lost[exc.code] += 1
            self._ended()
        else:
            self._served(ask, admitted)

    def _served(self, ask: Ask, admitted: Admitted) -> None:
        self._result.waits_s.append(admitted.queue_s + admitted.load_wait_s)
        self._result.cold += admitted.load_wait_s > 0
        held_s = ask.held_s
        if held_s is None:
            held_s = self._scenario.answer_s[ask.model]
        self._loop.call_later(held_s, self._release, admitted.lease)

    def _release(self, lease: Lease) -> None:
        self._state.release(lease, SERVED)
        if self._foresight is not None:
            self._foresight.restore(self._state, lease.model)
        self._ended()

    def _ended(self) -> None:
        self._left -= 1
        if not self._left:
            self._over.set()

    # What nodes do.

    def _begin_load(self, load: Load) -> None:
        transition, victims = self._transitions.begin_load(load)
        self._group.create_task(self._load(transition, victims), name=f"load {transition}")

    async def _load(self, transition: Transition, victims: Sequence[Transition]) -> None:
        if not await self._drained(transition, victims):
            self._transitions.withdraw_load(transition, "what had to go is still in use")
            for victim in victims:
                self._transitions.revive(
                    victim, "still in use", spared_s=self._state.waits.spared_s
                )
            return
        for victim in victims:
            self._transitions.begin_unload(victim)
            await asyncio.sleep(self._scenario.unload_s)
            self._transitions.end_unload(victim, Freed())
        load_s = self._load_s(transition)
        await asyncio.sleep(load_s)
        self._transitions.end_load(transition, load_s=load_s)
        if self._foresight is not None:
            self._foresight.restore(self._state, transition.model)

    def _load_s(self, transition: Transition) -> float:
        """By whether the file is in the machine's memory."""
        holding = self._holdings[transition.node, transition.model]
        node = self._state.node(transition.node)
        warm = node is not None and is_warm(node, node.models[transition.model])
        return holding.warm_s if warm else holding.load_s

    async def _drained(self, transition: Transition, victims: Sequence[Transition]) -> bool:
        """Wait until nobody uses what goes; False where that takes too long, or is wanted no more."""
        try:
            async with asyncio.timeout(self._state.policy.load_timeout_s) as deadline:
                self._draining[transition.model] = deadline
                for victim in victims:
                    await self._state.idle(victim.ref, victim.model)
        except TimeoutError:
            return False
        finally:
            self._draining.pop(transition.model, None)
        return True

    def _withdraw(self, model: ModelId) -> None:
        deadline = self._draining.get(model)
        if deadline is not None and not deadline.expired():
            deadline.reschedule(self._loop.time())

    async def _keep_house(self) -> None:
        """Unload what nobody used for long, where the configuration says so."""
        policy = self._scenario.policy
        times = [policy.idle_unload_s, *(rule.idle_unload_s for rule in policy.models.values())]
        shortest_s = min((time for time in times if time), default=None)
        while shortest_s is not None:
            await asyncio.sleep(max(1.0, HOUSE_SHARE * shortest_s))
            clock = self._state.clock
            snapshot = self._state.snapshot()
            for name, model, _ in list(
                idle_for_too_long(snapshot, now_s=clock.now_s(), now_ms=clock.now_ms())
            ):
                node = self._state.node(name)
                if node is not None and node.moving is None:
                    drained = self._transitions.begin_drain(name, model, "idle")
                    self._group.create_task(self._unload(drained), name=f"unload {drained}")

    async def _load_pinned(self) -> None:
        """Bring in what is pinned and absent, where that is possible; once there it stays."""
        pause_s = 1.0
        while wants := absent_pins(self._state.snapshot()):
            for want in wants:
                decision = self._admission.explain(want)
                if isinstance(decision, Load):
                    self._begin_load(decision)
            await asyncio.sleep(pause_s)
            pause_s *= 2

    async def _unload(self, transition: Transition) -> None:
        await self._state.idle(transition.ref, transition.model)
        if self._transitions.begin_unload(transition):
            await asyncio.sleep(self._scenario.unload_s)
            self._transitions.end_unload(transition, Freed())


class _Foresight:
    """Has the least recently used model be the one that is wanted again last."""

    def __init__(self, asks: Sequence[Ask]) -> None:
        self._coming: dict[ModelId, list[int]] = {}
        for ask in asks:
            self._coming.setdefault(ask.model, []).append(ask.at_ms)
        self._now_ms = asks[0].at_ms

    def passed(self, state: FleetState, model: ModelId, at_ms: int) -> None:
        """A request for the model came."""
        self._now_ms = at_ms
        self.restore(state, model)

    def restore(self, state: FleetState, model: ModelId) -> None:
        """Something counted as a use of it."""
        coming = self._coming[model]
        place = bisect_right(coming, self._now_ms)
        next_ms = coming[place] if place < len(coming) else NEVER_MS
        for name in state.snapshot().locations.get(model, ()):
            node = state.node(name)
            if node is not None and model in node.models:
                used_as_if(node, node.models[model], at_ms=NEVER_MS - next_ms)


def _recollection(scenario: Scenario) -> Recollection:
    """What is known of sizes and loads, as a start of the gateway gets it."""
    machines = scenario.machines
    return Recollection(
        pins=frozenset((None, model) for model in scenario.pins),
        past=scenario.past,
        nodes=tuple(NodeRecord(name=machine.name) for machine in machines),
        residency=tuple(
            ResidencyRecord(
                node=machine.name,
                model=model,
                status="unloaded",
                load_s=holding.load_s if holding.timed else None,
                cold_load_s=holding.load_s if holding.timed else None,
                warm_load_s=holding.warm_s if holding.timed else None,
                size_mib=holding.size_mib,
            )
            for machine in machines
            for model, holding in machine.holdings.items()
        ),
    )


def _listing(machine: Machine, pinned: frozenset[ModelId]) -> Listing:
    """Its models; those that were in memory are, as far as they fit, pinned ones first."""
    left_mib = machine.vram_mib
    statuses: dict[ModelId, ReportedStatus] = {}
    order = sorted(machine.holdings, key=lambda model: (model not in pinned, model))
    for model in order:
        holding = machine.holdings[model]
        there = holding.resident and holding.size_mib <= left_mib
        left_mib -= holding.size_mib if there else 0
        statuses[model] = ReportedStatus.LOADED if there else ReportedStatus.UNLOADED
    return Listing(created_at_s=1, models=statuses)
