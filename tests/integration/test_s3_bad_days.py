"""Bad days of a tier in a bucket: broken networks, objects that vanish or rot, keys that may not write, large trees."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faulty_proxy import Fault, FaultyProxy, Way
from tests.seaweed import Seaweed
from tests.world import CLOUD, FLASH, Trap, World, digest_tree, is_done, s3_settings
from tierd.daemon.remote import Remote
from tierd.model.placement import Residency
from tierd.model.policy import Policy
from tierd.model.transfer import TransferKind, TransferState
from tierd.storage.manifest import Manifest


@contextmanager
def a_world(base: Path, endpoint: str, **changes: object) -> Iterator[World]:
    world = World(base, s3=s3_settings(base, endpoint, **changes))
    try:
        yield world
    finally:
        world.close()


@pytest.fixture
def world(tmp_path: Path, seaweed: Seaweed) -> Iterator[World]:
    with a_world(tmp_path, seaweed.endpoint) as world:
        yield world


# -- the network -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("way", list(Way))
def test_a_network_that_breaks_in_the_middle_is_no_more_than_a_delay(
    tmp_path: Path, seaweed: Seaweed, fault: Fault, way: Way
) -> None:
    with (
        FaultyProxy(seaweed.s3) as proxy,
        a_world(tmp_path, proxy.endpoint, timeout_s=2.0) as world,
    ):
        snapshot = world.make(files=6, size=1_500_000)
        (snapshot.path / "large").write_bytes(os.urandom(30 << 20))
        before = digest_tree(snapshot.path)
        proxy.next(fault, after=2_000_000, way=way, times=3)
        assert is_done(world.release(snapshot))
        proxy.next(fault, after=2_000_000, way=way, times=3)
        assert is_done(world.recall(snapshot))
        assert digest_tree(snapshot.path) == before
        assert proxy.faults >= 3
        proxy.calm()
        assert world.litter() == []


def test_a_store_that_asks_to_slow_down_is_obeyed(tmp_path: Path, seaweed: Seaweed) -> None:
    with FaultyProxy(seaweed.s3) as proxy, a_world(tmp_path, proxy.endpoint) as world:
        snapshot = world.make(files=20)
        before = digest_tree(snapshot.path)
        order = world.order(snapshot, TransferKind.MIGRATE, release=True)
        proxy.answer_503(6)
        assert is_done(world.run(order))
        asked = world.mover.asked()[CLOUD]
        assert sum(count.retries for count in asked.values()) >= 6
        assert is_done(world.recall(snapshot))
        assert digest_tree(snapshot.path) == before


def test_a_store_that_never_comes_back_costs_nothing_but_time(tmp_path: Path, seaweed: Seaweed) -> None:
    with FaultyProxy(seaweed.s3) as proxy, a_world(tmp_path, proxy.endpoint, retry_for_s=2.0) as world:
        snapshot = world.make()
        before = digest_tree(snapshot.path)
        proxy.down()
        transfer = world.release(snapshot)
        assert transfer.state is TransferState.QUEUED
        assert transfer.error_code == "tier_offline"
        assert digest_tree(snapshot.path) == before
        proxy.up()
        assert is_done(world.finish(transfer))
        assert is_done(world.recall(snapshot))
        assert digest_tree(snapshot.path) == before


# -- kills in the middle ------------------------------------------------------------------------------------------


def test_an_upload_killed_in_the_middle_goes_on_where_it_was(tmp_path: Path, seaweed: Seaweed) -> None:
    """Parts and packs that the store has are not sent again."""
    with a_world(tmp_path, seaweed.endpoint) as world:
        snapshot = world.make(files=4)
        (snapshot.path / "large").write_bytes(os.urandom(60 << 20))
        before = digest_tree(snapshot.path)
        order = world.order(snapshot, TransferKind.MIGRATE, release=True)
        _kill_after(world, 40 << 20)
        world.step()
        world.attempts.hook = None
        first = _bytes(world, "up")
        assert is_done(world.finish(order))
        assert _bytes(world, "up") - first < 45 << 20
        assert is_done(world.recall(snapshot))
        assert digest_tree(snapshot.path) == before
        assert world.litter() == []


def test_a_recall_killed_in_the_middle_goes_on_but_not_after_a_crash_of_the_machine(
    tmp_path: Path, seaweed: Seaweed
) -> None:
    """Within one life of the machine what was fetched is used; after a power cut nothing that was not synced is."""
    with a_world(tmp_path, seaweed.endpoint) as world:
        snapshot = world.make(files=4)
        (snapshot.path / "large").write_bytes(os.urandom(60 << 20))
        before = digest_tree(snapshot.path)
        assert is_done(world.release(snapshot))
        for is_crash in (False, True):
            order = world.order(snapshot, TransferKind.RECALL)
            _kill_after(world, 40 << 20)
            world.step()
            world.attempts.hook = None
            if is_crash:
                staged = world.roots[FLASH] / ".tierd" / "staging" / order.key / "manifest.db"
                with Manifest.open(staged) as manifest:
                    manifest.set_meta({"boot": "an earlier one"})
            first = _bytes(world, "down")
            assert is_done(world.finish(order))
            fetched = _bytes(world, "down") - first
            assert fetched > 60 << 20 if is_crash else fetched < 45 << 20
            assert digest_tree(snapshot.path) == before
            assert is_done(world.release(snapshot))


def test_what_a_disk_damaged_is_fetched_again_into_a_finished_directory(world: World) -> None:
    """A directory that has its default ACL already must not hand it on to what is written again."""
    snapshot = world.make(files=6)
    subprocess.run(["setfacl", "-d", "-m", "u:1234:rwx", str(snapshot.path / "sub")], check=True)
    before = digest_tree(snapshot.path)
    assert is_done(world.release(snapshot))
    order = world.order(snapshot, TransferKind.RECALL)
    world.step(trap=Trap(step="verify"))
    staged = world.roots[FLASH] / ".tierd" / "staging" / order.key / "tree" / "sub" / "f1"
    staged.write_bytes(bytes(staged.stat().st_size))
    assert is_done(world.finish(order))
    assert digest_tree(snapshot.path) == before
    assert (
        "1234"
        not in subprocess.run(
            ["getfacl", "-n", str(snapshot.path / "sub" / "f1")], check=True, capture_output=True, text=True
        ).stdout
    )


def _kill_after(world: World, size: int) -> None:
    """Let the next worker be given up once it has reported so many bytes as done."""

    def hook(message: object) -> None:
        if getattr(message, "bytes_done", 0) >= size:
            raise EOFError("killed by the test")

    world.attempts.hook = staticmethod(hook)


def _bytes(world: World, way: str) -> int:
    asked = world.mover.asked().get(CLOUD, {})
    return sum(count.bytes_up if way == "up" else count.bytes_down for count in asked.values())


# -- the bucket -----------------------------------------------------------------------------------------------------


def test_an_object_that_vanished_fails_its_snapshot_alone_and_loudly(world: World) -> None:
    broken, sound = world.make("v1", files=8), world.make("v2", files=9)
    before = digest_tree(sound.path)
    assert is_done(world.release(broken))
    assert is_done(world.release(sound))
    pack = next(key for key in world.keys("ds/v1/") if key.endswith("00001.tar"))
    world.bucket.delete([pack])
    transfer = world.finish(world.order(broken, TransferKind.RECALL))
    assert transfer.state is TransferState.FAILED
    assert pack in str(transfer.error)
    assert not broken.path.exists()
    assert is_done(world.recall(sound))
    assert digest_tree(sound.path) == before


def test_bytes_that_rotted_in_the_bucket_are_not_put_in_place(world: World, seaweed: Seaweed) -> None:
    snapshot = world.make(files=8)
    assert is_done(world.release(snapshot))
    pack = next(key for key in world.keys("ds/v1/") if key.endswith("00001.tar"))
    body = bytearray(world.bucket.get(pack))
    body[len(body) // 2] ^= 1
    world.bucket.put(pack, body)
    transfer = world.finish(world.order(snapshot, TransferKind.RECALL))
    assert transfer.state is TransferState.FAILED
    assert not snapshot.path.exists()
    assert world.residency(snapshot) is Residency.MIGRATED


@pytest.mark.parametrize("rotten", ["f2", "large"])
def test_rot_that_the_store_does_not_notice_is_found_before_anything_is_put_in_place(
    tmp_path: Path, seaweed: Seaweed, rotten: str
) -> None:
    """The object has the ETag that was recorded, and nothing is read back from the disk: only the digests tell."""
    settings = s3_settings(tmp_path, seaweed.endpoint)
    world = World(tmp_path, s3=settings, policy=Policy(verify="size"))
    try:
        snapshot = world.make(files=4)
        (snapshot.path / "large").write_bytes(os.urandom(9 << 20))
        content = (snapshot.path / rotten).read_bytes()
        assert is_done(world.release(snapshot))
        key = next(k for k in world.keys("ds/v1/") if ("/files/" if rotten == "large" else "/packs/0") in k)
        body = bytearray(world.bucket.get(key))
        body[body.index(content) + len(content) // 2] ^= 1
        changed = world.bucket.put(key, body)
        with Manifest.open(settings.state / "manifests" / f"{snapshot.key}.db") as manifest:
            manifest.execute("UPDATE object SET etag = ? WHERE key = ?", (changed.etag, key))
            manifest.commit()
        transfer = world.recall(snapshot)
        assert transfer.error_code == "corrupt"
        assert f"{rotten} is damaged in the bucket" in str(transfer.error)
        assert not snapshot.path.exists()
    finally:
        world.close()


def test_a_release_does_not_trust_a_copy_that_is_not_whole_any_more(world: World) -> None:
    snapshot = world.make(files=8)
    before = digest_tree(snapshot.path)
    assert is_done(world.migrate(snapshot))
    world.bucket.delete([next(key for key in world.keys("ds/v1/") if "/packs/" in key)])
    transfer = world.order(snapshot, TransferKind.MIGRATE, release=True)
    world.step()
    assert digest_tree(snapshot.path) == before
    assert is_done(world.finish(transfer))  # it was uploaded again
    assert is_done(world.recall(snapshot))
    assert digest_tree(snapshot.path) == before


def test_a_key_that_may_only_read_says_which_right_is_missing(tmp_path: Path) -> None:
    reader = {
        "name": "reader",
        "credentials": [{"accessKey": "reader", "secretKey": "reader-secret"}],
        "actions": ["Read", "List"],
    }
    server = Seaweed(tmp_path / "weed", identities=[reader]).start()
    try:
        with a_world(tmp_path, server.endpoint) as world:
            snapshot = world.make()
            before = digest_tree(snapshot.path)
            (tmp_path / "credentials").write_text(
                "[default]\naws_access_key_id = reader\naws_secret_access_key = reader-secret\n"
            )
            transfer = world.release(snapshot)
            assert transfer.error_code == "denied"
            assert "s3:PutObject" in str(transfer.error)
            assert digest_tree(snapshot.path) == before
    finally:
        server.kill()


def test_a_tier_is_back_when_its_credentials_are_corrected(world: World, tmp_path: Path) -> None:
    right = (tmp_path / "credentials").read_text()
    (tmp_path / "credentials").write_text(right.replace("tierd-secret", "wrong"))
    tier = next(t for t in world.config.tiers if t.name == CLOUD)
    is_changed = threading.Event()
    remote = Remote(tier, world.catalog, lambda: world.now, is_changed.set, interval_s=0.1)
    try:
        usage = remote.look(0)
        assert not usage.is_online
        assert "secret key" in str(usage.offline_reason)
        (tmp_path / "credentials").write_text(right)
        assert is_changed.wait(20)
        assert remote.look(0).is_online
    finally:
        remote.stop()


def test_a_bucket_with_versioning_is_used_like_any_other(world: World, tmp_path: Path, seaweed: Seaweed) -> None:
    client = seaweed.client()
    client.create_bucket(Bucket="versioned")
    client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    (tmp_path / "second").mkdir()
    with a_world(tmp_path / "second", seaweed.endpoint, bucket="versioned") as other:
        snapshot = other.make(files=10)
        assert is_done(other.migrate(snapshot))
        (snapshot.path / "f0").write_bytes(b"changed")
        before = digest_tree(snapshot.path)
        assert is_done(other.release(snapshot))
        assert is_done(other.recall(snapshot))
        assert digest_tree(snapshot.path) == before
        assert other.litter() == []


# -- large and odd ---------------------------------------------------------------------------------------------


def test_a_sparse_file_of_more_than_5_gib_moves_its_data_alone(world: World) -> None:
    snapshot = world.make(files=2)
    big = snapshot.path / "disk.img"
    with big.open("wb") as file:
        file.truncate((5 << 30) + 123)
        for at in (0, 3 << 30, (5 << 30) - 4096):
            file.seek(at)
            file.write(os.urandom(300_000 if at else 7_000_000))
    size, blocks = big.stat().st_size, big.stat().st_blocks
    heads = {at: _read(big, at) for at in (0, 1 << 30, 3 << 30, size - 5000)}
    assert is_done(world.release(snapshot))
    assert _bytes(world, "up") < 64 << 20
    assert is_done(world.recall(snapshot))
    assert big.stat().st_size == size
    assert big.stat().st_blocks <= blocks + 2048
    assert {at: _read(big, at) for at in heads} == heads


def _read(path: Path, at: int) -> bytes:
    with path.open("rb") as file:
        file.seek(at)
        return file.read(5000)


def test_many_small_files_come_back_all(world: World) -> None:
    root = world.data / "v1"
    for directory in range(100):
        (root / f"d{directory:02}").mkdir(parents=True)
        for number in range(1000):
            (root / f"d{directory:02}" / f"{number}").write_bytes(b"%d-%d" % (directory, number))
    snapshot = world.add("v1")
    assert is_done(world.release(snapshot))
    assert len(world.keys("ds/")) < 50
    assert is_done(world.recall(snapshot))
    for directory in range(100):
        names = {int(name) for name in os.listdir(root / f"d{directory:02}")}
        assert names == set(range(1000))
        assert (root / f"d{directory:02}" / "999").read_bytes() == b"%d-999" % directory


def test_odd_names_and_large_files_with_odd_names_survive(world: World) -> None:
    root = world.data / "v1"
    root.mkdir()
    names = [
        b"new\nline",
        b"not-utf8-\xff\xfe",
        "späce ünïcode".encode(),
        b"%2e%2e",
        b"a+b&c=d?e#f",
        b"-rf",
        b"x" * 250,
    ]
    for name in names:
        path = os.path.join(os.fsencode(root), name)
        with open(path, "wb") as small:  # noqa: PTH123  pathlib knows no bytes
            small.write(name)
        with open(path[: -1 if len(name) == 250 else None] + b"L", "wb") as large:  # noqa: PTH123
            large.write(os.urandom(6 << 20))
    snapshot = world.add("v1")
    before = digest_tree(snapshot.path)
    assert is_done(world.release(snapshot))
    assert is_done(world.recall(snapshot))
    assert digest_tree(snapshot.path) == before
