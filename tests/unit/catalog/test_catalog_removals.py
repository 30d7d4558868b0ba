"""Removals: only what its owner deleted loses a copy for good, and not when it comes back in time."""

from __future__ import annotations

import pytest

from tests.unit.catalog.catalog_world import FLASH, HDD, NOW, S, World, cold_copy
from tierd.errors import Conflict, Held, InvalidRequest
from tierd.model.dataset import Snapshot
from tierd.model.effect import DropPlacement
from tierd.model.placement import PlacementState, Residency
from tierd.model.transfer import Transfer, TransferKind

REMOVE = TransferKind.REMOVE


@pytest.fixture
def orphan(world: World) -> Snapshot:
    s = world.add()
    world.catalog.apply(s.id, [cold_copy()], now=NOW)
    world.catalog.mark_gone(s.id, NOW)
    return world.catalog.snapshot_by_id(s.id)


def come_back(world: World, s: Snapshot) -> None:
    world.catalog.mark_back(s.id, path=s.path, root_inode=s.root_inode, now=NOW)


def copies(world: World, s: Snapshot) -> dict[str, PlacementState]:
    return {p.tier: p.state for p in world.catalog.placements(s.id)}


def refused(world: World, t: Transfer) -> None:
    """Neither the step towards the deletion nor the deletion itself is allowed, and nothing was changed."""
    for new in (S.RELEASING, S.DONE):
        with pytest.raises(Conflict):
            world.catalog.advance(t.id, t.state, new, now=NOW, effects=[DropPlacement(HDD)])
    assert world.catalog.transfer(t.id).state is t.state


def test_the_copy_of_an_orphan_is_given_up_deleted_and_forgotten(world: World, orphan: Snapshot) -> None:
    t = world.run(world.enqueue(orphan.id, REMOVE), S.RELEASING)
    world.catalog.let_go(t.id, NOW)
    assert copies(world, orphan)[HDD] is PlacementState.PARTIAL
    world.catalog.advance(t.id, S.RELEASING, S.DONE, now=NOW, effects=[DropPlacement(HDD)])
    assert HDD not in copies(world, orphan)
    assert world.kinds()[-2:] == ["transfer.done", "placement.dropped"]


def test_what_is_there_is_never_removed(world: World) -> None:
    s = world.add()
    world.catalog.apply(s.id, [cold_copy()], now=NOW)
    with pytest.raises(Conflict, match="not deleted"):
        world.enqueue(s.id, REMOVE)


def test_a_held_orphan_is_never_removed(world: World) -> None:
    s = world.add()
    world.catalog.apply(s.id, [cold_copy()], now=NOW)
    world.catalog.pin(s.id, "root", NOW)
    world.catalog.mark_gone(s.id, NOW)
    with pytest.raises(Held):
        world.enqueue(s.id, REMOVE)


def test_one_that_comes_back_before_its_removal_begins_keeps_its_copy(world: World, orphan: Snapshot) -> None:
    t = world.enqueue(orphan.id, REMOVE)
    come_back(world, orphan)
    assert world.catalog.transfer(t.id).state is S.CANCELLED
    assert copies(world, orphan)[HDD] is PlacementState.VERIFIED


def test_one_that_comes_back_while_its_removal_runs_keeps_its_copy(world: World, orphan: Snapshot) -> None:
    t = world.run(world.enqueue(orphan.id, REMOVE), S.RELEASING)
    come_back(world, orphan)
    with pytest.raises(Conflict, match="not deleted"):
        world.catalog.let_go(t.id, NOW)
    with pytest.raises(Conflict, match="not deleted"):
        world.catalog.advance(t.id, S.RELEASING, S.DONE, now=NOW, effects=[DropPlacement(HDD)])
    assert copies(world, orphan)[HDD] is PlacementState.VERIFIED
    t = world.catalog.transfer(t.id)
    assert t.cancel_requested
    assert world.catalog.cancelled(t.id, t.state, message="it is there again", now=NOW).state is S.CANCELLED


def test_a_copy_that_was_given_up_can_only_be_finished(world: World, orphan: Snapshot) -> None:
    """A part of it may be deleted: it is no copy any more, whoever comes back."""
    t = world.run(world.enqueue(orphan.id, REMOVE), S.RELEASING)
    world.catalog.let_go(t.id, NOW)
    come_back(world, orphan)
    world.catalog.advance(t.id, S.RELEASING, S.DONE, now=NOW, effects=[DropPlacement(HDD)])
    assert copies(world, orphan) == {FLASH: PlacementState.VERIFIED}


def test_a_hold_set_before_it_was_deleted_stops_a_removal_that_is_queued(world: World, orphan: Snapshot) -> None:
    t = world.enqueue(orphan.id, REMOVE)
    come_back(world, orphan)
    world.catalog.pin(orphan.id, "root", NOW)
    world.catalog.mark_gone(orphan.id, NOW)
    assert world.catalog.transfer(t.id).state is S.CANCELLED
    with pytest.raises(Held):
        world.enqueue(orphan.id, REMOVE)


def test_another_tree_under_the_name_is_another_snapshot(world: World, orphan: Snapshot) -> None:
    world.add()
    t = world.run(world.enqueue(orphan.id, REMOVE), S.RELEASING)
    world.catalog.let_go(t.id, NOW)
    assert copies(world, orphan)[HDD] is PlacementState.PARTIAL


@pytest.mark.parametrize(
    ("kind", "source", "destination"),
    [(REMOVE, HDD, FLASH), (TransferKind.MIGRATE, HDD, HDD), (TransferKind.RECALL, HDD, HDD)],
)
def test_only_a_remove_has_one_tier(
    world: World, orphan: Snapshot, kind: TransferKind, source: str, destination: str
) -> None:
    with pytest.raises(InvalidRequest):
        world.enqueue(orphan.id, kind, source=source, destination=destination)


def test_a_migrate_between_other_tiers_is_not_joined(world: World) -> None:
    """Its release would take another copy away, or lead the path elsewhere, than the one that was asked for."""
    s = world.add()
    world.enqueue(s.id)
    with pytest.raises(Conflict, match="migrate to hdd"):
        world.enqueue(s.id, release=True, source=HDD, destination=FLASH)


def test_the_view_has_orphans_apart_and_only_those_with_copies(world: World, orphan: Snapshot) -> None:
    bare = world.add("v2")
    world.catalog.mark_gone(bare.id, NOW)
    again = world.add()
    view = world.catalog.view(world.tiers, world.datasets, {}, now=NOW)
    assert [s.snapshot.id for s in view.snapshots] == [again.id]
    assert [s.snapshot.id for s in view.orphans] == [orphan.id]
    assert view.residency(view.orphans[0]) is Residency.ORPHANED
    assert view.find(orphan.ref) == view.snapshots[0]
    assert view.find_orphan(orphan.ref) == view.orphans[0]
    counts = world.catalog.counts()
    assert (counts.snapshots, counts.snapshots_gone, counts.orphans, counts.orphaned_bytes) == (1, 2, 1, 1000)
