"""What our tar headers say, Python's tarfile reads back and GNU tar restores: both know nothing of tierd."""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine import MIB, assert_equal_trees
from tierd.storage.manifest import Entry
from tierd.storage.posix.metadata import unpack_xattrs
from tierd.storage.s3 import tar

GIB = 1 << 30
KINDS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFIFO: "p",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
}
Ranges = Sequence[tuple[int, int]]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners, devices and trusted attributes need root")

names = (
    st.binary(min_size=1, max_size=255)
    .map(lambda b: b.translate(None, b"\0/"))
    .filter(lambda b: b not in (b"", b".", b".."))
)
paths = st.lists(names, min_size=1, max_size=16).map(b"/".join)
targets = st.one_of(paths, paths.map(lambda path: b"/" + path), st.just(b"../" * 1300 + b"up"))
ids = st.one_of(st.integers(0, 70_000), st.integers(0, 2**32 - 2))
times = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**31).map(lambda s: s * 10**9))
xattr_names = names.map(lambda name: b"user." + name)
xattrs = st.dictionaries(xattr_names, st.binary(max_size=300), max_size=3)


def pack_xattrs(found: dict[bytes, bytes]) -> bytes | None:
    return b"".join(
        struct.pack("<H", len(name)) + name + struct.pack("<I", len(value)) + value
        for name, value in sorted(found.items())
    ) or None  # fmt: skip


def plain(path: bytes, size: int = 0, **fields: Any) -> Entry:
    """A file of the caller's, changed by `fields`."""
    entry = Entry(path, "f", size, 0o640, os.geteuid(), os.getegid(), 1_700_000_000_000_000_007, 1_600_000_000 * 10**9)
    return entry._replace(**fields)


entries = st.builds(
    Entry,
    path=paths, type=st.sampled_from("fdlpcb"), size=st.one_of(st.integers(0, 3000), st.integers(0, 2**62)),
    mode=st.integers(0, 0o7777), uid=ids, gid=ids, mtime_ns=times, atime_ns=times,
    rdev=st.builds(os.makedev, st.integers(0, 2**12 - 1), st.integers(0, 2**20 - 1)),
    xattrs=xattrs.map(pack_xattrs), target=targets,
).map(lambda e: e if e.type == "l" else e._replace(target=None))  # fmt: skip


def read_back(pack: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(pack), encoding="utf-8") as archive:
        return archive.getmembers()


def read_header(head: bytes) -> tarfile.TarInfo:
    """The first entry; its data need not be there."""
    with tarfile.open(fileobj=io.BytesIO(head), encoding="utf-8") as archive:
        member = archive.next()
    assert member is not None
    return member


def extract(pack: Path | bytes, place: Path, *, locale: str = "C") -> None:
    """Unpack as the README says; anything tar has to say is a failure, but that a time is implausible."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(
        ["tar", "--xattrs", "--xattrs-include=*", "--acls", "--warning=no-timestamp", "-xpf", "-"],
        cwd=place,
        input=pack if isinstance(pack, bytes) else pack.read_bytes(),
        env={**os.environ, "LC_ALL": locale},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def data_ranges(path: Path) -> list[tuple[int, int]]:
    """What of a file is not a hole, as the file system says."""
    found, at = [], 0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while at < size:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # only a hole is left
                break
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, at))
    return found


def read_range(path: Path, start: int, stop: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


def write_file(pack: io.BufferedWriter, entry: Entry, source: Path, segments: Ranges | None = None) -> None:
    """A file's header, data and padding."""
    pack.write(tar.header(entry, segments=segments))
    before = pack.tell()
    with source.open("rb") as file:
        for start, stop in [(0, entry.size)] if segments is None else segments:
            file.seek(start)
            pack.write(file.read(stop - start))
    length = tar.data_size(entry, segments)
    assert pack.tell() - before == length
    pack.write(tar.padding(length))


