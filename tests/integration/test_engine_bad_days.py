"""What may happen while a tree is copied, done for real: kills, full disks, changed and hostile sources, bad bytes."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import SmallMount
from tests.engine import (
    MIB,
    At,
    StopAfter,
    apparent_bytes,
    assert_equal_trees,
    copy,
    copy_and_verify,
    describe,
    prove,
    verify,
)
from tierd.errors import (
    Corrupt,
    Interrupted,
    SourceBusy,
    SourceChanged,
    StorageError,
    TierdError,
    TierFull,
    Unsupported,
)
from tierd.fs.linux import rename_exchange
from tierd.storage.manifest import Manifest
from tierd.storage.posix.reading import read_special


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """400 small files in four directories, a large file, a hard link."""
    root = tmp_path / "source"
    for directory in range(4):
        at = root / f"d{directory}"
        at.mkdir(parents=True)
        for number in range(100):
            (at / f"{number:03}").write_bytes(os.urandom(1000 + number))
    (root / "large").write_bytes(os.urandom(32 * MIB + 5))
    (root / "d0" / "again").hardlink_to(root / "d1" / "000")
    return root


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return tmp_path / "staging"


def copied_bytes(staging: Path) -> int:
    with Manifest.open(staging / "manifest.db") as manifest:
        return int(manifest.meta["copied_bytes"])


# -- stopping and resuming --------------------------------------------------------------------------------


def test_a_finished_copy_is_not_copied_again(source: Path, staging: Path) -> None:
    first = copy_and_verify(source, staging)
    assert copied_bytes(staging) == apparent_bytes(source) - (source / "d1" / "000").stat().st_size
    assert copy_and_verify(source, staging) == first
    assert copied_bytes(staging) == 0


def test_chunks_of_a_large_file_are_not_copied_again_after_a_stop(source: Path, staging: Path) -> None:
    with pytest.raises(Interrupted):
        copy(source, staging, StopAfter(16 * MIB), bytes_per_s=60 * MIB)
    copy(source, staging).close()
    assert copied_bytes(staging) <= apparent_bytes(source) - 12 * MIB
    verify(staging)
    assert_equal_trees(source, staging / "tree")
    assert not list((staging / "parts").iterdir())


def test_a_stop_inside_a_large_file_takes_less_than_a_second(source: Path, staging: Path) -> None:
    began = time.monotonic()

    class Stop(StopAfter):
        def checkpoint(self, name: str = "") -> None:
            if time.monotonic() - began > 0.5:
                raise Interrupted("now")

    with pytest.raises(Interrupted):
        copy(source, staging, Stop(0), bytes_per_s=2 * MIB)
    assert time.monotonic() - began < 6  # to its end it would take much longer


def test_the_rate_limit_holds_for_all_processes_together(source: Path, staging: Path) -> None:
    began = time.monotonic()
    copy(source, staging, bytes_per_s=25 * MIB).close()
    assert 1.1 < time.monotonic() - began < 20


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("victim", ["parent", "worker"])
def test_a_copy_killed_at_a_random_moment_goes_on(source: Path, staging: Path, seed: int, victim: str) -> None:
    chance = random.Random(seed)
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                copy(source, staging, bytes_per_s=60 * MIB).close()
                status = 0
            except StorageError:
                status = 3  # noticed that one of its processes died
            finally:
                os._exit(status)
        time.sleep(chance.uniform(0.01, 0.7))
        children = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        target = chance.choice(children) if victim == "worker" and children else pid
        os.kill(target, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in ((0, 3, -9) if victim == "worker" else (0, -9))
        deadline = time.monotonic() + 2
        while any(_is_alive(child) for child in children):
            assert time.monotonic() < deadline, "a copying process outlived its parent"
            time.sleep(0.01)
    copy_and_verify(source, staging)
    assert_equal_trees(source, staging / "tree")
    assert sorted(p.name for p in staging.iterdir()) == ["dropped", "manifest.db", "parts", "tree"]
    assert not list((staging / "dropped").iterdir())
    assert not list((staging / "parts").iterdir())


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_change_between_two_attempts_is_copied_and_nothing_else(source: Path, staging: Path) -> None:
    copy_and_verify(source, staging)
    (source / "d1" / "005").write_bytes(b"new content")
    (source / "d2" / "007").unlink()
    shutil.rmtree(source / "d3")
    (source / "d3").write_bytes(b"a file where a directory was")
    (source / "d0" / "050").unlink()
    (source / "d0" / "050").mkdir()
    (source / "d0" / "050" / "inside").write_bytes(b"a directory where a file was")
    copy_and_verify(source, staging)
    assert_equal_trees(source, staging / "tree")
    assert copied_bytes(staging) < 1000


def test_a_damaged_journal_costs_only_time(source: Path, staging: Path) -> None:
    first = copy_and_verify(source, staging)
    with (staging / "manifest.db").open("r+b") as file:
        file.write(os.urandom(4096))
    (staging / "tree" / "litter").mkdir()
    (staging / "tree" / "litter" / "x").write_bytes(b"never recorded")
    assert copy_and_verify(source, staging) == first
    assert_equal_trees(source, staging / "tree")


# -- bad bytes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "offset", "chunk"), [("d2/042", 500, 0), ("large", 9 * MIB, 2), ("large", -1, 8)])
def test_a_flipped_bit_is_found_named_and_healed(
    source: Path, staging: Path, name: str, offset: int, chunk: int
) -> None:
    copy(source, staging).close()
    victim = staging / "tree" / name
    st = victim.stat()
    with victim.open("r+b") as file:
        file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    os.utime(victim, ns=(st.st_atime_ns, st.st_mtime_ns))
    verify(staging, "size")  # the cheap comparison cannot see it
    with pytest.raises(Corrupt, match=rf"{name}.*chunk {chunk}"):
        verify(staging)
    with Manifest.open(staging / "manifest.db") as manifest:
        assert manifest.root_stamp("copy") is None, "a copy that differs must not look verified"
    copy(source, staging).close()
    assert copied_bytes(staging) == (source / name).stat().st_size
    verify(staging)
    assert_equal_trees(source, staging / "tree")


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda tree: (tree / "d0" / "001").chmod(0o600), "mode"),
        (lambda tree: (tree / "d0" / "001").unlink(), "opened"),
        (lambda tree: os.truncate(tree / "d0" / "001", 5), "bytes instead of"),
        (lambda tree: os.utime(tree / "d0" / "001"), "modification time"),
        (lambda tree: (tree / "d0" / "extra").touch(), "d0/extra"),
        (lambda tree: os.setxattr(tree / "d0" / "001", "user.more", b"1"), "attributes"),
        (lambda tree: _unshare(tree / "d0" / "again"), "again|names"),
        (lambda tree: shutil.rmtree(tree / "d3"), "d3"),
    ],
    ids=["mode", "missing", "truncated", "mtime", "extra", "xattr", "hard link", "directory"],
)
def test_whatever_differs_in_the_copy_is_found_and_healed(source: Path, staging: Path, damage, what: str) -> None:  # type: ignore[no-untyped-def]
    copy(source, staging).close()
    damage(staging / "tree")
    with pytest.raises(Corrupt, match=what):
        verify(staging)
    with Manifest.open(staging / "manifest.db") as manifest:
        assert manifest.root_stamp("copy") is None, "a copy that differs must not look verified"
    copy_and_verify(source, staging)
    assert_equal_trees(source, staging / "tree")


def _unshare(path: Path) -> None:
    content, st = path.read_bytes(), path.stat()
    path.unlink()
    path.write_bytes(content)
    path.chmod(st.st_mode & 0o7777)
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))


def test_an_unfinished_copy_is_never_verified(source: Path, staging: Path) -> None:
    with pytest.raises(Interrupted):
        copy(source, staging, StopAfter(1), bytes_per_s=20 * MIB)
    with pytest.raises(Corrupt, match="not finished"):
        verify(staging)


# -- the source changes ---------------------------------------------------------------------------------------

CHANGES = {
    "written": lambda root: (root / "d0" / "010").write_bytes(b"other"),
    "same bytes, same mtime": lambda root: _rewrite_unseen(root / "d0" / "010"),
    "new file": lambda root: (root / "d2" / "new").touch(),
    "gone": lambda root: (root / "d2" / "020").unlink(),
    "mode": lambda root: (root / "d1" / "030").chmod(0o640),
    "attribute": lambda root: os.setxattr(root / "d1" / "030", "user.a", b"b"),
    "new name": lambda root: (root / "d1" / "030").rename(root / "d1" / "300"),
    "directory mode": lambda root: (root / "d1").chmod(0o700),
    "root mode": lambda root: root.chmod(0o700),
    "root attribute": lambda root: os.setxattr(root, "user.a", b"b"),
    "late large": lambda root: os.truncate(root / "large", 100),
    "link outside": lambda root: os.link(root / "d1" / "030", root.parent / "outside"),
}


def _rewrite_unseen(path: Path) -> None:
    st = path.stat()
    path.write_bytes(b"z" * st.st_size)
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_after_the_copy_is_found(source: Path, staging: Path, change: str) -> None:
    copy_and_verify(source, staging)
    prove(source, staging)
    CHANGES[change](source)
    with pytest.raises(SourceChanged):
        prove(source, staging)


@pytest.mark.parametrize("step", ["copy: hard links", "copy: directories", "copy: sync"])
@pytest.mark.parametrize("change", ["same bytes, same mtime", "new file", "gone"])
def test_a_change_during_the_copy_is_found(source: Path, staging: Path, step: str, change: str) -> None:
    copy(source, staging, At(step, lambda: CHANGES[change](source))).close()
    verify(staging)
    with pytest.raises(SourceChanged):
        prove(source, staging)


def test_renaming_the_tree_itself_is_no_change(source: Path, staging: Path) -> None:
    copy_and_verify(source, staging)
    moved = source.rename(source.with_name("moved"))
    prove(moved, staging, leases="all")
    (staging / "tree").rename(staging / "published")
    prove(staging / "published", staging, "copy", leases="all")


def test_the_newest_access_is_reported(source: Path, staging: Path) -> None:
    for number, path in enumerate(p for p in source.rglob("*") if p.is_file()):
        os.utime(path, ns=(10**18 + number, path.stat().st_mtime_ns))
    copy_and_verify(source, staging)
    newest = max(p.stat().st_atime_ns for p in source.rglob("*") if p.is_file())
    assert prove(source, staging).newest_access_ns == newest


def test_the_names_of_one_file_are_not_taken_for_its_users(
    source: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes prove, each in a directory full of names of the same file; neither waits for the other."""
    for number in range(2000):
        (source / f"many{number % 2}").mkdir(exist_ok=True)
        if number == 0:
            (source / "many0" / "0").write_bytes(b"one file")
        else:
            os.link(source / "many0" / "0", source / f"many{number % 2}" / str(number))
    copy_and_verify(source, staging)
    monkeypatch.setattr("tierd.storage.posix.prove._PATIENCE_S", ())
    assert prove(source, staging, leases="all").leases_checked
    with (source / "many1" / "1").open("rb"), pytest.raises(SourceBusy):
        prove(source, staging, leases="all")


