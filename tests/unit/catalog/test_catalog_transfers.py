"""Transfers: one live per snapshot, guarded advances, and an event for each."""

from __future__ import annotations

from datetime import timedelta
from itertools import product

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from tests.unit.catalog.catalog_world import FLASH, HDD, NOW, S, World, cold_copy
from tierd.errors import CatalogError, Conflict, Held, IllegalTransition, InvalidRequest, NotFound
from tierd.model.dataset import SnapshotId
from tierd.model.effect import DropPlacement
from tierd.model.transfer import LIVE, TRANSITIONS, TransferId, TransferKind, TransferState

HOUR = timedelta(hours=1)
RECALL = TransferKind.RECALL


def test_whole_migrate_leaves_its_history(world: World) -> None:
    s = world.add()
    t = world.enqueue(s.id, release=True)
    assert (t.state, t.attempt, t.created_at, t.started_at) == (S.QUEUED, 1, NOW, None)
    t = world.run(t, S.COPYING, now=NOW + HOUR)
    t = world.run(t, S.VERIFYING)
    t = world.catalog.advance(t.id, S.VERIFYING, S.COMMITTED, now=NOW, effects=[cold_copy()])
    t = world.run(t, S.RELEASING)
    t = world.catalog.advance(t.id, S.RELEASING, S.DONE, now=NOW + 2 * HOUR, effects=[DropPlacement(FLASH)])
    assert (t.started_at, t.finished_at, t.is_live) == (NOW + HOUR, NOW + 2 * HOUR, False)
    assert [p.tier for p in world.catalog.placements(s.id)] == [HDD]
    kinds = [e.kind for e in world.catalog.events() if e.transfer_id == t.id]
    states = ("queued", "copying", "verifying", "committed", "releasing", "done")
    assert kinds == [f"transfer.{state}" for state in states]
    assert world.catalog.events()[-2].detail["from"] == "releasing"
    assert all(e.ref == s.ref for e in world.catalog.events())


@pytest.mark.parametrize(("old", "new"), list(product(TransferState, TransferState)))
def test_only_the_listed_transitions_are_possible(world: World, old: TransferState, new: TransferState) -> None:
    t = world.enqueue(world.add().id)
    with world.catalog._writing() as conn:  # put it there without going through the rules
        finished = "NULL" if old in LIVE else "1"
        conn.execute(text(f"UPDATE transfer SET state = '{old}', finished_at = {finished}"))
    before = world.catalog.last_event_id()
    if new in TRANSITIONS[old]:
        assert world.catalog.advance(t.id, old, new, now=NOW).state is new
        assert world.kinds()[-1] == f"transfer.{new}"
    else:
        with pytest.raises(IllegalTransition):
            world.catalog.advance(t.id, old, new, now=NOW)
        assert world.catalog.transfer(t.id).state is old
        assert world.catalog.last_event_id() == before


def test_advance_from_a_state_that_is_over_changes_nothing(world: World) -> None:
    s = world.add()
    t = world.run(world.enqueue(s.id), S.COPYING)
    before = world.catalog.last_event_id()
    with pytest.raises(IllegalTransition, match="is copying, not queued"):
        world.catalog.advance(t.id, S.QUEUED, S.COPYING, now=NOW, effects=[cold_copy()])
    assert world.catalog.last_event_id() == before
    assert len(world.catalog.placements(s.id)) == 1


def test_failing_effects_undo_the_advance(world: World) -> None:
    s = world.add()
    t = world.run(world.enqueue(s.id, release=True), S.RELEASING)
    before = world.catalog.last_event_id()
    with pytest.raises(Conflict, match="without a verified copy"):
        world.catalog.advance(t.id, S.RELEASING, S.DONE, now=NOW, effects=[DropPlacement(FLASH)])
    assert world.catalog.transfer(t.id).state is S.RELEASING
    assert world.catalog.last_event_id() == before