def entry_of(root: Path, path: bytes) -> Entry:
    """An entry by plain system calls."""
    full = os.path.join(os.fsencode(root), path)
    status = os.lstat(full)
    kind = KINDS[stat.S_IFMT(status.st_mode)]
    found = {
        os.fsencode(name): os.getxattr(full, name, follow_symlinks=False)
        for name in os.listxattr(full, follow_symlinks=False)
    }
    return Entry(
        path, kind, 0 if kind == "d" else status.st_size, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid,
        status.st_mtime_ns, status.st_atime_ns, status.st_rdev, pack_xattrs(found),
        os.readlink(full) if kind == "l" else None,
    )  # fmt: skip


def pack_tree(root: Path, pack: Path) -> None:
    """A whole tree: files with holes as sparse ones, second names as hard links."""
    first: dict[int, bytes] = {}
    paths = [b"", *(os.path.relpath(os.fsencode(p), os.fsencode(root)) for p in sorted(root.rglob("*")))]
    with pack.open("wb") as out:
        for path in paths:
            entry, source = entry_of(root, path), root / os.fsdecode(path)
            inode = source.lstat().st_ino
            if entry.type != "d" and first.setdefault(inode, path) != path:
                out.write(tar.header(entry, link_to=first[inode]))
            elif entry.type == "f":
                ranges = data_ranges(source)
                has_holes = sum(stop - start for start, stop in ranges) < entry.size
                write_file(out, entry, source, ranges if has_holes else None)
            else:
                out.write(tar.header(entry))
        out.write(tar.END)


# -- tarfile ---------------------------------------------------------------------------------------------------


@given(entry=entries)
@settings(deadline=None)
def test_tarfile_reads_back_what_a_header_says(entry: Entry) -> None:
    head = tar.header(entry)
    assert len(head) % 512 == 0
    size, member = tar.data_size(entry), read_header(head)
    assert os.fsencode(member.name) == entry.path
    assert {
        "f": member.isreg(), "d": member.isdir(), "l": member.issym(), "p": member.isfifo(), "c": member.ischr(),
        "b": member.isblk(),
    }[entry.type]  # fmt: skip
    assert member.size == (entry.size if entry.type == "f" else 0) == size
    assert (member.mode, member.uid, member.gid) == (entry.mode, entry.uid, entry.gid)
    assert (member.uname, member.gname) == ("", "")
    seconds, fraction = member.pax_headers["mtime"].split(".")
    since = abs(int(seconds)) * 10**9 + int(fraction)
    assert (-since if seconds.startswith("-") else since) == entry.mtime_ns
    assert {
        os.fsencode(keyword).replace(b"%3D", b"=").replace(b"%25", b"%"): os.fsencode(value)
        for keyword, value in member.pax_headers.items()
        if keyword.startswith("SCHILY.")
    } == {b"SCHILY.xattr." + name: value for name, value in unpack_xattrs(entry.xattrs).items()}
    if entry.type == "l":
        assert os.fsencode(member.linkname) == entry.target
    if entry.type in "cb":
        assert os.makedev(member.devmajor, member.devminor) == entry.rdev
    assert member.offset_data == len(head)


@given(several=st.lists(entries, max_size=6))
@settings(deadline=None)
def test_entries_follow_one_another(several: list[Entry]) -> None:
    several = [e._replace(size=e.size % 2000) for e in several]
    pack = b"".join(
        tar.header(e) + b"d" * tar.data_size(e) + tar.padding(tar.data_size(e)) for e in several
    ) + tar.END  # fmt: skip
    assert [os.fsencode(m.name) for m in read_back(pack)] == [e.path for e in several]


@given(entry=entries.filter(lambda e: e.type != "d"), link_to=paths)
@settings(deadline=None)
def test_a_second_name_has_no_data(entry: Entry, link_to: bytes) -> None:
    (member,) = read_back(tar.header(entry, link_to=link_to) + tar.END)
    assert member.islnk()
    assert (os.fsencode(member.linkname), member.size) == (link_to, 0)