def test_who_has_a_file_open_is_found(source: Path, staging: Path) -> None:
    copy_and_verify(source, staging)
    proof = prove(source, staging, leases="all")
    assert proof.leases_checked
    assert proof.entries == 1 + 4 + 400 + 2
    with (source / "d1" / "033").open("rb"):
        prove(source, staging, leases="writers")
        with pytest.raises(SourceBusy, match="d1/033"):
            prove(source, staging, leases="all")
    with (source / "d1" / "034").open("ab"):
        prove(source, staging)
        for kind in ("all", "writers"):
            with pytest.raises(SourceBusy, match="d1/034"):
                prove(source, staging, leases=kind)
    prove(source, staging, leases="all")


# -- full and read-only destinations ----------------------------------------------------------------------------


@pytest.mark.mounts
@pytest.mark.parametrize("kind", ["bytes", "inodes"])
def test_a_full_destination_is_told_and_can_be_emptied(source: Path, small_mount: SmallMount, kind: str) -> None:
    mount = small_mount("ext4", 24) if kind == "bytes" else small_mount("ext4", 64, inodes=200)
    staging = mount / "staging"
    with pytest.raises(TierFull):
        copy(source, staging)
    before = describe(source)
    shutil.rmtree(staging)
    assert os.listdir(mount) == ["lost+found"]
    assert describe(source) == before


