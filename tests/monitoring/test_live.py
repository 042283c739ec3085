"""A real Prometheus before a real gateway: every query of the dashboard and of the alerts finds data."""

import math
import re
import time
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Container
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cortex.devnode.scripted import ScriptedNode
from tests.access.certificates import make, trusting
from tests.gateway.conftest import chat_body, scripted, stream
from tests.monitoring.files import (
    ALL,
    DASHBOARD,
    alerts,
    chosen,
    filled,
    panels,
    recorded,
    targets,
)
from tests.monitoring.tools import SCRAPE_S, Prometheus, needs_prometheus, prometheus, promtool
from tests.node.rawnode import RawNode, saying, whole
from tests.running import Running, running, until

A, B, SHARED, PINNED, CACHED = "org/a-1.5b", "org/b", "org/shared", "org/pinned", "org/cached"
FLEET = f"""
[polling]
interval_s = 0.2
timeout_s = 1.0
failures_before_down = 1
[eviction]
defrag_after_cycles = 1
[models."{SHARED}"]
max_in_flight = 1
[[auth.keys]]
name = "ops"
key = "ops"
role = "admin"
[[auth.keys]]
name = "limited"
key = "limited"
requests_per_minute = 1
"""
USAGE = (
    b'{"usage":{"prompt_tokens":9,"completion_tokens":4,'
    b'"prompt_tokens_details":{"cached_tokens":6}}}'
)
RATE_INTERVAL_S = max(2 * SCRAPE_S, 4 * SCRAPE_S)
"""As Grafana has it: the step and a scrape, but no less than four scrapes."""
MAY_BE_ZERO = {"Rows not yet written/A", "Rows not yet written/B"}
"""Only a broken disk would make more of them."""
CACHED_TOKENS = "Prompt tokens per model/B"
TROUBLES = {
    "CortexNodeDown",
    "CortexPinnedModelAbsent",
    "CortexDefragDue",
    "CortexModelWedged",
}
"""Alerts that this fleet is bound to raise; none has had the time to fire."""


@dataclass
class Watched:
    """A fleet in every kind of trouble, and what has watched it since `start_s`."""

    gateway: Running
    server: Prometheus
    start_s: float

    @property
    def instance(self) -> str:
        return self.gateway.metrics_url.removeprefix("http://")

    async def scraped(self) -> None:
        now_s = time.time()
        await until(lambda: self.server.has_scraped(now_s), "a scrape", 15.0)

    async def values(self, expression: str) -> list[float]:
        """What a panel would get, numbers only. One that asks for now gets it for any time here."""
        series = await self.server.over(expression, self.start_s, time.time())
        found = [float(value) for one in series for _, value in one["values"]]
        return [value for value in found if math.isfinite(value)]

    async def without_data(
        self, variables: dict[str, str], *, may_be_zero: Container[str] = ()
    ) -> set[str]:
        """Queries that find nothing, or nothing but zeros where there must be more."""
        missing = set()
        for name, target in targets():
            found = await self.values(filled(target["expr"], variables))
            if not found or not (any(found) or name in may_be_zero):
                missing.add(name)
        return missing


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[Watched]:
    """n0 has room for one of two models, n1 an impossible pin, n2 is gone, n3 reports caches.

    All of it behind keys and TLS.
    """
    made = make(folder)
    async with (
        scripted(
            {A: 6000, B: 6000, SHARED: 100},
            unloaded=[B],
            vram_total_mib=10_000,
            load_s=0.2,
            token_interval_s=0.005,
        ) as n0,
        scripted(
            {SHARED: 100, PINNED: 1000},
            unloaded=[PINNED],
            load_fail={PINNED: "no such file"},
            load_s=0.2,
            token_interval_s=0.005,
        ) as n1,
        scripted(["org/gone"]) as n2,
        RawNode([CACHED], answer=saying(whole(USAGE))) as n3,
        running(
            folder,
            [n0, n1, n2, n3],
            toml=FLEET + made.toml,
            trusting=trusting(made),
            node_toml=["", f'pinned = ["{PINNED}"]'],
        ) as gateway,
        prometheus(folder, gateway.metrics_url.removeprefix("http://")) as server,
    ):
        gateway.http.headers["Authorization"] = "Bearer ops"
        seen = Watched(gateway, server, time.time())
        await n2.stop()
        # A second one poisons it, as on a real node.
        again = {"model_id": SHARED}
        async with gateway.http.post(f"{n1.url}/v1/models/reload", json=again) as answer:
            await answer.read()
        for _ in range(2):
            # A rate needs the series as it was before.
            await seen.scraped()
            await _traffic(gateway, n0)
        await seen.scraped()
        yield seen


async def _traffic(gateway: Running, failing: ScriptedNode) -> None:
    """Streams, loads and evictions, a queue, a retry, cached tokens, mistakes, and a used up key."""
    for model in (B, A):
        told = await stream(gateway.http, gateway.url, chat_body(model, stream=True))
        assert told.status == 200
    async with TaskGroup() as group:
        for _ in range(6):
            body = chat_body(SHARED, stream=True, max_tokens=200)
            group.create_task(stream(gateway.http, gateway.url, body))
    assert (await gateway.chat(CACHED)).status == 200
    assert (await gateway.chat("org/nobody-has-it")).status == 404
    for _ in range(2):
        reply = await gateway.post(
            "/v1/chat/completions",
            chat_body(CACHED),
            headers={"Authorization": "Bearer limited"},
        )
    assert reply.status == 429
    for _ in range(2):
        assert (await gateway.chat(PINNED)).status == 503
    gateway.services.fleet.guard.met("keeper", KeyError("a bug"))
    await _retry(gateway, failing)


