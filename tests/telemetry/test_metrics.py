"""Names, labels and buckets: dashboards and alerts are written against exactly these."""

import platform
from collections.abc import Iterator
from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest

from cortex import __version__
from cortex.core.health import Liveness, NodeHealth
from cortex.core.ids import ModelId, NodeName, RequestId
from cortex.core.records import EventKind, FleetEvent, Outcome, RequestRecord
from cortex.core.snapshot import Drain, FleetSnapshot, ModelStatus, ModelView, NodeView
from cortex.telemetry.access import MAX_KEYS, KeyMetrics
from cortex.telemetry.build import show_build
from cortex.telemetry.metrics import MAX_PAIRS, FleetCollector, Metrics
from cortex.telemetry.revision import revision

PLACE = {"route", "model", "node"}
PAIR = {"model", "node"}
MIB = 1024 * 1024

CONTRACT = {
    "cortex_requests_total": ("counter", PLACE | {"outcome"}),
    "cortex_request_duration_seconds": ("histogram", PLACE),
    "cortex_time_to_first_token_seconds": ("histogram", PLACE),
    "cortex_queue_wait_seconds": ("histogram", {"model"}),
    "cortex_tokens_per_second": ("histogram", PAIR),
    "cortex_prompt_tokens_total": ("counter", PAIR),
    "cortex_completion_tokens_total": ("counter", PAIR),
    "cortex_cached_prompt_tokens_total": ("counter", PAIR),
    "cortex_request_errors_total": ("counter", {"code"}),
    "cortex_cold_starts_total": ("counter", PAIR),
    "cortex_cold_wait_seconds": ("histogram", {"model"}),
    "cortex_retries_total": ("counter", {"node"}),
    "cortex_evictions_total": ("counter", {"reason"}),
    "cortex_model_load_seconds": ("histogram", PAIR),
    "cortex_load_seconds_total": ("counter", PAIR),
    "cortex_model_size_guess_error_ratio": ("histogram", set()),
    "cortex_model_load_failures_total": ("counter", PAIR),
    "cortex_events_total": ("counter", {"kind"}),
    "cortex_internal_errors_total": ("counter", {"loop"}),
    "cortex_poll_duration_seconds": ("histogram", {"node", "outcome"}),
    "cortex_node_up": ("gauge", {"node"}),
    "cortex_node_draining": ("gauge", {"node"}),
    "cortex_model_resident": ("gauge", PAIR),
    "cortex_model_pinned": ("gauge", PAIR),
    "cortex_pin_absent": ("gauge", PAIR),
    "cortex_model_wedged": ("gauge", PAIR),
    "cortex_in_flight": ("gauge", PAIR),
    "cortex_queue_depth": ("gauge", {"model"}),
    "cortex_queue_oldest_seconds": ("gauge", {"model"}),
    "cortex_defrag_cycles": ("gauge", {"node"}),
    "cortex_defrag_due": ("gauge", {"node"}),
    "cortex_device_vram_used_bytes": ("gauge", {"node"}),
    "cortex_device_vram_free_bytes": ("gauge", {"node"}),
    "cortex_store_ok": ("gauge", set()),
    "cortex_store_queued_rows": ("gauge", set()),
    "cortex_store_dropped_rows": ("gauge", set()),
}
"""Sample name (less `_bucket`, `_sum`, `_count`) to type and labels."""


def record(**more: object) -> RequestRecord:
    done: dict[str, object] = {
        "request_id": RequestId("r1"),
        "started_at_ms": 0,
        "route": "chat",
        "model": ModelId("a"),
        "node": NodeName("n0"),
    }
    return RequestRecord(**(done | more))  # type: ignore[arg-type]


def event(kind: EventKind, **detail: object) -> FleetEvent:
    return FleetEvent(
        at_ms=0,
        kind=kind,
        reason="why",
        node=NodeName("n0"),
        model=ModelId("a"),
        detail=detail,
    )


def fleet(*nodes: NodeView) -> FleetSnapshot:
    return FleetSnapshot(
        revision=1,
        nodes={node.name: node for node in nodes},
        locations={
            model: tuple(node.name for node in nodes if model in node.models)
            for model in {model for node in nodes for model in node.models}
        },
        aliases={},
        allowed_nodes={},
    )


