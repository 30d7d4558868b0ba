"""Advice: regular uses are noticed, others are not taken for regular."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierd.decide.advisor import LOOK_BACK, Advice, advise
from tierd.model.dataset import SnapshotRef
from tierd.model.observation import Span

BERLIN = ZoneInfo("Europe/Berlin")
V3 = SnapshotRef("imagenet", "v3")
NOW = datetime(2026, 11, 20, 18, 0, tzinfo=BERLIN)  # a Friday
MONDAYS = [datetime(2026, 11, 16, 9, tzinfo=BERLIN) - timedelta(weeks=w) for w in range(5)]


def uses(*starts: datetime, hours: int = 1) -> list[Span]:
    """A use that begins at each, read for so many hours."""
    return [
        Span(ref=V3, start=(start + timedelta(hours=h)).astimezone(UTC), reads=5, writes=0, episodes=int(h == 0))
        for start in starts
        for h in range(hours)
    ]


def the_advice(spans: list[Span], now: datetime = NOW) -> Advice | None:
    found = advise(spans, BERLIN, now)
    assert len(found) < 2
    return found[0] if found else None


def test_a_weekly_use_is_noticed_across_a_change_of_clocks() -> None:
    advice = the_advice(uses(*MONDAYS, hours=6))  # the oldest two are in summer time
    assert advice is not None
    assert advice.says == "imagenet/v3 looks weekly (Mondays about 09:00): schedule it?"
    assert (advice.cron, advice.use_for, advice.seen) == ("0 9 * * 1", timedelta(hours=6), 5)
    assert tomllib.loads(advice.toml)["schedules"] == [
        {"name": "imagenet-v3", "snapshots": "imagenet/v3", "cron": "0 9 * * 1", "for": "6h",
         "time_zone": "Europe/Berlin"}
    ]  # fmt: skip


def test_one_week_may_be_missing_and_a_day_earlier_or_later_is_the_same() -> None:
    jittered = [day + timedelta(days=d) for day, d in zip(MONDAYS, (0, 1, 0, -1, 0), strict=True)]
    for spans in (uses(*jittered), uses(*MONDAYS[:2], *MONDAYS[3:]), uses(*jittered, MONDAYS[0] + timedelta(days=3))):
        advice = the_advice(spans)
        assert advice is not None
        assert advice.cron == "0 9 * * 1"


def test_the_use_of_this_week_may_still_come() -> None:
    before_it = datetime(2026, 11, 16, 8, tzinfo=BERLIN)
    advice = the_advice(uses(*MONDAYS[1:]), before_it)
    assert advice is not None
    assert advice.cron == "0 9 * * 1"


@pytest.mark.parametrize(
    "starts",
    [
        MONDAYS[:3],  # too few
        MONDAYS[2:],  # not any more
        [NOW - timedelta(days=2 * n) for n in range(1, 17)],  # every second day
        [NOW - timedelta(days=5 * n) for n in range(1, 7)],
        [NOW - timedelta(days=n) for n in range(3, 9)],  # a busy week
    ],
)  # fmt: skip
def test_what_is_not_regular_is_not_advised(starts: list[datetime]) -> None:
    assert the_advice(uses(*starts)) is None


def test_daily_uses_are_noticed_and_weekends_may_be_free() -> None:
    days = [NOW.replace(hour=22) - timedelta(days=n) for n in range(1, 20)]
    daily, working = the_advice(uses(*days)), the_advice(uses(*(d for d in days if d.weekday() < 5)))
    assert daily is not None
    assert (daily.rhythm, daily.cron) == ("daily", "0 22 * * *")
    assert working is not None
    assert (working.when, working.cron) == ("Monday to Friday about 22:00", "0 22 * * 1-5")


def test_what_is_scheduled_already_is_not_advised_again() -> None:
    assert advise(uses(*MONDAYS), BERLIN, NOW, scheduled={V3}) == []


def test_odd_names_can_be_pasted() -> None:
    odd = SnapshotRef("ds", 'a"b\\c[1]*')
    spans = [replace(span, ref=odd) for span in uses(*MONDAYS)]
    (advice,) = advise(spans, BERLIN, NOW)
    pasted = tomllib.loads(advice.toml)["schedules"][0]
    assert pasted["name"] == "ds-a-b-c-1"
    assert fnmatchcase(str(odd), pasted["snapshots"])
    assert not fnmatchcase('ds/a"b\\c1zzz', pasted["snapshots"])


@given(
    hours=st.sets(st.integers(0, 35 * 24 - 1), max_size=60),
    zone=st.sampled_from([BERLIN, ZoneInfo("America/New_York"), UTC]),
)
def test_whatever_was_seen_advice_is_sound(hours: set[int], zone: ZoneInfo) -> None:
    first = NOW.astimezone(UTC) - LOOK_BACK
    spans = uses(*(first + timedelta(hours=h) for h in hours))
    for advice in advise(spans, zone, NOW):
        assert advice.seen >= 4
        assert timedelta(hours=1) <= advice.use_for <= timedelta(hours=24)
        assert tomllib.loads(advice.toml)["schedules"][0]["cron"] == advice.cron
        days = {(first + timedelta(hours=h)).astimezone(zone).date() for h in hours}
        assert len(days) >= 4
