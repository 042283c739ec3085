"""The number of tasks, counted on the loop and nowhere else."""

import asyncio

from prometheus_client import CollectorRegistry

from cortex.telemetry.loop import LoopCollector


def tasks(registry: CollectorRegistry) -> float | None:
    return registry.get_sample_value("cortex_asyncio_tasks")


async def test_a_task_is_counted_for_as_long_as_it_lives() -> None:
    registry = CollectorRegistry()
    registry.register(LoopCollector())
    before = tasks(registry)
    assert before is not None
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(asyncio.Event().wait())
        assert tasks(registry) == before + 1
        waiting.cancel()
    assert tasks(registry) == before


def test_away_from_a_loop_it_says_nothing() -> None:
    registry = CollectorRegistry()
    registry.register(LoopCollector())
    assert tasks(registry) is None
