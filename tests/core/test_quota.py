"""Buckets: what is left, what is owed, and when there is more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.core.ids import RequestId
from cortex.core.quota import DAY_MS, MOST_UNREPORTED_PROMPT_TOKENS, Bucket, Day, tokens_charged
from cortex.core.records import RequestRecord

RATES = st.integers(1, 1_000_000)
GAPS = st.floats(0, 100)


def test_a_minute_of_use_refills_in_a_minute() -> None:
    empty = Bucket(0, 100)
    assert empty.refilled(60, 101).level == 1
    assert empty.refilled(60, 130).level == 30
    assert empty.refilled(60, 160).level == 60
    assert empty.refilled(60, 1000).level == 60


def test_what_is_left_says_when_there_is_more() -> None:
    assert Bucket(1, 0).wait_s(60) == 0
    assert Bucket(0.5, 0).wait_s(60) == 0.5
    assert Bucket(-59, 0).wait_s(60) == 60
    assert Bucket(60, 0).full_in_s(60) == 0
    assert Bucket(-60, 0).full_in_s(60) == 120
    assert [Bucket(level, 0).remaining for level in (-5, 0.9, 1, 2.99)] == [0, 0, 1, 2]


def test_a_debt_is_paid_before_anything_is_left() -> None:
    bucket = Bucket(100, 0).less(1100)
    assert bucket.refilled(100, 600).remaining == 0
    assert bucket.refilled(100, 601).remaining == 1


def test_a_clock_that_stands_or_steps_back_gives_nothing() -> None:
    assert Bucket(3, 100).refilled(60, 100).level == 3
    assert Bucket(3, 100).refilled(60, 50).level == 3


def test_a_lower_limit_bounds_what_is_left_and_a_higher_one_gives_nothing_back() -> None:
    assert Bucket(50, 0).refilled(10, 0).level == 10
    assert Bucket(-50, 0).refilled(10, 0).level == -50
    assert Bucket(0, 0).refilled(1000, 0).level == 0


@given(RATES, st.lists(st.tuples(GAPS, st.booleans()), max_size=50))
def test_nobody_gets_more_than_the_rate(
    per_minute: int, tries: list[tuple[float, bool]]
) -> None:
    """Over any span: at most a minute's worth, and what refilled meanwhile."""
    now_s, taken = 0.0, 0
    bucket = Bucket(per_minute, now_s)
    for gap_s, wants in tries:
        now_s += gap_s
        bucket = bucket.refilled(per_minute, now_s)
        assert bucket.level <= per_minute
        if wants and bucket.wait_s(per_minute) == 0:
            bucket = bucket.less(1)
            taken += 1
    assert taken <= per_minute * (1 + now_s / 60) + 1e-6


@given(RATES, st.floats(-1e6, 1e6))
def test_after_the_wait_one_may_be_taken(per_minute: int, level: float) -> None:
    bucket = Bucket(min(level, per_minute), 0.0)
    later = bucket.refilled(per_minute, bucket.wait_s(per_minute) + 1e-6)
    assert later.level >= 1 - 1e-6
    assert bucket.wait_s(per_minute) <= bucket.full_in_s(per_minute) or bucket.level >= 1


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 5}, 12),
        ({"prompt_tokens": 7}, 7),
        ({"completion_tokens": 5}, 5),
        ({"prompt_tokens": 0, "stream": True, "response_bytes": 10_000}, 0),
        ({"request_bytes": 400}, 0),
        ({"request_bytes": 400, "stream": True}, 0),
        ({"request_bytes": 400, "response_bytes": 5000}, 0),
        ({"request_bytes": 400, "response_bytes": 5000, "stream": True}, 125),
        (
            {"request_bytes": 50_000_000, "response_bytes": 1, "stream": True},
            MOST_UNREPORTED_PROMPT_TOKENS,
        ),
    ],
)
def test_a_request_costs_what_the_node_reports_or_what_was_sent(
    fields: dict[str, int | bool], tokens: int
) -> None:
    record = RequestRecord(
        request_id=RequestId("r"),
        started_at_ms=0,
        route="chat",
        **fields,  # type: ignore[arg-type]
    )
    assert tokens_charged(record) == tokens


def test_a_day_ends_at_midnight_and_whenever_the_clock_says_it_is_another() -> None:
    noon_ms = 20_000 * DAY_MS + DAY_MS // 2
    day = Day().more(700, noon_ms)
    assert (day.at(noon_ms + 1000), day.ends_in_s(noon_ms)) == (day, 43_200)
    assert day.at(noon_ms + DAY_MS // 2 - 1).used == 700
    assert day.at(noon_ms + DAY_MS // 2).used == 0
    # A clock that was ahead for a while leaves no debt until then.
    assert day.more(9, noon_ms + 20 * DAY_MS).at(noon_ms).used == 0
