"""`GET /metrics`: per-model HTTP gauges, and engine gauges that go stale (contract §6)."""

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from cortex.devnode.node import Node


class Metrics:
    """Keeps what the last engine that spoke said: the engine gauges carry no model label."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._running = 0

    async def metrics(self, _request: web.Request) -> web.Response:
        """Prometheus text."""
        node, stats = self._node, self._node.stats
        lines = ["# TYPE http_requests_in_flight gauge"]
        lines += [
            f'http_requests_in_flight{{method="POST",path="/v1/chat/completions",model="{model}"}} {count}'
            for model, count in sorted(stats.in_flight.items())
        ]
        # Read only while an engine lives: after an unload the last value stays.
        if node.residency.loaded:
            last = next(reversed(node.residency.loaded))
            self._running = stats.in_flight[last]
        lines += [
            "# TYPE mistralrs_sequences_running gauge",
            f"mistralrs_sequences_running {self._running}",
            "# TYPE mistralrs_sequences_waiting gauge",
            "mistralrs_sequences_waiting 0",
            "# TYPE mistralrs_tokens_processed_total counter",
            f"mistralrs_tokens_processed_total {stats.generated}",
        ]
        if node.profile.has_capacity_gauge:
            lines += [
                "# TYPE mistralrs_sequences_capacity gauge",
                f"mistralrs_sequences_capacity {node.knobs.max_seqs}",
            ]
        return web.Response(text="\n".join(lines) + "\n")
