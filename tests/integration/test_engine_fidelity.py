"""A copy is equal to what was copied, in everything that a user can see."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import SmallMount
from tests.engine import MIB, as_nobody, assert_equal_trees, copy, copy_and_verify, describe, prove
from tierd.errors import Denied, SourceChanged, Unsupported
from tierd.storage.manifest import Manifest

PAIRS = [("ext4", "ext4"), ("ext4", "xfs"), ("xfs", "ext4")]


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    source = tmp_path / "source"
    source.mkdir()
    return source, tmp_path / "staging"


@pytest.fixture(params=PAIRS, ids=lambda pair: "-to-".join(pair))
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A source and a staging directory on two real file systems."""
    kinds: tuple[str, str] = request.param
    made = []
    for kind, name in zip(kinds, ("source", "staging"), strict=True):
        path = Path(request.getfixturevalue(kind)) / f"{tmp_path.name}-{name}"
        path.mkdir()
        made.append(path)
    yield made[0], made[1]
    for path in made:
        shutil.rmtree(path)


def make_rich(root: Path, *, is_root: bool) -> None:
    """One of everything."""
    (root / "empty directory").mkdir()
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_bytes(b"content")
    (root / "empty file").touch()
    (root / "odd\nname").write_bytes(b"1")
    Path(os.fsdecode(os.fsencode(root) + b"/not \xff\xfe text")).write_bytes(b"2")
    (root / ("n" * 255)).write_bytes(b"3")
    (root / "dangling").symlink_to("/nowhere/at/all")
    (root / "link").symlink_to("a/b/file")
    os.mkfifo(root / "fifo", 0o640)
    (root / "one").write_bytes(b"linked")
    (root / "a" / "two").hardlink_to(root / "one")
    (root / "a" / "b" / "three").hardlink_to(root / "one")
    os.link(root / "link", root / "linked link", follow_symlinks=False)
    (root / "read-only").write_bytes(b"ro")
    (root / "read-only").chmod(0o444)
    (root / "a-b").mkdir()
    (root / "a-b" / "x").write_bytes(b"sorts before a/b")
    (root / "middle").write_bytes(os.urandom(3 * MIB))
    (root / "large").write_bytes(os.urandom(9 * MIB + 12345))
    (root / "exactly").write_bytes(os.urandom(8 * MIB))
    (root / "chunk").write_bytes(os.urandom(4 * MIB))
    with (root / "sparse").open("wb") as file:
        file.seek(5 * MIB)
        file.write(b"in the middle")
        file.truncate(21 * MIB + 77)
    with (root / "small sparse").open("wb") as file:
        file.truncate(MIB)
        file.seek(500_000)
        file.write(b"x")
    if is_root:
        make_privileged(root)
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        os.utime(path, ns=(10**18 + number, 10**18 + 123_456_789 + number), follow_symlinks=False)
    os.utime(root, ns=(10**18, 10**18 + 7))


def make_privileged(root: Path) -> None:
    """What needs root, and a file system with ACLs and attributes."""
    os.chown(root / "a", 1234, 4321)
    os.chown(root / "dangling", 1234, 4321, follow_symlinks=False)
    (root / "a").chmod(0o2775)
    (root / "a-b").chmod(0o1777)
    (root / "setuid").write_bytes(b"#!")
    os.chown(root / "setuid", 1234, 4321)
    (root / "setuid").chmod(0o6751)
    (root / "setuid").touch()
    (root / "able").write_bytes(b"ELF")
    os.chown(root / "able", 1234, 0)
    subprocess.run(["setcap", "cap_net_raw+ep", str(root / "able")], check=True)
    os.mknod(root / "null", 0o020666, os.makedev(1, 3))
    os.mknod(root / "disk", 0o060660, os.makedev(7, 200))
    os.setxattr(root / "a" / "b" / "file", "user.note", b"\x00binary\xff")
    os.setxattr(root / "a", "user.directory", b"yes")
    os.setxattr(root / "a", "trusted.secret", b"root only")
    os.setxattr(root / "link", "trusted.link", b"on a link", follow_symlinks=False)
    os.setxattr(root / "large", "user.big", b"v" * 2000)
    subprocess.run(["setfacl", "-m", "u:1234:rw,g:99:r", str(root / "middle")], check=True)
    subprocess.run(["setfacl", "-m", "u:1234:rwx,d:u:77:rx,d:g:88:rwx", str(root / "empty directory")], check=True)
    subprocess.run(["setfacl", "-m", "d:u:55:rwx", str(root)], check=True)


