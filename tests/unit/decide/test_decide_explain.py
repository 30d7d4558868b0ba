"""Explanations: the planner's own checks, and what comes next."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.unit.decide.decide_world import (
    ARCHIVE,
    DAY,
    FLASH,
    HDD,
    HOUR,
    NOW,
    failure,
    lease,
    offline,
    pin,
    recall,
    ref,
    snapshot,
    view,
)
from tierd.decide import explain, plan
from tierd.errors import NotFound
from tierd.model.placement import Residency
from tierd.model.plan import Action, Explanation, Finding, SnapshotView
from tierd.model.policy import Policy
from tierd.model.transfer import TransferState


def explained(s: SnapshotView, used: float = 500) -> Explanation:
    return explain(view(s, used=used), s.ref, NOW)


def found(explanation: Explanation, rule: str) -> Finding:
    return next(f for f in explanation.findings if f.rule == rule)


def test_every_condition_is_shown_with_how_it_stands() -> None:
    got = explained(snapshot("v1", unused=3 * DAY))
    assert got.residency is Residency.RESIDENT
    assert got.summary == "only on flash; used 3d ago; migrates after 14d unused, on 2026-12-01 10:00 UTC"
    assert [(f.rule, f.holds, f.detail) for f in got.findings] == [
        ("no transfer under way", True, "no transfer of it is under way"),
        ("on flash", True, "a verified copy is on flash"),
        ("flash online", True, "tier flash is online"),
        ("no problem", True, "nothing stands in the way of looking after it"),
        ("not held", True, "no lease or pin holds it"),
        ("settled", True, "changed 300d ago; settled after 15m without a change"),
        ("minimum residency over", True, "it was never warmed"),
        ("no back-off", True, "no transfer of it failed last"),
        ("cold tier online", True, "no cold copy whose tier could be offline"),
        ("its phase lets it leave flash", True, "dataset ds is in phase train, which lets it leave flash"),
        ("unused long enough to migrate", False, "used 3d ago; migrates after 14d unused, on 2026-12-01 10:00 UTC"),
        ("unused long enough to release", False, "used 3d ago; released after 30d unused, on 2026-12-17 10:00 UTC"),
        ("cold copy verified", False, "no other tier has a verified copy"),
        ("room for a cold copy", True, "a copy fits on hdd"),
        ("flash below its high watermark", True, "flash is 50.0% full, not above its high watermark of 90%"),
        ("copy on flash is good", True, "100 GiB, verified 2d ago"),
    ]
    assert found(got, "unused long enough to migrate").until == NOW + 11 * DAY
    assert got.next_event == (
        "copied to a colder tier on 2026-12-01 10:00 UTC if nobody uses it before; "
        "earlier when flash rises above its high watermark of 90%"
    )


def test_a_step_is_the_one_of_the_plan() -> None:
    seen = view(snapshot("v1", unused=15 * DAY), snapshot("v2", on=[FLASH, HDD], unused=31 * DAY))
    for made in plan(seen, NOW).steps:
        assert explain(seen, made.ref, NOW).next_step == made
    first = explain(seen, ref("v1"), NOW)
    assert first.summary == f"only on flash; would migrate now: {first.next_step.reason}"  # type: ignore[union-attr]
    assert first.next_event == "released on 2026-12-05 10:00 UTC if nobody uses it before"
    second = explain(seen, ref("v2"), NOW)
    assert second.next_step is not None
    assert second.next_step.action is Action.RELEASE
    assert second.next_event == "a warm brings it back to flash"


def test_holders_are_named_with_since_when() -> None:
    got = explained(snapshot("v1", unused=99 * DAY, holds=[lease("alice"), lease("bob", ends_in=9 * HOUR)]))
    held = found(got, "not held")
    assert not held.holds
    assert held.until == NOW + 9 * HOUR
    assert held.detail == (
        "held by lease of bob since 2026-11-20 08:00 UTC, until 2026-11-20 19:00 UTC and "
        "lease of alice since 2026-11-20 08:00 UTC, until 2026-11-20 18:00 UTC"
    )
    assert got.next_event == (
        "copied to a colder tier on 2026-11-20 19:00 UTC if nobody uses it before; "
        "earlier when flash rises above its high watermark of 90% after 2026-11-20 19:00 UTC"
    )


def test_a_pin_ends_only_when_it_is_removed() -> None:
    got = explained(snapshot("v1", unused=99 * DAY, holds=[pin(), lease()]))
    assert found(got, "not held").until is None
    assert got.next_event.startswith("nothing moves it as long as this stands: held by pin of root")


def test_a_migrated_snapshot_waits_for_a_warm() -> None:
    got = explained(snapshot("v1", on=[HDD], unused=99 * DAY))
    assert got.summary == "only on hdd; it is on hdd, unused for 99d; a warm brings it to flash"
    assert [f.rule for f in got.findings] == [
        "no transfer under way",
        "on flash",
        "no problem",
        "not held",
        "cold copy verified",
        "copy on hdd is good",
    ]
    assert got.next_event == "a warm brings it to flash; nothing else moves it"


def test_a_transfer_under_way_is_what_comes_next() -> None:
    live = recall(TransferState.COPYING)
    got = explained(snapshot("v1", on=[HDD], live=live))
    assert got.residency is Residency.PARTIAL
    assert got.summary.startswith("on hdd, on its way to flash; transfer")
    assert got.next_event == f"when transfer {live.id} ends it is back on flash"


@pytest.mark.parametrize(
    ("s", "after"),
    [
        (
            snapshot("v1", policy=Policy(migrate_after=None)),
            "released when flash rises above its high watermark of 90%",
        ),
        (
            snapshot("v1", unused=99 * DAY, failed=failure(timedelta(0))),
            "copied to a colder tier on 2026-11-20 10:01:00 UTC if nobody uses it before; earlier when "
            "flash rises above its high watermark of 90% after 2026-11-20 10:01:00 UTC",
        ),
    ],
)
def test_the_next_event_names_what_it_waits_for(s: SnapshotView, after: str) -> None:
    assert explained(s).next_event == after


def test_no_room_below_is_what_it_waits_for() -> None:
    seen = view(snapshot("v1", unused=15 * DAY), hdd=offline(HDD), archive=offline(ARCHIVE))
    got = explain(seen, ref("v1"), NOW)
    room = found(got, "room for a cold copy")
    assert (room.holds, room.detail) == (
        False,
        "there is no room for a copy: tier hdd is offline: the disk is missing; "
        "tier archive is offline: the disk is missing",
    )
    assert got.next_event == "copied to a colder tier as soon as a colder tier has room for it"


def test_a_snapshot_without_any_copy_is_told_as_it_is() -> None:
    s = replace(snapshot("v1"), placements=())
    got = explained(s)
    assert got.residency is Residency.GONE
    assert got.summary.startswith("without a complete copy that tierd knows; ")


def test_an_unknown_snapshot_is_not_found() -> None:
    with pytest.raises(NotFound, match="ds/v9"):
        explain(view(), ref("v9"), NOW)
