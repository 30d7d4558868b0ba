"""Copies in quiet hours: when, after what, and what explain says."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given

from tests.unit.decide.decide_world import (
    ARCHIVE,
    DAY,
    FLASH,
    HDD,
    HOUR,
    MINUTE,
    NOW,
    lease,
    ref,
    snapshot,
    transfer,
    usage,
    view,
)
from tests.unit.decide.test_decide_properties import _unhurried, must_stay, views
from tierd.config.windows import window
from tierd.decide import explain, plan, withdrawn
from tierd.decide.planner import PRIORITY_QUIET
from tierd.model.plan import Action, View
from tierd.model.transfer import TransferKind, TransferState
from tierd.model.windows import Quiet, Windows

QUIET = Quiet(window=Windows(spans=window("22:00-06:00").spans, zone=ZoneInfo("Europe/Berlin")))
NIGHT = datetime(2026, 11, 20, 22, 30, tzinfo=ZoneInfo("UTC"))  # 23:30 in Berlin; NOW is 11:00 there


def quiet(seen: View) -> View:
    return replace(seen, quiet=QUIET)


def at_night(unused: timedelta = 2 * HOUR) -> View:
    return quiet(view(snapshot("v1", accessed_at=NIGHT - unused)))


def test_what_is_unused_for_an_hour_is_copied_in_quiet_hours_with_least_priority() -> None:
    (step,) = plan(at_night(), NIGHT).steps
    assert (step.action, step.destination, step.priority) == (Action.MIGRATE, HDD, PRIORITY_QUIET)
    assert step.reason.startswith("used 2h ago; quiet hours until 06:00 CET; copied to hdd")


def test_outside_of_them_it_waits_and_explain_tells_until_when() -> None:
    seen = quiet(view(snapshot("v1")))
    made = plan(seen, NOW)
    assert not made.steps
    assert "copied in quiet hours after 1h unused, on 2026-11-20 21:00 UTC (22:00 CET)" in made.kept[ref("v1")]
    told = explain(seen, ref("v1"), NOW)
    (found,) = [f for f in told.findings if f.rule == "in quiet hours"]
    assert (found.holds, found.until) == (False, datetime(2026, 11, 20, 21, tzinfo=ZoneInfo("UTC")))
    assert told.next_event.startswith("copied to a colder tier on 2026-11-20 21:00 UTC")


def test_what_was_just_used_waits_for_its_time_within_the_window() -> None:
    made = plan(at_night(10 * MINUTE), NIGHT)
    assert not made.steps
    assert "on 2026-11-20 23:20:00 UTC (00:20 CET)" in made.kept[ref("v1")]


def test_without_quiet_hours_nothing_is_said_of_them() -> None:
    told = explain(view(snapshot("v1")), ref("v1"), NOW)
    assert "quiet" not in str(told)


def test_a_copy_exists_already_or_it_is_held_or_there_is_no_room_below() -> None:
    old = {"accessed_at": NIGHT - DAY}
    seen = quiet(view(snapshot("copied", on=(FLASH, HDD), **old), snapshot("held", holds=(lease(ends_in=DAY),), **old)))
    assert not plan(seen, NIGHT).steps
    full = view(snapshot("v1", **old), hdd=usage(HDD, 9999, 10_000), archive=usage(ARCHIVE, 999, 1000))
    assert not plan(quiet(full), NIGHT).steps


def test_what_is_due_by_age_takes_the_room_below_first() -> None:
    due = snapshot("due", accessed_at=NIGHT - 20 * DAY, gib=300)
    fresh = snapshot("fresh", accessed_at=NIGHT - 2 * HOUR, gib=300)
    seen = view(fresh, due, hdd=usage(HDD, 9000, 10_000), archive=usage(ARCHIVE, 0, 1))
    steps = plan(quiet(seen), NIGHT).steps
    assert [step.ref for step in steps][:1] == [ref("due")]


def test_what_still_waits_when_quiet_hours_end_is_withdrawn_and_what_runs_is_not() -> None:
    waiting = transfer(TransferKind.MIGRATE, requested_by="policy", priority=PRIORITY_QUIET)
    running = transfer(TransferKind.MIGRATE, TransferState.COPYING, requested_by="policy", priority=PRIORITY_QUIET)
    wished = transfer(TransferKind.MIGRATE, requested_by="alice", priority=PRIORITY_QUIET)
    aged = transfer(TransferKind.MIGRATE, requested_by="policy", priority=2)
    seen = quiet(view(*(snapshot(f"v{n}", live=t) for n, t in enumerate((waiting, running, wished, aged)))))
    assert [(t.id, why) for t, why in withdrawn(seen, NOW)] == [(waiting.id, "the quiet hours are over")]
    assert not list(withdrawn(seen, NIGHT))


@_unhurried
@given(views())
def test_quiet_hours_copy_only_what_may_move_and_keep_every_other_step(seen: View) -> None:
    ordinary = {(s.ref, s.action) for s in plan(seen, NOW).steps}
    always = Quiet(window=window("00:00-24:00"))
    made = plan(replace(seen, quiet=always), NOW)
    added = [s for s in made.steps if s.priority == PRIORITY_QUIET]
    assert ordinary <= {(s.ref, s.action) for s in made.steps}
    kept = {s.ref for s in seen.snapshots if must_stay(s)}
    assert not {s.ref for s in added} & kept
    assert all(s.action is Action.MIGRATE and s.source == FLASH for s in added)
