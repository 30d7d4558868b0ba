"""Chains: what goes from flash to the HDD goes on to a bucket, and leaves the HDD when it is there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.decide.decide_world import (
    CLOUD,
    DAY,
    FLASH,
    HDD,
    HOUR,
    NOW,
    VAULT,
    chain,
    cloud,
    copy,
    done,
    failure,
    lease,
    offline,
    pin,
    queued,
    recall,
    ref,
    snapshot,
    transfer,
    usage,
    vault,
)
from tierd.decide import explain, plan
from tierd.model.hold import Hold
from tierd.model.placement import PlacementState
from tierd.model.plan import Action, View
from tierd.model.policy import Policy
from tierd.model.s3 import Prices
from tierd.model.tier import TierName
from tierd.model.transfer import TransferKind, TransferState

MIGRATE, RELEASE = Action.MIGRATE, Action.RELEASE
DOWN = Policy(migrate_after_to={CLOUD: 90 * DAY}, release_after_from={HDD: 180 * DAY})
FULL = usage(HDD, 9700, 10_000)
"""700 GiB above its low watermark."""


def steps(seen: View) -> list[tuple[Action, str, TierName, TierName]]:
    return [(s.action, s.ref.name, s.source, s.destination) for s in plan(seen, NOW).steps]


def kept(seen: View, name: str = "v1") -> str:
    return plan(seen, NOW).kept[ref(name)]


# -- copies by age ---------------------------------------------------------------------------------------------


def test_each_colder_tier_gets_its_copy_at_its_own_age() -> None:
    assert steps(chain(snapshot("v1", unused=15 * DAY, policy=DOWN))) == [(MIGRATE, "v1", FLASH, HDD)]
    assert steps(chain(snapshot("v1", on=[HDD], unused=89 * DAY, policy=DOWN))) == []
    assert steps(chain(snapshot("v1", on=[HDD], unused=91 * DAY, policy=DOWN))) == [(MIGRATE, "v1", HDD, CLOUD)]


def test_the_reason_names_the_age_and_where_it_is_copied_from() -> None:
    (step,) = plan(chain(snapshot("v1", on=[HDD], unused=91 * DAY, policy=DOWN)), NOW).steps
    assert step.reason == "used 91d ago; copied to cloud after 90d unused; copied from hdd and kept there"
    assert step.copies_bytes
    assert not step.frees_bytes


def test_the_copy_is_made_from_the_fastest_tier_that_has_one() -> None:
    early = Policy(release_after=None, migrate_after_to={CLOUD: 20 * DAY})
    assert steps(chain(snapshot("v1", on=[FLASH, HDD], unused=21 * DAY, policy=early))) == [
        (MIGRATE, "v1", FLASH, CLOUD)
    ]


def test_a_tier_without_an_age_of_its_own_gets_no_copy() -> None:
    assert steps(chain(snapshot("v1", on=[HDD], unused=900 * DAY))) == []
    never = Policy(migrate_after_to={CLOUD: None})
    assert steps(chain(snapshot("v1", on=[HDD], unused=900 * DAY, policy=never))) == []


def test_an_earlier_copy_in_the_bucket_does_not_replace_the_one_on_the_hdd() -> None:
    backup_first = Policy(release_after=None, migrate_after_to={CLOUD: 7 * DAY})
    first = chain(snapshot("v1", unused=8 * DAY, policy=backup_first))
    assert steps(first) == [(MIGRATE, "v1", FLASH, CLOUD)]
    later = chain(snapshot("v1", on=[FLASH, CLOUD], unused=15 * DAY, policy=backup_first))
    assert steps(later) == [(MIGRATE, "v1", FLASH, HDD)]


def test_what_is_in_a_bucket_only_is_not_copied_on_from_there() -> None:
    deep = Policy(migrate_after_to={VAULT: 30 * DAY})
    seen = chain(snapshot("v1", on=[CLOUD], unused=99 * DAY, policy=deep), below=[cloud(), vault()])
    assert steps(seen) == []


def test_nothing_is_copied_to_a_tier_that_is_offline_or_full() -> None:
    cold = snapshot("v1", on=[HDD], unused=91 * DAY, policy=DOWN)
    assert steps(chain(cold, cloud=offline(CLOUD))) == []
    assert steps(chain(cold, cloud=usage(CLOUD, 99, 100))) == []


# -- releases by age ---------------------------------------------------------------------------------------------


def test_the_hdd_copy_goes_at_its_age_when_the_bucket_has_a_verified_one() -> None:
    premigrated = snapshot("v1", on=[HDD, CLOUD], unused=181 * DAY, policy=DOWN)
    (step,) = plan(chain(premigrated), NOW).steps
    assert (step.action, step.source, step.destination) == (RELEASE, HDD, CLOUD)
    assert step.frees_bytes == premigrated.snapshot.disk_bytes
    assert step.copies_bytes == 0
    assert step.reason.endswith("released from hdd after 180d unused; the copy on cloud was verified 2d ago")


@pytest.mark.parametrize("state", [PlacementState.PARTIAL, PlacementState.STALE])
def test_the_last_verified_copy_is_never_released(state: PlacementState) -> None:
    s = snapshot("v1", on=[HDD], unused=999 * DAY, policy=replace(DOWN, migrate_after_to={}))
    s = replace(s, placements=(*s.placements, copy(CLOUD, s.snapshot.id, s.snapshot.size_bytes, state)))
    assert steps(chain(s)) == []


def test_a_copy_on_an_offline_tier_releases_nothing() -> None:
    s = snapshot("v1", on=[HDD, CLOUD], unused=999 * DAY, policy=DOWN)
    assert steps(chain(s, cloud=offline(CLOUD))) == []
    assert steps(chain(s, hdd=FULL, cloud=offline(CLOUD))) == []


def test_an_archive_counts_as_a_verified_copy() -> None:
    s = snapshot("v1", on=[HDD, VAULT], unused=181 * DAY, policy=DOWN)
    assert steps(chain(s, below=[vault()])) == [(RELEASE, "v1", HDD, VAULT)]


def test_without_pressure_the_cold_copy_of_a_snapshot_on_flash_stays_where_it_is() -> None:
    policy = replace(DOWN, release_after=None)
    assert steps(chain(snapshot("v1", on=[FLASH, HDD, CLOUD], unused=999 * DAY, policy=policy))) == []


def test_an_original_at_home_on_the_hdd_leaves_it_in_the_same_way() -> None:
    s = snapshot("v1", on=[HDD, CLOUD], home=HDD, unused=181 * DAY, policy=DOWN)
    assert steps(chain(s)) == [(RELEASE, "v1", HDD, CLOUD)]


# -- pressure ------------------------------------------------------------------------------------------------------


def test_a_full_hdd_gives_back_its_coldest_premigrated_snapshots_until_it_is_low() -> None:
    found = [snapshot(f"v{n}", on=[HDD, CLOUD], unused=n * DAY, gib=400) for n in range(1, 5)]
    seen = chain(*found, hdd=FULL)
    assert steps(seen) == [(RELEASE, "v4", HDD, CLOUD), (RELEASE, "v3", HDD, CLOUD)]
    (note,) = plan(seen, NOW).notes
    assert (
        note
        == "hdd is 97.0% full, above its high watermark of 95%; what is planned and under way brings it down to 90%"
    )


def test_a_full_hdd_first_gives_back_spare_copies_of_snapshots_on_flash() -> None:
    policy = replace(DOWN, release_after=None)
    spare = [snapshot(f"s{n}", on=[FLASH, HDD, CLOUD], unused=n * DAY, gib=400, policy=policy) for n in (1, 2)]
    only = snapshot("v9", on=[HDD, CLOUD], unused=90 * DAY, gib=400)
    found = plan(chain(*spare, only, hdd=FULL), NOW)
    assert [(s.ref.name, s.source, s.destination) for s in found.steps] == [("s2", HDD, CLOUD), ("s1", HDD, CLOUD)]
    assert "a spare copy, as the snapshot is on flash as well" in found.steps[0].reason


@pytest.mark.parametrize("hold", [lease(), pin()])
def test_a_spare_copy_stays_while_the_snapshot_is_held_or_is_the_last_cold_one(hold: Hold) -> None:
    held = snapshot("v1", on=[FLASH, HDD, CLOUD], unused=99 * DAY, gib=800, holds=[hold])
    last = snapshot("v2", on=[FLASH, HDD], unused=99 * DAY, gib=800, policy=replace(DOWN, release_after=None))
    gone = [s for s in plan(chain(held, last, hdd=FULL), NOW).steps if s.action is RELEASE and s.source == HDD]
    assert gone == []


def test_what_pressure_took_from_the_hdd_does_not_come_back_while_it_is_nearly_full() -> None:
    """Else it would be copied there and released again for ever."""
    s = snapshot("v1", on=[FLASH, CLOUD], unused=20 * DAY, gib=100, policy=replace(DOWN, release_after=None))
    assert steps(chain(s, hdd=usage(HDD, 9000, 10_000))) == []  # at its low watermark, where pressure left it
    assert steps(chain(s, hdd=usage(HDD, 8950, 10_000))) == []  # the copy would bring it above
    assert steps(chain(s, hdd=usage(HDD, 5000, 10_000))) == [(MIGRATE, "v1", FLASH, HDD)]
    assert plan(chain(s, hdd=usage(HDD, 9000, 10_000)), NOW).notes == ()


def test_a_full_hdd_with_nothing_in_the_bucket_has_the_coldest_copied_there_first() -> None:
    found = [snapshot(f"v{n}", on=[HDD], unused=n * DAY, gib=400) for n in range(1, 5)]
    seen = chain(*found, hdd=FULL)
    first = plan(seen, NOW)
    assert [(s.action, s.ref.name, s.source, s.destination) for s in first.steps] == [
        (MIGRATE, "v4", HDD, CLOUD),
        (MIGRATE, "v3", HDD, CLOUD),
    ]
    assert first.notes == (
        "hdd is 97.0% full, above its high watermark of 95%; 700 GiB more would have to leave for 90%: "
        "2 snapshots to be copied to a colder tier first",
    )
    assert plan(queued(seen, first.steps), NOW).steps == ()
    assert steps(done(seen, first.steps)) == [(RELEASE, "v4", HDD, CLOUD), (RELEASE, "v3", HDD, CLOUD)]


def test_what_is_on_its_way_off_the_hdd_is_counted() -> None:
    going = transfer(TransferKind.MIGRATE, release=True, source=HDD, destination=CLOUD)
    found = [
        snapshot("v9", on=[HDD, CLOUD], unused=9 * DAY, gib=800, live=going),
        snapshot("v1", on=[HDD, CLOUD], unused=1 * DAY, gib=400),
    ]
    assert steps(chain(*found, hdd=FULL)) == []


def test_a_full_hdd_where_nothing_may_leave_is_noted() -> None:
    made = plan(chain(snapshot("v1", on=[HDD], holds=[pin()], unused=99 * DAY), hdd=FULL), NOW)
    assert made.steps == ()
    assert made.notes[0].endswith("700 GiB more would have to leave for 90%: nothing else may")


def test_the_last_tier_is_never_relieved() -> None:
    limited = usage(CLOUD, 99, 100)
    assert steps(chain(snapshot("v1", on=[CLOUD], unused=99 * DAY), cloud=limited)) == []


# -- what stands in the way ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {"holds": [lease()]},
        {"holds": [pin()]},
        {"live": recall(TransferState.COPYING)},
        {"problem": "odd"},
        {"failed": failure(HOUR * 0)},
        {"changed_at": NOW},
    ],
    ids=["leased", "pinned", "recalled", "troubled", "backing off", "being written"],
)
@pytest.mark.parametrize("on", [[HDD], [HDD, CLOUD]], ids=["to copy", "to release"])
def test_what_must_stay_is_neither_copied_nor_released(on: list[TierName], more: dict[str, object]) -> None:
    s = snapshot("v1", on=on, unused=999 * DAY, policy=DOWN, **more)  # type: ignore[arg-type]  # keywords of snapshot
    assert steps(chain(s)) == []
    assert steps(chain(s, hdd=FULL)) == []


# -- words ---------------------------------------------------------------------------------------------------------


def test_the_plan_says_when_a_kept_snapshot_goes_further_down() -> None:
    s = snapshot("v1", on=[HDD], unused=80 * DAY, policy=DOWN)
    assert kept(chain(s)) == (
        "it is on hdd, unused for 80d; a warm brings it to flash; copied to cloud after 90d unused, "
        "on 2026-11-30 10:00 UTC"
    )


def test_explain_tells_every_age_and_what_comes_next() -> None:
    got = explain(chain(snapshot("v1", on=[HDD], unused=80 * DAY, policy=DOWN)), ref("v1"), NOW)
    found = {f.rule: f for f in got.findings}
    assert found["unused long enough to migrate to cloud"].until == NOW + 10 * DAY
    assert got.next_event == (
        "copied to cloud on 2026-11-30 10:00 UTC if nobody uses it before; a warm brings it to flash"
    )


def test_explain_tells_what_a_store_still_charges_for() -> None:
    prices = Prices(minimum=90 * DAY, storage=0.0036, currency="EUR")
    got = explain(chain(snapshot("v1", on=[VAULT]), below=[vault(prices=prices)]), ref("v1"), NOW)
    found = {f.rule: f for f in got.findings}["minimum storage on vault over"]
    assert found.detail == (
        "on vault as GLACIER, verified 2d ago; its minimum of 90d is charged for another 88d (about 1.06 EUR)"
    )
    assert (found.holds, found.until) == (False, NOW + 88 * DAY)


def test_explain_says_that_the_hdd_is_too_full_only_when_it_is() -> None:
    s = snapshot("v1", on=[HDD, CLOUD], unused=DAY)
    rules = [f.rule for f in explain(chain(s, hdd=FULL), ref("v1"), NOW).findings]
    assert "hdd below its high watermark" in rules
    rules = [f.rule for f in explain(chain(s), ref("v1"), NOW).findings]
    assert "hdd below its high watermark" not in rules