@pytest.mark.mounts
def test_a_read_only_destination_is_told(source: Path, small_mount: SmallMount) -> None:
    mount = small_mount()
    (mount / "staging").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
    with pytest.raises(TierdError, match="read-only"):
        copy(source, mount / "staging")


# -- hostile sources ------------------------------------------------------------------------------------------


def test_a_directory_swapped_for_a_link_leads_nowhere(tmp_path: Path, staging: Path) -> None:
    """A thread swaps directories and files for links to a secret as fast as it can while the tree is copied."""
    secret = tmp_path / "secret"
    (secret / "sub").mkdir(parents=True)
    marker = b"THE SECRET " * 20
    for number in range(50):
        (secret / f"{number}").write_bytes(marker)
        (secret / "sub" / f"{number}").write_bytes(marker)
    before = describe(secret)
    source = tmp_path / "source"
    for directory in range(20):
        (source / f"d{directory}" / "sub").mkdir(parents=True)
        for number in range(50):
            (source / f"d{directory}" / f"{number}").write_bytes(b"public")
            (source / f"d{directory}" / "sub" / f"{number}").write_bytes(b"public")
    decoys = tmp_path / "decoys"
    decoys.mkdir()
    (decoys / "directory").symlink_to(secret)
    (decoys / "file").symlink_to(secret / "0")
    os.mkfifo(decoys / "fifo")
    is_over = threading.Event()

    def swap() -> None:
        fd, other = os.open(source, os.O_RDONLY), os.open(decoys, os.O_RDONLY)
        chance = random.Random(1)
        while not is_over.is_set():
            pair = chance.choice([
                (b"d%d" % chance.randrange(20), b"directory"),
                (b"d%d/%d" % (chance.randrange(20), chance.randrange(50)), b"file"),
                (b"d%d/%d" % (chance.randrange(20), chance.randrange(50)), b"fifo"),
            ])  # fmt: skip
            try:
                rename_exchange(fd, pair[0], other, pair[1])
                time.sleep(chance.choice([0, 0.0002, 0.001]))
                rename_exchange(fd, pair[0], other, pair[1])
            except OSError:
                continue
        os.close(fd)
        os.close(other)

    thread = threading.Thread(target=swap)
    thread.start()
    outcomes = []
    try:
        for attempt in range(15):
            at = tmp_path / f"staging{attempt % 3}"
            try:
                copy(source, at).close()
                outcomes.append("copied")
            except (SourceChanged, Unsupported) as error:
                outcomes.append(type(error).__name__)
            for path in (at / "tree").rglob("*"):
                if path.is_file() and not path.is_symlink():
                    assert marker not in path.read_bytes()
    finally:
        is_over.set()
        thread.join()
    assert describe(secret) == before
    assert "SourceChanged" in outcomes or "copied" in outcomes