@given(size=st.integers(0, 2**50), cuts=st.sets(st.integers(1, 2**50), max_size=20), name=paths)
@settings(deadline=None)
def test_tarfile_reads_the_map_of_a_sparse_file(size: int, cuts: set[int], name: bytes) -> None:
    edges = sorted(cut for cut in cuts if cut <= size)
    segments = list(zip(edges[::2], edges[1::2], strict=False))
    entry = plain(name, size)
    member = read_header(tar.header(entry, segments=segments))
    assert (os.fsencode(member.name), member.size) == (name, size)
    found = cast(list[tuple[int, int]], member.sparse)
    assert [(at, at + length) for at, length in found if length] == segments
    assert tar.data_size(entry, segments) == sum(stop - start for start, stop in segments)


def test_the_root_is_a_directory_of_its_own() -> None:
    (member,) = read_back(tar.header(plain(b"", type="d")) + tar.END)
    assert (member.name, member.isdir()) == (".", True)


@pytest.mark.parametrize("segments", [None, [(GIB, 10 * GIB)]], ids=["whole", "sparse"])
def test_more_than_8_gib_of_data_leave_the_next_entry_where_it_is(tmp_path: Path, segments: Ranges | None) -> None:
    large = plain(b"large", 20 * GIB)
    stored = tar.data_size(large, segments)
    with (tmp_path / "pack.tar").open("wb") as pack:
        pack.write(tar.header(large, segments=segments))
        pack.truncate(pack.tell() + stored)
        pack.seek(stored, os.SEEK_CUR)
        pack.write(tar.header(plain(b"after")) + tar.END)
    with tarfile.open(tmp_path / "pack.tar") as archive:
        assert [(m.name, m.size) for m in archive.getmembers()] == [("large", 20 * GIB), ("after", 0)]
    listed = subprocess.run(["tar", "-tvf", tmp_path / "pack.tar"], check=True, capture_output=True, text=True)
    assert [line.split()[2::3] for line in listed.stdout.splitlines()] == [[str(20 * GIB), "large"], ["0", "after"]]
    assert listed.stderr == ""


# -- GNU tar ---------------------------------------------------------------------------------------------------

real_times = st.integers((2 - 2**31) * 10**9, (2**31 - 1) * 10**9)
"""What every file system here keeps."""
real_entries = st.builds(
    plain,
    names,
    mode=st.integers(0o400, 0o7777).map(lambda mode: mode | 0o400), mtime_ns=real_times,
)  # fmt: skip


@given(several=st.lists(real_entries, max_size=8, unique_by=lambda e: e.path), locale=st.sampled_from(["C", "C.UTF-8"]))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_gnu_tar_restores_names_modes_and_times(several: list[Entry], locale: str) -> None:
    pack = b"".join(
        tar.header(e._replace(size=len(e.path))) + e.path + tar.padding(len(e.path)) for e in several
    ) + tar.END  # fmt: skip
    with tempfile.TemporaryDirectory() as made:
        extract(pack, Path(made), locale=locale)
        assert {os.fsencode(name) for name in os.listdir(made)} == {e.path for e in several}
        for e in several:
            full = os.path.join(os.fsencode(made), e.path)
            status = os.lstat(full)
            assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (e.mode, e.mtime_ns)
            assert Path(os.fsdecode(full)).read_bytes() == e.path


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_names_and_targets_up_to_the_limit_survive(tmp_path: Path, locale: str) -> None:
    long = b"/".join([b"d" * 200 + b"\xff" * 49] * 16)
    assert len(long) == 3999
    snowmen = "\N{SNOWMAN}".encode() * 60
    odd = [b"-x", b"--checkpoint=1", b"~", b"@", b"a\\nb", b" ", b"...\n", b"n" * 100, b"n" * 101, snowmen, long]
    entries = [
        *map(plain, odd),
        plain(b"link", type="l", target=b"t" * 4095),
        plain(b"link 100", type="l", target=b"\xfe" * 100),
        plain(b"link up", type="l", target=b"/up/../x"),
    ]
    pack = b"".join(map(tar.header, entries)) + tar.header(plain(b"linked"), link_to=long) + tar.END
    extract(pack, tmp_path / "out", locale=locale)
    top = os.fsencode(tmp_path / "out")
    assert sorted(os.listdir(top)) == sorted({e.path.split(b"/")[0] for e in entries} | {b"linked"})
    for e in entries:
        if e.type == "l":
            assert os.readlink(top + b"/" + e.path) == e.target
    assert os.stat(top + b"/linked").st_nlink == 2
    folder = os.open(top, os.O_RDONLY)
    assert os.stat(long, dir_fd=folder).st_ino == os.stat(top + b"/linked").st_ino
    os.close(folder)