def test_held_snapshot_is_not_released(world: World) -> None:
    s = world.add()
    t = world.enqueue(s.id, release=True)
    world.catalog.grant_lease(snapshot_id=s.id, holder="alice@node7", ttl=HOUR, now=NOW)
    with pytest.raises(Held, match="lease of alice@node7 until 2026-03-01 13:00"):
        world.catalog.advance(t.id, S.QUEUED, S.RELEASING, now=NOW)
    assert world.catalog.transfer(t.id).state is S.QUEUED
    assert world.run(t, S.RELEASING, now=NOW + HOUR).state is S.RELEASING


def test_same_wish_joins_and_makes_it_stronger(world: World) -> None:
    s = world.add()
    first, is_new = world.try_enqueue(s.id, priority=5)
    assert is_new
    second, is_new = world.try_enqueue(s.id, priority=1)
    assert (second, is_new) == (first, False)
    raised, is_new = world.try_enqueue(s.id, release=True, priority=9)
    assert (raised.id, raised.release, raised.priority, is_new) == (first.id, True, 9, False)
    assert world.kinds() == ["snapshot.found", "transfer.queued", "transfer.raised"]


def test_other_kind_is_a_conflict_that_names_the_live_one(world: World) -> None:
    s = world.add()
    t = world.enqueue(s.id)
    with pytest.raises(Conflict, match=f"transfer {t.id} "):
        world.enqueue(s.id, RECALL)
    world.run(t, S.COPYING)
    world.catalog.request_cancel(t.id, NOW)
    with pytest.raises(Conflict, match="being cancelled"):
        world.enqueue(s.id)


def test_senseless_transfers_are_refused(world: World) -> None:
    s = world.add()
    with pytest.raises(InvalidRequest):
        world.enqueue(s.id, destination=FLASH)
    with pytest.raises(InvalidRequest):
        world.enqueue(s.id, RECALL, release=True)
    with pytest.raises(NotFound):
        world.enqueue(SnapshotId(99))
    with pytest.raises(NotFound):
        world.enqueue(s.id, destination="tape")
    world.catalog.mark_gone(s.id, NOW)
    with pytest.raises(Conflict, match="gone"):
        world.enqueue(s.id)
    with pytest.raises(NotFound):
        world.catalog.transfer(TransferId(1))


def test_claim_order_is_recalls_then_priority_then_age(world: World) -> None:
    ids = [world.add(f"v{n}").id for n in range(5)]
    old, urgent, young = world.enqueue(ids[0]), world.enqueue(ids[1], priority=3), world.enqueue(ids[2])
    recall = world.enqueue(ids[3], RECALL)
    running = world.run(world.enqueue(ids[4], RECALL), S.COPYING)
    claimed = [t.id for t in world.catalog.claimable(NOW, 10)]
    assert claimed == [recall.id, running.id, urgent.id, old.id, young.id]
    assert [t.id for t in world.catalog.claimable(NOW, 2)] == claimed[:2]


def test_failed_attempt_waits_for_its_time(world: World) -> None:
    t = world.run(world.enqueue(world.add().id), S.COPYING)
    later = world.catalog.retry_later(
        t.id, S.COPYING, error="no room", error_code="tier_full", not_before=NOW + HOUR, now=NOW
    )
    assert (later.state, later.attempt, later.error, later.error_code) == (S.QUEUED, 2, "no room", "tier_full")
    assert world.catalog.claimable(NOW, 10) == []
    assert [c.id for c in world.catalog.claimable(NOW + HOUR, 10)] == [t.id]
    again = world.catalog.retry_later(t.id, S.QUEUED, error="x", error_code="y", not_before=NOW, now=NOW)
    assert again.attempt == 3
    failed = world.catalog.fail(t.id, S.QUEUED, error="gone", error_code="source_gone", now=NOW)
    assert (failed.state, failed.error_code, failed.finished_at) == (S.FAILED, "source_gone", NOW)
    kinds = ["transfer.queued", "transfer.copying", "transfer.queued", "transfer.queued", "transfer.failed"]
    assert world.kinds()[1:] == kinds
    assert world.catalog.events()[-1].message == "gone"


