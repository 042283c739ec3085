"""The rule `forecast` in a fleet: what it is told, when it decides, and what it remembers."""

from dataclasses import replace

from cortex.core.decisions import Load, Want
from cortex.core.demand import ENOUGH_GAPS
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import Listing, NodeInfo, ReportedStatus
from cortex.core.records import EventKind, Past, Recollection, ResidencyRecord
from cortex.core.rules import EvictionRules, Strategy
from cortex.fleet.admission import Admission
from cortex.fleet.fleet import Fleet
from cortex.fleet.observations import Observations
from cortex.fleet.policy import FleetPolicy, ModelPolicy, NodePolicy
from cortex.fleet.state import FleetState
from cortex.fleet.transitions import Transitions
from tests.fleet.fakes import Events, HandClock, Watched, ports

N = NodeName("n")
A, B, C = map(ModelId, "abc")
LOAD_S = 300.0


class Card:
    """One that holds two of three models of equal size, of which a and b are there."""

    def __init__(self, past: Past = Past(), *, strategy: Strategy = Strategy.FORECAST) -> None:  # noqa: B008 (frozen)
        self.clock, self.events = HandClock(), Events()
        self.policy = FleetPolicy(
            nodes=(NodePolicy(name=N, vram_total_mib=13_000),),
            models={model: ModelPolicy(size_mib=6000) for model in (A, B, C)},
            eviction=EvictionRules(strategy=strategy, min_residency_s=0.0),
        )
        known = tuple(
            ResidencyRecord(node=N, model=model, status="loaded", load_s=LOAD_S)
            for model in (A, B, C)
        )
        self.state = FleetState(
            self.policy,
            clock=self.clock,
            journal=self.events,
            recollection=Recollection(residency=known, past=past),
        )
        seen = Observations(self.state)
        seen.informed(N, NodeInfo(version="0.9.2", vram_total_mib=13_000))
        there = {A: ReportedStatus.LOADED, B: ReportedStatus.LOADED, C: ReportedStatus.UNLOADED}
        seen.listed(N, Listing(created_at_s=1, models=there))
        self.transitions = Transitions(self.state)

    def asked(self, model: ModelId, after_s: float) -> None:
        self.clock.pass_s(after_s)
        self.state.asked(model)

    def load(self, model: ModelId) -> Load:
        admission = Admission(self.state, begin_load=lambda _: None)
        decision = admission.explain(Want(model))
        assert isinstance(decision, Load)
        return decision

    def told(self, kind: EventKind) -> list[str]:
        return [event.reason for event in self.events.all if event.kind is kind]


def test_the_least_recently_used_goes_until_enough_is_known() -> None:
    card = Card()
    for _ in range(ENOUGH_GAPS - 1):
        card.asked(A, 60.0)
    card.asked(B, 1.0)
    assert card.state.policy.eviction.deciding is Strategy.LRU
    assert (
        card.state.forecasts.outlook.why_not
        == f"{ENOUGH_GAPS - 2} of {ENOUGH_GAPS} gaps between requests are known"
    )
    for _ in range(2):
        card.asked(A, 60.0)
    assert card.state.policy.eviction.deciding is Strategy.FORECAST
    assert card.state.forecasts.outlook.why_not == ""
    assert card.load(C).evict == (B,)


def test_what_had_to_go_is_told_of_the_horizon_and_the_rule_of_the_log() -> None:
    card = Card()
    for _ in range(ENOUGH_GAPS + 1):
        card.asked(A, 60.0)
    card.asked(B, 0.0)
    before_s = card.state.forecasts.outlook.horizon_s
    card.asked(A, 5000.0)
    card.transitions.begin_load(card.load(C))
    assert card.state.forecasts.outlook.horizon_s > before_s
    (load,) = (event for event in card.events.all if event.kind is EventKind.LOAD)
    assert load.detail["strategy"] == "forecast"
    assert " % within 15 min × (300 + 5) s = " in load.reason


def test_a_restart_knows_what_the_log_tells() -> None:
    now_ms = HandClock().now_ms()
    every_minute = [now_ms - 60_000 * number for number in range(ENOUGH_GAPS + 5, 0, -1)]
    ahead = [*every_minute, now_ms + 9_000_000]  # the clock was set back
    past = Past(asked_at_ms={A: ahead, B: [now_ms - 9_000_000]}, stayed_s=[5000.0] * 3)
    card = Card(past)
    assert card.state.policy.eviction.deciding is Strategy.FORECAST
    assert card.state.forecasts.outlook.horizon_s > 1400
    assert card.load(C).evict == (B,)


def test_where_it_does_harm_the_other_rule_decides_and_says_so() -> None:
    now_ms = HandClock().now_ms()
    rare = [now_ms - 43_000_000 * number for number in range(60, 0, -1)]
    often, at_ms = list[int](), now_ms
    for number in range(60):
        at_ms -= (40_000, 900_000, 15_000_000)[number % 3]
        often.append(at_ms)
    # b is expected at any time, a and c twice a day; then those two alone are asked for.
    card = Card(Past(asked_at_ms={A: rare, B: often[::-1], C: rare}))
    for _ in range(6):
        card.asked(C, 100.0)
        card.asked(A, 100.0)
    rules = card.state.policy.eviction
    assert (rules.strategy, rules.deciding) == (Strategy.FORECAST, Strategy.LRU)
    (reason,) = card.told(EventKind.RULE)
    assert reason.startswith("not by forecast: of late it would have loaded for ")
    assert " % within " not in card.load(C).reason

    # Another rule of the configuration, and back again, begins anew.
    lru = replace(card.policy, eviction=EvictionRules(strategy=Strategy.LRU))
    card.state.apply(lru)
    assert card.state.policy.eviction.deciding is Strategy.LRU
    card.state.apply(card.policy)
    assert card.state.policy.eviction.deciding is Strategy.FORECAST


def test_by_another_rule_nothing_is_tried() -> None:
    card = Card(strategy=Strategy.LRU)
    for _ in range(ENOUGH_GAPS + 1):
        card.asked(A, 60.0)
    assert card.state.forecasts.outlook.demand.known >= ENOUGH_GAPS
    assert card.state.policy.eviction.deciding is Strategy.LRU
    assert card.told(EventKind.RULE) == []


def test_a_forecast_that_fails_costs_no_request() -> None:
    watched = Watched()
    fleet = Fleet(FleetPolicy(nodes=(NodePolicy(name=N),)), {}, ports(watcher=watched))
    fleet._state.forecasts.trial = object()  # type: ignore[assignment]
    fleet.asked(Want(A))
    assert watched.bugs == {"forecasts": 1}
    (reason,) = fleet.guard.reasons()
    assert reason.startswith("internal error in forecasts")