async def _retry(gateway: Running, failing: ScriptedNode) -> None:
    """Ask until the failing node was asked."""
    await failing.set(http_error={"status": 500, "message": "the engine has stopped"})
    before = failing.stats.injected
    for turn in range(20):
        messages = [{"role": "user", "content": f"turn {turn}"}]
        assert (await gateway.chat(SHARED, messages=messages)).status == 200
        if failing.stats.injected > before:
            return
    raise AssertionError("no request came to the failing node")


def variables(gateway: str = ALL, node: str = ALL, model: str = ALL) -> dict[str, str]:
    return {
        "gateway": gateway,
        "node": node,
        "model": model,
        "__rate_interval": f"{RATE_INTERVAL_S}s",
    }


async def _every_panel_has_data(seen: Watched) -> None:
    missing: set[str] = set()

    async def complete() -> bool:
        nonlocal missing
        missing = await seen.without_data(variables(), may_be_zero=MAY_BE_ZERO)
        return not missing

    try:
        # The breaker lets a second load of the pinned model fail only after a while.
        await until(complete, "data", 15.0)
    except AssertionError:
        pytest.fail(f"no data, or only zeros: {sorted(missing)}")
    some = variables(chosen(seen.instance), chosen("n0", "n1"), chosen(A, SHARED, PINNED))
    others = {name for name, _ in targets()} - {CACHED_TOKENS}
    # The node that reports caches is not among them.
    assert await seen.without_data(some, may_be_zero=others) == {CACHED_TOKENS}
    nobody = variables(node=chosen("n9"))
    [up] = [t["expr"] for name, t in targets() if name == "Nodes/A"]
    assert await seen.values(filled(up, nobody)) == []


async def _variables_find_their_values(seen: Watched) -> None:
    expected = {
        "gateway": {seen.instance},
        "node": {"n0", "n1", "n2", "n3"},
        "model": {A, B, SHARED, PINNED, CACHED},
    }
    for variable in DASHBOARD["templating"]["list"][1:]:
        query = filled(variable["query"]["query"], variables())
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert found is not None, query
        values = await seen.server.get(f"label/{found[2]}/values", **{"match[]": found[1]})
        # The node that is gone may have been heard of before.
        assert set(values) - {"org/gone"} == expected[variable["name"]]


async def _every_alert_is_evaluated(seen: Watched) -> None:
    [group] = (await seen.server.get("rules"))["groups"]
    for rule in group["rules"]:
        assert (rule["health"], rule.get("lastError", "")) == ("ok", "")
    rules = {rule["name"]: rule for rule in group["rules"] if rule["type"] == "alerting"}
    assert set(rules) == {alert["alert"] for alert in alerts()}
    pending = {name for name, rule in rules.items() if rule["state"] == "pending"}
    assert pending >= TROUBLES
    assert "firing" not in {rule["state"] for rule in rules.values()}
    for told in (await seen.server.get("alerts"))["alerts"]:
        for text in told["annotations"].values():
            assert not re.search(r"{{|<no value>|<error", text), text
    for alert in alerts():
        await seen.server.instant(alert["expr"])
    for name in recorded():
        assert await seen.server.instant(name), name


async def _promtool_likes_the_metrics(seen: Watched) -> None:
    done = promtool("check", "metrics", stdin=await seen.gateway.metrics())
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_prometheus
async def test_a_fleet_in_trouble_is_seen_in_every_panel_and_alert(tmp_path: Path) -> None:
    # One fleet for all of it: it takes seconds to get into so much trouble.
    async with watched(tmp_path) as seen:
        await _promtool_likes_the_metrics(seen)
        await _variables_find_their_values(seen)
        await _every_panel_has_data(seen)
        await _every_alert_is_evaluated(seen)


@needs_prometheus
async def test_no_panel_is_empty_before_the_first_request(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node]) as gateway,
        prometheus(tmp_path, gateway.metrics_url.removeprefix("http://")) as server,
    ):
        seen = Watched(gateway, server, time.time())
        for _ in range(2):
            await seen.scraped()
        everything = {name for name, _ in targets()}
        nothing = await seen.without_data(variables(), may_be_zero=everything)
        words = {
            panel["title"]: panel["fieldConfig"]["defaults"].get("noValue")
            for panel in panels()
        }
        # Those say it in a word instead.
        assert {(name, words[name.partition("/")[0]]) for name in nothing} == {
            ("TTFT p50/A", "idle"),
            ("TTFT p95/A", "idle"),
            ("Certificate/A", "no TLS"),
        }
        # And a query that finds nothing would be noticed.
        elsewhere = await seen.without_data(variables(node="n9"), may_be_zero=everything)
        assert {"Nodes/A", "Memory used/A", "Tokens per node/A"} <= elsewhere
