"""What a scrape shows after requests whose figures are known."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.conftest import chat_body, scripted, stream
from tests.node.rawnode import RawNode, saying, streaming, whole
from tests.running import Running, running, until

HERE = {"route": "chat", "model": "m1", "node": "n0"}


class Scrape:
    """Samples by name and labels."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float | None:
        return self._samples.get((name, frozenset(labels.items())))

    def label_values(self, label: str) -> set[str]:
        return {
            sample.labels[label]
            for family in self.families.values()
            for sample in family.samples
            if label in sample.labels and family.name.startswith("cortex_")
        }


async def scrape(gateway: Running) -> Scrape:
    return Scrape(await gateway.metrics())


async def test_metrics_are_on_their_own_port_only(tmp_path: Path) -> None:
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        async with gateway.http.get(f"{gateway.metrics_url}/metrics") as response:
            assert response.status == 200
            assert response.headers["Content-Type"].startswith("text/plain; version=")
        assert (await gateway.get("/metrics")).status == 404
        for path in ("/v1/models", "/health", "/cortex/v1/status"):
            async with gateway.http.get(gateway.metrics_url + path) as response:
                assert response.status == 404


async def test_requests_and_tokens_are_counted(tmp_path: Path) -> None:
    async with (
        scripted(["m1"], token_interval_s=0.002) as node,
        running(tmp_path, [node]) as gateway,
    ):
        usages = [(await gateway.chat("m1", max_tokens=n)).json["usage"] for n in (2, 3)]
        seen = await stream(gateway.http, gateway.url, chat_body(stream=True, max_tokens=5))
        assert seen.complete
        metrics = await scrape(gateway)
        assert metrics("cortex_requests_total", **HERE, outcome="ok") == 3
        assert metrics("cortex_request_duration_seconds_count", **HERE) == 3
        # Only a stream has a first token that anyone could see.
        assert metrics("cortex_time_to_first_token_seconds_count", **HERE) == 1
        place = {"model": "m1", "node": "n0"}
        # The first was streamed by the node; the second is asked for whole, its pace being known.
        assert metrics("cortex_tokens_per_second_count", **place) == 2
        assert metrics("cortex_completion_tokens_total", **place) == 2 + 3 + 5
        assert metrics("cortex_prompt_tokens_total", **place) == 3 * usages[0]["prompt_tokens"]
        assert metrics("cortex_in_flight", **place) == 0
        assert metrics("cortex_model_resident", **place) == 1
        assert metrics("cortex_node_up", node="n0") == 1
        assert metrics("cortex_store_ok") == 1


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("cortex_request_duration_seconds", "0.05", "1800.0"),
        ("cortex_time_to_first_token_seconds", "0.025", "900.0"),
        ("cortex_tokens_per_second", "1.0", "500.0"),
    ],
)
async def test_histograms_have_buckets_that_tell_fast_from_slow(
    tmp_path: Path, name: str, least: str, most: str
) -> None:
    async with (
        scripted(["m1"], first_token_s=0.06, token_interval_s=0.01) as node,
        running(tmp_path, [node]) as gateway,
    ):
        assert (await stream(gateway.http, gateway.url)).complete
        family = (await scrape(gateway)).families[name]
        assert family.type == "histogram"
        counts = [
            (sample.labels["le"], sample.value)
            for sample in family.samples
            if sample.name.endswith("_bucket")
        ]
        assert (counts[0][0], counts[-2][0], counts[-1][0]) == (least, most, "+Inf")
        values = [value for _, value in counts]
        assert values == sorted(values)
        assert (values[0], values[-1]) == (0, 1)


async def test_counts_that_a_node_does_not_report_are_absent(tmp_path: Path) -> None:
    node = RawNode(["m1"], answer=saying(whole(b'{"choices":[]}')))
    async with node, running(tmp_path, [node]) as gateway:
        await gateway.chat("m1")
        node.answer = streaming(b'data: {"choices":[]}\n\n', b"data: [DONE]\n\n")
        await stream(gateway.http, gateway.url)
        for row in await gateway.history():
            assert row["prompt_tokens"] is None
            assert row["cached_tokens"] is None
            assert row["completion_tokens"] is None
            assert row["tokens_per_s"] is None
        metrics = await scrape(gateway)
        assert not metrics("cortex_completion_tokens_total", model="m1", node="n0")
        assert metrics("cortex_tokens_per_second_count", model="m1", node="n0") in {None, 0}
        assert metrics("cortex_requests_total", **HERE, outcome="ok") == 2


