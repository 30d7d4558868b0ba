"""Who has files of a tree open or mapped: real processes, namespaces and file systems. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import SmallMount
from tierd.model.dataset import SnapshotId
from tierd.model.observation import Reader
from tierd.observe.holders import Holders
from tierd.observe.holding import Holding
from tierd.observe.who import Ignored, Who

pytestmark = [
    pytest.mark.mounts,
    pytest.mark.skipif(os.geteuid() != 0, reason="the descriptors of others, namespaces and mounts need root"),
]

ONE, TWO = SnapshotId(1), SnapshotId(2)
DEADLINE_S = 60.0
ROOT = Path(__file__).parents[2]

_BEGIN = """
import ctypes, mmap, os, sys
ctypes.CDLL(None).prctl(15, b"train", 0, 0, 0)
def open_file(path, flags=os.O_RDONLY):
    return os.open(os.fsencode(path), flags)
def map_file(path):
    fd = open_file(path)
    global kept
    kept = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    os.close(fd)
"""
_STAY = "\nprint('ready', flush=True)\nsys.stdin.read()\n"


@contextmanager
def running(code: str, *arguments: object, before: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """A process, a stranger to `outsider`, that stays until the end of the block. `before`: what starts it."""
    command = [*before, sys.executable, "-c", _BEGIN + code + _STAY, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.stdin.close()


def elsewhere(home: Path, there: Path) -> tuple[str, ...]:
    """Starts a program in a mount namespace in which the dataset is at another path, and not at its own."""
    script = 'mount --bind "$0" "$1" && umount -l "$2" && shift 2 && exec "$@"'
    mount = next(parent for parent in home.parents if parent.is_mount())
    return "unshare", "--mount", "sh", "-c", script, str(home), str(there), str(mount)


def outsider(**more: object) -> Holders:
    """One for whom nothing is tierd's own."""
    return Holders(Who(ours=None, **more))  # type: ignore[arg-type]


def trees(home: Path) -> list[tuple[SnapshotId, bytes]]:
    return [(ONE, os.fsencode(home / "v1")), (TWO, os.fsencode(home / "v2"))]


def a_round(holders: Holders, home: Path, *, budget_s: float = DEADLINE_S) -> dict[SnapshotId, list[Reader]]:
    """Everything that one round tells."""
    found: dict[SnapshotId, list[Reader]] = {}
    end, deadline = holders.rounds + 1, time.monotonic() + DEADLINE_S
    while holders.rounds < end:
        assert time.monotonic() < deadline
        for snapshot_id, readers in holders.scan(trees(home), budget_s).items():
            found.setdefault(snapshot_id, []).extend(readers)
    return found


def planted(home: Path) -> Path:
    for name in ("v1", "v2"):
        (home / name / "deep").mkdir(parents=True)
        for number in range(3):
            (home / name / "deep" / f"shard{number}").write_bytes(b"x" * 9000)
    return home


@pytest.fixture
def home(ext4: Path, tmp_path: Path) -> Iterator[Path]:
    base = ext4 / tmp_path.name
    yield planted(base / "imagenet")
    shutil.rmtree(base)


@pytest.fixture
def btrfs(needs_root: None, tmp_path: Path) -> Iterator[Path]:
    """A btrfs with a subvolume `sub` that alone is mounted, as distributions do."""
    image, top_level, mount = tmp_path / "btrfs.img", tmp_path / "top", tmp_path / "btrfs"
    with image.open("wb") as out:
        out.truncate(256 << 20)
    top_level.mkdir()
    mount.mkdir()
    try:
        run("mkfs.btrfs", "-q", image)
        run("mount", "-o", "loop", image, top_level)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"this machine cannot loop-mount btrfs: {error}")
    try:
        run("btrfs", "subvolume", "create", top_level / "sub")
        source = subprocess.run(["findmnt", "-no", "SOURCE", top_level], check=True, capture_output=True, text=True)
        run("mount", "-o", "subvol=sub", source.stdout.split("[")[0].strip(), mount)
        run("umount", top_level)
        yield mount
    finally:
        for each in (mount, top_level):
            subprocess.run(["umount", each], check=False, capture_output=True)


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


