"""The plan: what moves, in which order, and the words for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from time import process_time

import pytest

from tests.unit.decide.decide_world import (
    ARCHIVE,
    DAY,
    FLASH,
    GIB,
    HDD,
    HOUR,
    MINUTE,
    NOW,
    POLICY,
    copy,
    failure,
    lease,
    leaving,
    offline,
    pin,
    queued,
    recall,
    ref,
    snapshot,
    transfer,
    usage,
    view,
)
from tierd.decide import plan
from tierd.model.dataset import AccessSource
from tierd.model.placement import PlacementState
from tierd.model.plan import Action, SnapshotView, View
from tierd.model.policy import Policy
from tierd.model.transfer import TransferKind, TransferState

MIGRATE, RELEASE = Action.MIGRATE, Action.RELEASE


def steps(seen: View) -> list[tuple[Action, str, str]]:
    return [(s.action, s.ref.name, s.destination) for s in plan(seen, NOW).steps]


def kept(seen: View, name: str = "v1") -> str:
    return plan(seen, NOW).kept[ref(name)]


# -- age -----------------------------------------------------------------------------------------------------


def test_a_cold_snapshot_is_copied_to_the_next_tier_and_stays_on_flash() -> None:
    made = plan(view(snapshot("v1", unused=15 * DAY)), NOW)
    (step,) = made.steps
    assert (step.action, step.source, step.destination) == (MIGRATE, FLASH, HDD)
    assert (step.copies_bytes, step.frees_bytes) == (100 * GIB, 0)
    assert step.reason == "used 15d ago; migrates after 14d unused; copied to hdd and kept on flash"
    assert made.kept == {}
    assert made.made_at == NOW


def test_a_snapshot_unused_for_release_after_is_released_with_a_copy_first() -> None:
    (step,) = plan(view(snapshot("v1", unused=31 * DAY)), NOW).steps
    assert (step.action, step.destination, step.copies_bytes, step.frees_bytes) == (RELEASE, HDD, 100 * GIB, 100 * GIB)
    assert step.reason == "used 31d ago; released after 30d unused; copied to hdd first"


def test_a_premigrated_snapshot_is_released_without_a_copy() -> None:
    (step,) = plan(view(snapshot("v1", on=[FLASH, ARCHIVE], unused=31 * DAY)), NOW).steps
    assert (step.action, step.destination, step.copies_bytes) == (RELEASE, ARCHIVE, 0)
    assert step.reason == "used 31d ago; released after 30d unused; a copy on archive was verified 2d ago"


def test_what_is_in_use_is_kept_until_a_moment_that_is_named() -> None:
    assert kept(view(snapshot("v1", unused=3 * DAY))) == (
        "used 3d ago; migrates after 14d unused, on 2026-12-01 10:00 UTC"
    )
    assert kept(view(snapshot("v1", on=[FLASH, HDD], unused=20 * DAY))) == (
        "used 20d ago; released after 30d unused, on 2026-11-30 10:00 UTC; hdd has a copy, verified 2d ago"
    )


def test_unknown_use_counts_from_the_discovery() -> None:
    found = snapshot("v1", unused=2 * DAY, access_source=AccessSource.DISCOVERY)
    assert kept(view(found)).startswith("found 2d ago, not seen in use since; migrates after 14d unused, on 2026-12-02")


def test_a_use_in_the_future_is_never_cold() -> None:
    assert kept(view(snapshot("v1", unused=-DAY))).startswith("used in the future (2026-11-21 10:00 UTC); migrates")


@pytest.mark.parametrize(
    ("policy", "unused", "on", "expected"),
    [
        (Policy(migrate_after=None, release_after=None), 999 * DAY, [FLASH], []),
        (Policy(migrate_after=None, release_after=30 * DAY), 999 * DAY, [FLASH], []),
        (Policy(migrate_after=None, release_after=30 * DAY), 31 * DAY, [FLASH, HDD], [RELEASE]),
        (Policy(migrate_after=DAY, release_after=None), 999 * DAY, [FLASH], [MIGRATE]),
        (Policy(migrate_after=DAY, release_after=None), 999 * DAY, [FLASH, HDD], []),
        (Policy(migrate_after=DAY, release_after=DAY), DAY, [FLASH], [RELEASE]),
    ],
)
def test_never_means_only_under_pressure(
    policy: Policy, unused: timedelta, on: list[str], expected: list[Action]
) -> None:
    seen = view(snapshot("v1", unused=unused, on=on, policy=policy))  # type: ignore[arg-type]  # names of tiers
    assert [s.action for s in plan(seen, NOW).steps] == expected


def test_only_what_has_a_verified_copy_on_flash_moves() -> None:
    migrated = snapshot("v1", on=[HDD], unused=99 * DAY)
    stale = snapshot("v2", on=[], unused=99 * DAY)
    stale = replace(stale, placements=(copy(FLASH, stale.snapshot.id, GIB, PlacementState.PARTIAL),))
    made = plan(view(migrated, stale), NOW)
    assert made.steps == ()
    assert made.kept[ref("v1")] == "it is on hdd, unused for 99d; a warm brings it to flash"
    assert made.kept[ref("v2")] == "no verified copy of it is known on any tier"


def test_a_stale_cold_copy_is_no_copy() -> None:
    s = snapshot("v1", unused=31 * DAY)
    s = replace(s, placements=(*s.placements, copy(HDD, s.snapshot.id, GIB, PlacementState.STALE)))
    (step,) = plan(view(s), NOW).steps
    assert step.copies_bytes == s.snapshot.size_bytes


# -- what forbids it -------------------------------------------------------------------------------------------

COLD = 99 * DAY


@pytest.mark.parametrize(
    ("s", "reason"),
    [
        (
            snapshot("v1", unused=COLD, changed_at=NOW - 5 * MINUTE),
            "changed 5m ago; settled after 15m without a change, on 2026-11-20 10:10:00 UTC",
        ),
        (
            snapshot("v1", unused=COLD, changed_at=NOW + 3 * HOUR),
            "its newest change lies in the future (2026-11-20 13:00 UTC); settled after 15m without a change, "
            "on 2026-11-20 13:15 UTC",
        ),
        (
            snapshot("v1", unused=COLD, holds=[lease()]),
            "held by lease of alice@node7 since 2026-11-20 08:00 UTC, until 2026-11-20 18:00 UTC",
        ),
        (
            snapshot("v1", unused=COLD, holds=[lease("bob"), pin()]),
            "held by pin of root since 2026-11-20 08:00 UTC, without end and "
            "lease of bob since 2026-11-20 08:00 UTC, until 2026-11-20 18:00 UTC",
        ),
        (
            snapshot("v1", unused=COLD, warmed_at=NOW - HOUR),
            "warmed 1h ago; it stays at least 6h, until 2026-11-20 15:00 UTC",
        ),
        (
            snapshot("v1", unused=COLD, problem="a hard link leads outside: x"),
            "it is not looked after: a hard link leads outside: x",
        ),
        (
            snapshot("v1", unused=COLD, failed=failure(5 * MINUTE, attempt=4)),
            "the last migrate failed: disk on fire; it is tried again on 2026-11-20 10:03:00 UTC",
        ),
    ],
)
@pytest.mark.parametrize("used", [500, 990])
def test_what_must_stay_stays_even_under_pressure(s: SnapshotView, reason: str, used: float) -> None:
    assert steps(view(s, used=used)) == []
    assert kept(view(s, used=used)) == reason


def test_a_live_transfer_is_left_to_itself() -> None:
    live = transfer(TransferKind.MIGRATE, TransferState.COPYING, bytes_done=45 * GIB)
    s = snapshot("v1", unused=COLD, live=live)
    assert steps(view(s)) == []
    assert kept(view(s)) == f"transfer {live.id}, a migrate from flash to hdd, is copying (45%)"


def test_an_expired_lease_holds_nothing() -> None:
    assert steps(view(snapshot("v1", unused=COLD, holds=[lease(ends_in=timedelta(0))])))


@pytest.mark.parametrize(
    ("attempt", "wait"),
    [(1, MINUTE), (2, 2 * MINUTE), (6, 32 * MINUTE), (7, HOUR), (10_000, HOUR)],
)
def test_the_back_off_doubles_up_to_an_hour(attempt: int, wait: timedelta) -> None:
    just_before = failure(wait - timedelta(seconds=1), attempt)
    assert steps(view(snapshot("v1", unused=COLD, failed=just_before))) == []
    assert steps(view(snapshot("v1", unused=COLD, failed=failure(wait, attempt))))


# -- where to ----------------------------------------------------------------------------------------------------


def test_a_full_or_offline_tier_is_passed_over_for_the_next_one() -> None:
    s = snapshot("v1", unused=15 * DAY)
    assert steps(view(s, hdd=usage(HDD, 9401, 10_000))) == [(MIGRATE, "v1", ARCHIVE)]
    assert steps(view(s, hdd=usage(HDD, 9400, 10_000))) == [(MIGRATE, "v1", HDD)]
    full_of_inodes = usage(HDD, 0, 10_000, capacity_inodes=1000, used_inodes=940)
    assert steps(view(s, hdd=full_of_inodes)) == [(MIGRATE, "v1", ARCHIVE)]
    made = plan(view(s, hdd=offline(HDD)), NOW)
    assert made.steps[0].destination == ARCHIVE
    assert made.notes == ("tier hdd is offline: the disk is missing; nothing is planned that involves it",)


def test_copies_planned_and_in_flight_take_room() -> None:
    coming = snapshot("v0", live=transfer(TransferKind.MIGRATE, TransferState.COPYING, bytes_done=40 * GIB))
    cold = [snapshot(f"v{n}", unused=(20 - n) * DAY) for n in (1, 2)]
    # 260 GiB below the high watermark: 60 are still to come, so one of 100 fits and not a second one.
    seen = view(coming, *cold, hdd=usage(HDD, 9500 - 259, 10_000))
    assert steps(seen) == [(MIGRATE, "v1", HDD), (MIGRATE, "v2", ARCHIVE)]
    assert steps(view(coming, *cold, hdd=usage(HDD, 9500 - 260, 10_000)))[1] == (MIGRATE, "v2", HDD)


def test_copies_made_for_releases_take_room_as_well() -> None:
    old = [snapshot(f"v{n}", unused=(40 - n) * DAY) for n in (1, 2)]
    assert steps(view(*old, hdd=usage(HDD, 9350, 10_000))) == [(RELEASE, "v1", HDD), (RELEASE, "v2", ARCHIVE)]


def test_a_set_capacity_counts_a_copy_until_the_catalog_knows_it() -> None:
    coming = snapshot("v0", live=transfer(TransferKind.MIGRATE, TransferState.VERIFYING, bytes_done=100 * GIB))
    seen = view(coming, snapshot("v1", unused=15 * DAY), hdd=usage(HDD, 9500 - 199, 10_000))
    assert steps(seen) == [(MIGRATE, "v1", HDD)]
    small = tuple(replace(t, capacity_bytes=10_000 * GIB) if t.name == HDD else t for t in seen.tiers)
    assert steps(replace(seen, tiers=small)) == [(MIGRATE, "v1", ARCHIVE)]


def test_a_dataset_at_home_on_a_colder_tier_goes_home_or_nowhere() -> None:
    s = snapshot("v1", home=ARCHIVE, unused=31 * DAY)
    assert steps(view(s)) == [(RELEASE, "v1", ARCHIVE)]
    assert steps(view(s, archive=offline(ARCHIVE))) == []
    assert kept(view(s, archive=offline(ARCHIVE))) == (
        "unused for 31d, but there is no room for a copy: tier archive is offline: the disk is missing"
    )
    warmed = snapshot("v1", home=HDD, on=[FLASH, HDD], unused=31 * DAY)
    warmed = replace(warmed, placements=tuple(replace(p, verified_at=None) for p in warmed.placements))
    (step,) = plan(view(warmed), NOW).steps
    assert step.reason == "used 31d ago; released after 30d unused; its original is on hdd"


def test_no_room_anywhere_is_said_with_numbers() -> None:
    seen = view(snapshot("v1", unused=15 * DAY), hdd=usage(HDD, 9420, 10_000), archive=offline(ARCHIVE))
    made = plan(seen, NOW)
    assert made.kept[ref("v1")] == (
        "unused for 15d, but there is no room for a copy: it needs 100 GiB and hdd has 80 GiB "
        "below its high watermark of 95%, with all copies under way or planned; "
        "tier archive is offline: the disk is missing"
    )
    assert made.notes[-1] == "1 cold snapshot cannot be copied: no cold tier can take them"


def test_a_release_waits_for_the_tier_of_its_only_copy() -> None:
    s = snapshot("v1", on=[FLASH, HDD], unused=COLD)
    assert steps(view(s, hdd=offline(HDD), used=990)) == []
    assert kept(view(s, hdd=offline(HDD))) == (
        "its only other copy cannot be reached: tier hdd is offline: the disk is missing"
    )
    both = snapshot("v1", on=[FLASH, HDD, ARCHIVE], unused=COLD)
    assert steps(view(both)) == [(RELEASE, "v1", HDD)]
    assert steps(view(both, hdd=offline(HDD))) == [(RELEASE, "v1", ARCHIVE)]


def test_nothing_is_planned_while_flash_is_offline() -> None:
    seen = view(snapshot("v1", unused=COLD), flash=offline(FLASH))
    assert steps(seen) == []
    assert kept(seen) == "tier flash is offline: the disk is missing"
    assert steps(replace(seen, usage={})) == []


# -- pressure ------------------------------------------------------------------------------------------------------


def test_above_the_high_watermark_the_coldest_leave_until_the_low_one() -> None:
    seen = view(*(snapshot(f"v{n}", on=[FLASH, HDD], unused=n * HOUR) for n in range(1, 8)), used=950)
    made = plan(seen, NOW)
    assert [s.ref.name for s in made.steps] == ["v7", "v6"]
    assert made.steps[0].reason == (
        "unused for 7h and among the coldest: flash is 95.0% full, above 90%, and goes down to 80%; "
        "a copy on hdd was verified 2d ago"
    )
    assert made.notes == (
        "flash is 95.0% full, above its high watermark of 90%; what is planned and under way brings it down to 80%",
    )


def test_of_equals_the_larger_leaves_first_then_the_first_by_name() -> None:
    equals = [snapshot(name, on=[FLASH, HDD], gib=gib) for name, gib in (("b", 60), ("c", 70), ("a", 60))]
    for order in (equals, equals[::-1]):
        assert [s.ref.name for s in plan(view(*order, used=960), NOW).steps] == ["c", "a", "b"]


@pytest.mark.parametrize("used", [850, 900])
def test_at_the_high_watermark_or_below_nothing_leaves(used: float) -> None:
    assert steps(view(snapshot("v1", on=[FLASH, HDD], unused=DAY), used=used)) == []


def test_what_is_leaving_already_is_counted() -> None:
    releasing = [snapshot(f"r{n}", on=[FLASH, HDD], live=leaving()) for n in range(2)]
    others = [snapshot(f"v{n}", on=[FLASH, HDD], unused=n * DAY) for n in range(1, 3)]
    assert steps(view(*releasing, *others, used=1000)) == []
    assert steps(view(*releasing[:1], *others, used=1000)) == [(RELEASE, "v2", HDD)]


@pytest.mark.parametrize(
    "stuck",
    [
        {"live": leaving(is_paused=True)},
        {"live": leaving(cancel_requested=True)},
        {"live": leaving(TransferState.QUEUED, not_before=NOW + HOUR)},
        {"live": leaving(destination=ARCHIVE)},
        {"live": leaving(), "holds": [lease()]},
    ],
)
def test_a_release_that_does_not_get_on_is_not_counted(stuck: dict[str, object]) -> None:
    held = snapshot("r", on=[FLASH, HDD], gib=200, **stuck)  # type: ignore[arg-type]  # a choice of keyword arguments
    other = snapshot("v1", on=[FLASH, HDD])
    assert steps(view(held, other, used=901, archive=offline(ARCHIVE))) == [(RELEASE, "v1", HDD)]


def test_inodes_press_too_and_bytes_stay_out_of_it() -> None:
    few = usage(FLASH, 850, 1000, capacity_inodes=1000, used_inodes=910)
    seen = view(*(snapshot(f"v{n}", on=[FLASH, HDD], unused=n * DAY, entries=60) for n in range(1, 5)), flash=few)
    made = plan(seen, NOW)
    assert [s.ref.name for s in made.steps] == ["v4", "v3"]
    assert "91.0% of the inodes of flash are used, above 90%" in made.steps[0].reason


def test_what_frees_nothing_is_not_released_for_bytes() -> None:
    empty = snapshot("v1", on=[FLASH, HDD], gib=0, unused=DAY)
    full = snapshot("v2", on=[FLASH, HDD], unused=HOUR)
    assert steps(view(empty, full, used=901)) == [(RELEASE, "v2", HDD)]


def test_pressure_that_nothing_can_relieve_is_noted_with_what_stays() -> None:
    held = snapshot("v1", holds=[lease()])
    young = snapshot("v2", changed_at=NOW)
    made = plan(view(held, young, used=950), NOW)
    assert made.steps == ()
    assert made.notes == (
        "flash is 95.0% full, above its high watermark of 90%; 150 GiB more would have to leave for 80%, "
        "and nothing else may (of the snapshots there: 1 held and 1 not settled)",
    )


def test_pressure_without_room_below_is_said_of_each_snapshot() -> None:
    seen = view(snapshot("v1"), used=950, hdd=offline(HDD), archive=offline(ARCHIVE))
    assert kept(seen).startswith(
        "used 1h ago; migrates after 14d unused, on 2026-12-04 09:00 UTC; "
        "flash needs its room now, but there is no room for a copy: tier hdd is offline"
    )
    assert plan(seen, NOW).notes[-1].endswith("(of the snapshots there: 1 without room for a copy)")


def test_what_age_releases_counts_before_pressure_takes_more() -> None:
    old = snapshot("old", on=[FLASH, HDD], unused=2 * DAY, gib=200, policy=replace(POLICY, release_after=DAY))
    colder = snapshot("colder", on=[FLASH, HDD], unused=3 * DAY)
    assert steps(view(old, colder, used=950)) == [(RELEASE, "old", HDD)]


def test_a_set_capacity_is_freed_by_what_is_counted_against_it() -> None:
    s = snapshot("v1", on=[FLASH, HDD], unused=COLD, disk_bytes=1)
    seen = view(s)
    assert plan(seen, NOW).steps[0].frees_bytes == 1
    bounded = tuple(replace(t, capacity_bytes=1000 * GIB) for t in seen.tiers)
    assert plan(replace(seen, tiers=bounded), NOW).steps[0].frees_bytes == 100 * GIB


# -- room for recalls ----------------------------------------------------------------------------------------------


def test_a_queued_recall_gets_its_room() -> None:
    wanted = snapshot("new", on=[HDD], live=recall())
    others = [snapshot(f"v{n}", on=[FLASH, HDD], unused=n * HOUR) for n in range(1, 4)]
    # 100 GiB are wanted and 1 GiB stays free.
    assert steps(view(wanted, *others, used=899)) == []
    made = plan(view(wanted, *others, used=899.5), NOW)
    assert [(s.ref.name, s.priority) for s in made.steps] == [("v3", 8)]
    assert made.steps[0].reason == (
        "unused for 3h and among the coldest: room for the recall of ds/new (100 GiB); "
        "a copy on hdd was verified 2d ago"
    )
    assert steps(queued(view(wanted, *others, used=899.5), made.steps)) == []


def test_what_pressure_releases_is_room_for_the_recall() -> None:
    wanted = snapshot("new", on=[HDD], live=recall())
    others = [snapshot(f"v{n}", on=[FLASH, HDD], unused=n * HOUR) for n in range(1, 5)]
    assert [s.ref.name for s in plan(view(wanted, *others, used=950), NOW).steps] == ["v4", "v3"]


def test_running_recalls_and_several_queued_ones_add_up() -> None:
    running = snapshot("run", on=[HDD], live=recall(TransferState.COPYING, bytes_done=50 * GIB))
    waiting = [snapshot(f"new{n}", on=[HDD], live=recall()) for n in range(2)]
    others = [snapshot(f"v{n}", on=[FLASH, HDD], unused=n * HOUR) for n in range(1, 5)]
    made = plan(view(running, *waiting, *others, used=860), NOW)
    assert [s.ref.name for s in made.steps] == ["v4", "v3"]
    assert "room for 2 queued recalls (200 GiB)" in made.steps[0].reason


def test_a_recall_that_can_never_fit_releases_nothing_and_holds_no_other_up() -> None:
    giant = snapshot("giant", on=[HDD], gib=900, live=recall(priority=10))
    small = snapshot("small", on=[HDD], gib=100, live=recall())
    others = [snapshot(f"v{n}", on=[FLASH, HDD], unused=n * HOUR) for n in range(1, 3)]
    made = plan(view(giant, small, *others, used=899.5), NOW)
    assert [s.ref.name for s in made.steps] == ["v2"]
    assert made.notes == ("the recall of ds/giant waits: flash lacks 600 GiB even if all that may leave does",)


@pytest.mark.parametrize("live", [recall(source=ARCHIVE), recall(cancel_requested=True)])
def test_no_room_is_made_for_a_recall_that_cannot_run(live: object) -> None:
    wanted = snapshot("new", on=[ARCHIVE], live=live)  # type: ignore[arg-type]  # from a parameter list
    seen = view(wanted, snapshot("v1", on=[FLASH, HDD]), used=899.5, archive=offline(ARCHIVE))
    assert steps(seen) == []


def test_steps_that_others_wait_for_come_first_and_free_ones_before_copies() -> None:
    wanted = snapshot("new", on=[HDD], gib=150, live=recall())
    seen = view(
        wanted,
        snapshot("premigrate", unused=15 * DAY),
        snapshot("old", unused=31 * DAY, gib=10),
        snapshot("copied", on=[FLASH, HDD], unused=20 * DAY),
        snapshot("fresh", on=[FLASH, HDD]),
        used=899.5,
    )
    assert [(s.action, s.ref.name) for s in plan(seen, NOW).steps] == [
        (RELEASE, "copied"),
        (RELEASE, "old"),
        (MIGRATE, "premigrate"),
    ]


# -- cost ------------------------------------------------------------------------------------------------------------


def test_ten_thousand_snapshots_are_planned_quickly() -> None:
    def many(n: int) -> SnapshotView:
        on = [FLASH, HDD] if n % 3 else [FLASH]
        return snapshot(f"v{n}", on=on, unused=n * MINUTE, gib=0.09, number=n, holds=[lease()] if n % 10 == 0 else [])

    seen = view(*(many(n) for n in range(10_000)), used=990)
    begin = process_time()
    made = plan(seen, NOW)
    elapsed = process_time() - begin
    assert len(made.steps) + len(made.kept) == 10_000
    # Generous: the machine may be busy with other things. Alone it takes a tenth of this.
    assert elapsed < 2.0, f"{elapsed:.3f} s"


def test_a_view_without_snapshots_or_cold_tiers_is_fine() -> None:
    assert plan(view(), NOW).steps == ()
    alone = view(snapshot("v1", unused=COLD))
    alone = replace(alone, tiers=tuple(t for t in alone.tiers if t.name == FLASH))
    assert kept(alone) == "unused for 99d, but there is no tier below flash to copy it to"
