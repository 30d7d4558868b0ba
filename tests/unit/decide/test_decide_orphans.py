"""Orphans: what an owner deleted loses its cold copies only when the policy says when."""

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
    done,
    failure,
    lease,
    offline,
    orphan,
    pin,
    queued,
    ref,
    snapshot,
    vault,
)
from tierd.decide import admit, explain, plan
from tierd.errors import NotFound
from tierd.model.placement import Residency
from tierd.model.plan import Action, View, WarmAnswer
from tierd.model.policy import Policy
from tierd.model.s3 import Prices
from tierd.model.tier import TierName

KEPT = Policy(keep_deleted=90 * DAY)


def removals(seen: View) -> list[tuple[str, TierName, TierName]]:
    return [(s.ref.name, s.source, s.destination) for s in plan(seen, NOW).steps if s.action is Action.REMOVE]


def test_orphans_stay_for_ever_where_nothing_else_is_configured() -> None:
    seen = chain(orphans=[orphan("v1", gone=4000 * DAY)])
    made = plan(seen, NOW)
    assert made.steps == ()
    assert made.kept[ref("v1")] == (
        "deleted 4000d ago; what is left of it stays for ever: its policy has no keep_deleted"
    )


def test_an_orphan_stays_until_its_time_is_over() -> None:
    seen = chain(orphans=[orphan("v1", gone=89 * DAY, policy=KEPT)])
    made = plan(seen, NOW)
    assert made.steps == ()
    assert made.kept[ref("v1")] == "deleted 89d ago; what is left of it goes on 2026-11-21 10:00 UTC"


def test_then_its_copies_go_one_by_one_the_fastest_tier_first() -> None:
    seen = chain(orphans=[orphan("v1", gone=91 * DAY, policy=KEPT, on=[CLOUD, HDD])])
    (step,) = plan(seen, NOW).steps
    assert (step.action, step.source, step.destination) == (Action.REMOVE, HDD, HDD)
    assert step.reason == "deleted 91d ago and kept for 90d: the copy on hdd goes"
    assert plan(queued(seen, [step]), NOW).steps == ()
    after = done(seen, [step])
    assert removals(after) == [("v1", CLOUD, CLOUD)]
    assert done(after, plan(after, NOW).steps).orphans == ()


def test_the_reason_tells_what_is_paid_in_vain() -> None:
    deep = vault("DEEP_ARCHIVE", prices=Prices(minimum=180 * DAY, storage=0.001))
    seen = chain(orphans=[orphan("v1", gone=91 * DAY, policy=KEPT, on=[VAULT])], below=[deep])
    (step,) = plan(seen, NOW).steps
    assert step.reason == (
        "deleted 91d ago and kept for 90d: the copy on vault goes; "
        "its minimum of 180d is charged for another 178d (about 0.59 USD)"
    )


@pytest.mark.parametrize(
    "more", [{"holds": [pin()]}, {"holds": [lease()]}, {"failed": failure(0 * HOUR)}], ids=["pin", "lease", "failure"]
)
def test_what_is_held_or_just_failed_stays(more: dict[str, object]) -> None:
    held = orphan("v1", gone=91 * DAY, policy=KEPT, **more)
    assert removals(chain(orphans=[held])) == []


def test_a_copy_that_cannot_be_reached_waits() -> None:
    seen = chain(orphans=[orphan("v1", gone=91 * DAY, policy=KEPT, on=[CLOUD])], cloud=offline(CLOUD))
    made = plan(seen, NOW)
    assert made.steps == ()
    assert "its copies cannot be reached: tier cloud is offline" in made.kept[ref("v1")]


def test_what_lay_at_the_path_of_its_owner_is_not_a_copy_to_remove() -> None:
    """The catalog still has the row of the deleted original; only copies in tierd's own store are tierd's to delete."""
    seen = chain(orphans=[orphan("v1", gone=91 * DAY, policy=KEPT, on=[])])
    assert removals(seen) == []


def test_another_snapshot_of_the_same_name_is_none_of_its_business() -> None:
    old, new = orphan("v1", gone=91 * DAY, policy=KEPT), snapshot("v1", holds=[pin()], policy=KEPT)
    seen = chain(new, orphans=[old])
    (step,) = plan(seen, NOW).steps
    assert step.snapshot_id == old.snapshot.id
    assert plan(seen, NOW).kept[ref("v1")].startswith("held by pin of root")
    assert explain(seen, ref("v1"), NOW).residency is Residency.RESIDENT
    assert explain(seen, ref("v1"), NOW).next_step is None


def test_explain_says_what_is_left_and_for_how_long() -> None:
    seen = chain(orphans=[orphan("v1", gone=DAY, policy=KEPT, on=[HDD, CLOUD])])
    got = explain(seen, ref("v1"), NOW)
    assert got.residency is Residency.ORPHANED
    assert got.summary == (
        "deleted by its owner, with copies left on hdd and cloud; "
        "deleted 1d ago; what is left of it goes on 2027-02-17 10:00 UTC"
    )
    assert got.next_event == "its copies are removed from 2027-02-17 10:00 UTC on"
    assert next(f for f in got.findings if f.rule == "kept long enough").until == NOW + 89 * DAY


def test_explain_says_when_nothing_will_ever_remove_it() -> None:
    got = explain(chain(orphans=[orphan("v1")]), ref("v1"), NOW)
    assert "stays for ever" in got.summary
    assert got.next_step is None
    assert got.next_event == "nothing removes its copies; put the directory back to have it looked after again"


def test_explain_and_the_plan_agree_on_what_goes_now() -> None:
    seen = chain(orphans=[orphan("v1", gone=91 * DAY, policy=KEPT)])
    got = explain(seen, ref("v1"), NOW)
    assert (got.next_step,) == plan(seen, NOW).steps
    assert got.next_event == "nothing of it is left"


def test_a_warm_of_an_orphan_is_refused() -> None:
    got = admit(chain(orphans=[orphan("v1")]), ref("v1"), NOW)
    assert got.answer is WarmAnswer.REFUSED
    assert "its owner deleted it" in got.reason
    with pytest.raises(NotFound):
        admit(chain(orphans=[orphan("v1")]), ref("v2"), NOW)


def test_orphans_take_no_part_in_anything_else() -> None:
    """Neither their sizes nor the stale row of their flash copy make room or need any."""
    policy = Policy(migrate_after_to={CLOUD: DAY}, release_after_from={HDD: DAY})
    gone = orphan("v1", gone=DAY, on=[HDD, CLOUD], unused=999 * DAY, policy=policy)
    seen = chain(orphans=[gone], used=990, below=[cloud()])
    assert plan(seen, NOW).steps == ()
    assert plan(replace(seen, orphans=()), NOW).notes == plan(seen, NOW).notes
    assert FLASH in {p.tier for p in gone.placements}