def test_a_link_that_is_a_directory_when_it_is_read_counts_as_changed(tmp_path: Path) -> None:
    """Between the look at a link and the reading of its target somebody puts something else there."""
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    st = os.stat(tmp_path / "link", follow_symlinks=False)
    (tmp_path / "link").unlink()
    (tmp_path / "link").mkdir()
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(SourceChanged, match="d/link was replaced"):
            read_special(fd, b"link", st, b"d/link")
    finally:
        os.close(fd)


def test_a_fifo_in_the_place_of_a_file_does_not_block(source: Path, staging: Path) -> None:
    """The directory says "file", then it is a FIFO: nobody will ever write into it."""

    def swap() -> None:
        (source / "d0" / "again").unlink()
        (source / "d1" / "000").unlink()
        os.mkfifo(source / "d1" / "000")

    with pytest.raises((SourceChanged, Unsupported)):
        copy(source, staging, At("copy: hard links", swap))


def test_nothing_of_the_source_is_ever_written(source: Path, staging: Path) -> None:
    """Every ctime is as it was: no call of ours changed an owner, mode, time or attribute."""
    before = {p: p.lstat().st_ctime_ns for p in [source, *source.rglob("*")]}
    copy_and_verify(source, staging)
    prove(source, staging, leases="all")
    assert {p: p.lstat().st_ctime_ns for p in [source, *source.rglob("*")]} == before


@pytest.mark.mounts
def test_pages_that_were_not_cached_before_are_not_cached_after(ext4: Path, tmp_path: Path) -> None:
    source = ext4 / f"{tmp_path.name}-cold"
    source.mkdir()
    (source / "large").write_bytes(os.urandom(32 * MIB))
    (source / "hot").write_bytes(os.urandom(MIB))
    for number in range(200):
        (source / f"{number}").write_bytes(os.urandom(16384))
    for path in source.iterdir():
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    (source / "hot").read_bytes()
    copy_and_verify(source, tmp_path / "staging")
    # All 256, but for what the kernel itself takes back when others need memory.
    assert _cached_pages(source / "hot") > 200, "what was hot stays hot"
    cold = sum(_cached_pages(p) for p in source.iterdir() if p.name != "hot")
    copied = sum(_cached_pages(p) for p in (tmp_path / "staging" / "tree").iterdir())
    shutil.rmtree(source)
    assert cold + copied < 200 * 4 // 10


def _cached_pages(path: Path) -> int:
    counts = (ctypes.c_uint64 * 5)()
    fd = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None).syscall(451, fd, (ctypes.c_uint64 * 2)(0, 0), counts, 0) < 0:
            pytest.skip("this kernel has no cachestat (6.5)")
    finally:
        os.close(fd)
    return int(counts[0])
