"""Full, read-only, missing and wrong disks, on loop-mounted file systems of their own; hostile trees."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import SmallMount
from tests.world import FLASH, HDD, World, digest_tree, is_done
from tierd.model.placement import Residency
from tierd.model.transfer import TransferState

pytestmark = pytest.mark.mounts


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "world"
    path.mkdir()
    return path


@pytest.fixture
def world(base: Path, ext4: Path, xfs: Path) -> Iterator[World]:
    """Flash on xfs, HDD on ext4: every move crosses file systems."""
    flash, hdd = xfs / base.parent.name, ext4 / base.parent.name
    world = World(base, flash=flash, hdd=hdd)
    yield world
    world.close()
    subprocess.run(["rm", "-rf", str(flash), str(hdd)], check=True)


def test_everything_survives_the_way_down_and_back_between_file_systems(world: World) -> None:
    root = world.data / "v1"
    root.mkdir()
    (root / "plain").write_bytes(os.urandom(100_000))
    os.chown(root / "plain", 1234, 5678)
    (root / "setuid").write_bytes(b"#!")
    os.chown(root / "setuid", 1, 2)
    (root / "setuid").chmod(0o6755)
    subprocess.run(["setcap", "cap_net_raw+ep", str(root / "plain")], check=True)
    subprocess.run(["setfacl", "-m", "u:4321:r,d:u:4321:rwx", str(root)], check=True)
    os.setxattr(root / "plain", "user.note", b"\0binary\xff")
    os.setxattr(root / "plain", "trusted.secret", b"t")
    os.link(root / "plain", root / "twin")
    (root / "dangling").symlink_to("no\nwhere")
    os.mkfifo(root / "fifo")
    (root / "empty").mkdir(mode=0o1777)
    (root / ("n" * 255)).write_bytes(b"long")
    (root / "new\nline").write_bytes(b"x")
    with open(os.fsencode(root) + b"/not\xfftext", "wb") as file:  # noqa: PTH123 - a name that is not text
        file.write(b"y")
    with (root / "sparse").open("wb") as file:
        file.truncate(50 << 20)
        file.seek(30 << 20)
        file.write(b"island")
    os.utime(root / "plain", ns=(1_234_567_890_123_456_789, 987_654_321_987_654_321))
    os.utime(root / "empty", ns=(5, 1_111_111_111_111_111_111))
    os.utime(root / "dangling", ns=(7, 2_222_222_222_222_222_222), follow_symlinks=False)
    subprocess.run(["mknod", str(root / "null"), "c", "1", "3"], check=True)
    snapshot = world.add("v1")

    def attributes() -> dict[bytes, dict[str, bytes]]:
        found = {}
        for directory, names, files in os.walk(os.fsencode(root.resolve())):
            for name in [b".", *names, *files]:
                path = os.path.join(directory, name)
                # xfs shows each ACL a second time under a name of its own
                kept = [n for n in os.listxattr(path, follow_symlinks=False) if not n.startswith("trusted.SGI_ACL")]
                key = os.path.relpath(path, os.fsencode(root.resolve()))
                found[key] = {n: os.getxattr(path, n, follow_symlinks=False) for n in kept}
        return found

    def facts() -> tuple[object, ...]:
        same = (root / "plain").stat().st_ino == (root / "twin").stat().st_ino
        return digest_tree(root), attributes(), same

    def blocks() -> int:
        return (root / "sparse").stat().st_blocks

    before = facts()
    assert before[2]
    assert sum(map(len, before[1].values())) >= 6  # type: ignore[attr-defined]
    assert is_done(world.release(snapshot))
    assert root.is_symlink()
    assert facts() == before
    assert blocks() < 1 << 12, "the hole was filled"
    assert is_done(world.recall(snapshot))
    assert facts() == before
    assert blocks() < 1 << 12


@pytest.mark.parametrize("what", ["bytes", "inodes"])
def test_a_full_destination_loses_nothing_and_goes_on_when_there_is_room(
    base: Path, small_mount: SmallMount, what: str
) -> None:
    hdd = small_mount("ext4", size_mb=32, inodes=200 if what == "inodes" else None)
    ballast = hdd / "ballast"
    ballast.mkdir()
    if what == "bytes":
        (ballast / "b").write_bytes(b"\0" * (20 << 20))
    else:
        while os.statvfs(hdd).f_favail > 30:
            (ballast / os.urandom(8).hex()).touch()
    world = World(base, hdd=hdd)
    snapshot = world.make(files=40, size=300_000 if what == "bytes" else 100)
    before = digest_tree(snapshot.path)
    transfer = world.release(snapshot)
    assert transfer.error_code == "tier_full"
    assert transfer.state is TransferState.QUEUED
    assert digest_tree(snapshot.path) == before
    assert not snapshot.path.is_symlink()
    subprocess.run(["rm", "-r", str(ballast)], check=True)
    assert is_done(world.finish(transfer))
    assert digest_tree(snapshot.path) == before
    assert world.litter() == []
    world.close()


def test_a_full_flash_leaves_the_snapshot_readable_on_the_cold_tier(base: Path, small_mount: SmallMount) -> None:
    flash = small_mount("ext4", size_mb=32)
    world = World(base, flash=flash)
    snapshot = world.make(files=10, size=1_000_000)
    before = digest_tree(snapshot.path)
    assert is_done(world.release(snapshot))
    (flash / "ballast").write_bytes(b"\0" * (18 << 20))
    transfer = world.recall(snapshot)
    assert transfer.error_code == "tier_full"
    assert snapshot.path.is_symlink()
    assert digest_tree(snapshot.path) == before
    (flash / "ballast").unlink()
    assert is_done(world.finish(transfer))
    assert digest_tree(snapshot.path) == before
    world.close()


def test_a_read_only_destination_is_named_and_nothing_is_lost(base: Path, small_mount: SmallMount) -> None:
    hdd = small_mount("ext4")
    world = World(base, hdd=hdd)
    snapshot = world.make()
    before = digest_tree(snapshot.path)
    subprocess.run(["mount", "-o", "remount,ro", str(hdd)], check=True)
    transfer = world.release(snapshot)
    assert transfer.state is TransferState.QUEUED
    assert "read-only" in (transfer.error or "").lower()
    assert digest_tree(snapshot.path) == before
    subprocess.run(["mount", "-o", "remount,rw", str(hdd)], check=True)
    assert is_done(world.finish(transfer))
    assert digest_tree(snapshot.path) == before
    world.close()


def test_nothing_is_copied_into_the_empty_mount_point_of_a_missing_disk(base: Path, small_mount: SmallMount) -> None:
    hdd = small_mount("ext4")
    world = World(base, hdd=hdd)
    snapshot = world.make()
    migrated = world.make("v2")
    world.release(migrated)
    subprocess.run(["umount", str(hdd)], check=True)
    transfer = world.release(snapshot)
    assert transfer.error_code == "tier_offline"
    assert list(hdd.iterdir()) == []
    assert not snapshot.path.is_symlink()
    assert world.residency(migrated) is Residency.MIGRATED
    recall = world.recall(migrated)
    assert recall.error_code == "tier_offline"
    assert migrated.path.is_symlink()
    subprocess.run(["mount", "-o", "loop", str(hdd.parent / "image"), str(hdd)], check=True)
    for each in (transfer, recall):
        assert is_done(world.finish(world.catalog.transfer(each.id)))
    world.close()


def test_another_disk_in_the_same_place_is_not_written_to(base: Path, small_mount: SmallMount) -> None:
    hdd, other = small_mount("ext4"), small_mount("ext4")
    world = World(base, hdd=hdd)
    snapshot = world.make()
    subprocess.run(["mount", "--bind", str(other), str(hdd)], check=True)  # over the right one
    (hdd / ".tierd").mkdir()
    (hdd / ".tierd" / "tier.json").write_text('{"uuid": "another", "name": "hdd", "created_at": ""}')
    transfer = world.release(snapshot)
    assert transfer.error_code == "tier_offline"
    assert "another disk" in (transfer.error or "")
    assert not snapshot.path.is_symlink()
    world.close()
    subprocess.run(["umount", str(hdd)], check=True)


# -- hostile trees ------------------------------------------------------------------------------------------------


def test_a_hard_link_to_a_file_outside_stops_the_transfer_by_name(world: World) -> None:
    secret = world.roots[FLASH] / "secret"
    secret.write_bytes(b"not theirs")
    secret.chmod(0o600)
    snapshot = world.make()
    os.link(secret, snapshot.path / "sub" / "mine")
    before = secret.stat()
    transfer = world.release(snapshot)
    assert transfer.state is TransferState.FAILED
    assert "sub/mine" in (transfer.error or "")
    assert not snapshot.path.is_symlink()
    after = secret.stat()
    assert (after.st_uid, after.st_mode, after.st_mtime_ns) == (before.st_uid, before.st_mode, before.st_mtime_ns)
    assert not (world.roots[HDD] / "ds" / "v1").exists()
    assert world.litter() == []


def test_a_socket_stops_the_transfer_by_name(world: World) -> None:
    snapshot = world.make()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(snapshot.path / "sock"))
        transfer = world.migrate(snapshot)
    assert transfer.state is TransferState.FAILED
    assert transfer.error_code == "unsupported"
    assert "sock" in (transfer.error or "")
    assert world.litter() == []


def test_a_link_in_place_of_a_directory_is_kept_as_a_link(world: World) -> None:
    outside = world.base / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    snapshot = world.make()
    (snapshot.path / "way out").symlink_to(outside)
    assert is_done(world.release(snapshot))
    assert (world.roots[HDD] / "ds" / "v1" / "way out").is_symlink()
    assert (outside / "secret").read_bytes() == b"secret"


def test_a_file_the_daemon_may_not_read_is_named(base: Path) -> None:
    # Root without the capabilities that let it pass permissions is a user like any other.
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.world import World
world = World(Path({str(base)!r}))
snapshot = world.make()
(snapshot.path / "f0").chmod(0o600)
os.chown(snapshot.path / "f0", 65534, 65534)
transfer = world.release(snapshot)
print(transfer.error_code, "f0" in (transfer.error or ""), snapshot.path.is_symlink())
world.close()
"""
    command = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", sys.executable, "-c", script]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.stdout.split() == ["denied", "True", "False"], answer.stderr
