"""A recall of some files only: they lie on flash beside the snapshot, whose path and copies stay as they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.engine import as_nobody
from tests.seaweed import Seaweed
from tests.world import FLASH, HDD, Trap, World, digest_tree, is_done, s3_settings
from tierd.model.dataset import Snapshot
from tierd.model.part import Part
from tierd.model.placement import Residency
from tierd.model.transfer import Transfer, TransferKind, TransferState

HOUR = timedelta(hours=1)
CHOSEN = ("val", "labels.csv")
EXPECTED = {"val/a.tar", "val/deep/b.tar", "val/large", "val/sparse", "val/same.tar", "val/link", "labels.csv"}
STEPS = ("copy", "verify", "publish", "to committed", "to done")


@pytest.fixture(params=["hdd", "bucket"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    seaweed: Seaweed | None = request.getfixturevalue("seaweed") if request.param == "bucket" else None
    world = World(tmp_path, s3=None if seaweed is None else s3_settings(tmp_path, seaweed.endpoint))
    yield world
    world.close()


@pytest.fixture
def cold(world: World) -> Snapshot:
    root = world.data / "v1"
    (root / "val" / "deep").mkdir(parents=True)
    (root / "train" / "empty").mkdir(parents=True)
    for name in ("labels.csv", "val/a.tar", "val/deep/b.tar", "train/c.tar", "train/valid"):
        (root / name).write_bytes(name.encode() * 1000)
    (root / "val" / "large").write_bytes(os.urandom(11 << 20))
    os.link(root / "train" / "c.tar", root / "val" / "same.tar")
    (root / "val" / "link").symlink_to("a.tar")
    with (root / "val" / "sparse").open("wb") as file:
        file.truncate(9 << 20)
        file.seek(5 << 20)
        file.write(b"x" * 5000)
    os.utime(root / "labels.csv", ns=(1, 1_234_567_890_123_456_789))
    (root / "val").chmod(0o750)
    world.before = digest_tree(root)  # type: ignore[attr-defined]
    snapshot = world.add("v1")
    assert is_done(world.release(snapshot))
    return snapshot


def ordered(world: World, snapshot: Snapshot, *only: str) -> Transfer:
    return world.order(snapshot, TransferKind.RECALL, only=only or CHOSEN)


def part_of(world: World, snapshot: Snapshot) -> tuple[Part, Path]:
    (part,) = world.catalog.parts(snapshot.id)
    return part, world.roots[FLASH] / part.location


def files_in(tree: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    return {name: facts for name, facts in tree.items() if len(facts) > 4}


def assert_right(world: World, path: Path) -> None:
    before: dict[str, tuple[object, ...]] = world.before  # type: ignore[attr-defined]
    found = digest_tree(path)
    leader = {"train", "train/c.tar"}  # its bytes are those of the chosen val/same.tar
    assert {n for n in found if n not in leader} == EXPECTED | {".", "val", "val/deep"}
    assert {n: f for n, f in found.items() if n not in leader} == {n: before[n] for n in found if n not in leader}


def test_the_files_asked_for_are_there_and_nothing_else_changed(world: World, cold: Snapshot) -> None:
    path_before = os.readlink(cold.path)
    assert is_done(world.run(ordered(world, cold)))
    part, path = part_of(world, cold)
    assert_right(world, path)
    assert part.only == CHOSEN
    assert os.readlink(cold.path) == path_before
    assert world.residency(cold) is Residency.MIGRATED
    assert world.litter() == []


def test_it_is_read_by_whoever_reads_the_dataset_and_by_nobody_else(world: World, cold: Snapshot) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs another user, and so root")
    for place in (world.base, *world.base.parents):
        if place.stat().st_uid == 0 and place != Path("/"):
            place.chmod(place.stat().st_mode | 0o011)
    assert is_done(world.run(ordered(world, cold)))
    _, path = part_of(world, cold)
    as_nobody(lambda _: (path / "labels.csv").read_bytes())
    world.data.chmod(0o700)
    assert is_done(world.run(ordered(world, cold, "labels.csv")))
    newest = world.roots[FLASH] / world.catalog.parts(cold.id)[0].location
    with pytest.raises((PermissionError, AssertionError)):
        as_nobody(lambda _: (newest / "labels.csv").read_bytes())


def test_it_stays_while_somebody_holds_the_snapshot_and_goes_afterwards(world: World, cold: Snapshot) -> None:
    lease = world.catalog.grant_lease(snapshot_id=cold.id, holder="job", ttl=HOUR, now=world.now)
    assert is_done(world.run(ordered(world, cold)))
    _, path = part_of(world, cold)
    assert world.catalog.drop_parts(world.now) == []
    assert world.sweep() == []
    assert_right(world, path)
    world.catalog.end_lease(lease.id, world.now)
    assert [part.only for part in world.catalog.drop_parts(world.now)] == [CHOSEN]
    assert len(world.sweep()) == 1
    assert not path.exists()
    assert list((world.roots[FLASH] / ".tierd-parts").iterdir()) == []
    assert world.litter() == []


@pytest.mark.parametrize("how", ["a new file", "a changed file", "a file open for writing"])
def test_what_somebody_wrote_to_it_is_kept(tmp_path: Path, how: str) -> None:
    world = World(tmp_path)
    snapshot = world.make("v1")
    assert is_done(world.release(snapshot))
    assert is_done(world.run(ordered(world, snapshot, "f0", "sub")))
    _, path = part_of(world, snapshot)
    with (path / "f0").open("ab") as writer:
        match how:
            case "a new file":
                (path / "sub" / "result").write_bytes(b"of hours of work")
            case "a changed file":
                writer.write(b"more")
                writer.flush()
        if how != "a file open for writing":
            writer.close()
        world.catalog.drop_parts(world.now)
        assert world.sweep() == []
    assert not path.exists()
    (kept,) = (world.roots[FLASH] / ".tierd" / "kept").iterdir()
    assert (kept / "f0").stat().st_size == (3004 if how == "a changed file" else 3000)
    assert (kept / "sub" / "result").exists() is (how == "a new file")
    assert world.sweep() == []
    assert kept.exists()
    world.close()


@pytest.mark.parametrize("step", STEPS)
def test_a_worker_killed_at_any_step_goes_on(world: World, cold: Snapshot, step: str) -> None:
    lease = world.catalog.grant_lease(snapshot_id=cold.id, holder="job", ttl=HOUR, now=world.now)
    transfer = ordered(world, cold)
    trap = Trap(step=step)
    world.step(trap=trap)
    assert trap.fired
    world.sweep()
    world.now += timedelta(minutes=1)
    assert is_done(world.finish(transfer))
    assert_right(world, part_of(world, cold)[1])
    assert world.litter() == []
    world.catalog.end_lease(lease.id, world.now)


def test_a_cancelled_one_leaves_nothing(world: World, cold: Snapshot) -> None:
    transfer = ordered(world, cold)
    world.step(trap=Trap(step="to committed"))
    world.catalog.request_cancel(transfer.id, world.now)
    world.now += timedelta(minutes=1)
    world.finish(transfer)
    world.sweep()
    assert world.catalog.parts() == []
    assert world.litter() == []


def test_the_whole_can_come_afterwards_and_the_part_does_not_disturb_it(world: World, cold: Snapshot) -> None:
    assert is_done(world.run(ordered(world, cold)))
    assert is_done(world.recall(cold))
    assert digest_tree(cold.path) == world.before  # type: ignore[attr-defined]
    assert is_done(world.release(cold))
    world.catalog.drop_parts(world.now)
    world.sweep()
    assert world.litter() == []
    assert is_done(world.recall(cold))
    assert digest_tree(cold.path) == world.before  # type: ignore[attr-defined]


def test_a_link_in_place_of_tierds_directory_is_not_followed(tmp_path: Path) -> None:
    world = World(tmp_path)
    snapshot = world.make("v1")
    assert is_done(world.release(snapshot))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (world.roots[FLASH] / ".tierd-parts").symlink_to(elsewhere)
    ended = world.finish(ordered(world, snapshot, "f0"))
    assert ended.state is TransferState.FAILED
    assert list(elsewhere.iterdir()) == []
    assert world.catalog.parts() == []
    world.close()


def test_bytes_that_rotted_do_not_come(tmp_path: Path) -> None:
    world = World(tmp_path)
    snapshot = world.make("v1")
    assert is_done(world.release(snapshot))
    file = world.roots[HDD] / "ds" / "v1" / "f0"
    times = file.stat()
    with file.open("r+b") as open_file:
        open_file.write(b"rotten")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    manifest = world.store(HDD).manifest(world.site(snapshot, HDD))
    assert manifest is not None
    changed = file.stat().st_ctime_ns  # a disk that rots changes no times
    manifest.execute("UPDATE entry SET copy_ctime_ns = ? WHERE path = ?", (changed, b"f0"))
    manifest.commit()
    manifest.close()
    ended = world.finish(ordered(world, snapshot, "f0"))
    assert (ended.state, ended.error_code) == (TransferState.FAILED, "corrupt")
    assert world.catalog.parts() == []
    world.close()


def test_a_tier_that_an_older_tierd_used_is_swept(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.make("v1")
    for root in world.roots.values():
        if (root / ".tierd" / "parts").exists():
            (root / ".tierd" / "parts").rmdir()
    assert world.sweep() == []
    world.close()