def test_paused_transfers_are_not_claimed(world: World) -> None:
    t = world.enqueue(world.add().id)
    world.catalog.set_paused(t.id, True, NOW)
    world.catalog.set_paused(t.id, True, NOW)
    assert world.catalog.claimable(NOW, 10) == []
    world.catalog.set_paused(t.id, False, NOW)
    world.catalog.set_all_paused(True, NOW)
    assert world.catalog.all_paused
    assert world.catalog.claimable(NOW, 10) == []
    world.catalog.set_all_paused(False, NOW)
    world.catalog.set_all_paused(False, NOW)
    assert [c.id for c in world.catalog.claimable(NOW, 10)] == [t.id]
    assert world.kinds()[2:] == ["transfer.paused", "transfer.resumed", "transfers.paused", "transfers.resumed"]


def test_queued_transfer_is_cancelled_at_once_and_a_running_one_when_it_can(world: World) -> None:
    queued = world.enqueue(world.add("v1").id)
    assert world.catalog.request_cancel(queued.id, NOW).state is S.CANCELLED
    running = world.run(world.enqueue(world.add("v2").id), S.COPYING)
    asked = world.catalog.request_cancel(running.id, NOW)
    assert (asked.state, asked.cancel_requested) == (S.COPYING, True)
    world.catalog.set_all_paused(True, NOW)
    assert [t.id for t in world.catalog.claimable(NOW, 10)] == [running.id], "its remains must be cleaned up"
    done = world.catalog.cancelled(running.id, S.COPYING, message="the partial copy was removed", now=NOW)
    assert done.state is S.CANCELLED
    assert world.catalog.events()[-1].message == "the partial copy was removed"
    with pytest.raises(Conflict, match="ended already"):
        world.catalog.request_cancel(running.id, NOW)
    with pytest.raises(Conflict):
        world.catalog.set_paused(running.id, True, NOW)


def test_progress_is_kept_for_live_transfers_only(world: World) -> None:
    t = world.enqueue(world.add().id)
    world.catalog.set_progress(t.id, 500, 5)
    world.catalog.request_cancel(t.id, NOW)
    world.catalog.set_progress(t.id, 900, 9)
    after = world.catalog.transfer(t.id)
    assert (after.bytes_done, after.files_done) == (500, 5)


def test_pages_of_transfers_are_newest_first(world: World) -> None:
    ids = []
    for n in range(5):
        t = world.enqueue(world.add(f"v{n}").id)
        ids.append(t.id)
    world.catalog.request_cancel(ids[4], NOW)
    assert [t.id for t in world.catalog.transfers(limit=2)] == [ids[4], ids[3]]
    assert [t.id for t in world.catalog.transfers(limit=2, before_id=ids[3])] == [ids[2], ids[1]]
    assert [t.id for t in world.catalog.transfers(live_only=True)] == ids[3::-1]
    assert [t.id for t in world.catalog.transfers(snapshot_id=SnapshotId(2))] == [ids[1]]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE transfer SET state = 'sleeping'",
        "UPDATE transfer SET state = 'done'",  # without finished_at
        "UPDATE transfer SET finished_at = 1",
        "UPDATE transfer SET kind = 'recall', release = 1",
        "UPDATE transfer SET destination = source",
        "UPDATE transfer SET destination = 'tape'",
        "UPDATE transfer SET snapshot_id = 99",
        "UPDATE placement SET state = 'fine'",
        "UPDATE snapshot SET key = 'short'",
        "DELETE FROM snapshot",
        "UPDATE transfer SET kind = 'remove'",
        "UPDATE transfer SET waits_for = 'Godot'",  # only a restore waits
        "UPDATE transfer SET only = '[]'",  # only a recall brings a part
        "INSERT INTO transfer SELECT id + 1, key || 'x', snapshot_id, kind, 'copying', source, destination, release,"
        " priority, reason, requested_by, attempt, not_before, error, error_code, bytes_total, bytes_done, files_total,"
        " files_done, first, only, restore_cost, waits_for, expected_at, is_paused, cancel_requested, created_at,"
        " started_at, advanced_at, finished_at, due_at FROM transfer",
    ],
)
def test_database_itself_refuses_what_must_never_be(world: World, statement: str) -> None:
    world.enqueue(world.add().id)
    with pytest.raises(CatalogError) as caught, world.catalog._writing() as conn:
        conn.execute(text(statement))
    assert isinstance(caught.value.__cause__, IntegrityError)