@pytest.fixture
def place(ext4: Path, tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system with ACLs, attributes and holes; root only."""
    made = Path(tempfile.mkdtemp(prefix=tmp_path.name, dir=ext4))
    yield made
    shutil.rmtree(made)


def assert_survives(place: Path) -> None:
    """`place`/tree comes back from a pack with everything it has."""
    pack_tree(place / "tree", place / "pack.tar")
    extract(place / "pack.tar", place / "out")
    assert_equal_trees(place / "tree", place / "out")


@needs_root
def test_owners_modes_devices_and_attributes_survive(place: Path) -> None:
    tree = place / "tree"
    (tree / "directory" / "sub").mkdir(parents=True)
    for name in ("setuid", "able", "noted", "owned", "directory/file", "empty"):
        (tree / name).write_bytes(name.encode() if name != "empty" else b"")
    (tree / "link").symlink_to("nowhere")
    (tree / "absolute").symlink_to("/etc")
    (tree / "up").symlink_to("../../x")
    os.link(tree / "absolute", tree / "same link", follow_symlinks=False)
    (tree / "two").hardlink_to(tree / "noted")
    os.mkfifo(tree / "fifo", 0o640)
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(tree / "disk", stat.S_IFBLK | 0o660, os.makedev(4095, 1_048_575))
    for path in tree.rglob("*"):
        os.chown(path, 1234, 4321, follow_symlinks=False)
    os.chown(tree / "owned", 3_000_000, 4_294_967_294)
    (tree / "setuid").chmod(0o6755)
    (tree / "directory").chmod(0o3777)
    (tree / "noted").chmod(0o000)
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    for name, attribute, value in (
        ("able", "security.capability", capability),
        ("noted", "user.binary", bytes(range(256))),
        ("noted", "user.empty", b""),
        ("noted", "user.a=b%3D\N{SNOWMAN}", b"="),
        ("noted", "user.new\nline", b"\n"),
        ("noted", "user.%", b"%25\n12 mtime=3\n"),
        ("noted", "trusted.big", b"v" * 2500),
        ("directory", "user.directory", b"yes"),
        ("link", "trusted.link", b"on a link"),
        ("absolute", "trusted.link", b"on another"),
        ("fifo", "trusted.fifo", b"1"),
        ("null", "trusted.device", b"\0"),
        (".", "user.root", b"of the tree"),
    ):
        os.setxattr(tree / name, attribute, value, follow_symlinks=False)
    for number, path in enumerate(sorted(tree.rglob("*"), reverse=True)):
        os.utime(path, ns=(10**18 + number, (10**18, -(10**17))[number % 2] + number), follow_symlinks=False)
    os.utime(tree, ns=(10**18, 999))
    assert_survives(place)


@needs_root
def test_acls_come_back_identical(place: Path) -> None:
    tree = place / "tree"
    (tree / "directory" / "inside").mkdir(parents=True)
    for name in ("plain", "read", "masked", "large ids", "directory/file"):
        (tree / name).write_bytes(b"x")
    for acl, name in (
        ("u:1234:rw,g:99:r", "read"),
        ("u:1234:rwx,u:1:-,g:99:x,g:100:wx,m::r", "masked"),
        ("u:4294967294:r,g:3000000:rw", "large ids"),
        ("u:1234:rwx,d:u:77:rx,d:g:88:rwx,d:o::-", "directory"),
        ("d:u:55:rwx", "."),
    ):
        subprocess.run(["setfacl", "-m", acl, str(tree / name)], check=True)
    assert_survives(place)
    said = [
        subprocess.run(["getfacl", "-R", "-n", "."], cwd=root, check=True, capture_output=True).stdout
        for root in (tree, place / "out")
    ]
    assert said[0] == said[1]
    assert b"user:4294967294:r--" in said[0]
    assert b"default:user:55:rwx" in said[0]


def test_an_acl_in_an_unknown_form_is_kept_as_it_is() -> None:
    for value in (
        b"",
        b"\3\0\0\0",
        b"\2\0\0\0short",
        struct.pack("<IHHI", 2, 0x40, 1, 0),
        struct.pack("<IHHI", 2, 1, 8, 0),
    ):
        packed = pack_xattrs({b"system.posix_acl_access": value})
        (member,) = read_back(tar.header(plain(b"f", xattrs=packed)) + tar.END)
        assert member.pax_headers["SCHILY.xattr.system.posix_acl_access"].encode() == value


# -- holes -----------------------------------------------------------------------------------------------------

SHAPES: dict[str, tuple[int, list[tuple[int, int]]]] = {
    "hole in the middle": (3 * MIB, [(0, MIB), (2 * MIB, 3 * MIB)]),
    "hole at the end": (3 * MIB + 77, [(0, 4096)]),
    "hole at the start": (MIB + 5, [(MIB, MIB + 5)]),
    "only a hole": (5 * MIB + 1, []),
    "beyond 8 GiB": (9 * GIB + 3, [(8 * GIB + 4096, 8 * GIB + 8192), (9 * GIB, 9 * GIB + 3)]),
    "a hole beyond 8 GiB": (20 * GIB, []),
    "many": (10_000 * 16384, [(at * 16384, at * 16384 + 4096) for at in range(10_000)]),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [b"file", b"d/" * 60 + b"\xff long" * 20], ids=["short name", "long name"])
def test_holes_are_holes_again(tmp_path: Path, shape: str, name: bytes) -> None:
    size, segments = SHAPES[shape]
    source, out = tmp_path / "source", tmp_path / "out" / os.fsdecode(name)
    with source.open("wb") as file:
        file.truncate(size)
        for number, (start, stop) in enumerate(segments):
            file.seek(start)
            file.write((b"%07d\n" % number * 131072)[: stop - start])
    entry = plain(name, size)
    with (tmp_path / "pack.tar").open("wb") as pack:
        write_file(pack, entry, source, segments)
        write_file(pack, plain(b"after", 1000), source)
        pack.write(tar.END)
    extract(tmp_path / "pack.tar", tmp_path / "out")
    assert (tmp_path / "out" / "after").read_bytes() == read_range(source, 0, 1000)
    status = out.stat()
    assert (status.st_size, status.st_mtime_ns) == (size, entry.mtime_ns)
    assert status.st_blocks * 512 <= source.stat().st_blocks * 512
    assert data_ranges(out) == data_ranges(source)
    assert all(read_range(out, *segment) == read_range(source, *segment) for segment in segments)


@needs_root
def test_a_sparse_file_keeps_attributes_and_links(place: Path) -> None:
    tree = place / "tree"
    tree.mkdir()
    with (tree / "a").open("wb") as file:
        file.truncate(4 * MIB)
        file.seek(MIB)
        file.write(b"x" * 5000)
    os.setxattr(tree / "a", "user.note", b"sparse")
    subprocess.run(["setfacl", "-m", "u:1234:rw", str(tree / "a")], check=True)
    (tree / "b").hardlink_to(tree / "a")
    with (tree / "empty").open("wb") as file:
        file.truncate(MIB)
    assert_survives(place)
    assert [data_ranges(place / "out" / name) for name in "ab"] == [data_ranges(tree / "a")] * 2
    assert data_ranges(place / "out" / "empty") == []
