"""What a restart gives back: LRU order, pins, cycles, learned loads; and instants only go forward."""

import asyncio
import random
from dataclasses import replace
from pathlib import Path

from cortex.core.ids import ModelId, NodeName
from cortex.core.records import NodeRecord, Recollection, ResidencyRecord
from tests.store.conftest import NOW_MS, flushed, opened, request, select

N1, N2 = NodeName("n1"), NodeName("n2")
A, B, C = ModelId("a"), ModelId("b"), ModelId("c")


def by_key(memory: Recollection) -> dict[tuple[str, str], ResidencyRecord]:
    return {(record.node, record.model): record for record in memory.residency}


async def test_an_empty_file_remembers_nothing(path: Path) -> None:
    async with opened(path) as store:
        assert await store.recall() == Recollection()


async def test_everything_saved_comes_back_before_and_after_a_restart(path: Path) -> None:
    nodes = (
        NodeRecord(name=N1, cycles=7, boot_at_s=1_799_999_000, last_restart_at_ms=NOW_MS - 5,
                   health="up", version="0.9.5", residue_mib=512, vram_total_mib=24_000,
                   ram_total_mib=64_000, read_mib=190_000),
        NodeRecord(name=N2),
    )  # fmt: skip
    residency = (
        ResidencyRecord(node=N1, model=A, status="loaded", last_used_at_ms=NOW_MS, loads=3,
                        load_s=12.75, size_mib=4096, read_at_mib=180_000,
                        cold_load_s=30.5, warm_load_s=4.25),
        ResidencyRecord(node=N1, model=B, status="unloaded"),
        ResidencyRecord(node=N2, model=A, status="wedged", loads=1, load_s=0.5),
    )  # fmt: skip
    pins = frozenset({(N1, A), (None, B), (N2, C)})

    async def check(memory: Recollection) -> None:
        assert sorted(memory.nodes, key=lambda record: record.name) == list(nodes)
        keyed = sorted(memory.residency, key=lambda record: (record.node, record.model))
        assert keyed == list(residency)
        assert memory.drained == {N1}
        assert memory.pins == pins

    async with opened(path) as store:
        for record in nodes:
            await store.save(record)
        await store.save_drained(N1, drained=True)
        await store.save(*residency)
        for node, model in pins:
            await store.save_pin(model, node)
        await check(await store.recall())
    async with opened(path) as store:
        await check(await store.recall())


async def test_a_later_save_replaces_an_earlier_one(path: Path) -> None:
    async with opened(path) as store:
        for cycles in (1, 2):
            await store.save(NodeRecord(name=N1, cycles=cycles, version=f"0.{cycles}"))
        await store.save(NodeRecord(name=N1, cycles=0, boot_at_s=None, version=None))
        first = ResidencyRecord(node=N1, model=A, status="loaded", load_s=3.0, size_mib=10)
        await store.save(first)
        second = ResidencyRecord(node=N1, model=A, status="unloaded", loads=2)
        await store.save(second)
        memory = await store.recall()
    assert memory.nodes == (NodeRecord(name=N1),)
    assert memory.residency == (second,)


async def test_how_large_a_node_is_stays_known_while_it_says_nothing(path: Path) -> None:
    sized = NodeRecord(name=N1, vram_total_mib=24_000, ram_total_mib=64_000)
    async with opened(path) as store:
        await store.save(sized)
        await store.save(NodeRecord(name=N1, health="down"))
        assert (await store.recall()).nodes == (replace(sized, health="down"),)
        await store.save(replace(sized, vram_total_mib=48_000))
        assert (await store.recall()).nodes == (replace(sized, vram_total_mib=48_000),)


async def test_what_was_seen_of_a_node_before_its_drain_does_not_undo_it(path: Path) -> None:
    """Even where it is written later: whoever polls the node does not know of the drain yet."""
    seen = NodeRecord(name=N1, cycles=1)
    async with opened(path) as store:
        async with asyncio.TaskGroup() as group:
            group.create_task(store.save_drained(N1, drained=True))
            group.create_task(store.save(seen))
        memory = await store.recall()
        assert (memory.drained, memory.nodes) == ({N1}, (seen,))
        async with asyncio.TaskGroup() as group:
            group.create_task(store.save_drained(N1, drained=False))
            group.create_task(store.save(seen))
        assert (await store.recall()).drained == frozenset()


