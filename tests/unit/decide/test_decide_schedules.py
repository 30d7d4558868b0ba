"""Schedules: when each comes, across changes of clocks; what it concerns; when warming has to begin."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.decide.decide_world import DAY, FLASH, GIB, HDD, HOUR, MINUTE, NOW, VAULT, chain, snapshot, vault, view
from tierd.decide.naming import Names, natural
from tierd.decide.schedules import Turn, all_turns, last_occurrence, occurrences
from tierd.model.dataset import SnapshotRef
from tierd.model.plan import View
from tierd.model.schedule import Schedule
from tierd.model.value import Cost

BERLIN, NEW_YORK, LORD_HOWE = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York"), ZoneInfo("Australia/Lord_Howe")


def schedule(cron: str, zone: ZoneInfo | None = BERLIN, **more: object) -> Schedule:
    values: dict[str, object] = {"name": "s", "snapshots": "ds/*", "use_for": 8 * HOUR}
    return Schedule(cron=cron, time_zone=zone, **values | more)  # type: ignore[arg-type]  # test values


def turns(schedule: Schedule, seen: View, now: datetime) -> list[Turn]:
    return all_turns([schedule], seen, now)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def next_times(cron: str, zone: ZoneInfo | None, after: str, count: int) -> list[str]:
    found = islice(occurrences(schedule(cron, zone), utc(after)), count)
    return [f"{at:%Y-%m-%d %H:%M}" for at in found]


@pytest.mark.parametrize(
    ("cron", "zone", "after", "expected"),
    [
        # Mondays at 9 in Berlin: 7 UTC in summer, 8 UTC in winter.
        ("0 9 * * 1", BERLIN, "2026-10-17", ["2026-10-19 07:00", "2026-10-26 08:00", "2026-11-02 08:00"]),
        ("0 9 * * 1", BERLIN, "2026-03-22", ["2026-03-23 08:00", "2026-03-30 07:00"]),
        # 02:30 does not exist on March 29th: it comes when the clocks are past it.
        ("30 2 * * *", BERLIN, "2026-03-28 00:00", ["2026-03-28 01:30", "2026-03-29 01:00", "2026-03-30 00:30"]),
        # 02:30 comes twice on October 25th, and is meant once.
        ("30 2 * * *", BERLIN, "2026-10-24 12:00", ["2026-10-25 00:30", "2026-10-26 01:30"]),
        ("30 2 * * *", BERLIN, "2026-10-25 01:10", ["2026-10-26 01:30"]),  # 02:10 for the second time
        ("*/30 * * * *", BERLIN, "2026-10-25 00:15", ["2026-10-25 00:30", "2026-10-25 01:00", "2026-10-25 01:30"]),
        ("30 1 1 11 *", NEW_YORK, "2026-10-31", ["2026-11-01 05:30", "2027-11-01 05:30"]),
        ("45 1 * * *", LORD_HOWE, "2026-04-04 00:00", ["2026-04-04 14:45", "2026-04-05 15:15"]),  # half an hour
        # Ends of months, and years that have a February 29th.
        ("0 0 31 * *", None, "2026-01-31 00:00", ["2026-03-31 00:00", "2026-05-31 00:00"]),
        ("0 6 L * *", None, "2026-02-01", ["2026-02-28 06:00", "2026-03-31 06:00"]),
        ("0 0 29 2 *", None, "2026-03-01", ["2028-02-29 00:00"]),
    ],
)
def test_times_of_use_follow_the_clocks_of_their_zone(
    cron: str, zone: ZoneInfo | None, after: str, expected: list[str]
) -> None:
    assert next_times(cron, zone, after, len(expected)) == expected


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2026-10-25 00:29", "2026-10-24 00:30"),
        ("2026-10-25 00:30", "2026-10-25 00:30"),
        ("2026-10-25 01:10", "2026-10-25 00:30"),  # 02:10 for the second time: 02:30 is over
        ("2026-10-26 00:00", "2026-10-25 00:30"),
        ("2026-03-29 00:59", "2026-03-28 01:30"),
        ("2026-03-29 01:00", "2026-03-29 01:00"),
    ],
)
def test_the_last_time_of_use_is_known_on_days_of_changed_clocks(now: str, expected: str) -> None:
    assert last_occurrence(schedule("30 2 * * *"), utc(now)) == utc(expected)


CRONS = ["0 9 * * 1", "30 2 * * *", "*/20 * * * *", "15 1,2,3 * * *", "0 0 1 * *", "5 */6 * * *", "0 3 * * 0"]


@given(
    cron=st.sampled_from(CRONS),
    # Not Lord Howe, whose clocks change by half an hour: cronsim leaves out the next "every six hours" after it.
    zone=st.sampled_from([BERLIN, NEW_YORK, None]),
    now=st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)).map(lambda d: d.replace(tzinfo=UTC)),
)
def test_nothing_lies_between_the_last_time_and_the_next(cron: str, zone: ZoneInfo | None, now: datetime) -> None:
    s = schedule(cron, zone)
    last, (following, second) = last_occurrence(s, now), islice(occurrences(s, now), 2)
    assert last is not None
    assert last <= now < following < second
    assert next(occurrences(s, last)) == following
    assert last_occurrence(s, second - timedelta(microseconds=1)) == following


# -- what it concerns --------------------------------------------------------------------------------------


def test_the_latest_is_the_one_found_last_then_the_one_that_sorts_last() -> None:
    old, v9, v10 = snapshot("v99", first_seen_at=NOW - 9 * DAY), snapshot("v9"), snapshot("v10")
    v9, v10 = snapshot("v9", first_seen_at=NOW), snapshot("v10", first_seen_at=NOW)
    gone = snapshot("v11", first_seen_at=NOW + DAY, gone_at=NOW + DAY)
    assert Names([old, v10, v9, gone]).latest("ds") is v10
    assert Names([old]).latest("other") is None
    assert sorted(["v10", "v9", "v1.10", "v1.9"], key=natural) == ["v1.9", "v1.10", "v9", "v10"]


def test_a_snapshot_that_is_called_latest_is_meant_before_any_other() -> None:
    newest, own = snapshot("v3", first_seen_at=NOW), snapshot("latest")
    wanted = SnapshotRef("ds", "latest")
    assert Names([newest]).named(wanted) is newest
    assert Names([newest, own]).named(wanted) is own
    assert Names([newest]).named(SnapshotRef("ds", "v9")) is None
    assert Names([newest, own]).matching("ds/latest") == [own]


def test_patterns_mean_what_is_there_now() -> None:
    views = [snapshot("2026-10"), snapshot("2026-9"), snapshot("2025-1"), snapshot("2026-11", gone_at=NOW)]
    assert [s.ref.name for s in Names(views).matching("ds/2026-*")] == ["2026-9", "2026-10"]
    assert [s.ref.name for s in Names(views).matching("d?/2025-1")] == ["2025-1"]
    assert Names(views).matching("other/*") == []
    assert Names(views).matching("ds") == []
    whole = snapshot("self")
    assert Names([whole]).matching("ds") == Names([whole]).matching("ds/latest") == [whole]


# -- when warming begins -----------------------------------------------------------------------------------


def test_warming_begins_as_long_before_as_it_takes_and_some_more() -> None:
    cold, warm = snapshot("a", on=(HDD,), gib=100), snapshot("b", on=(FLASH, HDD), gib=500)
    also = snapshot("c", on=(HDD,), gib=200)
    costs = {HDD: Cost(start_s=10, s_per_byte=1 / GIB, s_per_file=1)}
    seen = replace(view(cold, warm, also), costs=costs)
    (turn,) = turns(schedule("0 20 * * *", None), seen, NOW)
    seconds = (10 + 100 + 10) + (10 + 200 + 10)
    assert turn.use_at == NOW.replace(hour=20)
    assert turn.begins_at == turn.use_at - timedelta(seconds=60 + 1.3 * seconds)
    assert [s.ref.name for s in turn.missing] == ["a", "c"]
    assert turn.recall_bytes == 300 * GIB
    assert not turn.is_due(turn.begins_at - timedelta(seconds=1))
    assert turn.is_due(turn.begins_at)
    assert turn.is_due(turn.until)
    assert not turn.is_due(turn.until + timedelta(seconds=1))


def test_a_lead_that_is_configured_counts_and_one_minute_is_the_least() -> None:
    seen = view(snapshot("a", on=(HDD,), gib=1000))
    (turn,) = turns(schedule("0 20 * * *", None, lead=2 * HOUR), seen, NOW)
    assert turn.begins_at == NOW.replace(hour=18)
    (turn,) = turns(schedule("0 20 * * *", None), view(snapshot("a")), NOW)
    assert turn.lead == MINUTE


def test_a_use_that_was_missed_is_due_while_it_goes_on() -> None:
    seen, daily = view(snapshot("a", on=(HDD,))), schedule("0 9 * * *", None, use_for=HOUR)
    at = NOW.replace(hour=9)
    assert [(t.use_at, t.is_due(at + HOUR)) for t in turns(daily, seen, at + HOUR)] == [(at, True), (at + DAY, False)]
    assert [t.use_at for t in turns(daily, seen, at + HOUR + MINUTE)] == [at + DAY]


def test_what_is_more_than_two_weeks_away_is_not_announced_yet() -> None:
    yearly = schedule("0 0 1 1 *", None)
    assert turns(yearly, view(snapshot("a")), utc("2026-12-17")) == []
    assert [t.use_at for t in turns(yearly, view(snapshot("a")), utc("2026-12-18"))] == [utc("2027-01-01")]


def test_a_copy_in_an_archive_class_is_asked_for_in_time_to_restore_it() -> None:
    (turn,) = turns(schedule("0 20 * * *", None), chain(snapshot("a", on=(VAULT,)), below=[vault()]), NOW)
    assert turn.lead > 3 * HOUR


def test_each_use_of_a_snapshot_has_a_key_of_its_own() -> None:
    a, b = snapshot("a"), snapshot("b")
    now, following = turns(schedule("0 9 * * *", None), view(a, b), NOW)
    keys = {turn.key(s) for turn in (now, following) for s in (a, b)}
    assert len(keys) == 4
    assert now.key(a) == f"schedule:s:2026-11-20T09:00Z:{a.snapshot.id}"
