"""Snapshots: found, measured, used, renamed, gone; and the clock that jumps back."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from tests.unit.catalog.catalog_world import FLASH, HDD, NOW, S, World, cold_copy, measure
from tierd.errors import Conflict, NotFound
from tierd.model.dataset import AccessSource, SnapshotId, SnapshotRef
from tierd.model.effect import DropPlacement, MarkPartial, MarkStale, SetContent, SetRootInode, SetWarmed
from tierd.model.observation import AccessBatch
from tierd.model.placement import PlacementState

HOUR = timedelta(hours=1)


def test_found_snapshot_has_its_original_as_a_verified_placement(world: World) -> None:
    s = world.add(measure=measure())
    assert (s.size_bytes, s.files, s.entries) == (1000, 10, 11)
    assert len(s.key) == 16
    assert s.changed_at == NOW - timedelta(days=3)
    assert (s.accessed_at, s.access_source) == (NOW, AccessSource.DISCOVERY)
    (original,) = world.catalog.placements(s.id)
    assert (original.tier, original.state, original.location) == (FLASH, PlacementState.VERIFIED, None)
    assert original.content_id is None
    assert world.kinds() == ["snapshot.found"]
    assert world.catalog.snapshot(s.ref) == world.catalog.snapshot_by_id(s.id) == s


def test_name_is_taken_once_and_free_again_when_gone(world: World) -> None:
    first = world.add()
    with pytest.raises(Conflict):
        world.add()
    world.catalog.mark_gone(first.id, NOW)
    second = world.add()
    assert second.key != first.key
    assert world.catalog.snapshot(first.ref).id == second.id
    with pytest.raises(Conflict):
        world.catalog.mark_back(first.id, path=first.path, root_inode=1, now=NOW)
    assert len(world.catalog.snapshots()) == 1
    assert len(world.catalog.snapshots(include_gone=True)) == 2


def test_gone_snapshot_comes_back(world: World) -> None:
    s = world.add()
    world.catalog.mark_gone(s.id, NOW)
    world.catalog.mark_gone(s.id, NOW + HOUR)
    assert world.catalog.snapshot(s.ref).gone_at == NOW
    world.catalog.mark_back(s.id, path=s.path, root_inode=77, now=NOW)
    back = world.catalog.snapshot(s.ref)
    assert (back.gone_at, back.root_inode, back.key) == (None, 77, s.key)
    assert world.kinds() == ["snapshot.found", "snapshot.gone", "snapshot.back"]


def test_unknown_names_get_a_hint(world: World) -> None:
    world.add("v1")
    with pytest.raises(NotFound) as caught:
        world.catalog.snapshot(SnapshotRef("imagenet", "v11"))
    assert "imagenet/v1" in (caught.value.hint or "")
    with pytest.raises(NotFound) as caught:
        world.catalog.snapshot(SnapshotRef("imagenets", "v1"))
    assert "imagenet/v1" in (caught.value.hint or "")
    with pytest.raises(NotFound):
        world.catalog.add_snapshot(SnapshotRef("laion"), path=Path("/x"), root_inode=1, home=FLASH, now=NOW)


def test_paths_may_be_any_bytes_and_inodes_any_64_bits(world: World) -> None:
    path = Path(os.fsdecode(b"/mnt/fl\xffash/new\nline"))
    ref = SnapshotRef("imagenet", "déjà vu")
    s = world.catalog.add_snapshot(ref, path=path, root_inode=2**64 - 1, home=FLASH, now=NOW)
    assert (s.path, s.root_inode, s.ref) == (path, 2**64 - 1, ref)


def test_message_that_quotes_odd_bytes_is_kept_readable(world: World) -> None:
    s = world.add()
    world.catalog.set_problem(s.id, "odd name: " + os.fsdecode(b"\xff"), NOW)
    assert world.catalog.snapshot(s.ref).problem == "odd name: \\udcff"
    world.catalog.add_event("x.y", now=NOW, detail={"name": os.fsdecode(b"\xff")})
    assert world.catalog.events()[-1].detail == {"name": "\\udcff"}


def test_measure_moves_times_only_forward_and_never_past_now(world: World) -> None:
    s = world.add(measure=measure())
    same = world.catalog.record_measure(s.id, measure(newest_change=NOW - timedelta(days=9)), now=NOW)
    assert same.changed_at == s.changed_at
    assert same.access_source is AccessSource.DISCOVERY  # the atime is older than the discovery
    assert world.kinds() == ["snapshot.found"]
    later = NOW + HOUR
    new = world.catalog.record_measure(
        s.id, measure(newest_change=NOW + 9 * HOUR, newest_access=NOW + HOUR / 2, size_bytes=5), now=later
    )
    assert (new.changed_at, new.accessed_at, new.access_source) == (later, NOW + HOUR / 2, AccessSource.ATIME)
    assert (new.size_bytes, new.scanned_at) == (5, later)
    assert world.kinds()[-1] == "snapshot.changed"


def test_original_is_as_large_as_the_tree_and_counts_on_its_tier(world: World) -> None:
    s = world.add(measure=measure())
    world.add("v2", measure=measure(size_bytes=7))
    world.catalog.apply(s.id, [cold_copy()], now=NOW)
    world.catalog.record_measure(s.id, measure(size_bytes=5000, entries=12), now=NOW)
    flash, hdd = world.catalog.placements(s.id)
    assert (flash.size_bytes, flash.entries, hdd.size_bytes) == (5000, 12, 1000)
    assert (world.catalog.bytes_on(FLASH), world.catalog.bytes_on(HDD)) == (5007, 1000)
    assert world.catalog.bytes_on(FLASH.__class__("tape")) == 0


def test_problem_is_noted_when_it_comes_and_goes(world: World) -> None:
    s = world.add()
    for problem in ("hard link leads outside", "hard link leads outside", None):
        world.catalog.record_measure(s.id, measure(problem=problem), now=NOW)
    assert world.kinds() == ["snapshot.found", "snapshot.problem", "snapshot.problem_solved"]


def test_accesses_within_six_hours_are_one_episode(world: World) -> None:
    s = world.add()

    def read(hours: float) -> None:
        at = NOW + hours * HOUR
        world.catalog.record_access([AccessBatch(snapshot_id=s.id, read_at=at, reads=1)], now=at)

    for hours, episodes in ((1, 1), (6, 1), (12, 1), (18.1, 2), (18.2, 2)):
        read(hours)
        assert world.catalog.snapshot(s.ref).episodes == episodes
    now = world.catalog.snapshot(s.ref)
    assert now.accessed_at == now.read_at == NOW + 18.2 * HOUR
    assert (now.access_source, now.written_at, now.changed_at) == (AccessSource.EVENTS, None, NOW)


def test_write_moves_the_change_and_the_future_is_capped(world: World) -> None:
    s = world.add()
    now = NOW + HOUR
    batch = [
        AccessBatch(snapshot_id=s.id, written_at=NOW + 99 * HOUR, writes=1),
        AccessBatch(snapshot_id=s.id, read_at=NOW + HOUR / 2, reads=1),
        AccessBatch(snapshot_id=SnapshotId(999), read_at=NOW),
    ]
    world.catalog.record_access(batch, now=now)
    after = world.catalog.snapshot(s.ref)
    assert (after.written_at, after.changed_at, after.accessed_at) == (now, now, now)
    assert (after.read_at, after.episodes) == (NOW + HOUR / 2, 1)


def test_rename_keeps_identity_and_history(world: World) -> None:
    s = world.add("v1")
    world.add("v2")
    with pytest.raises(Conflict):
        world.catalog.rename_snapshot(s.id, SnapshotRef("imagenet", "v2"), s.path, NOW)
    new = SnapshotRef("imagenet", "v3")
    world.catalog.rename_snapshot(s.id, new, s.path.with_name("v3"), NOW)
    assert world.catalog.snapshot(new).key == s.key
    kinds = [e.kind for e in world.catalog.events(ref=new)]
    assert kinds == ["snapshot.found", "snapshot.renamed"]


def test_effects_change_the_placements(world: World) -> None:
    s = world.add()
    world.catalog.apply(s.id, [cold_copy(), SetContent(FLASH, "c" * 64), SetWarmed(NOW), SetRootInode(5)], now=NOW)
    flash, hdd = world.catalog.placements(s.id)
    assert flash.content_id == hdd.content_id == "c" * 64
    assert (hdd.location, hdd.verified_at) == ("imagenet/v1", NOW)
    assert world.catalog.snapshot(s.ref).warmed_at == NOW
    assert world.catalog.snapshot(s.ref).root_inode == 5
    events = world.catalog.last_event_id()
    world.catalog.apply(s.id, [cold_copy()], now=NOW)
    assert world.catalog.last_event_id() == events, "repeating a step is not news"
    world.catalog.apply(s.id, [DropPlacement(FLASH), DropPlacement(FLASH)], now=NOW)
    assert [p.tier for p in world.catalog.placements(s.id)] == [HDD]
    assert world.kinds()[1:] == ["placement.verified", "snapshot.warmed", "placement.dropped"]


def test_last_verified_copy_is_never_forgotten(world: World) -> None:
    s = world.add()
    for effect in (DropPlacement(FLASH), MarkStale(FLASH), MarkPartial(FLASH)):
        with pytest.raises(Conflict, match="without a verified copy"):
            world.catalog.apply(s.id, [effect], now=NOW)
    world.catalog.apply(s.id, [cold_copy(), DropPlacement(FLASH)], now=NOW)
    with pytest.raises(Conflict):
        world.catalog.apply(s.id, [MarkStale(HDD)], now=NOW)
    assert world.catalog.placements(s.id)[0].state is PlacementState.VERIFIED
    world.catalog.mark_gone(s.id, NOW)
    world.catalog.apply(s.id, [DropPlacement(HDD)], now=NOW)
    assert world.catalog.placements(s.id) == []


def test_unknown_tiers_are_refused(world: World) -> None:
    s = world.add()
    with pytest.raises(Conflict):
        world.catalog.apply(s.id, [SetContent(HDD, "c")], now=NOW)
    with pytest.raises(NotFound):
        world.catalog.tier_identity(HDD.__class__("tape"))
    assert world.catalog.tier_identity(HDD) is None
    world.catalog.set_tier_identity(HDD, "u-1")
    world.catalog.configure(world.tiers, world.datasets)
    assert world.catalog.tier_identity(HDD) == "u-1"


def test_reanchoring_leaves_nothing_in_the_future_and_leases_their_length(world: World) -> None:
    s = world.add(measure=measure())
    world.catalog.record_access([AccessBatch(snapshot_id=s.id, read_at=NOW, written_at=NOW)], now=NOW)
    t = world.run(world.enqueue(s.id), S.COPYING)
    world.catalog.retry_later(t.id, S.COPYING, error="e", error_code="c", not_before=NOW + 9 * HOUR, now=NOW)
    lease = world.catalog.grant_lease(snapshot_id=s.id, holder="alice", ttl=2 * HOUR, now=NOW)
    past = NOW - timedelta(days=365)
    assert world.catalog.reanchor_clock(now=past) > 0
    after = world.catalog.snapshot(s.ref)
    assert {after.first_seen_at, after.changed_at, after.accessed_at, after.read_at, after.scanned_at} == {past}
    assert world.catalog.transfer(t.id).not_before == past
    assert world.catalog.transfer(t.id).created_at == past
    moved = world.catalog.hold(lease.id)
    assert (moved.since, moved.expires_at) == (past, past + 2 * HOUR)
    assert world.catalog.reanchor_clock(now=past) == 0
    assert world.kinds()[-1] == "clock.reanchored"