TRAIN = [Reader(program="train", uid=0)]


def nameless(found: dict[SnapshotId, list[Reader]]) -> dict[SnapshotId, list[Reader]]:
    """Without the jobs: in which control groups the tests run is no matter here."""
    return {one: [Reader(program=r.program, uid=r.uid) for r in readers] for one, readers in found.items()}


def test_who_has_a_file_open_is_told_once_a_round_until_it_closes_it(home: Path) -> None:
    holders = outsider()
    with running("for n in range(3): open_file(f'{sys.argv[1]}/v1/deep/shard{n}')", home):
        assert nameless(a_round(holders, home)) == {ONE: TRAIN}
        assert nameless(a_round(holders, home)) == {ONE: TRAIN}
    assert a_round(holders, home) == {}


def test_a_mapping_is_found_after_its_descriptor_is_closed(home: Path) -> None:
    with running("map_file(f'{sys.argv[1]}/v2/deep/shard0')", home):
        assert nameless(a_round(outsider(), home)) == {TWO: TRAIN}


def test_one_process_may_hold_several_snapshots_and_one_snapshot_have_several_readers(home: Path) -> None:
    both = "open_file(f'{sys.argv[1]}/v1/deep/shard0'); map_file(f'{sys.argv[1]}/v2/deep/shard0')"
    other = "open_file(f'{sys.argv[1]}/v1/deep/shard1'); os.setresuid(0, 65534, 0)"
    with running(both, home), running(other, home), running(both, home):
        found = nameless(a_round(outsider(), home))
    assert set(found) == {ONE, TWO}
    assert sorted(found[ONE], key=lambda r: r.uid or 0) == [*TRAIN, Reader(program="train", uid=65534)]
    assert found[TWO] == TRAIN