async def test_a_pin_can_be_set_twice_and_taken_away(path: Path) -> None:
    async with opened(path) as store:
        for node in (N1, N1, None, N2):
            await store.save_pin(A, node)
        assert (await store.recall()).pins == {(N1, A), (None, A), (N2, A)}
        await store.delete_pin(A, N1)
        assert (await store.recall()).pins == {(None, A), (N2, A)}
        await store.delete_pin(A, None)
        await store.delete_pin(A, None)  # it is gone already
        await store.delete_pin(B, N2)  # it never was
    async with opened(path) as store:
        assert (await store.recall()).pins == {(N2, A)}


async def test_a_finished_request_is_the_last_use_of_its_model_there(path: Path) -> None:
    async with opened(path, flush_rows=4) as store:
        await store.save(
            ResidencyRecord(
                node=N1, model=A, status="unloaded", loads=5, load_s=2.0, size_mib=9
            )
        )
        for at_ms, node, model, duration_ms in [
            (NOW_MS, N1, A, 500.9),
            (NOW_MS + 100, N1, A, 10.0),  # began later, ended sooner
            (NOW_MS + 200, N2, B, 0.0),
            (NOW_MS + 300, None, C, 1.0),  # rejected before routing
            (NOW_MS + 300, N2, None, 1.0),
        ]:
            store.request_done(
                request(started_at_ms=at_ms, node=node, model=model, duration_ms=duration_ms)
            )
        await flushed(store)
        assert by_key(await store.recall()) == {
            ("n1", "a"): ResidencyRecord(
                node=N1, model=A, status="unloaded", last_used_at_ms=NOW_MS + 500,
                loads=5, load_s=2.0, size_mib=9,
            ),
            ("n2", "b"): ResidencyRecord(
                node=N2, model=B, status="loaded", last_used_at_ms=NOW_MS + 200
            ),
        }  # fmt: skip


async def test_the_order_of_last_uses_survives_a_restart(path: Path) -> None:
    models = [ModelId(f"m{number}") for number in range(20)]
    used = random.Random(4).sample(models, len(models))
    async with opened(path, flush_rows=3) as store:
        for number, model in enumerate(used):
            store.request_done(request(number, model=model, node=N1))
    async with opened(path) as store:
        residency = (await store.recall()).residency
    assert [r.model for r in sorted(residency, key=lambda r: r.last_used_at_ms)] == used


async def test_a_last_use_never_goes_back(path: Path) -> None:
    rng = random.Random(7)
    latest = 0
    async with opened(path) as store:
        for _ in range(60):
            at_ms = NOW_MS + rng.randrange(1_000_000)
            if rng.random() < 0.5:
                await store.save(
                    ResidencyRecord(node=N1, model=A, status="loaded", last_used_at_ms=at_ms)
                )
            else:
                store.request_done(
                    request(node=N1, model=A, started_at_ms=at_ms, duration_ms=0)
                )
                await store._flush()
            latest = max(latest, at_ms)
            (record,) = (await store.recall()).residency
            assert record.last_used_at_ms == latest
        # A clock that was set back, and one that never ran.
        store.request_done(request(node=N1, model=A, started_at_ms=-5))
        await store.save(ResidencyRecord(node=N1, model=A, status="loaded"))
    assert select(path, "SELECT last_used_at_ms FROM residency") == [(latest,)]


async def test_the_node_that_made_a_response_is_found(path: Path) -> None:
    async with opened(path) as store:
        store.request_done(request(1, response_id="resp_1", node=N1))
        store.request_done(request(2, response_id="resp_2", node=N2))
        store.request_done(request(3, response_id="resp_2", node=N1))
        store.request_done(request(4, response_id="resp_2", node=None))
        store.request_done(request(5, response_id="resp_3", node=None))
        await flushed(store)
        assert await store.node_of_response("resp_1") == N1
        assert await store.node_of_response("resp_2") == N1  # the latest
        for unknown in ("resp_3", "resp_4", "", "resp_\ud800", "resp_1' OR '1"):
            assert await store.node_of_response(unknown) is None
