"""What the event loop holds, counted when it is asked for."""

import asyncio
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class LoopCollector(Collector):
    """Must be scraped on the loop itself; elsewhere it says nothing."""

    def collect(self) -> Iterator[Metric]:
        try:
            tasks = len(asyncio.all_tasks())
        except RuntimeError:
            return
        yield GaugeMetricFamily(
            "cortex_asyncio_tasks",
            "Tasks of the event loop, this scrape's included.",
            value=tasks,
        )
