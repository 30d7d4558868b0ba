"""What holds for every view: the promises of the planner and of admission."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.decide.decide_world import (
    ARCHIVE,
    DAY,
    FLASH,
    GIB,
    HDD,
    HOUR,
    NOW,
    done,
    failure,
    lease,
    leaving,
    offline,
    pin,
    queued,
    recall,
    snapshot,
    transfer,
    usage,
    view,
)
from tierd.decide import admit, explain, plan
from tierd.model.announced import AnnouncedBy, Announcement, AnnouncementId
from tierd.model.dataset import decayed
from tierd.model.plan import Action, SnapshotView, View, WarmAnswer
from tierd.model.policy import Policy
from tierd.model.transfer import TransferKind, TransferState
from tierd.model.value import Judgement, PolicyName

S = TransferState
_unhurried = settings(deadline=None)
"""The machine may be busy with other things."""
_AGES = st.integers(-2, 60).map(lambda days: days * DAY)
_AFTER = st.sampled_from([None, DAY, 14 * DAY, 30 * DAY])


@st.composite
def snapshots(draw: st.DrawFn, number: int) -> SnapshotView:
    migrate, release = draw(_AFTER), draw(_AFTER)
    on = draw(st.sampled_from([(FLASH,), (FLASH,), (FLASH, HDD), (FLASH, ARCHIVE), (HDD,), (FLASH, HDD, ARCHIVE), ()]))
    lives = [None, None, None, leaving(), leaving(S.QUEUED), transfer(TransferKind.MIGRATE, S.COPYING)]
    if FLASH not in on and on:
        lives = [None, recall(source=on[0]), recall(S.COPYING, source=on[0], bytes_done=GIB)]
    return snapshot(
        f"v{number}",
        number=number,
        on=on,
        unused=draw(_AGES),
        gib=draw(st.integers(0, 300)),
        policy=Policy(migrate_after=migrate, release_after=release),
        home=draw(st.sampled_from([FLASH, FLASH, HDD])),
        live=draw(st.sampled_from(lives)),
        holds=draw(st.sampled_from([(), (), (), (lease(),), (pin(),), (lease(ends_in=-HOUR),)])),
        failed=draw(st.sampled_from([None, None, failure(timedelta(0)), failure(DAY)])),
        changed_at=NOW - draw(st.sampled_from([DAY, DAY, DAY, timedelta(0), -DAY])),
        warmed_at=draw(st.sampled_from([None, None, NOW - DAY, NOW - HOUR])),
        problem=draw(st.sampled_from([None, None, None, "odd"])),
        entries=draw(st.integers(1, 50)),
        weight=draw(st.sampled_from([0.0, 1.0, 2.5, 9.0])),
        weight_at=NOW - draw(st.sampled_from([timedelta(0), DAY, 40 * DAY])),
        read_at=draw(st.sampled_from([None, NOW - HOUR, NOW - 5 * DAY])),
        episodes=draw(st.integers(0, 9)),
    )


def announced(s: SnapshotView, ahead: timedelta | None) -> SnapshotView:
    if ahead is None:
        return s
    use = Announcement(
        id=AnnouncementId(1),
        snapshot_id=s.snapshot.id,
        source=AnnouncedBy.CALLER,
        holder="alice",
        use_at=NOW + ahead,
        until=NOW + ahead + HOUR,
    )
    return replace(s, announcements=(use,))


judgements = st.builds(
    Judgement,
    policy=st.sampled_from(list(PolicyName)),
    promote=st.booleans(),
    daily_writes=st.sampled_from([None, 100 * GIB]),
)


@st.composite
def views(draw: st.DrawFn) -> View:
    ahead = st.sampled_from([None, None, None, -DAY, HOUR, 10 * DAY])
    found = [announced(draw(snapshots(number)), draw(ahead)) for number in range(1, draw(st.integers(0, 9)) + 1)]
    flash = usage(FLASH, draw(st.integers(0, 1000)), 1000, capacity_inodes=1000, used_inodes=draw(st.integers(0, 1000)))
    hdd = draw(
        st.sampled_from([usage(HDD, 0, 10_000), usage(HDD, 9300, 10_000), usage(HDD, 9600, 10_000), offline(HDD)])
    )
    archive = draw(st.sampled_from([usage(ARCHIVE, 0, 100_000), offline(ARCHIVE)]))
    return replace(view(*found, flash=flash, hdd=hdd, archive=archive), judgement=draw(judgements))


def must_stay(s: SnapshotView) -> bool:
    """Nothing may be done with it, wherever it is."""
    policy, snap = s.dataset.policy, s.snapshot
    return (
        s.live is not None
        or any(h.is_active(NOW) for h in s.holds)
        or snap.problem is not None
        or NOW - snap.changed_at < policy.settle_after
        or (s.on(FLASH) is not None and snap.warmed_at is not None and NOW - snap.warmed_at < policy.min_residency)
        or (s.last_failure is not None and s.last_failure.finished_at == NOW)
    )


@_unhurried
@given(views())
def test_what_must_stay_never_has_a_step(seen: View) -> None:
    made = plan(seen, NOW)
    stepped = {step.ref for step in made.steps}
    assert not stepped & {s.ref for s in seen.snapshots if must_stay(s)}
    assert len(stepped) == len(made.steps)
    by_id = {s.snapshot.id: s for s in seen.snapshots}
    assert all(by_id[step.snapshot_id].on(step.source) is not None for step in made.steps)


@_unhurried
@given(views())
def test_every_snapshot_ends_in_a_step_or_is_kept_with_a_sentence(seen: View) -> None:
    made = plan(seen, NOW)
    stepped = {step.ref for step in made.steps}
    assert stepped.isdisjoint(made.kept)
    assert stepped | made.kept.keys() == {s.ref for s in seen.snapshots}
    assert all(made.kept.values())
    assert all(step.reason for step in made.steps)


@_unhurried
@given(views(), st.randoms(use_true_random=False))
def test_the_order_of_the_view_does_not_matter(seen: View, chance: random.Random) -> None:
    shuffled = list(seen.snapshots)
    chance.shuffle(shuffled)
    tiers = list(seen.tiers)
    chance.shuffle(tiers)
    assert plan(replace(seen, snapshots=tuple(shuffled), tiers=tuple(tiers)), NOW) == plan(seen, NOW)


@_unhurried
@given(views())
def test_planning_again_while_the_steps_are_queued_proposes_nothing_new(seen: View) -> None:
    after = queued(seen, plan(seen, NOW).steps)
    assert plan(after, NOW).steps == ()


@_unhurried
@given(views())
def test_planning_again_after_the_steps_are_done_repeats_none(seen: View) -> None:
    made = plan(seen, NOW)
    again = plan(done(seen, made.steps), NOW)
    released = {(s.ref, s.source) for s in made.steps if s.action is Action.RELEASE}
    copied = {(s.ref, s.destination) for s in made.steps}
    assert not released & {(s.ref, s.source) for s in again.steps}
    assert not copied & {(s.ref, s.destination) for s in again.steps if s.action is Action.MIGRATE}


@_unhurried
@given(views())
def test_nothing_goes_to_or_from_an_offline_tier_and_no_cold_tier_above_high(seen: View) -> None:
    steps = plan(seen, NOW).steps
    assert all(seen.usage[name].is_online for step in steps for name in (step.source, step.destination))
    after = done(seen, steps).usage
    for tier in seen.tiers:
        if any(step.destination == tier.name and step.copies_bytes for step in steps):
            assert after[tier.name].used_bytes <= tier.high * after[tier.name].capacity_bytes


@_unhurried
@given(views())
def test_no_release_without_a_verified_copy_elsewhere(seen: View) -> None:
    by_id = {s.snapshot.id: s for s in seen.snapshots}
    for step in plan(seen, NOW).steps:
        s = by_id[step.snapshot_id]
        if step.action is Action.RELEASE and s.snapshot.size_bytes and not step.copies_bytes:
            assert s.on(step.destination) is not None


@_unhurried
@given(views())
def test_pressure_releases_no_more_than_it_needs(seen: View) -> None:
    """Without the last victim, something that was over would still be above the low watermark."""
    calm = tuple(
        replace(
            s,
            live=None,
            dataset=replace(s.dataset, policy=replace(s.dataset.policy, migrate_after=None, release_after=None)),
        )
        for s in seen.snapshots
    )
    seen = replace(seen, snapshots=calm)
    before, flash = seen.usage[FLASH], seen.flash_tier
    steps = [step for step in plan(seen, NOW).steps if step.source == FLASH]
    is_over = before.used_ratio > flash.high
    assert is_over or not steps
    if steps:
        coldest = sorted(
            steps, key=lambda t: next(s.snapshot.accessed_at for s in calm if s.snapshot.id == t.snapshot_id)
        )
        short = done(seen, coldest[:-1]).usage[FLASH]
        assert (
            before.used_bytes > flash.high * before.capacity_bytes
            and short.used_bytes > int(flash.low * short.capacity_bytes)
        ) or (
            before.used_inodes > flash.high * before.capacity_inodes
            and short.used_inodes > int(flash.low * short.capacity_inodes)
        )


@_unhurried
@given(views())
def test_explanations_never_disagree_with_the_plan(seen: View) -> None:
    made = plan(seen, NOW)
    steps = {step.ref: step for step in made.steps}
    for s in seen.snapshots:
        got = explain(seen, s.ref, NOW)
        assert got.next_step == steps.get(s.ref)
        assert got.next_event
        assert got.summary
        if s.ref not in steps:
            assert made.kept[s.ref] in got.summary
        elif steps[s.ref].action is Action.RELEASE:
            # Whatever made it leave, no guard stood against it.
            guards = [f for f in got.findings if not f.holds and f.rule.startswith(("no ", "not ", "settled"))]
            assert guards == []


@_unhurried
@given(views())
def test_admission_keeps_its_promises(seen: View) -> None:
    by_id = {s.snapshot.id: s for s in seen.snapshots}
    for s in seen.snapshots:
        got = admit(seen, s.ref, NOW)
        assert (got.answer is WarmAnswer.READY) == (s.on(FLASH) is not None)
        if got.answer is WarmAnswer.ACCEPTED:
            assert got.source is not None
            assert s.on(got.source) is not None
        else:
            assert got.releases == ()
        leaving = [by_id[step.snapshot_id] for step in got.releases]
        assert not any(must_stay(other) or other.on(FLASH) is None for other in leaving)


@_unhurried
@given(views())
def test_what_admission_grants_needs_nothing_more_from_the_planner(seen: View) -> None:
    """After the recall and its releases are queued, no further snapshot has to leave for its room."""
    seen = replace(seen, tiers=tuple(replace(t, high=1.0) if t.rank == 0 else t for t in seen.tiers))
    never = Policy(migrate_after=None, release_after=None)
    seen = replace(seen, snapshots=tuple(replace(s, dataset=replace(s.dataset, policy=never)) for s in seen.snapshots))
    for s in seen.snapshots:
        got = admit(seen, s.ref, NOW)
        if got.answer is not WarmAnswer.ACCEPTED or s.live is not None or got.source is None:
            continue
        size = s.snapshot.size_bytes
        live = replace(recall(source=got.source, bytes_total=size), snapshot_id=s.snapshot.id)
        asked = tuple(replace(o, live=live) if o.ref == s.ref else o for o in seen.snapshots)
        after = queued(replace(seen, snapshots=asked), got.releases)
        assert not [step for step in plan(after, NOW).steps if step.source == FLASH]


@_unhurried
@given(views())
def test_promotion_fits_below_the_low_watermark_and_pushes_out_nothing_that_must_stay(seen: View) -> None:
    made = plan(seen, NOW)
    coming = [step for step in made.steps if step.action is Action.WARM]
    assert not coming or seen.judgement.promote
    flash = seen.flash_tier
    if coming:
        after = done(seen, made.steps).usage[FLASH]
        assert after.used_bytes <= flash.low * after.capacity_bytes
        assert after.used_inodes <= flash.low * after.capacity_inodes
    budget = seen.judgement.daily_writes
    assert budget is None or sum(step.copies_bytes for step in coming) <= budget


@_unhurried
@given(views(), st.integers(0, 300))
def test_more_pressure_never_keeps_what_less_releases(seen: View, more: int) -> None:
    """Under the same rules, a fuller flash releases at least the same, where only pressure releases."""
    calm = tuple(
        replace(
            s,
            live=None,
            dataset=replace(s.dataset, policy=replace(s.dataset.policy, migrate_after=None, release_after=None)),
        )
        for s in seen.snapshots
    )
    here = seen.usage[FLASH]
    fuller = min(here.capacity_bytes, here.used_bytes + more * GIB)
    full = replace(here, used_bytes=fuller, free_bytes=here.capacity_bytes - fuller)
    seen = replace(seen, snapshots=calm, judgement=replace(seen.judgement, promote=False))
    less, most = (
        {step.ref for step in plan(replace(seen, usage={**seen.usage, FLASH: u}), NOW).steps if step.source == FLASH}
        for u in (here, full)
    )
    assert less <= most


def test_a_demand_larger_than_flash_comes_to_rest() -> None:
    """Ten snapshots are read in turn, for weeks; flash holds six. What is there stays, instead of all moving for ever.

    Whatever may be promoted is; each reading is a use, wherever the bytes are.
    """
    moved_by_week: list[int] = []
    found = [
        snapshot(f"v{n}", on=(HDD,), number=n + 1, gib=130, policy=Policy(migrate_after=None, release_after=None))
        for n in range(10)
    ]
    now = NOW
    moved = 0
    for step_number in range(6 * 7 * 24):
        now = NOW + step_number * HOUR
        turn = found[step_number % 10]
        snap = turn.snapshot
        weight = decayed(snap.weight, snap.weight_at, now) + (1.0 if step_number % 10 == snap.id - 1 else 0.0)
        found[step_number % 10] = replace(
            turn,
            snapshot=replace(
                snap, weight=weight, weight_at=now, accessed_at=now, read_at=now, episodes=snap.episodes + 1
            ),
        )
        here = sum(130 for s in found if s.on(FLASH))
        seen = replace(view(*found, flash=usage(FLASH, here, 1000)), judgement=Judgement(promote=True))
        made = plan(seen, now)
        for step in made.steps:
            assert step.action in (Action.WARM, Action.RELEASE)
            moved += step.copies_bytes
        after = done(seen, made.steps)
        found = [
            replace(
                s, snapshot=replace(s.snapshot, warmed_at=now if s.snapshot.warmed_at == NOW else s.snapshot.warmed_at)
            )
            for s in after.snapshots
        ]
        if step_number % (7 * 24) == 7 * 24 - 1:
            moved_by_week.append(moved // GIB)
            moved = 0
    assert moved_by_week[0] >= 6 * 130
    assert moved_by_week[-3:] == [0, 0, 0]
    assert sum(1 for s in found if s.on(FLASH)) == 6
