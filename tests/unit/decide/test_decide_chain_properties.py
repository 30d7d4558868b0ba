"""What holds for every view of a chain: no last copy is lost, nothing held is touched, and planning comes to rest."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.decide.decide_world import (
    CLOUD,
    DAY,
    FLASH,
    HDD,
    HOUR,
    NOW,
    VAULT,
    bucket,
    chain,
    cloud,
    done,
    failure,
    lease,
    leaving,
    offline,
    orphan,
    pin,
    queued,
    recall,
    snapshot,
    transfer,
    usage,
    vault,
)
from tierd.decide import explain, plan
from tierd.model.plan import Action, SnapshotView, Step, View
from tierd.model.policy import Policy
from tierd.model.tier import TierName
from tierd.model.transfer import TransferKind, TransferState

S = TransferState
_unhurried = settings(deadline=None)
"""The machine may be busy with other things."""
_AGES = st.integers(-2, 60).map(lambda days: days * DAY)
_AFTER = st.sampled_from([None, DAY, 14 * DAY, 30 * DAY])
_ANY_TIERS = st.lists(st.sampled_from([HDD, CLOUD, VAULT]), unique=True)
_HOLDS = st.sampled_from([(), (), (), (lease(),), (pin(),), (lease(ends_in=-HOUR),)])
_FAILURES = st.sampled_from([None, None, failure(timedelta(0)), failure(DAY)])


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    tiers = st.sampled_from([HDD, CLOUD, VAULT])
    return Policy(
        migrate_after=draw(_AFTER),
        release_after=draw(_AFTER),
        migrate_after_to=draw(st.dictionaries(tiers, _AFTER, max_size=3)),
        release_after_from=draw(st.dictionaries(tiers, _AFTER, max_size=3)),
        keep_deleted=draw(st.sampled_from([None, timedelta(0), 5 * DAY])),
    )


@st.composite
def present(draw: st.DrawFn, number: int) -> SnapshotView:
    on = draw(st.sampled_from([[FLASH], []])) + draw(_ANY_TIERS)
    lives = [None, None, None]
    if FLASH in on:
        lives += [leaving(S.QUEUED), transfer(TransferKind.MIGRATE, S.COPYING, destination=CLOUD)]
    elif on:
        lives += [recall(source=on[0]), recall(S.RESTORING, source=on[0])]
        lives += [transfer(TransferKind.MIGRATE, S.RELEASING, release=True, source=HDD, destination=CLOUD)]
    return snapshot(
        f"v{number}",
        number=number,
        on=on,
        unused=draw(_AGES),
        gib=draw(st.integers(0, 300)),
        policy=draw(policies()),
        home=draw(st.sampled_from([FLASH, FLASH, HDD])),
        live=draw(st.sampled_from(lives)),
        holds=draw(_HOLDS),
        failed=draw(_FAILURES),
        changed_at=NOW - draw(st.sampled_from([DAY, DAY, timedelta(0)])),
        problem=draw(st.sampled_from([None, None, None, "odd"])),
    )


@st.composite
def deleted(draw: st.DrawFn, number: int) -> SnapshotView:
    removing = transfer(TransferKind.REMOVE, source=HDD, destination=HDD)
    return orphan(
        f"v{number % 5}",
        number=number,
        gone=draw(st.sampled_from([timedelta(0), DAY, 9 * DAY])),
        on=draw(_ANY_TIERS.filter(bool)),
        gib=draw(st.integers(0, 300)),
        policy=draw(policies()),
        live=draw(st.sampled_from([None, None, None, removing])),
        holds=draw(_HOLDS),
        failed=draw(_FAILURES),
    )


@st.composite
def views(draw: st.DrawFn) -> View:
    found = [draw(present(number)) for number in range(1, draw(st.integers(0, 7)) + 1)]
    left = [draw(deleted(number)) for number in range(100, 100 + draw(st.integers(0, 3)))]
    hdd = draw(
        st.sampled_from([usage(HDD, 0, 10_000), usage(HDD, 9600, 10_000), usage(HDD, 9990, 10_000), offline(HDD)])
    )
    buckets = {name: draw(st.sampled_from([bucket(name), bucket(name), offline(name)])) for name in (CLOUD, VAULT)}
    used = draw(st.sampled_from([100, 850, 950]))
    return chain(*found, orphans=left, used=used, hdd=hdd, below=[cloud(), vault()], **buckets)


def by_id(seen: View) -> dict[int, SnapshotView]:
    return {s.snapshot.id: s for s in (*seen.snapshots, *seen.orphans)}


def verified(s: SnapshotView) -> set[TierName]:
    return {tier for tier in (FLASH, HDD, CLOUD, VAULT) if s.on(tier) is not None}


def is_due(step: Step, s: SnapshotView) -> bool:
    """Whether a remove is what the policy asks for."""
    gone_at, keep = s.snapshot.gone_at, s.dataset.policy.keep_deleted
    return gone_at is not None and keep is not None and gone_at + keep <= NOW


@_unhurried
@given(views())
def test_the_last_verified_copy_goes_only_when_its_owner_deleted_it_long_ago(seen: View) -> None:
    found = by_id(seen)
    for step in plan(seen, NOW).steps:
        s = found[step.snapshot_id]
        if step.action is Action.REMOVE:
            assert is_due(step, s)
            assert next(p for p in s.placements if p.tier == step.source).location is not None
        else:
            assert s.snapshot.gone_at is None
            left = verified(s) | ({step.destination} if step.copies_bytes else set())
            if step.action is Action.RELEASE and s.snapshot.size_bytes:
                assert {t for t in left - {step.source} if seen.usage[t].is_online}


@_unhurried
@given(views())
def test_nothing_held_or_owned_by_a_transfer_is_touched(seen: View) -> None:
    found = by_id(seen)
    made = plan(seen, NOW)
    stepped = [step.snapshot_id for step in made.steps]
    assert len(stepped) == len(set(stepped))
    for snapshot_id in stepped:
        s = found[snapshot_id]
        assert not any(h.is_active(NOW) for h in s.holds)
        assert s.live is None
        assert s.last_failure is None or s.last_failure.finished_at != NOW


@_unhurried
@given(views())
def test_every_step_goes_down_between_online_tiers_from_a_verified_copy(seen: View) -> None:
    found, ranks = by_id(seen), {t.name: t.rank for t in seen.tiers}
    for step in plan(seen, NOW).steps:
        assert seen.usage[step.source].is_online
        assert seen.usage[step.destination].is_online
        if step.action is Action.REMOVE:
            assert step.source == step.destination
        else:
            assert ranks[step.source] < ranks[step.destination]
            assert found[step.snapshot_id].on(step.source) is not None
        if step.action is Action.MIGRATE:
            assert found[step.snapshot_id].on(step.destination) is None


@_unhurried
@given(views())
def test_a_snapshot_leaves_the_tier_that_its_path_leads_to_or_one_that_is_too_full(seen: View) -> None:
    found, ranks = by_id(seen), {t.name: t.rank for t in seen.tiers}
    for step in plan(seen, NOW).steps:
        if step.action is Action.RELEASE:
            fastest = min(verified(found[step.snapshot_id]), key=lambda tier: ranks[tier])
            if step.source != fastest:  # a spare copy
                assert fastest == FLASH
                usage, tier = seen.usage[step.source], next(t for t in seen.tiers if t.name == step.source)
                assert usage.used_ratio > tier.high


@_unhurried
@given(views())
def test_planning_while_the_steps_are_queued_proposes_nothing_new(seen: View) -> None:
    assert plan(queued(seen, plan(seen, NOW).steps), NOW).steps == ()


@_unhurried
@given(views())
def test_carrying_plans_out_comes_to_rest_and_loses_no_snapshot(seen: View) -> None:
    before = {s.snapshot.id for s in seen.snapshots if verified(s)}
    for _ in range(40):
        steps = plan(seen, NOW).steps
        if not steps:
            break
        seen = done(seen, steps)
    else:
        raise AssertionError("the plans never end")
    assert before == {s.snapshot.id for s in seen.snapshots if verified(s)}
    for s in seen.orphans:
        held = any(h.is_active(NOW) for h in s.holds)
        assert (
            s.dataset.policy.keep_deleted is None
            or held
            or s.live is not None
            or s.last_failure is not None
            or any(not seen.usage[p.tier].is_online for p in s.placements)
            or (s.snapshot.gone_at or NOW) + s.dataset.policy.keep_deleted > NOW
        )


@_unhurried
@given(views())
def test_two_tiers_are_as_if_there_were_no_chains(seen: View) -> None:
    """Whatever a policy says of further tiers, with only one cold tier everything is as before."""
    pair = replace(
        seen,
        tiers=tuple(t for t in seen.tiers if t.name in (FLASH, HDD)),
        orphans=(),
        snapshots=tuple(
            replace(s, placements=tuple(p for p in s.placements if p.tier in (FLASH, HDD)), live=None)
            for s in seen.snapshots
        ),
    )
    plain = replace(
        pair,
        snapshots=tuple(
            replace(
                s,
                dataset=replace(
                    s.dataset, policy=replace(s.dataset.policy, migrate_after_to={}, release_after_from={})
                ),
            )
            for s in pair.snapshots
        ),
    )
    assert plan(pair, NOW) == plan(plain, NOW)


@_unhurried
@given(views())
def test_every_snapshot_and_orphan_can_be_explained(seen: View) -> None:
    made = {step.snapshot_id: step for step in plan(seen, NOW).steps}
    present_refs = {s.ref for s in seen.snapshots}
    for s in (
        *seen.snapshots,
        *(o for o in seen.orphans if o.ref not in present_refs and seen.find_orphan(o.ref) is o),
    ):
        got = explain(seen, s.ref, NOW)
        assert got.next_step == made.get(s.snapshot.id)
        assert got.summary
        assert got.next_event
