"""Values: who leaves first by which policy, and what is told of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.unit.decide.decide_world import (
    CLOUD,
    DAY,
    FLASH,
    GIB,
    HDD,
    HOUR,
    NOW,
    bucket,
    cloud,
    pin,
    ref,
    snapshot,
    usage,
    view,
)
from tierd.decide import explain, plan
from tierd.model.announced import AnnouncedBy, Announcement, AnnouncementId
from tierd.model.plan import Action, Plan, SnapshotView, View
from tierd.model.policy import Policy
from tierd.model.tier import TierName
from tierd.model.value import Cost, Judgement, PolicyName

FULL = usage(FLASH, 950, 1000)
PRESSURE_ONLY = Policy(migrate_after=None, release_after=None)


def there(name: str, *, weight: float = 0.0, **more: object) -> SnapshotView:
    """On flash with a cold copy, moved only under pressure."""
    more = {"on": (FLASH, HDD), "policy": PRESSURE_ONLY, "weight": weight, "weight_at": NOW} | more
    return snapshot(name, **more)  # type: ignore[arg-type]


def announced(s: SnapshotView, *, ahead: timedelta, confidence: float = 1.0) -> SnapshotView:
    use = Announcement(
        id=AnnouncementId(1),
        snapshot_id=s.snapshot.id,
        source=AnnouncedBy.SCHEDULER,
        holder="slurm:991",
        use_at=NOW + ahead,
        until=NOW + ahead + 8 * HOUR,
        confidence=confidence,
    )
    return replace(s, announcements=(use,))


def judged(seen: View, policy: PolicyName = PolicyName.EWR, **more: object) -> View:
    return replace(seen, judgement=Judgement(policy=policy, **more))  # type: ignore[arg-type]


def leaves(made: Plan) -> list[str]:
    return [step.ref.name for step in made.steps if step.action is Action.RELEASE]


def test_what_is_used_often_stays_although_it_was_not_used_last() -> None:
    seen = view(there("often", weight=9, unused=3 * DAY), there("once", weight=1, unused=DAY), flash=FULL)
    assert leaves(plan(seen, NOW))[0] == "once"
    assert leaves(plan(judged(seen, PolicyName.LRU), NOW))[0] == "often"


def test_what_is_slow_to_bring_back_stays() -> None:
    """The same bytes in a million files take longer than in ten."""
    slow = replace(ASSUMED_COST, s_per_file=0.001)
    many = there("many", weight=2, files=1_000_000)
    few = there("few", weight=2, files=10)
    seen = replace(view(many, few, flash=FULL), costs={HDD: slow})
    assert leaves(plan(seen, NOW))[0] == "few"


ASSUMED_COST = Cost(start_s=1, s_per_byte=1e-9, s_per_file=0)


def test_an_announced_use_is_worth_more_than_the_past() -> None:
    loved, wanted = there("loved", weight=5), announced(there("wanted", weight=0), ahead=DAY)
    seen = view(loved, wanted, flash=FULL)
    assert leaves(plan(seen, NOW))[0] == "loved"
    unsure = view(loved, announced(there("wanted"), ahead=DAY, confidence=0.01), flash=FULL)
    assert leaves(plan(unsure, NOW))[0] == "wanted"
    over = view(loved, announced(there("wanted"), ahead=-2 * DAY), flash=FULL)
    assert leaves(plan(over, NOW))[0] == "wanted"


def test_what_nobody_has_read_yet_is_not_worthless() -> None:
    fresh = there("fresh", first_seen_at=NOW - HOUR, unused=HOUR)
    old = there("old", weight=0.5, unused=30 * DAY)
    assert leaves(plan(view(fresh, old, flash=FULL), NOW))[0] == "old"


def test_age_alone_does_not_release_what_will_be_used() -> None:
    aged = Policy(release_after=30 * DAY)
    s = snapshot("v1", on=(FLASH, HDD), unused=40 * DAY, policy=aged)
    assert leaves(plan(view(s), NOW)) == ["v1"]
    soon = view(announced(s, ahead=5 * DAY))
    assert leaves(plan(soon, NOW)) == []
    assert "a use is announced" in plan(soon, NOW).kept[ref("v1")]
    assert leaves(plan(view(announced(s, ahead=60 * DAY)), NOW)) == ["v1"]


@pytest.mark.parametrize(
    ("policy", "first"),
    [
        (PolicyName.LRU, "unused"),
        (PolicyName.LFU_DA, "rare"),
        (PolicyName.GDSF, "rare"),
        (PolicyName.S3_FIFO, "rare"),
        (PolicyName.STP, "large"),
        (PolicyName.TTL, "elder"),
    ],
)
def test_every_policy_has_its_own_first_victim(policy: PolicyName, first: str) -> None:
    usual = {"unused": 10 * DAY, "weight": 5.0, "episodes": 8, "first_seen_at": NOW - 50 * DAY, "gib": 100}
    odd: dict[str, dict[str, object]] = {
        "unused": {"unused": 20 * DAY},
        "rare": {"episodes": 1},
        "large": {"gib": 400},
        "elder": {"first_seen_at": NOW - 90 * DAY},
    }
    seen = view(*(there(name, **(usual | more)) for name, more in odd.items()), flash=FULL)
    assert leaves(plan(judged(seen, policy), NOW))[0] == first


def test_what_ageing_policies_had_reached_outweighs_old_counts() -> None:
    seen = view(there("former", episodes=20, floor=0.0), there("new", episodes=2, floor=30.0), flash=FULL)
    assert leaves(plan(judged(seen, PolicyName.LFU_DA), NOW))[0] == "former"


def test_money_is_weighed_only_where_waiting_has_a_price() -> None:
    priced = cloud(get=0.0004, egress=0.09)
    tiers = (view().tiers[0], view().tiers[1], priced)
    from_cloud = there("cloud", weight=2, on=(FLASH, CLOUD))
    from_hdd = there("hdd", weight=2.5, on=(FLASH, HDD))
    seen = replace(view(from_cloud, from_hdd, flash=FULL), tiers=tiers)
    seen = replace(seen, costs={HDD: ASSUMED_COST, CLOUD: ASSUMED_COST}, usage={**seen.usage, CLOUD: bucket(CLOUD)})
    assert leaves(plan(seen, NOW))[0] == "cloud"
    assert leaves(plan(judged(seen, stall_hour_price=30.0), NOW))[0] == "hdd"


def test_explain_tells_the_value_its_terms_and_the_rank() -> None:
    held = there("held", weight=1, holds=[pin()])
    seen = view(there("a", weight=4), held, there("b", weight=9), snapshot("cold", on=(HDD,)), flash=FULL)
    seen = replace(seen, costs={HDD: replace(ASSUMED_COST, samples=12)})
    worth = explain(seen, ref("a"), NOW).worth
    assert worth is not None
    assert (worth.policy, worth.rank, worth.of) == ("ewr", 2, 3)
    assert [term.name for term in worth.terms] == [
        "uses per day",
        "seconds to bring it back",
        "seconds saved per GiB and day",
    ]
    per_day, seconds, saved = (term.amount for term in worth.terms)
    assert seconds == pytest.approx(1 + 100 * GIB * 1e-9)
    assert saved == pytest.approx(per_day * seconds / 100)
    assert "12 transfers" in worth.terms[1].detail
    assert explain(seen, ref("cold"), NOW).worth.rank is None  # type: ignore[union-attr]
    for policy in PolicyName:
        told = explain(judged(seen, policy), ref("a"), NOW).worth
        assert told is not None
        assert told.policy == policy
        assert told.terms


# -- promotion ------------------------------------------------------------------------------------------------


def read_cold(name: str, *, weight: float = 3.0, gib: float = 100, **more: object) -> SnapshotView:
    """On the HDD only, read there an hour ago."""
    more = {"on": (HDD,), "weight": weight, "weight_at": NOW, "episodes": 4, "read_at": NOW - HOUR, "gib": gib} | more
    return snapshot(name, **more)  # type: ignore[arg-type]


def warms(made: Plan) -> list[tuple[str, TierName]]:
    return [(step.ref.name, step.source) for step in made.steps if step.action is Action.WARM]


def promoting(*snapshots: SnapshotView, used: float = 300, **more: object) -> View:
    return judged(view(*snapshots, flash=usage(FLASH, used, 1000)), promote=True, **more)


def test_what_is_read_cold_again_and_again_comes_by_itself_if_configured() -> None:
    assert warms(plan(promoting(read_cold("v1")), NOW)) == [("v1", HDD)]
    assert warms(plan(replace(promoting(read_cold("v1")), judgement=Judgement()), NOW)) == []


@pytest.mark.parametrize(
    "s",
    [
        read_cold("once", weight=1.0, episodes=1),
        read_cold("lately", read_at=NOW - 3 * DAY),
        read_cold("unread", read_at=None),
        replace(read_cold("cooling"), released_at=NOW - HOUR),
        read_cold("large", gib=900),
    ],
    ids=lambda s: s.ref.name,
)
def test_what_does_not_qualify_stays(s: SnapshotView) -> None:
    assert warms(plan(promoting(s), NOW)) == []


def test_a_challenger_must_be_worth_clearly_more_than_its_victims() -> None:
    there_now = there("there", weight=3, gib=100)
    for weight, is_promoted in ((3.2, False), (8.0, True)):
        made = plan(promoting(read_cold("v1", weight=weight), there_now, used=790), NOW)
        assert bool(warms(made)) is is_promoted
        assert leaves(made) == (["there"] if is_promoted else [])


def test_a_small_challenger_does_not_push_out_much_that_is_worth_less_per_byte() -> None:
    """10 GiB would save less waiting than the 300 GiB that would have to leave for them."""
    there_now = there("there", weight=3, gib=300)
    small = read_cold("v1", weight=6, gib=10)
    assert warms(plan(promoting(small, there_now, used=799), NOW)) == []
    assert warms(plan(promoting(small, there("there", weight=3, gib=11), used=799), NOW)) == [("v1", HDD)]


def test_the_daily_budget_bounds_what_is_written() -> None:
    seen = promoting(read_cold("a", weight=5), read_cold("b", weight=4), daily_writes=250 * GIB)
    assert [name for name, _ in warms(plan(seen, NOW))] == ["a", "b"]
    assert [name for name, _ in warms(plan(replace(seen, promoted_bytes=100 * GIB), NOW))] == ["a"]
    assert warms(plan(replace(seen, promoted_bytes=200 * GIB), NOW)) == []