def busy_node() -> NodeView:
    held = ModelView(id=ModelId("a"), status=ModelStatus.LOADED, pinned=True, in_flight=3)
    absent = ModelView(id=ModelId("b"), wedged=True)
    phantom = ModelView(id=ModelId("no-such"), wedged=True, phantom=True)
    return NodeView(
        name=NodeName("n0"),
        liveness=Liveness(NodeHealth.UP),
        vram_total_mib=24_576,
        free_mib=4_576,
        in_flight=3,
        cycles=50,
        models={held.id: held, absent.id: absent, phantom.id: phantom},
    )


def silent_node() -> NodeView:
    return NodeView(
        name=NodeName("n1"),
        liveness=Liveness(NodeHealth.DOWN, 3),
        drains=frozenset({Drain.REQUEST}),
    )


def collector(*nodes: NodeView) -> FleetCollector:
    return FleetCollector(
        lambda: fleet(*nodes),
        queue_depths=lambda: {ModelId("a"): 2},
        queue_oldest_s=lambda: {ModelId("a"): 41.5},
        why_due=lambda node: "50 cycles" if node.cycles else None,
        store_ok=lambda: (False, 7, 9),
    )


@pytest.fixture
def metrics() -> Metrics:
    """Everything that can be fed has been, once."""
    metrics = Metrics()
    metrics.registry.register(collector(busy_node(), silent_node()))
    metrics.request_done(
        record(
            outcome=Outcome.ERROR,
            error_code="node_truncated",
            stream=True,
            ttft_ms=120.0,
            duration_ms=900.0,
            tokens_per_s=33.0,
            prompt_tokens=5,
            completion_tokens=7,
            cached_tokens=3,
            cold_start=True,
            load_wait_ms=180_500.0,
            attempts=3,
        )
    )
    metrics.event(event(EventKind.EVICT, cause="idle"))
    metrics.event(event(EventKind.LOAD_FAILED))
    metrics.load_ended(NodeName("n0"), ModelId("a"), 12.0, ok=True)
    metrics.polled(NodeName("n0"), ok=True, duration_s=0.004)
    return metrics


def families(metrics: Metrics) -> Iterator[Metric]:
    return (f for f in metrics.registry.collect() if f.name.startswith("cortex_"))


def values(metrics: Metrics) -> dict[str, float]:
    """Sample lines as a scrape has them, to numbers."""
    lines = generate_latest(metrics.registry).decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if line.startswith("cortex_"))
    return {name: float(value) for name, _, value in pairs}


def test_every_metric_has_the_name_the_type_and_the_labels_it_is_known_by(
    metrics: Metrics,
) -> None:
    found = {}
    for family in families(metrics):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, labels)
    assert found == CONTRACT


def test_every_metric_explains_itself(metrics: Metrics) -> None:
    assert [family.name for family in families(metrics) if not family.documentation] == []


def test_no_series_is_scraped_twice_for_its_time_of_creation(metrics: Metrics) -> None:
    assert "_created" not in generate_latest(metrics.registry).decode()


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("cortex_request_duration_seconds", 0.05, 1800),
        ("cortex_time_to_first_token_seconds", 0.025, 900),
        ("cortex_queue_wait_seconds", 0.01, 600),
        ("cortex_tokens_per_second", 1, 500),
        ("cortex_model_load_seconds", 0.5, 1800),
        ("cortex_cold_wait_seconds", 0.5, 1800),
        ("cortex_model_size_guess_error_ratio", 0.02, 5),
        ("cortex_poll_duration_seconds", 0.001, 5),
    ],
)
def test_histograms_are_fine_enough_to_tell_percentiles(
    metrics: Metrics, name: str, least: float, most: float
) -> None:
    [family] = [family for family in families(metrics) if family.name == name]
    edges = [float(s.labels["le"]) for s in family.samples if s.name.endswith("_bucket")]
    assert (edges[0], edges[-2], edges[-1]) == (least, most, float("inf"))
    # An estimate lies within one bucket, so no bucket may be wider than five times its start.
    assert all(after / before <= 5 for before, after in pairwise(edges[:-1]))


