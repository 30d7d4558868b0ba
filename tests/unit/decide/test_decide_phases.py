"""Phases in decisions: who leaves first, and who never does."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given

from tests.unit.decide.decide_world import (
    DAY,
    FLASH,
    HDD,
    HOUR,
    NOW,
    leaving,
    ref,
    snapshot,
    usage,
    view,
)
from tests.unit.decide.test_decide_properties import _unhurried, views
from tierd.decide import admit, explain, plan, withdrawn
from tierd.model.phase import Phase, by_phase
from tierd.model.plan import Action, SnapshotView, View, WarmAnswer
from tierd.model.policy import Policy
from tierd.model.transfer import TransferState

POLICIES = by_phase(Policy(migrate_after=None, release_after=None), {})
COLLECT, DEPLOY, TRAIN = (POLICIES[p] for p in (Phase.COLLECT, Phase.DEPLOY, Phase.TRAIN))


def deployed(s: SnapshotView) -> SnapshotView:
    return replace(s, dataset=replace(s.dataset, given_phase=Phase.DEPLOY, policy=DEPLOY))


def test_under_pressure_collected_data_leaves_before_older_training_data() -> None:
    fresh = snapshot("fresh", on=(FLASH, HDD), unused=HOUR, policy=COLLECT)
    old = snapshot("old", on=(FLASH, HDD), unused=60 * DAY, policy=TRAIN)
    made = plan(view(fresh, old, flash=usage(FLASH, 910, 1000)), NOW)
    assert [(step.action, step.ref) for step in made.steps][:1] == [(Action.RELEASE, ref("fresh"))]


def test_collected_data_is_copied_as_soon_as_it_is_settled() -> None:
    made = plan(view(snapshot("v1", unused=HOUR, policy=COLLECT)), NOW)
    assert [(step.action, step.destination) for step in made.steps] == [(Action.MIGRATE, HDD)]


def test_what_is_deployed_stays_on_a_full_flash_and_is_copied_all_the_same() -> None:
    v1 = deployed(snapshot("v1", unused=90 * DAY))
    full = view(v1, flash=usage(FLASH, 990, 1000))
    made = plan(full, NOW)
    assert [(step.action, step.ref) for step in made.steps] == [(Action.MIGRATE, ref("v1"))]
    assert "1 kept on flash by their phase" in made.notes[0]
    told = explain(full, ref("v1"), NOW)
    assert told.next_event == "it stays on flash: dataset ds is in phase deploy, which keeps it on flash"


def test_explain_says_that_the_phase_keeps_a_deployed_snapshot() -> None:
    v1 = deployed(snapshot("v1", on=(FLASH, HDD), unused=90 * DAY))
    told = explain(view(v1, flash=usage(FLASH, 990, 1000)), ref("v1"), NOW)
    assert "dataset ds is in phase deploy, which keeps it on flash" in told.summary
    assert "nothing releases it" in told.next_event
    (found,) = [f for f in told.findings if f.rule == "its phase lets it leave flash"]
    assert not found.holds


def test_a_warm_is_refused_rather_than_making_a_deployed_snapshot_leave() -> None:
    there = deployed(snapshot("there", on=(FLASH, HDD), gib=900))
    wanted = snapshot("wanted", on=(HDD,), gib=300)
    full = view(there, wanted, flash=usage(FLASH, 900, 1000))
    refused = admit(full, ref("wanted"), NOW)
    assert refused.answer is WarmAnswer.REFUSED
    assert "phase deploy" in refused.reason
    free = view(
        replace(there, dataset=replace(there.dataset, given_phase=None, policy=TRAIN)),
        wanted,
        flash=usage(FLASH, 900, 1000),
    )
    assert admit(free, ref("wanted"), NOW).answer is WarmAnswer.ACCEPTED


def test_a_release_under_way_is_withdrawn_when_the_phase_keeps_it_unless_it_has_begun_to_leave() -> None:
    queued, begun = leaving(TransferState.QUEUED), leaving(TransferState.RELEASING)
    of_train = snapshot("train", live=leaving(TransferState.QUEUED), policy=TRAIN)
    seen = view(deployed(snapshot("a", live=queued)), deployed(snapshot("b", live=begun)), of_train)
    assert [t.id for t, _ in withdrawn(seen, NOW)] == [queued.id]


@_unhurried
@given(views())
def test_nothing_deployed_ever_leaves_flash(seen: View) -> None:
    kept = replace(seen, snapshots=tuple(map(deployed, seen.snapshots)))
    assert not [s for s in plan(kept, NOW).steps if s.action is Action.RELEASE and s.source == FLASH]
