"""One run: start, warm up, measure at rest, load and strike, measure at rest again, judge."""

import asyncio
import contextlib
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp

from tests.e2e.processes import Processes
from tests.soak.load import Clients, Result, choose
from tests.soak.plan import Fault, plan
from tests.soak.sample import Sample, take
from tests.soak.verdict import RECOVERY_S, Seen, Verdict, judge
from tests.soak.world import NODES, World

MOST_AT_ONCE = 100
WARM_RATE = 30.0
LONG_WARM_S = 120.0
LONG_FROM_S = 240.0
"""A shorter run says nothing about memory: caches and allocator are still filling up."""
LONG_REST_S = 65.0
"""Idle connections to nodes are kept for a minute; that long nobody asks in a long run."""
MOST_REST_S = 30.0
"""And so much longer when there is still something left."""
CALM_SAMPLES = 12
CALM_EVERY_S = 0.25
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    length_s: float
    rate: float
    """Requests a second."""
    seed: int
    every_s: float = 10.0

    @property
    def warm_s(self) -> float:
        """Where memory is judged, all that takes some once has happened by then, faults included."""
        return max(self.length_s / 10, LONG_WARM_S) if self.long else self.length_s / 10

    @property
    def warm_rate(self) -> float:
        """So that statistics have their ten thousand rows by then, where the run is long enough."""
        return max(self.rate, WARM_RATE) if self.long else self.rate

    @property
    def long(self) -> bool:
        return self.length_s >= LONG_FROM_S

    @property
    def rest_s(self) -> float:
        return LONG_REST_S if self.long else 0.0

    @property
    def load_s(self) -> float:
        return self.length_s - self.warm_s - 2 * self.rest_s


@dataclass(slots=True)
class Report:
    options: Options
    verdict: Verdict
    warm: Sample
    end: Sample
    samples: list[Sample]
    faults: Counter[str]
    requests: Counter[str]
    failed: Counter[str]
    events: list[dict[str, object]]
    """Of the fleet: what tells why a request found no node."""


