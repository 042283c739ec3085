"""Waiting for a slot: bounded in number and time, first come first served, and easy to leave."""

import asyncio
import time
from pathlib import Path

from tests.fleet.conftest import apart, asking, chats, held, queued
from tests.gateway.conftest import scripted
from tests.running import Running, running, until

ONE = "max_in_flight_per_model = 1"


async def waiting(gateway: Running, count: int) -> None:
    async def so_many() -> bool:
        return await queued(gateway) == count

    await until(so_many, f"{count} in the queue")


async def test_past_the_deadline_comes_a_503_with_a_time_to_come_back(tmp_path: Path) -> None:
    async with (
        scripted(["a"], endless=True, token_interval_s=0.05) as node,
        running(tmp_path, [node], toml=f"[limits]\n{ONE}\nqueue_timeout_s = 0.3") as gateway,
        held(gateway, "a"),
    ):
        began_s = time.monotonic()
        reply = await gateway.chat("a", **apart())
        assert 0.3 <= time.monotonic() - began_s < 3
        assert (reply.status, reply.code) == (503, "queue_timeout")
        assert reply.headers["Retry-After"] == "5"
        assert node.stats.started == 1
        assert await queued(gateway) == 0
        [row] = await gateway.history()
        assert 300 <= row["duration_ms"] < 3000


async def test_one_too_many_is_refused_at_once(tmp_path: Path) -> None:
    async with (
        scripted(["a"], token_interval_s=0.2) as node,
        running(tmp_path, [node], toml=f"[limits]\n{ONE}\nmax_queue = 2") as gateway,
        asyncio.TaskGroup() as group,
    ):
        async with held(gateway, "a"):
            patient = group.create_task(chats(gateway, "a", 2, max_tokens=1), name="patient")
            await waiting(gateway, 2)
            refused = await gateway.chat("a", **apart())
            assert (refused.status, refused.code) == (429, "queue_full")
            assert refused.headers["Retry-After"] == "5"
            assert await queued(gateway) == 2
            assert 'cortex_queue_depth{model="a"} 2.0' in (await gateway.metrics()).splitlines()
        assert [reply.status for reply in await patient] == [200, 200]


async def test_those_who_came_first_are_served_first(tmp_path: Path) -> None:
    served: list[int] = []

    async def ask(gateway: Running, number: int) -> None:
        assert (await gateway.chat("a", **apart(max_tokens=1))).status == 200
        served.append(number)

    async with (
        scripted(["a"], token_interval_s=0.2) as node,
        running(tmp_path, [node], toml=f"[limits]\n{ONE}") as gateway,
        asyncio.TaskGroup() as group,
    ):
        async with held(gateway, "a"):
            for number in range(6):
                group.create_task(ask(gateway, number), name=f"ask {number}")
                await waiting(gateway, number + 1)
        await until(lambda: len(served) == 6, "all to be served")
        assert served == list(range(6))


async def test_who_hangs_up_leaves_the_queue_and_the_next_takes_the_turn(
    tmp_path: Path,
) -> None:
    async with (
        scripted(["a"], endless=True, token_interval_s=0.05) as node,
        running(tmp_path, [node], toml=f"[limits]\n{ONE}") as gateway,
        asyncio.TaskGroup() as group,
    ):
        async with held(gateway, "a"):
            first = asking(group, gateway, "a")
            await waiting(gateway, 1)
            second = asking(group, gateway, "a")
            await waiting(gateway, 2)
            last = group.create_task(gateway.chat("a", **apart()), name="last")
            await waiting(gateway, 3)
            first.cancel()
            second.cancel()
            await waiting(gateway, 1)
            await node.set(endless=False, token_interval_s=0.0)
        assert (await last).status == 200
        assert node.stats.started == 2
        outcomes = [row["outcome"] for row in await gateway.history()]
        assert sorted(outcomes) == ["client_gone"] * 3 + ["ok"]


async def test_hanging_up_on_a_load_leaves_the_others_waiting_for_it(tmp_path: Path) -> None:
    async with (
        scripted(["a"], unloaded=["a"], load_s=0.5) as node,
        running(tmp_path, [node]) as gateway,
        asyncio.TaskGroup() as group,
    ):
        first = asking(group, gateway, "a")
        await waiting(gateway, 1)
        second = group.create_task(gateway.chat("a", **apart()), name="second")
        await waiting(gateway, 2)
        first.cancel()
        assert (await second).status == 200
        assert dict(node.stats.loads) == {"a": 1}
        assert node.stats.started == 2, "the token that the load asks for, and the second"


async def test_the_limit_of_a_node_holds_over_all_its_models(tmp_path: Path) -> None:
    async with (
        scripted(["a", "b"], token_interval_s=0.02) as node,
        running(tmp_path, [node], node_toml=["max_in_flight = 1"]) as gateway,
        asyncio.TaskGroup() as group,
    ):
        async with held(gateway, "a"):
            other = group.create_task(gateway.chat("b", max_tokens=1), name="other")
            await waiting(gateway, 1)
            assert node.stats.requests["b"] == 0
        assert (await other).status == 200


async def test_the_limit_of_a_model_is_never_exceeded(tmp_path: Path) -> None:
    most = 0

    async def watch() -> bool:
        nonlocal most
        most = max(most, sum(node.stats.in_flight.values()))
        return node.stats.finished == 30

    toml = '[models."a"]\nmax_in_flight = 3'
    async with (
        scripted(["a"], token_interval_s=0.002) as node,
        running(tmp_path, [node], toml=toml) as gateway,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(until(watch, "all to finish"), name="watch")
        assert {reply.status for reply in await chats(gateway, "a", 30)} == {200}
        assert most == 3