@pytest.mark.parametrize("how", ["open_file", "map_file"])
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_container_that_has_the_dataset_at_another_path_is_found(
    how: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    home = planted(request.getfixturevalue(kind) / tmp_path.name / "imagenet")
    there = tmp_path / "there"
    there.mkdir()
    with running(f"{how}(f'{{sys.argv[1]}}/v2/deep/shard0')", there, before=elsewhere(home, there)):
        assert nameless(a_round(outsider(), home)) == {TWO: TRAIN}


@pytest.mark.parametrize("how", ["open_file", "map_file"])
def test_a_snapshot_that_is_a_subvolume_is_no_other_one(how: str, btrfs: Path) -> None:
    """Subvolumes have device numbers of their own, and files of the same inode number."""
    home = btrfs / "imagenet"
    home.mkdir()
    subprocess.run(["btrfs", "subvolume", "create", home / "v1"], check=True, capture_output=True)
    (home / "v1" / "deep").mkdir()
    (home / "v1" / "deep" / "shard0").write_bytes(b"x" * 9000)
    command = ["btrfs", "subvolume", "snapshot", home / "v1", home / "v2"]
    subprocess.run(command, check=True, capture_output=True)
    numbers = {os.stat(home / name / "deep" / "shard0").st_ino for name in ("v1", "v2")}
    assert len(numbers) == 1
    with running(f"{how}(f'{{sys.argv[1]}}/v2/deep/shard0')", home):
        assert nameless(a_round(outsider(), home)) == {TWO: TRAIN}


@pytest.mark.parametrize("how", ["open_file", "map_file"])
def test_a_container_in_which_another_snapshot_has_the_path_reads_that_one(how: str, home: Path) -> None:
    before = "unshare", "--mount", "sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"'
    with running(
        f"{how}(f'{{sys.argv[1]}}/v1/deep/shard0')", home, before=(*before, str(home / "v2"), str(home / "v1"))
    ):
        assert nameless(a_round(outsider(), home)) == {TWO: TRAIN}


def test_a_mapping_may_lie_at_a_low_address(home: Path) -> None:
    code = """
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
fd = open_file(sys.argv[1] + "/v1/deep/shard0")
assert libc.mmap(0x400000, 4096, mmap.PROT_READ, mmap.MAP_SHARED | 0x10, fd, 0) == 0x400000
os.close(fd)
"""
    with running(code, home):
        assert nameless(a_round(outsider(), home)) == {ONE: TRAIN}


@pytest.mark.parametrize("how", ["open_file", "map_file"])
def test_a_bind_mount_and_a_changed_root_are_other_paths_only(how: str, home: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    subprocess.run(["mount", "--bind", str(home), str(there)], check=True)
    try:
        with running(f"{how}(f'{{sys.argv[1]}}/v1/deep/shard0')", there):
            assert nameless(a_round(outsider(), home)) == {ONE: TRAIN}
    finally:
        subprocess.run(["umount", str(there)], check=True)
    with running(f"os.chroot(sys.argv[1]); {how}('/v2/deep/shard0')", home):
        assert nameless(a_round(outsider(), home)) == {TWO: TRAIN}


def test_a_dataset_below_a_link_is_found(home: Path, tmp_path: Path) -> None:
    link = tmp_path / "data"
    link.symlink_to(home)
    with running("open_file(f'{sys.argv[1]}/v1/deep/shard0')", home):
        assert nameless(a_round(outsider(), link)) == {ONE: TRAIN}


def test_what_is_no_use_of_a_snapshot_does_not_count(home: Path) -> None:
    """Directories, files that are only named, files beside the snapshots, and files that are there no more."""
    (home / "notes").write_text("x")
    (home / "v1x").mkdir()
    (home / "v1x" / "file").write_text("x")
    code = """
home = sys.argv[1]
os.chdir(home + "/v1")
open_file(home + "/v1/deep")
open_file(home + "/v1/deep/shard0", os.O_PATH)
open_file(home + "/notes")
open_file(home + "/v1x/file")
open_file(home + "/v1/deep/shard1")
os.unlink(home + "/v1/deep/shard1")
"""
    with running(code, home):
        assert a_round(outsider(), home) == {}


@pytest.mark.parametrize("name", ["a b", "a\nb", "a\\012b", "a\\040b", "gone (deleted)", "a\udcff", " ", "[heap]"])
@pytest.mark.parametrize("how", ["open_file", "map_file"])
def test_odd_names_are_names(how: str, name: str, home: Path, tmp_path: Path) -> None:
    (home / "v1" / "deep" / "shard0").rename(home / "v1" / "deep" / name)
    there = tmp_path / "there"
    there.mkdir()
    code = f"{how}(sys.argv[1] + '/v1/deep/' + {name!r})"
    with running(code, home):
        assert nameless(a_round(outsider(), home)) == {ONE: TRAIN}
    with running(code, there, before=elsewhere(home, there)):
        assert nameless(a_round(outsider(), home)) == {ONE: TRAIN}


def test_a_dataset_with_an_odd_name_on_a_mount_of_its_own(small_mount: SmallMount, tmp_path: Path) -> None:
    """The mount point itself is written with escapes."""
    odd = tmp_path / "a b\n\\c"
    odd.mkdir()
    mount = small_mount()
    home = planted(mount / "imagenet")
    subprocess.run(["mount", "--bind", str(mount), str(odd)], check=True)
    try:
        with running("open_file(f'{sys.argv[1]}/v1/deep/shard0')", home):
            assert nameless(a_round(outsider(), odd / "imagenet")) == {ONE: TRAIN}
    finally:
        subprocess.run(["umount", str(odd)], check=True)


def test_our_own_processes_and_ignored_ones_are_not_told(home: Path) -> None:
    with running("open_file(f'{sys.argv[1]}/v1/deep/shard0')", home):
        assert a_round(Holders(Who()), home) == {}
        assert a_round(outsider(ignored=Ignored(programs=["tra*"])), home) == {}
        assert a_round(outsider(names_readers=False), home) == {ONE: [Reader()]}


def test_what_nobody_had_time_to_ask_may_be_ours_and_is_told_later(home: Path) -> None:
    holders = outsider()
    with running("open_file(f'{sys.argv[1]}/v1/deep/shard0')", home):
        deadline = time.monotonic() + DEADLINE_S
        while not holders.who.look(2**30 + 1).is_gone or holders.who._may_look(time.monotonic()):
            assert time.monotonic() < deadline  # spend what may be asked in this second
        assert nameless(a_round(holders, home)) in ({}, {ONE: TRAIN})
        found: dict[SnapshotId, list[Reader]] = {}
        while not found:
            assert time.monotonic() < deadline
            found = a_round(holders, home)
        assert nameless(found) == {ONE: TRAIN}


def test_a_round_over_many_files_is_spread_over_calls(home: Path) -> None:
    code = """
import resource
most = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 20_000)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
for _ in range(most - 100): open_file(sys.argv[1] + "/notes")
open_file(sys.argv[1] + "/v1/deep/shard0")
"""
    (home / "notes").write_text("x")
    holders = outsider()
    slowest, calls, found = 0.0, 0, []
    with running(code, home):
        while not holders.rounds:
            began = time.thread_time()
            found += holders.scan(trees(home), 0.005).get(ONE, [])
            slowest, calls = max(slowest, time.thread_time() - began), calls + 1
            assert calls < 100_000
    assert [reader.program for reader in found] == ["train"]
    assert calls > 5
    assert slowest < 0.1


def test_between_two_calls_nothing_keeps_a_file_system_from_being_unmounted(
    small_mount: SmallMount, tmp_path: Path
) -> None:
    mount = small_mount()
    home = planted(mount / "imagenet")
    there = tmp_path / "there"
    there.mkdir()
    holders = outsider()
    with running("open_file(f'{sys.argv[1]}/v1/deep/shard0')", there, before=elsewhere(home, there)):
        while not holders.scan(trees(home), 0.0):
            assert not holders.rounds
    assert not holders.rounds, "the round is under way"
    subprocess.run(["umount", str(mount)], check=True)
    assert a_round(holders, home) == {}


def test_a_mount_that_comes_later_is_noticed(small_mount: SmallMount) -> None:
    mount = small_mount()
    home = planted(mount / "imagenet")
    subprocess.run(["umount", str(mount)], check=True)
    holders = outsider()
    assert a_round(holders, home) == {}
    subprocess.run(["mount", "-o", "loop", str(mount.parent / "image"), str(mount)], check=True)
    with running("map_file(f'{sys.argv[1]}/v2/deep/shard0')", home):
        assert nameless(a_round(holders, home)) == {TWO: TRAIN}


@pytest.mark.parametrize("how", ["open_file", "map_file"])
def test_a_snapshot_may_be_a_mount_of_its_own(how: str, home: Path, small_mount: SmallMount) -> None:
    mount = small_mount()
    planted(mount / "other")
    subprocess.run(["mount", "--bind", str(mount / "other" / "v1"), str(home / "v1")], check=True)
    try:
        with running(f"{how}(f'{{sys.argv[1]}}/v1/deep/shard0')", home):
            assert nameless(a_round(outsider(), home)) == {ONE: TRAIN}
    finally:
        subprocess.run(["umount", str(home / "v1")], check=True)


def test_trees_may_move_and_vanish_while_a_round_is_under_way(home: Path) -> None:
    holders = outsider()
    with running("open_file(f'{sys.argv[1]}/v1/deep/shard0')", home):
        holders.scan(trees(home), 0.0)
        home.rename(home.parent / "other")
        assert nameless(a_round(holders, home.parent / "other")) == {ONE: TRAIN}
        assert a_round(holders, home) == {}
        assert holders.scan([], 1.0) == {}
        (home.parent / "other").rename(home)
        assert nameless(a_round(holders, home)) == {ONE: TRAIN}


def test_processes_that_come_and_go_are_no_trouble(home: Path) -> None:
    code = """
while True:
    if os.fork() == 0:
        open_file(sys.argv[1] + "/v1/deep/shard0")
        os.write(1, b".")
        os._exit(0)
    os.wait()
"""
    command = [sys.executable, "-c", _BEGIN + code, str(home)]
    storm = subprocess.Popen(command, stdout=subprocess.PIPE)
    holders = outsider()
    try:
        assert storm.stdout is not None
        storm.stdout.read(1)
        with running("map_file(f'{sys.argv[1]}/v2/deep/shard0')", home):
            for _ in range(100):
                assert nameless(a_round(holders, home))[TWO] == TRAIN
    finally:
        storm.kill()
        storm.communicate()


def test_a_file_system_that_does_not_answer_is_never_asked(home: Path, tmp_path: Path) -> None:
    """A dead network mount lets everybody wait who asks it for a file: here it is a FUSE of which nobody takes care."""
    if not Path("/dev/fuse").exists():
        pytest.skip("no FUSE here")
    dead = tmp_path / "dead"
    dead.mkdir()
    server = subprocess.Popen([sys.executable, "-c", _FUSE, str(dead)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        if server.stdout.readline() != "mounted\n":
            pytest.skip("this machine cannot mount FUSE")
        with running(
            "open_file(sys.argv[1] + '/file'); open_file(sys.argv[2] + '/v1/deep/shard0')", dead, home
        ) as held:
            waits = subprocess.Popen(["stat", "--dereference", f"/proc/{held.pid}/fd/3"], stdout=subprocess.DEVNULL)
            with pytest.raises(subprocess.TimeoutExpired):
                waits.wait(0.5)
            waits.kill()
            code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tierd.observe.holders import Holders
from tierd.observe.holding import Holding
from tierd.observe.who import Who
print(Holders(Who(ours=None)).scan([(1, sys.argv[1].encode())], 60.0)[1][0].program)
"""
            command = [sys.executable, "-c", code, str(home / "v1")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
            assert done.stdout == "train\n", done.stderr
            server.kill()
            waits.wait()
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
        subprocess.run(["umount", "-l", str(dead)], check=False, capture_output=True)


_FUSE = """
# One file, which can be opened; who asks for its attributes afterwards waits for ever. See fuse(4), linux/fuse.h.
import ctypes, os, struct, sys
fd = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
if ctypes.CDLL(None).mount(b"dead", os.fsencode(sys.argv[1]), b"fuse", 6, options):
    sys.exit("cannot mount")
print("mounted", flush=True)
INIT, LOOKUP, GETATTR, OPEN, FORGET = 26, 1, 3, 14, 2
def attributes(inode):
    mode = 0o40755 if inode == 1 else 0o100644
    return struct.pack("=QQQQQQIIIIIIIIII", inode, 1, 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 512, 0)
while True:
    request = os.read(fd, 1 << 20)
    _, code, unique, inode = struct.unpack_from("=IIQQ", request)
    if code == INIT:
        answer = struct.pack("=IIIIHHIIHHI28x", 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, 0)
    elif code == LOOKUP:
        answer = struct.pack("=QQQQII", 2, 0, 0, 0, 0, 0) + attributes(2)
    elif code == OPEN:
        answer = struct.pack("=QII", 1, 0, 0)
    elif code == GETATTR and inode == 1:
        answer = struct.pack("=QII", 0, 0, 0) + attributes(1)
    else:
        continue
    os.write(fd, struct.pack("=IiQ", 16 + len(answer), 0, unique) + answer)
"""


def test_looks_are_a_twentieth_of_the_time_and_rounds_a_minute_apart(home: Path) -> None:
    holders = outsider()
    holding = Holding(holders, 60.0)
    holding.trees = trees(home)
    assert holding.look() == {}
    holding.begin()
    assert 59.0 < holding.due - time.monotonic() <= 60.0
    assert holding.look() == {}
    assert holders.rounds == 0
    with running("map_file(f'{sys.argv[1]}/v2/deep/shard0')", home):
        found: dict[SnapshotId, list[Reader]] = {}
        first = holding.due
        while holders.rounds == 0:
            holding.due = 0.0  # the rest is over
            began, used = time.monotonic(), time.thread_time()
            for snapshot_id, readers in holding.look().items():
                found.setdefault(snapshot_id, []).extend(readers)
            used = time.thread_time() - used
            assert holding.due - began >= max(0.05, 15.0 * used)
        assert holding.due >= first + 60.0
        assert nameless(found) == {TWO: TRAIN}
    holding.due, holding.trees = 0.0, []
    assert holding.look() == {}
    assert holding.due > first + 60.0
