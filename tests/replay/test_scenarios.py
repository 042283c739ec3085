"""From a recorded span to a scenario, what may be changed of it, and what must be said of gaps in it."""

import os
import random
import signal
from typing import Any

import pytest

from cortex.core.ids import ModelId, NodeName
from cortex.core.recorded import Ask, Recorded, RecordedModel, RecordedNode, Totals
from cortex.core.rules import Strategy
from cortex.replay import pool
from cortex.replay.changes import singles, with_foresight, with_node, with_pin, without_node
from cortex.replay.pool import RunFailedError, run_all
from cortex.replay.run import Result, run
from cortex.replay.scenario import Scenario, ScenarioError, scenario_of

START_MS = 1_790_000_000_000
A, B, C = map(ModelId, "abc")


def node(name: str, vram_mib: int | None = 10_000, **models: RecordedModel) -> RecordedNode:
    return RecordedNode(
        name=NodeName(name),
        vram_mib=vram_mib,
        version="0.9.2",
        models={ModelId(model): there for model, there in models.items()},
    )


def sized(
    size_mib: int | None = 8000, load_s: float | None = 10.0, **more: Any
) -> RecordedModel:
    return RecordedModel(size_mib=size_mib, load_s=load_s, loads=1, loads_before=1, **more)


def ask(at_s: float, model: str, **more: Any) -> Ask:
    fields = {"client": "", "held_s": 5.0, "waited_s": 0.0, "cold": False, "lost": ""}
    return Ask(START_MS + round(at_s * 1000), ModelId(model), **(fields | more))


def span(*asks: Ask, nodes: tuple[RecordedNode, ...], **more: Any) -> Recorded:
    fields: dict[str, Any] = {"since_ms": START_MS, "until_ms": START_MS, "configured": {}}
    return Recorded(asks=asks, nodes=nodes, **(fields | more))


def turns(count: int = 10, every_s: float = 60.0, models: str = "ab") -> list[Ask]:
    """The models in turn."""
    return [ask(n * every_s, models[n % len(models)]) for n in range(count)]


def scenario(*asks: Ask, nodes: tuple[RecordedNode, ...], **more: Any) -> Scenario:
    return scenario_of(span(*asks, nodes=nodes, **more)).scenario


def figures(result: Result) -> tuple[int, float, int, int]:
    return result.loads, result.load_s, result.cold, sum(result.lost.values())


def test_two_models_that_take_turns_on_a_card_cost_a_load_a_turn() -> None:
    card = node("n", a=sized(load_s=10.0), b=sized(load_s=20.0))
    result = run(scenario(*turns(), nodes=(card,)))
    assert figures(result) == (10, 150.0, 10, 0)
    # Each waits for an unload of a second and its load, but the first, which finds room.
    assert result.wait_s(1) == pytest.approx(10.0)
    assert result.wait_s(50) == pytest.approx(11.0)
    assert result.wait_s(100) == pytest.approx(21.0)


def test_what_was_in_memory_need_not_be_loaded() -> None:
    card = node("n", 20_000, a=sized(resident=True), b=sized())
    assert figures(run(scenario(*turns(), nodes=(card,)))) == (1, 10.0, 1, 0)
    pinned = {"models": {"b": {"pinned": ["n"]}}, "eviction": {}}
    both = scenario(*turns(), nodes=(card,), configured=pinned)
    assert figures(run(both)) == (1, 10.0, 0, 0)


def test_one_more_card_ends_it_and_one_less_loses_what_only_it_could_hold() -> None:
    card, other = node("n", a=sized(), b=sized()), node("m", 30_000, c=sized(20_000))
    lived = scenario(*turns(), *turns(3, models="c"), nodes=(card, other))
    lived = scenario(*sorted(lived.asks), nodes=(card, other))
    assert run(lived).loads == 11
    assert run(with_node(lived, 10_000)).loads == 3
    less = run(without_node(lived, "m"))
    assert figures(less)[3] == 3
    assert dict(less.lost) == {"no_healthy_node": 3}


