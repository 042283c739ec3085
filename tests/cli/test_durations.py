from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.cli.durations import UNITS_MS, duration_ms, instant_ms, interval_s
from cortex.cli.text import ago, span

NOW = 1_780_000_000_000
YEAR_MS = 365 * UNITS_MS["d"]

parts = st.lists(
    st.tuples(st.integers(0, 500), st.sampled_from(sorted(UNITS_MS))), min_size=1, max_size=4
)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("90s", 90_000),
        ("15m", 900_000),
        ("2h", 7_200_000),
        ("3d", 259_200_000),
        ("1h30m", 5_400_000),
        ("500ms", 500),
        ("1m500ms", 60_500),
        ("0.5s", 500),
        ("1w", 604_800_000),
        (" 2h ", 7_200_000),
    ],
)
def test_durations(text, ms):
    assert duration_ms(text) == ms


@given(parts)
def test_a_duration_is_the_sum_of_its_parts(pairs):
    text = "".join(f"{count}{unit}" for count, unit in pairs)
    assert duration_ms(text) == sum(count * UNITS_MS[unit] for count, unit in pairs)


@given(parts)
def test_an_instant_counts_back_from_now(pairs):
    text = "".join(f"{count}{unit}" for count, unit in pairs)
    assert instant_ms(text, now_ms=NOW) == max(0, NOW - duration_ms(text))


@given(st.text(max_size=20))
def test_anything_else_is_refused_with_one_line(text):
    for read in (duration_ms, instant_ms, interval_s):
        try:
            value = read(text)
        except ValueError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert 0 <= value < 2**62


@given(
    st.datetimes(
        min_value=datetime(1971, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.timezones()
    )
)
def test_dates_with_a_zone_are_exact(moment):
    expected = moment.timestamp() * 1000
    assert abs(instant_ms(moment.isoformat()) - expected) <= 1


def test_a_date_without_zone_is_local():
    local = datetime(2026, 7, 1, 12, 0).astimezone()
    assert instant_ms("2026-07-01T12:00") == local.timestamp() * 1000
    assert instant_ms("2026-07-01") == local.timestamp() * 1000 - 12 * 3_600_000


@pytest.mark.parametrize(
    "text", ["0001-01-01", "9999-12-31T23:59:59", "99999999d", "9" * 400 + "d"]
)
def test_extremes_are_refused_or_in_range(text):
    try:
        assert 0 <= instant_ms(text) < 2**62
    except ValueError as error:
        assert text in str(error)


@given(st.floats(0, 1e9))
def test_a_shown_span_is_short(seconds):
    assert len(span(seconds)) <= 9


def test_spans_and_ages():
    assert [span(s) for s in (None, 0.0, 0.34, 0.9999, 12.44, 59.96, 192, 18_130, 777_600)] == [
        "–", "0ms", "340ms", "1.0s", "12.4s", "1m00s", "3m12s", "5h02m", "9d00h",
    ]  # fmt: skip
    assert [ago(NOW - ms, now_ms=NOW) for ms in (0, 40_000, 180_000, 86_400_000)] == [
        "now", "40s ago", "3m ago", "1d ago",
    ]  # fmt: skip
    assert ago(None, now_ms=NOW) == ago(0, now_ms=NOW) == "–"
    assert ago(NOW + 5000, now_ms=NOW) == "now"
