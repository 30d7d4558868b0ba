"""Windows of time, on ordinary days and on those on which the clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierd.config.windows import time_zone, window
from tierd.errors import InvalidRequest
from tierd.model.windows import DAY_MINUTES, Span, Windows

BERLIN = ZoneInfo("Europe/Berlin")


def berlin(written: object) -> Windows:
    return Windows(spans=window(written).spans, zone=BERLIN)


def wall(text: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).astimezone(UTC)


@pytest.mark.parametrize(
    ("written", "moment", "is_open"),
    [
        ("22:00-06:00", "2026-11-20 22:00", True),
        ("22:00-06:00", "2026-11-20 21:59", False),
        ("22:00-06:00", "2026-11-21 05:59", True),
        ("22:00-06:00", "2026-11-21 06:00", False),
        ("Mon-Fri 20:00-07:00", "2026-11-21 06:30", True),  # Saturday: Friday's has not ended
        ("Mon-Fri 20:00-07:00", "2026-11-21 20:30", False),
        ("Mon-Fri 20:00-07:00", "2026-11-23 06:30", False),  # Monday: Sunday had none
        ("Fri-Mon 00:00-24:00", "2026-11-22 12:00", True),
        ("Fri-Mon 00:00-24:00", "2026-11-24 00:00", False),
        ("Sat, Sun 10:00-12:00", "2026-11-22 11:00", True),
        (["08:00-09:00", "Wed 20:00-21:00"], "2026-11-18 20:30", True),
        (["08:00-09:00", "Wed 20:00-21:00"], "2026-11-19 20:30", False),
    ],
)
def test_a_window_is_open_by_the_clock_on_the_wall(written: object, moment: str, is_open: bool) -> None:
    assert berlin(written).is_open(wall(moment)) is is_open


def test_when_it_closes_and_opens_next() -> None:
    night = berlin("22:00-06:00")
    assert night.closes_at(wall("2026-11-20 23:00")) == wall("2026-11-21 06:00")
    assert night.closes_at(wall("2026-11-20 12:00")) is None
    assert night.next_open(wall("2026-11-20 12:00")) == wall("2026-11-20 22:00")
    assert night.next_open(wall("2026-11-20 23:00")) == wall("2026-11-21 22:00")
    assert berlin("Mon 08:00-09:00").next_open(wall("2026-11-23 08:30")) == wall("2026-11-30 08:00")
    assert night.clock(wall("2026-11-21 06:00")) == "06:00 CET"


def test_what_touches_is_one_window_and_all_of_the_week_never_closes() -> None:
    weekend = berlin(["Fri 20:00-24:00", "Sat,Sun 00:00-24:00"])
    assert weekend.closes_at(wall("2026-11-20 21:00")) == wall("2026-11-23 00:00")
    always = berlin("00:00-24:00")
    assert always.is_open(wall("2026-11-20 00:00"))
    assert always.closes_at(wall("2026-11-20 00:00")) is None
    assert always.next_open(wall("2026-11-20 00:00")) is None


def test_a_night_is_seven_hours_when_clocks_go_forward_and_nine_when_they_go_back() -> None:
    night = berlin("22:00-06:00")
    for evening, hours in (("2026-03-28 22:00", 7), ("2026-10-24 22:00", 9), ("2026-06-01 22:00", 8)):
        closes = night.closes_at(wall(evening))
        assert closes is not None
        assert closes - wall(evening) == timedelta(hours=hours)


def test_a_window_within_the_hour_that_is_skipped_or_comes_twice() -> None:
    early = berlin("02:15-02:45")
    # Skipped on 2026-03-29: it counts as if the clocks had not been changed yet.
    assert early.next_open(wall("2026-03-29 00:00")) == datetime(2026, 3, 29, 1, 15, tzinfo=UTC)
    # Twice on 2026-10-25: the first time is meant.
    assert early.is_open(wall("2026-10-25 02:30"))
    assert not early.is_open(wall("2026-10-25 02:30", fold=1))


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("22-6", "is not a window"),
        ("25:00-06:00", "no time of the day"),
        ("22:60-06:00", "no time of the day"),
        ("06:00-06:00", "the same time"),
        ("24:00-06:00", "end of the day"),
        ("Mo-Fri 20:00-06:00", "no day of the week"),
        ([], "empty list"),
        (["22:00-06:00", 3], "is not a window"),
    ],
)
def test_what_is_no_window_is_refused(written: object, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        window(written)


def test_a_zone_that_does_not_exist_is_refused_with_a_near_one() -> None:
    assert time_zone("Europe/Berlin") == BERLIN
    with pytest.raises(InvalidRequest) as refused:
        time_zone("Europe/Berln")
    assert "Europe/Berlin" in refused.value.hint


_minute = st.integers(0, DAY_MINUTES - 1)
_spans = st.builds(
    Span, start=_minute, end=_minute.map(lambda m: m + 1), days=st.frozensets(st.integers(0, 6), min_size=1)
)
_windows = st.builds(
    Windows,
    spans=st.lists(_spans, min_size=1, max_size=4).map(tuple),
    zone=st.sampled_from([BERLIN, ZoneInfo("UTC"), ZoneInfo("America/New_York"), ZoneInfo("Australia/Lord_Howe")]),
)


@given(_windows, st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)).map(lambda d: d.replace(tzinfo=UTC)))
def test_the_three_answers_agree(windows: Windows, now: datetime) -> None:
    closes, opens = windows.closes_at(now), windows.next_open(now)
    if closes is not None:
        assert windows.is_open(now)
        assert now < closes
        assert not windows.is_open(closes)
    if not windows.is_open(now):
        assert opens is not None
        assert opens > now
        assert windows.is_open(opens)
        assert not windows.is_open(opens - timedelta(microseconds=1))
        assert not windows.is_open(now + (opens - now) / 2)