@pytest.mark.mounts
def test_everything_is_kept_between_real_file_systems(mounted: tuple[Path, Path]) -> None:
    source, staging = mounted
    make_rich(source, is_root=True)
    before = describe(source)
    copy_and_verify(source, staging)
    assert_equal_trees(source, staging / "tree")
    assert describe(source) == before
    prove(source, staging)
    prove(staging / "tree", staging, "copy", leases="all")


@pytest.mark.mounts
def test_holes_stay_holes(mounted: tuple[Path, Path]) -> None:
    source, staging = mounted
    make_rich(source, is_root=False)
    copy(source, staging).close()
    for name in ("sparse", "small sparse"):
        assert (staging / "tree" / name).stat().st_blocks <= (source / name).stat().st_blocks + 128


@pytest.mark.mounts
def test_access_times_are_kept_and_the_source_keeps_its_own(mounted: tuple[Path, Path]) -> None:
    source, staging = mounted
    make_rich(source, is_root=True)
    before = {path: path.lstat().st_atime_ns for path in [source, *source.rglob("*")]}
    for path in before:
        os.utime(path, ns=(10**17, path.lstat().st_mtime_ns), follow_symlinks=False)
    copy(source, staging).close()
    for path in before:
        if not path.is_symlink():  # to read a link's target is to access it: Linux offers no other way
            assert path.lstat().st_atime_ns == 10**17, path
        assert (staging / "tree" / path.relative_to(source)).lstat().st_atime_ns == 10**17, path


@pytest.mark.mounts
def test_a_default_acl_above_the_staging_directory_is_not_inherited(mounted: tuple[Path, Path]) -> None:
    source, staging = mounted
    make_rich(source, is_root=False)
    subprocess.run(["setfacl", "-m", "d:u:66:rwx", str(staging)], check=True)
    copy_and_verify(source, staging)
    assert_equal_trees(source, staging / "tree")


def test_the_tree_is_equal_without_privileges_too(places: tuple[Path, Path]) -> None:
    source, staging = places
    make_rich(source, is_root=False)
    copy_and_verify(source, staging)
    assert_equal_trees(source, staging / "tree")


def test_a_copy_of_a_copy_has_the_same_content_id(places: tuple[Path, Path], tmp_path: Path) -> None:
    source, staging = places
    make_rich(source, is_root=False)
    first = copy_and_verify(source, staging)
    assert copy_and_verify(staging / "tree", tmp_path / "again") == first


def test_a_tree_deeper_than_a_path_can_be_long_is_copied(places: tuple[Path, Path]) -> None:
    source, staging = places
    fd = os.open(source, os.O_RDONLY)
    for _ in range(40):
        os.mkdir("d" * 200, dir_fd=fd)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)
    copy_and_verify(source, staging)
    prove(source, staging)
    left, right = describe_names(source), describe_names(staging / "tree")
    assert left == right
    assert max(map(len, left)) > 8000


def describe_names(root: Path) -> set[bytes]:
    return set(describe_without_attributes(root))


def describe_without_attributes(root: Path) -> list[bytes]:
    found: list[bytes] = []
    todo = [(b"", os.open(root, os.O_RDONLY))]
    while todo:
        path, fd = todo.pop()
        for name in (os.fsencode(n) for n in os.listdir(fd)):
            found.append(path + b"/" + name)
            if name.startswith(b"d"):
                todo.append((path + b"/" + name, os.open(name, os.O_RDONLY, dir_fd=fd)))
        os.close(fd)
    return found


