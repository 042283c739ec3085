"""One seed: a fleet, clients, operators and faults for some seconds, and what must hold throughout.

All choices come from the seed; what they meet depends on timing as well, so that a repetition is
alike and not the same.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import aiohttp

from cortex.core.health import Pauses
from cortex.core.records import Outcome
from cortex.devnode.scripted import ScriptedNode
from cortex.fleet.waits import Waits
from cortex.gateway.errors import STATUS
from cortex.store.rows import is_refusal
from tests.chaos.faults import FAULTS, mend
from tests.chaos.observer import LIFECYCLE, Observer
from tests.running import Running, free_port, running, until

QUEUE_S = 3.0
IDLE_S = 1.5
LATEST_S = QUEUE_S + 3 * IDLE_S + 3.0
"""Longest a request may take: its wait, three silent nodes, and a busy machine."""
LIMITS = f"""
[limits]
queue_timeout_s = {QUEUE_S}
load_timeout_s = 1.0
drain_timeout_s = 0.8
idle_timeout_s = {IDLE_S}
connect_timeout_s = 1.0
max_queue = 12
[polling]
interval_s = 0.1
timeout_s = 0.5
"""
BRIEF = Waits(
    fresh_s=0.2,
    drain_after_s=0.15,
    breaker=Pauses(0.1, 0.5),
    verify_s=0.25,
    status_interval_s=0.05,
    spared_s=0.3,
    cannot_unload_s=0.5,
    house_s=0.1,
)
"""Waits that are seconds or minutes in earnest; a run has seconds."""
RENAMED = "-renamed"
ROUNDING_MS = 30
"""Between the release of a lease and the end of its row, on a machine that is busy."""


@dataclass
class Result:
    """What one seed came to."""

    seed: int
    violations: list[str] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def lifecycle_events(self) -> int:
        """How often models were moved."""
        return sum(self.events[kind.value] for kind in LIFECYCLE)


async def run_seed(
    seed: int, folder: Path, *, seconds: float, enough: Callable[[Result], bool] | None = None
) -> Result:
    """Run one seed in a folder of its own, for `seconds`, or only until it has come to `enough`."""
    return await _World(seed, folder, enough).run(seconds)


class _World:
    def __init__(
        self, seed: int, folder: Path, enough: Callable[[Result], bool] | None
    ) -> None:
        self._rng = Random(seed)
        self._folder = folder
        self._enough = enough
        self._result = Result(seed)
        self._models = [f"m{n}" for n in range(self._rng.randint(4, 6))]
        self._sizes = {model: self._rng.randint(3, 7) * 1000 for model in self._models}
        self._nodes = [self._node() for _ in range(self._rng.randint(2, 4))]
        #: Stamps of use mean nothing where the clock jumps, and the log has the names of before.
        self._jumps = self._rng.random() < 0.3
        self._renames = self._rng.random() < 0.5
        self._ends_s = 0.0

    def _node(self) -> ScriptedNode:
        rng = self._rng
        held = rng.sample(self._models, rng.randint(3, len(self._models)))
        return ScriptedNode(
            {model: self._sizes[model] for model in held},
            unloaded=held[1:],
            vram_total_mib=rng.choice([8_000, 12_000, 16_000]),
            # Its own when it restarts, too: below those that outgoing connections are given.
            port=free_port(),
            load_s=0.03,
            info_delay_s=0.0,
            release_delay_s=0.01,
            token_interval_s=0.003,
        )

    def _toml(self) -> str:
        rng = self._rng
        known = rng.sample(self._models, len(self._models) // 2)
        tables = [
            f'[models."{model}"]\npriority = {rng.choice([50, 100])}\n'
            + (f"vram_mb = {self._sizes[model]}\n" if model in known else "")
            for model in self._models
        ]
        strategy = rng.choice(["lru", "priority", "forecast"])
        residency_s = rng.choice([0, 0, 0.3])
        eviction = f'[eviction]\nstrategy = "{strategy}"\nmin_residency_s = {residency_s}\n'
        return LIMITS + eviction + "".join(tables)

    async def run(self, seconds: float) -> Result:
        async with AsyncExitStack() as stack:
            for node in self._nodes:
                await stack.enter_async_context(node)
            gateway = await stack.enter_async_context(
                running(self._folder, self._nodes, toml=self._toml(), waits=BRIEF)
            )
            observer = Observer(gateway)
            self._result.events = observer.events
            self._ends_s = time.monotonic() + seconds
            async with asyncio.TaskGroup() as group:
                for number in range(10):
                    group.create_task(self._client(gateway, Random(self._rng.random()), number))
                group.create_task(self._operator(gateway, Random(self._rng.random())))
                if self._renames:
                    group.create_task(self._renamer(gateway, Random(self._rng.random())))
                if self._jumps:
                    group.create_task(self._jumper(gateway, Random(self._rng.random())))
                for node in self._nodes:
                    group.create_task(self._trouble(node, Random(self._rng.random())))
            await self._put_back(gateway)
            await self._settle(gateway)
            if not self._jumps and not self._renames:
                await self._check_use_order(gateway)
            for reason in gateway.services.fleet.guard.reasons():
                observer.violated(reason)
            cut = sum(node.stats.cut - node.stats.cut_unheard for node in self._nodes)
            if cut:
                observer.violated(f"{cut} requests were cut by an unload")
            self._result.violations += observer.violations
        return self._result

    def _goes_on(self) -> bool:
        if self._enough is not None and self._enough(self._result):
            return False
        return time.monotonic() < self._ends_s

    def _violated(self, what: str) -> None:
        self._result.violations.append(what)

    async def _client(self, gateway: Running, rng: Random, number: int) -> None:
        agent = {"User-Agent": f"client-{number % 3}/1"}
        while self._goes_on():
            model = rng.choice(self._models)
            body = {
                "model": model,
                "messages": [{"role": "user", "content": f"hello {rng.random()}"}],
                "stream": rng.random() < 0.7,
                "max_tokens": rng.randint(1, 40),
            }
            patience_s = rng.uniform(0.02, 0.5) if rng.random() < 0.15 else LATEST_S
            began_s = time.monotonic()
            try:
                async with asyncio.timeout(patience_s):
                    outcome = await self._ask(gateway, body, agent)
            except TimeoutError:
                outcome = "hung up"
                if patience_s == LATEST_S:
                    self._violated(f"a request for {model} took over {LATEST_S:g} s")
            self._result.requests[outcome] += 1
            if time.monotonic() - began_s < 0.01:
                await asyncio.sleep(rng.uniform(0.0, 0.05))

    async def _ask(self, gateway: Running, body: dict[str, Any], agent: dict[str, str]) -> str:
        url = f"{gateway.url}/v1/chat/completions"
        async with gateway.http.post(url, json=body, headers=agent) as response:
            try:
                text = await response.text()
            except aiohttp.ClientError:
                return "cut with a word"
            if response.status != 200:
                code = (await response.json())["error"]["code"]
                if STATUS.get(code) != response.status:
                    self._violated(f"{response.status} with the code {code}")
                return code
            # A node may end without [DONE] once it has said why it finished.
            whole = '"finish_reason":"' in text if body["stream"] else text[-1:] == "}"
            if not whole:
                self._violated(f"an answer that ends well is not whole: {text[-80:]!r}")
            return "ok"

    async def _operator(self, gateway: Running, rng: Random) -> None:
        """Somebody who pins, drains, loads and unloads at random."""
        while self._goes_on():
            await asyncio.sleep(rng.uniform(0.05, 0.3))
            model = {"model": rng.choice(self._models)}
            node = f"n{rng.randrange(len(self._nodes))}"
            act = rng.choice(["pin", "unpin", "unpin", "load", "unload", "drain", "undrain"])
            path = f"nodes/{node}/{act}" if act.endswith("drain") else f"models/{act}"
            reply = await gateway.post(f"/cortex/v1/{path}", model)
            self._result.requests[f"operator: {reply.status}"] += 1
            if reply.status >= 500 and reply.status != 503:
                self._violated(f"{act}: {reply.text[:200]}")
            if act == "drain":
                await asyncio.sleep(rng.uniform(0.05, 0.3))
                await gateway.post(f"/cortex/v1/nodes/{node}/undrain", {})

    async def _put_back(self, gateway: Running) -> None:
        for model in self._models:
            await gateway.post("/cortex/v1/models/unpin", {"model": model})
        for number in range(len(self._nodes)):
            await gateway.post(f"/cortex/v1/nodes/n{number}/undrain", {})

    async def _renamer(self, gateway: Running, rng: Random) -> None:
        """Somebody who calls nodes otherwise, and two each other's name, and puts it all back."""
        text = gateway.source.read_text()
        while self._goes_on():
            await asyncio.sleep(rng.uniform(0.3, 1.5))
            a, b = (f"n{n}" for n in rng.sample(range(len(self._nodes)), 2))
            name, other = f'name = "{a}"', f'name = "{b}"'
            changed = text.replace(name, f'name = "{a}{RENAMED}"')
            if rng.random() < 0.3:
                changed = changed.replace(other, name).replace(f"{a}{RENAMED}", b)
            for content in (changed, text):
                gateway.source.write_text(content)
                gateway.daemon._reload()
                self._result.faults["rename"] += 1
                await asyncio.sleep(rng.uniform(0.05, 0.4))

    async def _jumper(self, gateway: Running, rng: Random) -> None:
        """The wall clock is wrong for a while."""
        clock = gateway.services.fleet.clock
        right = clock.now_ms
        while self._goes_on():
            await asyncio.sleep(rng.uniform(0.2, 1.0))
            off_ms = rng.choice([-1, 1]) * rng.randrange(10**9)
            clock.now_ms = lambda off_ms=off_ms: right() + off_ms
            self._result.faults["clock jump"] += 1
            await asyncio.sleep(rng.uniform(0.05, 0.5))
            clock.now_ms = right

    async def _trouble(self, node: ScriptedNode, rng: Random) -> None:
        while self._goes_on():
            await asyncio.sleep(rng.uniform(0.1, 0.8))
            name = rng.choice(sorted(FAULTS))
            self._result.faults[name] += 1
            await FAULTS[name](node, rng)
        await mend(node)

    async def _settle(self, gateway: Running) -> None:
        """With nobody asking and everything mended, nothing is held, queued or moving."""
        services = gateway.services

        def quiet() -> bool:
            nodes = services.fleet.snapshot().nodes.values()
            return (
                not services.recent.in_flight
                and not services.fleet.depth()
                and not services.fleet._lifecycle._tasks
                and all(not node.in_flight and node.moving is None for node in nodes)
            )

        try:
            await until(quiet, "quiet", 15.0)
        except AssertionError as error:
            self._violated(str(error))

    async def _check_use_order(self, gateway: Running) -> None:
        """The order of last use is what a replay of the log gives."""
        replay: dict[tuple[str, str], int] = {}
        for row in await gateway.history(limit="10000"):
            failed = row["outcome"] == Outcome.ERROR and not is_refusal(row["status"])
            if row["node"] and row["model"] and not failed:
                pair = row["node"], row["model"]
                ended = int(row["started_at_ms"] + row["duration_ms"])
                replay[pair] = max(replay.get(pair, 0), ended)
        for row in await gateway.events(kind="loaded", limit="10000"):
            pair = row["node"], row["model"]
            replay[pair] = max(replay.get(pair, 0), row["at_ms"])
        for node in gateway.services.fleet.snapshot().nodes.values():
            for model in node.models.values():
                known = replay.get((node.name, model.id), 0)
                if abs(known - model.last_used_at_ms) > ROUNDING_MS:
                    self._violated(
                        f"{model.id} on {node.name}: used {model.last_used_at_ms - known} ms"
                        " later than the log says"
                    )