def test_a_pin_keeps_its_model_and_the_rest_takes_turns_elsewhere() -> None:
    cards = (
        node("n", a=sized(), b=sized(), c=sized()),
        node("m", a=sized(), b=sized(), c=sized()),
    )
    lived = scenario(*turns(30, models="abc"), nodes=cards)
    assert run(lived).loads == 30
    pinned = run(with_pin(lived, "a"))
    assert (pinned.loads, pinned.cold, sum(pinned.lost.values())) == (21, 20, 0)


def test_foresight_never_costs_more_than_lru_and_mostly_less() -> None:
    rng = random.Random(1)
    won = 0
    for _ in range(10):
        models = {m: sized(3000) for m in "abcdef"}
        asks = [ask(n * 120.0, rng.choice("aabbccdef")) for n in range(100)]
        lived = scenario(*asks, nodes=(node("n", **models),))
        lru, future = run(lived).load_s, run(with_foresight(lived)).load_s
        assert future <= lru
        won += future < lru
    assert won > 7


def test_requests_that_nobody_can_serve_in_time_are_lost() -> None:
    card = node("n", a=sized(load_s=1000.0))
    lived = scenario(
        ask(0, "a"),
        nodes=(card,),
        configured={
            "eviction": {},
            "limits": {"load_timeout_s": 100.0, "queue_timeout_s": 10.0},
        },
    )
    assert dict(run(lived).lost) == {"queue_timeout": 1}


def test_idle_models_are_unloaded_as_configured() -> None:
    card = node("n", 30_000, a=sized(), b=sized())
    asks = [ask(n * 600.0, "a") for n in range(5)]
    idle = {"eviction": {}, "limits": {"idle_unload_s": 60.0}}
    assert run(scenario(*asks, nodes=(card,))).loads == 1
    assert run(scenario(*asks, nodes=(card,), configured=idle)).loads == 5


def test_the_rules_are_those_of_the_newest_start() -> None:
    configured = {
        "nodes": {"n": {"vram_mib": 12_000, "max_in_flight": 3, "lifecycle": "on"}},
        "models": {
            "a": {
                "priority": 7,
                "max_in_flight": 2,
                "allowed": ["n"],
                "pinned": ["n"],
                "idle_unload_s": 9.0,
            }
        },
        "eviction": {"strategy": "priority", "min_residency_s": 4.0},
        "limits": {"max_queue": 5, "queue_timeout_s": 6.0, "idle_unload_s": None},
    }
    # A node that the configuration has no more is not there.
    nodes = (node("n", a=sized()), node("gone", a=sized()))
    prepared = scenario_of(span(ask(0, "a"), nodes=nodes, configured=configured))
    policy = prepared.scenario.policy
    assert prepared.notes == ()
    assert [machine.name for machine in prepared.scenario.machines] == ["n"]
    assert policy.eviction.strategy is Strategy.PRIORITY
    assert policy.eviction.min_residency_s == 4.0
    assert (policy.max_queue, policy.queue_timeout_s, policy.idle_unload_s) == (5, 6.0, None)
    (rule,) = policy.nodes
    assert (rule.vram_total_mib, rule.max_in_flight, rule.lifecycle) == (12_000, 3, "on")
    assert rule.pinned == {A}
    of_a = policy.models[A]
    assert (of_a.priority, of_a.max_in_flight, of_a.nodes, of_a.idle_unload_s) == (
        7, 2, {"n"}, 9.0,
    )  # fmt: skip


def test_what_is_not_recorded_is_guessed_and_said() -> None:
    known = node("n", a=sized(8000, 8.0), b=sized(4000, None), c=RecordedModel())
    other = node("m", a=RecordedModel(size_mib=9000), b=RecordedModel())
    prepared = scenario_of(span(*turns(6, models="abc"), nodes=(known, other)))
    held = {machine.name: machine.holdings for machine in prepared.scenario.machines}
    assert held["n"][A][:2] == (8000, 8.0)
    # 1000 MiB/s, as A's load tells.
    assert held["n"][B][:2] == (4000, 4.0)
    assert held["n"][C][:2] == (6000, 6.0)
    # What no load confirmed is the least that it takes; what a load elsewhere told is better than nothing.
    assert held["m"][A][:2] == (9000, 8.0)
    assert held["m"][B][:2] == (4000, 4.0)
    assert [note.split(":")[0] for note in prepared.notes] == [
        "no start of this version is in the log",
        "nobody knows the size of c",
        "no load of b, c is recorded",
    ]
    resized = scenario_of(span(*turns(), nodes=(known,)), {A: 5000, C: 700}).scenario
    assert resized.machines[0].holdings[A].size_mib == 5000