async def test_a_series_of_tokens_begins_with_the_first_that_is_reported(
    tmp_path: Path,
) -> None:
    node = RawNode(["m1"], answer=saying(whole(b'{"usage":{"prompt_tokens":4}}')))
    async with node, running(tmp_path, [node]) as gateway:
        await gateway.chat("m1")
        metrics = await scrape(gateway)
        place = {"model": "m1", "node": "n0"}
        assert metrics("cortex_prompt_tokens_total", **place) == 4
        assert metrics("cortex_completion_tokens_total", **place) is None
        assert metrics("cortex_cached_prompt_tokens_total", **place) is None
        node.answer = saying(
            whole(
                b'{"usage":{"prompt_tokens":4,"completion_tokens":0,'
                b'"prompt_tokens_details":{"cached_tokens":3}}}'
            )
        )
        await gateway.chat("m1")
        metrics = await scrape(gateway)
        # A zero that was reported is a zero.
        assert metrics("cortex_completion_tokens_total", **place) == 0
        assert metrics("cortex_cached_prompt_tokens_total", **place) == 3


async def test_what_a_client_makes_up_is_no_label(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml='[aliases]\nsmall = "m1"') as gateway,
    ):
        for model in ("made-up-1", "made-up-2"):
            await gateway.chat(model)
        await gateway.chat("small")
        await gateway.post("/v1/chat/completions", {})
        metrics = await scrape(gateway)
        assert metrics.label_values("model") == {"m1", "unknown"}
        assert metrics.label_values("node") == {"n0", "unknown"}
        assert metrics.label_values("route") == {"chat"}
        unknown = {"route": "chat", "model": "unknown", "node": "unknown"}
        assert metrics("cortex_requests_total", **unknown, outcome="error") == 3
        assert metrics("cortex_request_errors_total", code="model_not_found") == 2
        assert metrics("cortex_request_errors_total", code="invalid_request") == 1


async def test_outcomes_are_told_apart(tmp_path: Path) -> None:
    async with (
        scripted(["m1"], endless=True, token_interval_s=0.005) as node,
        running(tmp_path, [node]) as gateway,
    ):
        response = await gateway.http.post(
            gateway.url + "/v1/chat/completions", json=chat_body(stream=True)
        )
        await response.content.readany()
        assert (await scrape(gateway))("cortex_in_flight", model="m1", node="n0") == 1
        response.close()
        await until(lambda: gateway.services.recent.in_flight == 0, "the hang-up to be noticed")
        await node.set(eof_after_chunks=1)
        await stream(gateway.http, gateway.url)
        metrics = await scrape(gateway)
        assert metrics("cortex_requests_total", **HERE, outcome="client_gone") == 1
        assert metrics("cortex_requests_total", **HERE, outcome="error") == 1
        assert metrics("cortex_requests_total", **HERE, outcome="ok") is None
        assert metrics("cortex_request_errors_total", code="node_truncated") == 1


async def test_a_cold_start_and_its_load_are_counted(tmp_path: Path) -> None:
    async with (
        scripted(["m1", "m2"], unloaded=["m2"], load_s=0.05) as node,
        running(tmp_path, [node]) as gateway,
    ):
        for _ in range(2):
            assert (await gateway.chat("m2")).status == 200
        metrics = await scrape(gateway)
        place = {"model": "m2", "node": "n0"}
        assert metrics("cortex_cold_starts_total", **place) == 1
        assert metrics("cortex_model_load_seconds_count", **place) == 1
        assert metrics("cortex_model_load_seconds_sum", **place) >= 0.05
        assert metrics("cortex_events_total", kind="loaded") == 1
        assert metrics("cortex_model_resident", **place) == 1


async def test_a_node_that_goes_is_seen_at_the_next_scrape(tmp_path: Path) -> None:
    toml = "[polling]\ninterval_s = 0.05\ntimeout_s = 1.0\nfailures_before_down = 1"
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml=toml) as gateway,
    ):
        await node.stop()

        async def gone() -> bool:
            return (await scrape(gateway))("cortex_node_up", node="n0") == 0

        await until(gone, "the node to be missed")
        metrics = await scrape(gateway)
        assert (
            metrics("cortex_poll_duration_seconds_count", node="n0", outcome="failed") or 0
        ) > 0
        assert (metrics("cortex_poll_duration_seconds_count", node="n0", outcome="ok") or 0) > 0