def test_a_request_is_counted_once_everywhere(metrics: Metrics) -> None:
    seen = values(metrics)
    place, pair = 'model="a",node="n0",route="chat"', '{model="a",node="n0"}'
    assert seen['cortex_requests_total{model="a",node="n0",outcome="error",route="chat"}'] == 1
    assert seen[f"cortex_request_duration_seconds_sum{{{place}}}"] == pytest.approx(0.9)
    assert seen[f"cortex_time_to_first_token_seconds_sum{{{place}}}"] == pytest.approx(0.12)
    assert seen[f"cortex_tokens_per_second_sum{pair}"] == 33
    assert seen[f"cortex_prompt_tokens_total{pair}"] == 5
    assert seen[f"cortex_completion_tokens_total{pair}"] == 7
    assert seen[f"cortex_cached_prompt_tokens_total{pair}"] == 3
    assert seen['cortex_request_errors_total{code="node_truncated"}'] == 1
    assert seen[f"cortex_cold_starts_total{pair}"] == 1
    assert seen['cortex_cold_wait_seconds_sum{model="a"}'] == pytest.approx(180.5)
    assert seen['cortex_retries_total{node="n0"}'] == 2


def test_a_request_that_asked_for_a_slot_has_waited_for_one_however_briefly() -> None:
    metrics = Metrics()
    metrics.request_done(record(outcome=Outcome.ERROR))
    metrics.request_done(record(attempts=1))
    metrics.request_done(record(node=None, outcome=Outcome.ERROR, queue_ms=2500.0))
    seen = values(metrics)
    assert seen['cortex_queue_wait_seconds_count{model="a"}'] == 2
    assert seen['cortex_queue_wait_seconds_sum{model="a"}'] == pytest.approx(2.5)


def test_what_has_not_failed_yet_is_a_zero_so_that_the_first_failure_shows() -> None:
    metrics = Metrics()
    assert values(metrics)['cortex_evictions_total{reason="room"}'] == 0
    failures = 'cortex_model_load_failures_total{model="a",node="n0"}'
    assert failures not in values(metrics)
    metrics.event(event(EventKind.LOAD))
    assert values(metrics)[failures] == 0
    metrics.event(event(EventKind.LOAD_FAILED))
    assert values(metrics)[failures] == 1


@pytest.mark.parametrize(
    ("floats", "elsewhere", "absent"),
    [
        (False, ModelStatus.LOADED, 1),
        (True, ModelStatus.LOADED, 0),
        (True, ModelStatus.LOADING, 1),
    ],
)
def test_a_pin_that_names_no_node_is_content_with_one_copy(
    floats: bool, elsewhere: ModelStatus, absent: int
) -> None:
    model = ModelId("a")

    def node(name: str, status: ModelStatus) -> NodeView:
        view = ModelView(id=model, status=status, pinned=True, pin_floats=floats)
        return NodeView(name=NodeName(name), models={model: view})

    metrics = Metrics()
    nodes = node("n0", ModelStatus.UNLOADED), node("n1", elsewhere)
    metrics.registry.register(collector(*nodes))
    assert values(metrics)['cortex_pin_absent{model="a",node="n0"}'] == absent


def test_what_is_not_known_is_counted_as_unknown_and_adds_no_tokens() -> None:
    metrics = Metrics()
    metrics.request_done(record(model=None, node=None, outcome=Outcome.ERROR))
    seen = values(metrics)
    where = 'model="unknown",node="unknown"'
    assert seen[f'cortex_requests_total{{{where},outcome="error",route="chat"}}'] == 1
    assert seen[f'cortex_request_duration_seconds_count{{{where},route="chat"}}'] == 1
    assert not any("tokens_total" in name for name in seen)


def test_events_count_by_kind_and_evictions_by_cause(metrics: Metrics) -> None:
    metrics.event(event(EventKind.EVICT))
    seen = values(metrics)
    assert seen['cortex_events_total{kind="evict"}'] == 2
    assert seen['cortex_events_total{kind="load_failed"}'] == 1
    assert seen['cortex_evictions_total{reason="idle"}'] == 1
    assert seen['cortex_evictions_total{reason="room"}'] == 1
    assert seen['cortex_model_load_failures_total{model="a",node="n0"}'] == 1


