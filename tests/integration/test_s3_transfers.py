"""Transfers to and from a bucket with real workers and a real S3 server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.seaweed import Seaweed
from tests.world import CLOUD, FLASH, HDD, Trap, World, digest_tree, is_done, s3_settings
from tierd.model.placement import Residency
from tierd.model.s3 import Counts
from tierd.model.transfer import TransferKind
from tierd.storage.s3.fetch import PATH, Files, ranges


@pytest.fixture
def world(tmp_path: Path, seaweed: Seaweed) -> Iterator[World]:
    world = World(tmp_path, s3=s3_settings(tmp_path, seaweed.endpoint))
    yield world
    world.close()


def test_a_snapshot_goes_to_the_bucket_and_stays_readable_on_flash(world: World) -> None:
    snapshot = world.make()
    before = digest_tree(snapshot.path)
    assert is_done(world.migrate(snapshot))
    assert world.residency(snapshot) is Residency.PREMIGRATED
    assert digest_tree(snapshot.path) == before
    assert world.litter() == []


def test_a_released_snapshot_is_a_dangling_link_and_comes_back_equal(world: World) -> None:
    snapshot = world.make(files=50)
    before = digest_tree(snapshot.path)
    assert is_done(world.release(snapshot))
    assert snapshot.path.is_symlink()
    with pytest.raises(FileNotFoundError):
        os.listdir(snapshot.path)
    assert world.residency(snapshot) is Residency.MIGRATED
    assert is_done(world.recall(snapshot))
    assert digest_tree(snapshot.path) == before
    assert world.residency(snapshot) is Residency.PREMIGRATED
    assert world.litter() == []


def test_a_recalled_snapshot_is_released_again_without_an_upload(world: World) -> None:
    snapshot = world.make()
    assert is_done(world.release(snapshot))
    keys = world.keys()
    assert is_done(world.recall(snapshot))
    assert is_done(world.release(snapshot))
    assert world.keys() == keys


def test_a_changed_snapshot_replaces_its_copy_in_the_bucket(world: World) -> None:
    snapshot = world.make()
    assert is_done(world.migrate(snapshot))
    first = set(world.keys())
    (snapshot.path / "new").write_bytes(b"more")
    after = digest_tree(snapshot.path)
    assert is_done(world.release(snapshot))
    assert not first & set(world.keys())
    assert is_done(world.recall(snapshot))
    assert digest_tree(snapshot.path) == after
    assert world.litter() == []


def test_a_chain_from_flash_over_hdd_to_the_bucket_and_back(world: World) -> None:
    snapshot = world.make()
    before = digest_tree(snapshot.path)

    def go(kind: TransferKind, source: str, destination: str, *, release: bool = False) -> None:
        order = world.order(snapshot, kind, release=release, source=source, destination=destination)  # type: ignore[arg-type]
        assert is_done(world.run(order))

    go(TransferKind.MIGRATE, FLASH, HDD)
    go(TransferKind.MIGRATE, HDD, CLOUD)
    go(TransferKind.MIGRATE, FLASH, HDD, release=True)
    assert digest_tree(snapshot.path.resolve()) == before
    go(TransferKind.MIGRATE, HDD, CLOUD, release=True)
    assert not world.has(snapshot, HDD)
    assert world.has(snapshot, CLOUD)
    assert not snapshot.path.exists()
    assert not (world.roots[HDD] / "ds" / "v1").exists()
    go(TransferKind.RECALL, CLOUD, FLASH)
    assert digest_tree(snapshot.path) == before
    assert world.litter() == []


def test_the_hdd_copy_can_go_while_the_path_leads_to_flash(world: World) -> None:
    snapshot = world.make()
    before = digest_tree(snapshot.path)
    for source, destination, release in ((FLASH, HDD, False), (FLASH, CLOUD, False), (HDD, CLOUD, True)):
        order = world.order(snapshot, TransferKind.MIGRATE, release=release, source=source, destination=destination)
        assert is_done(world.run(order))
    assert not snapshot.path.is_symlink()
    assert digest_tree(snapshot.path) == before
    assert not world.has(snapshot, HDD)
    assert world.has(snapshot, FLASH)
    assert world.has(snapshot, CLOUD)
    assert world.litter() == []


def test_equal_content_is_uploaded_once_and_lives_as_long_as_one_of_its_copies(world: World) -> None:
    first = world.make("v1", files=20)
    subprocess.run(["cp", "-a", str(first.path), str(world.data / "v2")], check=True)
    second = world.add("v2")
    before = digest_tree(second.path)
    assert is_done(world.migrate(first))
    packs = [key for key in world.keys("ds/") if "/packs/" in key]
    assert is_done(world.release(second))
    assert [key for key in world.keys("ds/") if "/packs/" in key] == packs
    # The first one is changed: its old copy, whose bytes the second one uses, is replaced.
    (first.path / "f0").write_bytes(b"changed")
    assert is_done(world.migrate(first))
    assert is_done(world.recall(second))
    assert digest_tree(second.path) == before


def test_other_content_of_the_same_shape_is_uploaded(world: World) -> None:
    first, second = world.make("v1"), world.make("v2")
    before = digest_tree(second.path)
    assert is_done(world.migrate(first))
    assert is_done(world.release(second))
    assert is_done(world.recall(second))
    assert digest_tree(second.path) == before
    assert world.litter() == []


def test_requests_and_bytes_are_counted(world: World) -> None:
    snapshot = world.make(files=20, size=10_000)
    assert is_done(world.release(snapshot))
    up = world.mover.asked()[CLOUD]
    assert sum(count.bytes_up for count in up.values()) > 200_000
    assert is_done(world.recall(snapshot))
    down = world.mover.asked()[CLOUD]
    assert down["get"].bytes_down > 200_000
    assert down["get"].requests > up.get("get", Counts()).requests


def test_files_that_are_asked_for_first_come_first(world: World) -> None:
    snapshot = world.make(files=2)
    for number in range(12):
        (snapshot.path / f"large{number:02}").write_bytes(os.urandom(6 << 20))
    before = digest_tree(snapshot.path)
    assert is_done(world.release(snapshot))
    manifest = world.store(CLOUD).manifest(world.site(snapshot, CLOUD))
    assert manifest is not None
    with manifest:
        order = [
            path
            for part in ranges(manifest, range_bytes=8 << 20, first=("large1*", "sub/*"))
            for path in ([file[PATH] for file in part.items] if isinstance(part, Files) else [part.item[PATH]])
        ]
    wanted = {b"large10", b"large11", b"sub/f1"}
    assert set(order[:3]) == wanted
    assert len(order) == len(set(order)) == 14
    assert is_done(world.run(world.order(snapshot, TransferKind.RECALL, first=("large1*", "sub/*"))))
    assert digest_tree(snapshot.path) == before


# -- crashes ---------------------------------------------------------------------------------------------------


def test_a_worker_killed_at_any_request_loses_nothing(world: World) -> None:
    """Down and up again, the worker killed at its first request, its second, … until a run ends without a kill."""
    for at in range(1, 60):
        snapshot = world.make(f"v{at}", files=12)
        before = digest_tree(snapshot.path)
        trap = Trap(at=at)
        for kind in (TransferKind.MIGRATE, TransferKind.RECALL):
            order = world.order(snapshot, kind, release=kind is TransferKind.MIGRATE)
            world.step(trap=trap)
            if trap.fired and at % 3 == 0:
                world.restart()
            if snapshot.path.exists():
                assert digest_tree(snapshot.path) == before
            assert is_done(world.finish(order))
        assert digest_tree(snapshot.path) == before
        assert world.litter() == []
        if not trap.fired:
            return
    pytest.fail("the transfers never came to an end without a kill")