@dataclass(slots=True)
class Soak:
    """A run under way."""

    options: Options
    world: World
    say: Say
    began_s: float = field(default_factory=time.monotonic)
    results: list[Result] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    feed_breaks: list[float] = field(default_factory=list)

    async def run(self) -> Report:
        began_at_s = time.time()
        rng = random.Random(self.options.seed)
        warm_s = self.options.warm_s
        self.say(f"warm-up, {warm_s:.0f} s")
        early: tuple[Fault, ...] = ()
        if self.options.long:
            early = plan(
                -self.options.seed, begin_s=2.0, end_s=warm_s - RECOVERY_S, nodes=NODES
            )
        await self._load(rng, warm_s, early, self.options.warm_rate)
        warm = await self._at_rest(None)
        self.say(f"at rest after the warm-up: {warm.rss_mib:.1f} MiB, {warm.tasks} tasks")
        load_s = self.options.load_s
        last_s = max(load_s / 2, load_s - RECOVERY_S)
        faults = plan(self.options.seed, begin_s=2.0, end_s=last_s, nodes=NODES)
        await self._load(rng, load_s, faults, self.options.rate)
        end = await self._at_rest(warm)
        exit_code = await asyncio.to_thread(self.world.stop)
        lines = self.world.gateway.stderr.splitlines()
        seen = Seen(
            results=self.results,
            faults=self.faults,
            fault_ids=self.world.asked,
            rows=await asyncio.to_thread(self.world.logged),
            log=[json.loads(line) for line in lines if line.startswith("{")],
            stderr_rest=[line for line in lines if not line.startswith("{")],
            warm=warm,
            end=end,
            feed_breaks=self.feed_breaks,
            exit_code=exit_code,
            long=self.options.long,
            began_at_s=began_at_s - self.began_s,
        )
        return Report(
            options=self.options,
            verdict=judge(seen),
            warm=warm,
            end=end,
            samples=self.samples,
            faults=Counter(fault.kind for fault in self.faults),
            requests=Counter(result.kind for result in self.results),
            failed=_failed(seen),
            events=await asyncio.to_thread(self.world.events),
        )

    async def _load(
        self, rng: random.Random, length_s: float, faults: tuple[Fault, ...], rate: float
    ) -> None:
        """Ask at random moments, `rate` times a second; then let what is under way come to its end."""
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:
            clients = Clients(self.world.url, self.world.metrics_url, http)
            async with asyncio.TaskGroup() as helpers:
                feed = helpers.create_task(self._read_feed(http), name="feed")
                watch = helpers.create_task(self._watch(), name="watch")
                end_s = time.monotonic() + length_s
                async with asyncio.TaskGroup() as group:
                    for fault in faults:
                        group.create_task(self._strike(fault), name=f"fault {fault.kind}")
                    free = asyncio.Semaphore(MOST_AT_ONCE)
                    while time.monotonic() < end_s:
                        await asyncio.sleep(rng.expovariate(rate))
                        await free.acquire()
                        task = group.create_task(self._ask(clients, rng), name="request")
                        task.add_done_callback(lambda _: free.release())
                feed.cancel()
                watch.cancel()

    async def _ask(self, clients: Clients, rng: random.Random) -> None:
        own = random.Random(rng.random())
        request_id = f"soak-{rng.getrandbits(64):016x}"
        self.results.append(await clients.send(choose(own), request_id, own))

    async def _strike(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at_s)
        began_s = time.monotonic()
        self.say(f"{fault.kind} {fault.node} {fault.length_s:.1f} s")
        await self.world.strike(fault)
        length_s = time.monotonic() - began_s
        self.faults.append(replace(fault, at_s=began_s, length_s=length_s))

    async def _read_feed(self, http: aiohttp.ClientSession) -> None:
        """As the page does: when it ends, come back."""
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(self.world.url + "/cortex/v1/live") as response:
                    async for _ in response.content.iter_any():
                        pass
            self.feed_breaks.append(time.monotonic())
            await asyncio.sleep(1.0)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.options.every_s)
            self.samples.append(sample := await self._sample())
            self.say(_line(sample, len(self.results)))

    async def _sample(self) -> Sample:
        world = self.world
        return await take(
            world.gateway.pid,
            world.url,
            world.metrics_url,
            world.database,
            node_ports=world.node_ports,
            began_s=self.began_s,
        )

    async def _at_rest(self, before: Sample | None) -> Sample:
        """The least that is held while nobody asks: polls come and go, so several looks are taken.

        What idle connections hold until they are closed is waited for, up to a deadline.
        """
        await asyncio.sleep(self.options.rest_s)
        deadline_s = time.monotonic() + MOST_REST_S
        while True:
            looks = []
            for _ in range(CALM_SAMPLES):
                await asyncio.sleep(CALM_EVERY_S)
                looks.append(await self._sample())
            least = replace(
                looks[-1],
                rss_mib=min(look.rss_mib for look in looks),
                tasks=min(look.tasks for look in looks),
                sockets=min(look.sockets for look in looks),
                node_sockets=min(look.node_sockets for look in looks),
                files=min(look.files for look in looks),
                threads=min(look.threads for look in looks),
                answer_ms=max(look.answer_ms for look in looks),
            )
            calm = not (least.leases or least.in_flight or least.queued or least.unwritten)
            if before is not None:
                calm &= least.tasks <= before.tasks and least.sockets <= before.sockets
            else:
                # The level to come back to must not be one that is still falling.
                first, last = looks[0], looks[-1]
                calm &= first.sockets <= last.sockets and least.tasks == last.tasks
            if calm or time.monotonic() > deadline_s:
                return least


def _failed(seen: Seen) -> Counter[str]:
    codes = {request_id: code for request_id, _, code in seen.rows}
    return Counter(codes.get(r.id) or "no code" for r in seen.results if r.wrong)


def _line(sample: Sample, requests: int) -> str:
    return (
        f"{requests} requests, {sample.rss_mib:.1f} MiB, {sample.sockets}+{sample.node_sockets} sockets,"
        f" {sample.files} files, {sample.threads} threads, {sample.tasks} tasks,"
        f" {sample.in_flight} in flight, {sample.queued} queued,"
        f" database {sample.database_mib:.1f} MiB, answered in {sample.answer_ms:.1f} ms"
    )


async def soak(options: Options, say: Say) -> Report:
    """Everything it starts has ended when it returns, however that comes about."""
    with tempfile.TemporaryDirectory(prefix="cortex-soak-") as folder:
        processes = Processes(Path(folder))
        try:
            world = World(Path(folder), processes)
            await asyncio.to_thread(world.start)
            return await Soak(options, world, say).run()
        finally:
            processes.end()