def test_the_gauges_are_the_fleet_at_the_moment_of_the_scrape(metrics: Metrics) -> None:
    seen = values(metrics)
    nodes = {
        "cortex_node_up": (1, 0),
        "cortex_node_draining": (0, 1),
        "cortex_defrag_cycles": (50, 0),
        "cortex_defrag_due": (1, 0),
    }
    for gauge, expected in nodes.items():
        assert (seen[f'{gauge}{{node="n0"}}'], seen[f'{gauge}{{node="n1"}}']) == expected
    assert seen['cortex_model_resident{model="a",node="n0"}'] == 1
    assert seen['cortex_model_resident{model="b",node="n0"}'] == 0
    assert seen['cortex_model_pinned{model="a",node="n0"}'] == 1
    assert seen['cortex_model_pinned{model="b",node="n0"}'] == 0
    assert seen['cortex_in_flight{model="a",node="n0"}'] == 3
    assert seen['cortex_model_wedged{model="a",node="n0"}'] == 0
    assert seen['cortex_model_wedged{model="b",node="n0"}'] == 1
    # Nobody misses it, so nobody need get up for it.
    assert seen['cortex_model_wedged{model="no-such",node="n0"}'] == 0
    assert seen['cortex_queue_depth{model="a"}'] == 2
    assert seen['cortex_queue_oldest_seconds{model="a"}'] == 41.5
    assert (seen["cortex_store_ok"], seen["cortex_store_queued_rows"]) == (0, 7)
    assert seen["cortex_store_dropped_rows"] == 9


def test_memory_is_in_bytes_and_absent_where_a_node_reports_none(metrics: Metrics) -> None:
    seen = values(metrics)
    assert seen['cortex_device_vram_free_bytes{node="n0"}'] == 4_576 * MIB
    assert seen['cortex_device_vram_used_bytes{node="n0"}'] == 20_000 * MIB
    assert not [name for name in seen if "vram" in name and "n1" in name]


def test_what_failed_loads_took_counts_as_time_spent_and_as_no_load() -> None:
    metrics = Metrics()
    metrics.load_ended(NodeName("n0"), ModelId("a"), 12.0, ok=True)
    metrics.load_ended(NodeName("n0"), ModelId("a"), 300.0, ok=False)
    seen = values(metrics)
    assert seen['cortex_load_seconds_total{model="a",node="n0"}'] == 312
    assert seen['cortex_model_load_seconds_count{model="a",node="n0"}'] == 1


def test_it_says_which_program_it_is() -> None:
    registry = CollectorRegistry()
    show_build(registry)
    [line] = [s for s in generate_latest(registry).decode().splitlines() if s[0] != "#"]
    assert line.startswith("cortex_build_info{")
    assert line.endswith("} 1.0")
    assert f'version="{__version__}"' in line
    assert f'python="{platform.python_version()}"' in line
    assert f'revision="{revision() or ""}"' in line


def test_keys_without_end_make_no_series_without_end() -> None:
    """Each reload may bring others, and what was counted stays."""
    registry = CollectorRegistry()
    keys = KeyMetrics(registry)
    for number in range(MAX_KEYS + 200):
        keys.of(f"key-{number}").request_done(record(prompt_tokens=1))
    keys.of("key-0").request_done(record(prompt_tokens=1))
    counted = registry.get_sample_value
    assert counted("cortex_key_requests_total", {"key": "other", "outcome": "ok"}) == 200
    assert counted("cortex_key_prompt_tokens_total", {"key": "other"}) == 200
    assert counted("cortex_key_requests_total", {"key": "key-0", "outcome": "ok"}) == 2


def test_models_without_end_make_no_series_without_end() -> None:
    metrics = Metrics()
    for number in range(MAX_PAIRS + 200):
        model = ModelId(f"m{number}")
        metrics.request_done(record(model=model, prompt_tokens=1, cold_start=True))
        metrics.load_ended(NodeName("n0"), model, 1.0, ok=True)
        metrics.event(
            FleetEvent(
                at_ms=0, kind=EventKind.LOAD, reason="", node=NodeName("n0"), model=model
            )
        )
    for family in metrics.registry.collect():
        models = {s.labels["model"] for s in family.samples if "model" in s.labels}
        assert len(models) <= MAX_PAIRS + 1, family.name
        if family.name in ("cortex_requests", "cortex_model_load_seconds"):
            assert "other" in models
    value = metrics.registry.get_sample_value
    labels = {"route": "chat", "model": "other", "node": "n0", "outcome": "ok"}
    assert value("cortex_requests_total", labels) == 200
    assert value("cortex_requests_total", labels | {"model": "m0"}) == 1