def test_models_that_no_node_lists_are_left_out_and_said() -> None:
    prepared = scenario_of(
        span(*turns(9, models="abz"), nodes=(node("n", a=sized(), b=sized()),))
    )
    assert len(prepared.scenario.asks) == 6
    assert prepared.notes[1] == "3 requests are left out, for models that no node lists: z"


@pytest.mark.parametrize(
    ("recorded", "complaint"),
    [
        (span(nodes=(node("n", a=sized()),)), "there is no request"),
        (span(ask(0, "a"), nodes=()), "knows no node"),
        (span(ask(0, "z"), nodes=(node("n", a=sized()),)), "no model that was asked for"),
        (
            span(ask(0, "a"), nodes=(node("n", None, a=sized()),)),
            "nobody knows the memory of n",
        ),
        (
            span(
                ask(0, "a"),
                nodes=(node("n", a=sized()),),
                configured={"eviction": {"strategy": "fifo"}, "limits": {"later": 1}},
            ),
            "by the rule fifo, which this version does not know",
        ),
    ],
)
def test_what_makes_no_fleet(recorded: Recorded, complaint: str) -> None:
    with pytest.raises(ScenarioError, match=complaint):
        scenario_of(recorded)


def test_changes_that_cannot_be_made() -> None:
    lived = scenario(*turns(), nodes=(node("n", a=sized(), b=sized(20_000)),))
    for change, complaint in (
        (lambda: without_node(lived, "x"), "no node x; the log knows n"),
        (lambda: without_node(lived, "n"), "no node is left"),
        (lambda: with_pin(lived, "z"), "no request of this span is for z"),
        (lambda: with_pin(lived, "b"), "b fits no node"),
    ):
        with pytest.raises(ScenarioError, match=complaint):
            change()


def test_every_single_change_is_named_once_and_can_be_made() -> None:
    nodes = (node("n", a=sized(), b=sized()), node("m", 24_576, a=sized(), b=sized()))
    lived = scenario(*turns(), nodes=nodes)
    tried = {change.words: change.applied(lived) for change in singles(lived)}
    assert list(tried) == [
        "strategy priority",
        "strategy forecast",
        "one more node of 9.77 GiB",
        "one more node of 24 GiB",
        "without n",
        "without m",
        "a pinned",
        "b pinned",
    ]
    assert all(run(changed).requests == len(lived.asks) for changed in tried.values())


def several() -> list[Scenario]:
    rng = random.Random(2)
    asks = [ask(n * 30.0, rng.choice("aab")) for n in range(300)]
    lived = scenario(*asks, nodes=(node("n", a=sized(), b=sized()),))
    return [lived, with_node(lived, 10_000), with_foresight(lived)]


def test_several_processes_come_to_what_one_does() -> None:
    told: list[int] = []
    here, apart = run_all(several(), told.append, most=1), run_all(several(), most=2)
    assert list(map(figures, here)) == list(map(figures, apart))
    assert [list(result.waits_s) for result in here] == [list(r.waits_s) for r in apart]
    assert told == [300, 600, 900]


def test_progress_of_processes_ends_with_all_that_came() -> None:
    told: list[int] = []
    run_all(several(), told.append, most=2)
    assert told[-1] == 900


def test_a_process_that_is_killed_is_a_failure_and_no_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "run", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RunFailedError, match="killed"):
        run_all(several(), most=2)


def test_a_long_silence_takes_no_time() -> None:
    """As of a gateway that was off for a month."""
    asks = [ask(0, "a"), ask(30 * 86_400.0, "a"), ask(60 * 86_400.0, "b")]
    result = run(scenario(*asks, nodes=(node("n", a=sized(), b=sized()),)))
    assert figures(result) == (2, 20.0, 2, 0)


def test_the_totals_of_nothing_are_nothing() -> None:
    assert Totals().unload_s is None
    assert Result().wait_s(95) is None
