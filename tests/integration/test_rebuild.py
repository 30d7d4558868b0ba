"""A lost catalog is made again from what lies on the tiers, and tierd simply goes on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rebuilding import call, go, lose_catalog, rebuild
from tests.seaweed import Seaweed
from tests.world import CLOUD, FLASH, HDD, World, digest_tree, is_done, s3_settings
from tierd.model.dataset import Snapshot, SnapshotRef
from tierd.model.placement import PlacementState, Residency
from tierd.model.transfer import TransferKind
from tierd.storage.manifest import Manifest

VERIFIED, STALE = PlacementState.VERIFIED, PlacementState.STALE
DOWN, UP = TransferKind.MIGRATE, TransferKind.RECALL


@pytest.fixture
def world(tmp_path: Path, seaweed: Seaweed) -> Iterator[World]:
    world = World(tmp_path, s3=s3_settings(tmp_path, seaweed.endpoint))
    yield world
    world.close()


@pytest.fixture
def on_disks(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def found(world: World, name: str = "v1") -> Snapshot:
    return world.catalog.snapshot(SnapshotRef("ds", name))


def states(world: World, snapshot: Snapshot) -> dict[str, PlacementState]:
    return {p.tier: p.state for p in world.catalog.placements(snapshot.id)}


def contents(world: World, snapshot: Snapshot) -> dict[str, str | None]:
    return {p.tier: p.content_id for p in world.catalog.placements(snapshot.id)}


def wipe_flash(world: World) -> None:
    """Another machine: nothing is on its flash but the directory of the dataset."""
    shutil.rmtree(world.roots[FLASH])
    world.data.mkdir(parents=True)


def forget_names(world: World) -> None:
    """Manifests as an older tierd wrote them, which said less."""
    for root in world.roots.values():
        for path in (root / ".tierd" / "manifests").glob("*.db"):
            with Manifest.open(path) as manifest:
                is_source = manifest.meta.get("side") == "source"
                manifest.set_meta({"dataset": None, "name": None} | ({"location": None} if is_source else {}))


# -- another machine -----------------------------------------------------------------------------------------------


def test_a_snapshot_only_in_the_bucket_comes_back_to_its_path_on_a_new_machine(world: World) -> None:
    snapshot = world.make(files=30)
    before = digest_tree(snapshot.path)
    assert is_done(world.release(snapshot))
    wipe_flash(world)
    assert world.s3 is not None
    shutil.rmtree(world.s3.state)
    result = rebuild(world)
    assert result.exit_code == 0, result.output
    again = found(world)
    assert again.key == snapshot.key
    assert (again.entries, again.files, again.size_bytes) == (34, 30, 30 * 3000)
    assert world.residency(again) is Residency.MIGRATED
    assert snapshot.path.is_symlink()
    assert not snapshot.path.exists()
    assert is_done(world.recall(again))
    assert digest_tree(snapshot.path) == before
    assert is_done(world.release(again))
    assert is_done(world.recall(again))
    assert digest_tree(snapshot.path) == before
    assert world.litter() == []


def test_where_nothing_is_at_the_path_it_leads_to_the_fastest_copy(world: World) -> None:
    snapshot = world.make()
    before = digest_tree(snapshot.path)
    go(world, snapshot, DOWN, FLASH, HDD)
    go(world, snapshot, DOWN, HDD, CLOUD)
    wipe_flash(world)
    assert rebuild(world).exit_code == 0
    again = found(world)
    assert os.readlink(snapshot.path) == str(world.roots[HDD] / "ds" / "v1")
    assert digest_tree(snapshot.path.resolve()) == before
    assert states(world, again) == {HDD: VERIFIED, CLOUD: VERIFIED}
    assert contents(world, again)[HDD] == contents(world, again)[CLOUD]
    go(world, again, UP, HDD, FLASH)
    assert digest_tree(snapshot.path) == before
    go(world, again, DOWN, FLASH, HDD, release=True)  # without copying: the copy there is known to be the same
    assert digest_tree(snapshot.path.resolve()) == before
    go(world, again, DOWN, HDD, CLOUD, release=True)
    go(world, again, UP, CLOUD, FLASH)
    assert digest_tree(snapshot.path) == before
    assert world.litter() == []


def test_a_dataset_that_is_itself_the_snapshot_comes_back(tmp_path: Path, seaweed: Seaweed) -> None:
    world = World(tmp_path, pattern=None, s3=s3_settings(tmp_path, seaweed.endpoint))
    try:
        (world.data / "f").write_bytes(b"all of it")
        snapshot = world.add("self")
        before = digest_tree(world.data)
        assert is_done(world.release(snapshot))
        wipe_flash(world)
        world.data.rmdir()
        assert rebuild(world).exit_code == 0
        assert is_done(world.recall(found(world, "self")))
        assert digest_tree(world.data) == before
    finally:
        world.close()


def test_the_directory_of_the_dataset_is_asked_for_and_not_made_up(world: World) -> None:
    """Its owner and mode protect what is in it: tierd does not know them."""
    assert is_done(world.release(world.make()))
    shutil.rmtree(world.roots[FLASH])
    world.roots[FLASH].mkdir()
    result = rebuild(world)
    assert str(world.data) in result.stdout
    assert "Create it" in result.stdout
    assert not world.data.exists()
    assert world.catalog.snapshots() == []


# -- the same machine ------------------------------------------------------------------------------------------------


def test_on_the_same_machine_everything_is_as_it_was(world: World) -> None:
    snapshots = [world.make(f"v{n}") for n in range(4)]
    go(world, snapshots[1], DOWN, FLASH, HDD)
    go(world, snapshots[1], DOWN, FLASH, CLOUD)
    go(world, snapshots[2], DOWN, FLASH, HDD, release=True)
    go(world, snapshots[3], DOWN, FLASH, CLOUD, release=True)
    go(world, snapshots[3], UP, CLOUD, FLASH)
    was = {s.ref: (s.key, states(world, s), contents(world, s)) for s in snapshots[1:]}
    paths = {s.path: os.readlink(s.path) if s.path.is_symlink() else None for s in snapshots}
    result = rebuild(world)
    assert result.exit_code == 0, result.output
    now = {s.ref: (s.key, states(world, s), contents(world, s)) for s in world.catalog.snapshots()}
    assert now == was  # the daemon finds the directory that was never moved by itself
    assert {p: os.readlink(p) if p.is_symlink() else None for p in paths} == paths
    for snapshot in (found(world, "v1"), found(world, "v3")):
        assert is_done(world.release(snapshot))
    assert call(world, "audit").exit_code == 0
    assert world.litter() == []


def test_manifests_of_an_older_tierd_are_understood(world: World) -> None:
    snapshots = [world.make(f"v{n}") for n in range(3)]
    go(world, snapshots[0], DOWN, FLASH, HDD)
    go(world, snapshots[0], DOWN, HDD, CLOUD)
    go(world, snapshots[1], DOWN, FLASH, HDD, release=True)
    go(world, snapshots[1], DOWN, HDD, CLOUD)
    go(world, snapshots[2], DOWN, FLASH, CLOUD)
    was = {s.ref: (s.key, states(world, s)) for s in snapshots}
    forget_names(world)
    assert rebuild(world).exit_code == 0
    assert {s.ref: (s.key, states(world, s)) for s in world.catalog.snapshots()} == was


def test_a_snapshot_that_was_renamed_keeps_its_new_name(on_disks: World) -> None:
    world = on_disks
    first, second = world.make("old1"), world.make("old2")
    go(world, first, DOWN, FLASH, HDD)
    go(world, second, DOWN, FLASH, HDD, release=True)
    for snapshot, name in ((first, "new1"), (second, "new2")):
        snapshot.path.rename(world.data / name)
    assert rebuild(world).exit_code == 0
    assert {s.ref.name: s.key for s in world.catalog.snapshots()} == {"new1": first.key, "new2": second.key}
    assert states(world, found(world, "new1")) == {FLASH: VERIFIED, HDD: VERIFIED}
    assert is_done(world.release(found(world, "new1")))
    assert is_done(world.recall(found(world, "new2")))


def test_a_snapshot_that_was_changed_since_is_what_its_path_shows(world: World) -> None:
    snapshot = world.make()
    go(world, snapshot, DOWN, FLASH, HDD)
    go(world, snapshot, DOWN, FLASH, CLOUD)
    (snapshot.path / "f0").write_bytes(b"changed")
    before = digest_tree(snapshot.path)
    assert rebuild(world).exit_code == 0
    again = found(world)
    assert states(world, again) == {FLASH: VERIFIED, HDD: STALE, CLOUD: STALE}
    assert contents(world, again)[FLASH] is None
    assert is_done(world.release(again))
    assert is_done(world.recall(again))
    assert digest_tree(snapshot.path) == before


def test_an_older_copy_on_another_tier_is_stale(world: World) -> None:
    snapshot = world.make()
    go(world, snapshot, DOWN, FLASH, CLOUD)
    (snapshot.path / "f0").write_bytes(b"changed")
    go(world, snapshot, DOWN, FLASH, HDD)
    wipe_flash(world)
    assert rebuild(world).exit_code == 0
    assert states(world, found(world)) == {HDD: VERIFIED, CLOUD: STALE}
    assert (snapshot.path / "f0").read_bytes() == b"changed"


def test_a_home_on_the_hdd_with_a_copy_on_flash_is_known_again(tmp_path: Path) -> None:
    world = World(tmp_path, home=HDD)
    try:
        snapshot = world.make()
        before = digest_tree(snapshot.path)
        go(world, snapshot, UP, HDD, FLASH)
        assert snapshot.path.is_symlink()
        was = states(world, snapshot)
        assert rebuild(world).exit_code == 0
        again = found(world)
        assert (again.key, states(world, again)) == (snapshot.key, was)
        go(world, again, DOWN, FLASH, HDD, release=True)
        assert not snapshot.path.is_symlink()
        assert digest_tree(snapshot.path) == before
        assert world.litter() == []
    finally:
        world.close()


def test_a_tree_put_aside_returns_to_its_path_when_the_flash_that_it_led_to_is_lost(tmp_path: Path) -> None:
    world = World(tmp_path, home=HDD)
    try:
        snapshot = world.make()
        before = digest_tree(snapshot.path)
        go(world, snapshot, UP, HDD, FLASH)
        snapshot.path.unlink()
        shutil.rmtree(world.roots[FLASH])
        world.roots[FLASH].mkdir()
        assert rebuild(world).exit_code == 0
        assert not snapshot.path.is_symlink()
        assert digest_tree(snapshot.path) == before
        assert states(world, found(world)) == {HDD: VERIFIED}
        go(world, found(world), UP, HDD, FLASH)
        assert digest_tree(snapshot.path.resolve()) == before
    finally:
        world.close()


# -- what is left alone ----------------------------------------------------------------------------------------------


def test_an_empty_directory_at_the_path_never_costs_a_copy(world: World) -> None:
    """Taken for the snapshot it would soon replace the only copy there is."""
    assert is_done(world.release(world.make()))
    keys = world.keys()
    wipe_flash(world)
    (world.data / "v1").mkdir()
    result = rebuild(world)
    assert "another directory is at" in result.stdout
    assert world.catalog.snapshots() == []
    assert world.keys() == keys
    assert os.listdir(world.data / "v1") == []


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_foreign_link_or_file_at_the_path_is_reported_and_not_touched(world: World, kind: str) -> None:
    assert is_done(world.release(world.make()))
    wipe_flash(world)
    path = world.data / "v1"
    if kind == "link":
        path.symlink_to("/somewhere/else")
    else:
        path.write_bytes(b"mine")
    before = path.lstat()
    result = rebuild(world)
    assert f"is at {path}" in result.stdout
    after = path.lstat()
    # Its ctime tells every change; that a link was looked at sets its access time.
    assert (after.st_ino, after.st_mode, after.st_ctime_ns) == (before.st_ino, before.st_mode, before.st_ctime_ns)
    assert world.catalog.snapshots() == []


def test_a_new_directory_of_the_same_name_is_not_the_old_snapshot(world: World) -> None:
    snapshot = world.make()
    go(world, snapshot, DOWN, FLASH, CLOUD)
    shutil.rmtree(snapshot.path)
    snapshot.path.mkdir()  # its inode may well have the same number
    (snapshot.path / "f0").write_bytes(b"something else")
    assert rebuild(world).exit_code == 0
    assert world.catalog.snapshots() == []
    assert (snapshot.path / "f0").read_bytes() == b"something else"


def test_copies_of_a_dataset_that_is_not_configured_are_listed_with_what_to_add(world: World) -> None:
    assert is_done(world.release(world.make()))
    (world.roots[FLASH] / "other").mkdir()
    lose_catalog(world)
    datasets = f'[[datasets]]\nname = "other"\npath = "{world.roots[FLASH]}/other"\n'
    result = call(world, "rebuild", "--dry-run", datasets=datasets)
    world._open()
    assert "dataset ds is not configured" in result.stdout
    assert 'name = "ds"' in result.stdout


def test_several_copies_in_one_bucket_leave_the_newest_one(world: World) -> None:
    """Two machines made copies under one key (their disk was cloned): the older one is left for people."""
    snapshot = world.make()
    go(world, snapshot, DOWN, FLASH, CLOUD)
    first = world.catalog.placements(snapshot.id)[0].location
    old = {key: world.bucket.get(key) for key in world.keys(f"{first}/")}
    (snapshot.path / "f0").write_bytes(b"newer")
    go(world, snapshot, DOWN, FLASH, CLOUD)
    for key in sorted(old, reverse=True):
        world.bucket.put(key, old[key])
    wipe_flash(world)
    result = rebuild(world)
    assert "has a newer copy of this snapshot" in result.stdout
    assert set(old) <= set(world.keys())
    assert is_done(world.recall(found(world)))
    assert (snapshot.path / "f0").read_bytes() == b"newer"


# -- refusals --------------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_everything_and_changes_nothing(world: World) -> None:
    snapshot = world.make()
    assert is_done(world.release(snapshot))
    wipe_flash(world)
    lose_catalog(world)
    shown = call(world, "rebuild", "--dry-run")
    listed = call(world, "rebuild", "--dry-run", "--json")
    assert not world.config.database.exists()
    assert not os.path.lexists(snapshot.path)
    assert shown.exit_code == 0
    for text in ("ds/v1", CLOUD, "link the path to it"):
        assert text in shown.stdout
    plan = json.loads(listed.stdout)
    assert plan["is_dry_run"]
    assert [(r["ref"], r["key"], r["action"]) for r in plan["restored"]] == [("ds/v1", snapshot.key, "make_link")]
    assert plan["left"] == []
    world._open()


def test_a_catalog_that_knows_snapshots_is_refused_and_one_that_a_daemon_owns(world: World) -> None:
    snapshot = world.make()
    result = call(world, "rebuild")
    assert result.exit_code == 8
    assert "Stop the daemon" in result.stderr
    world.close()
    result = call(world, "rebuild")
    assert result.exit_code == 5
    assert "is not empty" in result.stderr
    assert "move" in result.stderr
    world._open()
    assert found(world).key == snapshot.key


def test_a_tier_that_cannot_be_read_ends_it_before_anything_is_done(world: World) -> None:
    assert is_done(world.release(world.make()))
    wipe_flash(world)
    lose_catalog(world)
    world.roots[HDD].rename(world.base / "unplugged")
    result = call(world, "rebuild")
    assert result.exit_code == 9
    assert "tier hdd cannot be read" in result.stderr
    assert not os.path.lexists(world.data / "v1")
    (world.base / "unplugged").rename(world.roots[HDD])
    assert call(world, "rebuild").exit_code == 0  # the catalog is still empty
    world._open()
    assert found(world)


def test_an_empty_mount_point_is_pointed_out(world: World) -> None:
    lose_catalog(world)
    shutil.rmtree(world.roots[HDD])
    world.roots[HDD].mkdir()
    result = call(world, "rebuild", "--dry-run")
    assert result.exit_code == 0
    assert "is it mounted?" in result.stderr
    world._open()


def test_killed_between_the_paths_and_the_catalog_it_is_run_again(world: World) -> None:
    snapshot = world.make()
    go(world, snapshot, DOWN, FLASH, HDD, release=True)
    go(world, snapshot, DOWN, HDD, CLOUD)
    wipe_flash(world)
    snapshot.path.symlink_to(world.roots[HDD] / "ds" / "v1")  # what the first run came to
    assert rebuild(world).exit_code == 0
    assert states(world, found(world)) == {HDD: VERIFIED, CLOUD: VERIFIED}
    go(world, found(world), UP, HDD, FLASH)