def test_one_directory_of_100_000_entries_is_copied(places: tuple[Path, Path]) -> None:
    source, staging = places
    fd = os.open(source, os.O_RDONLY)
    for number in range(100_000):
        os.close(os.open(f"{number}", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)
    copy_and_verify(source, staging)
    assert sorted(os.listdir(source)) == sorted(os.listdir(staging / "tree"))
    assert prove(source, staging).entries == 100_001


def test_a_socket_is_refused_by_name(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    source, staging = places
    monkeypatch.chdir(source)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("the socket")
        with pytest.raises(Unsupported, match="the socket"):
            copy(source, staging)


def test_a_hard_link_to_a_file_outside_is_refused_by_name(places: tuple[Path, Path], tmp_path: Path) -> None:
    source, staging = places
    outside = tmp_path / "outside"
    outside.write_bytes(b"not yours")
    (source / "inside").hardlink_to(outside)
    with pytest.raises(Unsupported, match="inside") as caught:
        copy(source, staging)
    assert caught.value.hint
    assert not any((staging / "tree").iterdir())


@pytest.mark.mounts
def test_a_mount_inside_the_snapshot_is_refused_by_name(places: tuple[Path, Path], small_mount: SmallMount) -> None:
    source, staging = places
    (source / "inner").mkdir()
    other = small_mount()
    subprocess.run(["mount", "--bind", str(other), str(source / "inner")], check=True)
    try:
        with pytest.raises(Unsupported, match="inner"):
            copy(source, staging)
    finally:
        subprocess.run(["umount", str(source / "inner")], check=True)


def test_an_unreadable_file_is_named(needs_root: None) -> None:
    """As nobody: what root may do, it may."""

    def work(base: Path) -> None:
        source = base / "source"
        source.mkdir()
        (source / "open").write_bytes(b"1")
        (source / "closed").write_bytes(b"2")
        (source / "closed").chmod(0)
        with pytest.raises(Denied, match="closed"):
            copy(source, base / "staging")

    as_nobody(work)


def test_files_of_another_owner_are_refused_by_name_without_privileges(needs_root: None) -> None:
    def work(base: Path) -> None:
        with pytest.raises(Denied, match="owner"):
            copy(Path("/etc/alternatives"), base / "staging")

    as_nobody(work)


def test_without_privileges_read_only_directories_are_copied_and_copied_again(needs_root: None) -> None:
    def work(base: Path) -> None:
        source, staging = base / "source", base / "staging"
        source.mkdir()
        make_rich(source, is_root=False)
        (source / "gone").mkdir()
        (source / "gone" / "x").touch()
        closed = [source / "gone", source / "a" / "b", source / "a", source]
        for path in closed:
            path.chmod(0o555)
        copy_and_verify(source, staging)
        assert_equal_trees(source, staging / "tree")
        for path in closed:
            path.chmod(0o755)
        shutil.rmtree(source / "gone")
        (source / "a" / "b" / "file").unlink()
        (source / "a" / "b" / "file").mkdir()
        shutil.rmtree(source / "a-b")
        (source / "a-b").write_bytes(b"a file now")
        for path in closed[1:]:
            path.chmod(0o555)
        copy_and_verify(source, staging)
        assert_equal_trees(source, staging / "tree")
        prove(source, staging, leases="all")
        for path in closed[1:]:
            path.chmod(0o755)
        (staging / "tree" / "a" / "b").chmod(0o755)
        (staging / "tree" / "a").chmod(0o755)
        (staging / "tree").chmod(0o755)

    as_nobody(work)


@pytest.mark.mounts
def test_what_the_destination_cannot_keep_is_named(xfs: Path, ext4: Path, tmp_path: Path) -> None:
    source = xfs / f"{tmp_path.name}-source"
    source.mkdir()
    (source / "noted").write_bytes(b"1")
    os.setxattr(source / "noted", "user.note", b"x" * 60_000)  # ext4 keeps less than a block
    with pytest.raises(Unsupported, match=r"noted .*user\.note"):
        copy(source, ext4 / f"{tmp_path.name}-staging")


NAMES = st.sampled_from([b"a", b"b", b"a-", b"a.b", b"\xff", b"a\nb", b" ", b"A", "ü".encode()])
CONTENT = st.one_of(st.binary(max_size=64), st.sampled_from([b"x" * 4096, b"y" * 5000]))
TREES: st.SearchStrategy[object] = st.recursive(
    st.one_of(
        CONTENT,
        st.tuples(st.just("link"), NAMES),
        st.just("fifo"),
        st.just("hard"),
    ),
    lambda children: st.dictionaries(NAMES, children, max_size=4),
    max_leaves=12,
)


def build(root: bytes, tree: object, first: list[bytes]) -> None:
    if isinstance(tree, dict):
        os.mkdir(root)
        for name, child in tree.items():
            build(root + b"/" + name, child, first)
    elif isinstance(tree, tuple):
        os.symlink(tree[1], root)
    elif tree == "fifo":
        os.mkfifo(root)
    elif tree == "hard" and first:
        os.link(first[0], root)
    else:
        with open(root, "wb") as file:  # noqa: PTH123  the name is bytes
            file.write(tree if isinstance(tree, bytes) else b"")
        first.append(root)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=st.dictionaries(NAMES, TREES, max_size=5), change=st.dictionaries(NAMES, TREES, max_size=3))
def test_any_small_tree_is_copied_and_any_change_of_it_too(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[bytes, object], change: dict[bytes, object]
) -> None:
    base = tmp_path_factory.mktemp("tree")
    source, staging = base / "source", base / "staging"
    build(os.fsencode(source), tree, [])
    copy_and_verify(source, staging)
    assert_equal_trees(source, staging / "tree")
    before = prove(source, staging).entries
    shutil.rmtree(source)
    build(os.fsencode(source), change, [])
    with pytest.raises(SourceChanged):
        prove(source, staging)
    copy_and_verify(source, staging)
    assert_equal_trees(source, staging / "tree")
    with Manifest.open(staging / "manifest.db") as manifest:
        assert manifest.totals().entries == prove(source, staging).entries
    assert before >= 1
