"""The fanotify back end on real file systems: what counts, for whom, and what happens on bad days. Needs root."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import SmallMount
from tierd.config import ObserveConfig
from tierd.fs.linux import rename_exchange
from tierd.model.dataset import SnapshotId
from tierd.model.observation import AccessBatch, Reader
from tierd.observe import duty
from tierd.observe.allowance import Allowance
from tierd.observe.choose import choose
from tierd.observe.fanotify_tracker import FanotifyTracker
from tierd.observe.tracker import Dirty, Tracker, Watch
from tierd.observe.watchdog_tracker import WatchdogTracker
from tierd.observe.who import Ignored, Who

pytestmark = [
    pytest.mark.mounts,
    pytest.mark.skipif(os.geteuid() != 0, reason="marking a file system needs root"),
]

ONE, TWO = SnapshotId(1), SnapshotId(2)
START = datetime(2026, 3, 1, tzinfo=UTC)
DEADLINE_S = 20.0
ROOT = Path(__file__).parents[2]

Make = Callable[..., FanotifyTracker]


class FakeClock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make(clock: FakeClock) -> Iterator[Make]:
    made: list[FanotifyTracker] = []

    def make(*watches: Watch, fallback: Tracker | None = None, **more: object) -> FanotifyTracker:
        tracker = FanotifyTracker(clock=clock, fallback=fallback, retry_s=0.02, **more)  # type: ignore[arg-type]
        made.append(tracker)
        tracker.start(watches)
        assert tracker.sync(DEADLINE_S)
        tracker.drain_dirty()
        tracker.drain()
        return tracker

    yield make
    for tracker in made:
        tracker.stop()


@pytest.fixture
def home(ext4: Path, tmp_path: Path) -> Iterator[Path]:
    base = ext4 / tmp_path.name
    yield planted(base / "imagenet")
    shutil.rmtree(base)


def planted(home: Path) -> Path:
    for name in ("v1", "v2"):
        (home / name / "deep" / "er").mkdir(parents=True)
        (home / name / "file").write_text("x")
        (home / name / "deep" / "er" / "file").write_text("x")
    return home


def top(home: Path) -> Watch:
    return Watch(snapshot_id=None, dataset="imagenet", path=home)


def at(snapshot_id: SnapshotId, path: Path) -> Watch:
    return Watch(snapshot_id=snapshot_id, dataset="imagenet", path=path)


def all_watches(home: Path) -> list[Watch]:
    return [top(home), at(ONE, home / "v1"), at(TWO, home / "v2")]


def python(code: str, *arguments: object) -> None:
    """Run it as a process of somebody else: one that the daemon has started, or a child of such, never counts."""
    command = [sys.executable, "-c", _ORPHANED + code + "\nos.write(1, b'done')", *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE_S)
    assert done.stdout.endswith(b"done"), done.stderr.decode()


_ORPHANED = """
import os, sys, time
if os.fork():
    os._exit(0)
while os.getppid() != 1:
    time.sleep(0.001)
"""


def read(path: Path) -> None:
    python("open(sys.argv[1], 'rb').read()", path)


def write(path: Path) -> None:
    python("open(sys.argv[1], 'ab').write(b'more')", path)


def taken(tracker: Tracker, clock: FakeClock) -> dict[SnapshotId, AccessBatch]:
    assert tracker.sync(DEADLINE_S)
    clock.advance(5)  # past the grace of opens
    return {batch.snapshot_id: batch for batch in tracker.drain()}


def dirty(tracker: Tracker) -> Dirty:
    assert tracker.sync(DEADLINE_S)
    return tracker.drain_dirty()


def wait_for(condition: Callable[[], bool], within_s: float = DEADLINE_S) -> None:
    pause = threading.Event()
    for _ in range(int(within_s / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("the condition did not come true in time")


def run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


def test_a_read_is_a_read_of_its_snapshot(home: Path, make: Make, clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    clock.advance(60)
    when = clock.now
    read(home / "v1" / "deep" / "er" / "file")
    batches = taken(tracker, clock)
    assert set(batches) == {ONE}
    assert (batches[ONE].read_at, batches[ONE].writes) == (when, 0)
    assert dirty(tracker) == Dirty()
    assert taken(tracker, clock) == {}


def test_a_write_is_a_write_and_not_a_read(home: Path, make: Make, clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    write(home / "v2" / "file")
    batch = taken(tracker, clock)[TWO]
    assert (batch.read_at, batch.reads, batch.written_at) == (None, 0, START)
    assert taken(tracker, clock) == {}
    assert dirty(tracker) == Dirty(snapshots=frozenset({TWO}))


CHANGES = {
    "chmod": "os.chmod(v + '/file', 0o600)",
    "unlink": "os.unlink(v + '/file')",
    "create": "open(v + '/new', 'w')",
    "mkdir": "os.mkdir(v + '/newdir')",
    "rename": "os.rename(v + '/file', v + '/deep/moved')",
    "utime": "os.utime(v + '/deep')",
    "truncate": "os.truncate(v + '/file', 0)",
    "symlink": "os.symlink('/etc', v + '/s')",
    "hardlink": "os.link(v + '/file', v + '/h')",
    "rmtree": "import shutil; shutil.rmtree(v + '/deep')",
    "setxattr": "os.setxattr(v + '/file', 'user.a', b'1')",
    "chmod of the root": "os.chmod(v, 0o750)",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_is_a_write(home: Path, make: Make, clock: FakeClock, change: str) -> None:
    tracker = make(*all_watches(home))
    python(f"v = sys.argv[1]; {change}", home / "v1")
    batches = taken(tracker, clock)
    assert set(batches) == {ONE}
    assert batches[ONE].writes > 0
    assert batches[ONE].reads == 0
    assert dirty(tracker).snapshots == {ONE}


def test_a_write_through_a_mapping_is_a_write(home: Path, make: Make, clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    python(
        "import mmap\nf = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0); m[:1] = b'y'; m.flush(); m.close()",
        home / "v1" / "file",
    )
    assert taken(tracker, clock)[ONE].writes > 0


def test_looking_at_directories_is_no_access(home: Path, make: Make, clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    python("print(sum(len(f) for _, _, f in os.walk(sys.argv[1]))); os.stat(sys.argv[1] + '/v1/file')", home)
    assert taken(tracker, clock) == {}
    assert dirty(tracker) == Dirty()


def test_what_the_daemon_and_its_workers_do_is_no_access(home: Path, make: Make, clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    (home / "v1" / "file").read_text()
    stays = "import sys; open(sys.argv[1]).read(); sys.stdin.read()"
    for code in ("open(sys.argv[1]).read()", f"subprocess.run([sys.executable, '-c', {stays!r}, sys.argv[1]])"):
        # It stays until it is asked for: what ended at once is known by `suppress` alone.
        command = [sys.executable, "-c", f"import subprocess, sys; {code}; sys.stdin.read()", str(home / "v2" / "file")]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as worker:
            wait_for(lambda: tracker.status().events_seen > 0)
            time.sleep(0.3)
            assert taken(tracker, clock) == {}
            assert worker.stdin is not None
            worker.stdin.close()
    assert dirty(tracker).datasets == set()


def test_a_reader_that_ends_at_once_is_counted(home: Path, make: Make, clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    for _ in range(20):
        read(home / "v1" / "file")
    assert set(taken(tracker, clock)) == {ONE}


def test_others_are_counted_while_tierd_reads(home: Path, make: Make, clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    tracker.suppress(ONE)
    with Reading(home / "v1" / "file"):
        batches = taken(tracker, clock)
    assert batches[ONE].reads > 0
    tracker.unsuppress(ONE)


class Reading:
    """A process of somebody else that has opened a file and stays."""

    def __init__(self, path: Path, code: str = "f = open(sys.argv[1]); f.read()", *more: str) -> None:
        marker = "\nopen(sys.argv[2], 'w').close()\nwhile os.path.exists(sys.argv[2]): time.sleep(0.01)"
        self._marker = Path(f"/tmp/tierd-test-{os.getpid()}-{time.monotonic_ns()}")
        source = f"import os, sys, time\nwhile os.getppid() != 1: time.sleep(0.001)\n{code}{marker}"
        self._command = ["setsid", "--fork", sys.executable, "-c", source, str(path), str(self._marker), *more]

    def __enter__(self) -> None:
        subprocess.run(self._command, check=True)
        wait_for(self._marker.exists)

    def __exit__(self, *_: object) -> None:
        self._marker.unlink()


def test_the_last_reads_of_tierd_do_not_count_even_if_the_worker_is_gone(
    home: Path, make: Make, clock: FakeClock
) -> None:
    tracker = make(*all_watches(home))
    tracker.suppress(ONE)
    for _ in range(5):
        subprocess.run(["cat", home / "v1" / "deep" / "er" / "file"], check=True, capture_output=True)
    tracker.unsuppress(ONE)
    assert taken(tracker, clock) == {}


def test_a_file_held_open_is_read_after_a_grace(home: Path, make: Make, clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    with Reading(home / "v1" / "file"):
        assert tracker.sync(DEADLINE_S)
        assert tracker.drain() == []
        clock.advance(5)
        assert [(b.snapshot_id, b.read_at) for b in tracker.drain()] == [(ONE, START)]


def test_a_mapped_file_is_read_by_being_opened(home: Path, make: Make, clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    code = (
        "import mmap\nf = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.close(); m[:1]"
    )
    with Reading(home / "v1" / "file", code):
        assert taken(tracker, clock)[ONE].reads > 0
    assert mmap.PAGESIZE


_HELD = "import ctypes; ctypes.CDLL(None).prctl(15, sys.argv[3].encode(), 0, 0, 0)\n"
_MAPPED = _HELD + (
    "import mmap\nf = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.close(); m[:1]"
)


def found_holding(tracker: Tracker, snapshot_id: SnapshotId, times: int) -> dict[SnapshotId, set[Reader]]:
    """Who was seen to read what, until a snapshot was seen to be read so many times."""
    found: dict[SnapshotId, set[Reader]] = {}
    seen = 0

    def enough() -> bool:
        nonlocal seen
        for batch in tracker.drain():
            found.setdefault(batch.snapshot_id, set()).update(tally.reader for tally in batch.readers)
            seen += batch.reads if batch.snapshot_id == snapshot_id else 0
            assert batch.writes == 0
        return seen >= times

    wait_for(enough)
    return found


def test_who_opened_a_file_before_the_tracker_began_is_a_reader_at_each_look(
    home: Path, make: Make, clock: FakeClock
) -> None:
    code = _HELD + "f = open(sys.argv[1]); f.read()"
    with Reading(home / "v1" / "file", code, "opened"), Reading(home / "v2" / "file", _MAPPED, "mapped"):
        clock.advance(60)
        tracker = make(*all_watches(home), hold_every_s=0.05)
        found = found_holding(tracker, ONE, 3)
        found |= found_holding(tracker, TWO, 3)
        assert {(r.program, r.uid) for r in found[ONE]} == {("opened", 0)}
        assert {(r.program, r.uid) for r in found[TWO]} == {("mapped", 0)}
        assert dirty(tracker) == Dirty()
        clock.advance(60)
        later = clock.now
        wait_for(lambda: any(batch.read_at == later for batch in tracker.drain()))


def test_who_holds_a_file_is_not_named_without_attribution(home: Path, make: Make) -> None:
    with Reading(home / "v1" / "file", _MAPPED, "mapped"):
        tracker = make(*all_watches(home), hold_every_s=0.05, who=Who(names_readers=False))
        assert found_holding(tracker, ONE, 2) == {ONE: {Reader()}}


def test_who_is_ignored_or_ours_holds_nothing(home: Path, make: Make) -> None:
    """The look that tells of the stranger for the second time has passed the others as well."""
    ours = [sys.executable, "-c", "import sys; f = open(sys.argv[1]); print(flush=True); sys.stdin.read()"]
    ignoring = Who(ignored=Ignored(programs=("back*",)))
    with (
        Reading(home / "v2" / "file", _MAPPED, "backup"),
        subprocess.Popen([*ours, home / "v2" / "file"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker,
        (home / "v2" / "deep" / "er" / "file").open(),
        Reading(home / "v1" / "file", _MAPPED, "train"),
    ):
        assert worker.stdout is not None
        assert worker.stdin is not None
        worker.stdout.readline()
        tracker = make(*all_watches(home), hold_every_s=0.05, who=ignoring)
        assert set(found_holding(tracker, ONE, 3)) == {ONE}
        worker.stdin.close()


def test_new_directories_need_nothing(home: Path, make: Make, clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    new = home / "v1" / "a" / "b" / "c"
    python("os.makedirs(sys.argv[1]); open(sys.argv[1] + '/file', 'w').write('x')", new)
    assert taken(tracker, clock)[ONE].writes > 0
    read(new / "file")
    assert taken(tracker, clock)[ONE].reads > 0
    assert tracker.status().watches <= 3


def test_a_directory_moved_to_another_snapshot_counts_there(home: Path, make: Make, clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    read(home / "v1" / "deep" / "er" / "file")
    assert set(taken(tracker, clock)) == {ONE}
    (home / "v1" / "deep").rename(home / "v2" / "from_v1")
    taken(tracker, clock)
    read(home / "v2" / "from_v1" / "er" / "file")
    assert set(taken(tracker, clock)) == {TWO}


def test_a_directory_moved_by_somebody_makes_both_snapshots_dirty(home: Path, make: Make) -> None:
    tracker = make(*all_watches(home))
    python("os.rename(sys.argv[1] + '/v1/deep', sys.argv[1] + '/v2/from_v1')", home)
    assert dirty(tracker).snapshots == {ONE, TWO}


def test_a_directory_moved_out_counts_no_more(home: Path, make: Make, clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    read(home / "v1" / "deep" / "er" / "file")
    assert set(taken(tracker, clock)) == {ONE}
    (home / "v1" / "deep").rename(home.parent / "out")
    taken(tracker, clock)
    write(home.parent / "out" / "er" / "file")
    assert taken(tracker, clock) == {}


def test_a_link_leads_where_it_leads(home: Path, make: Make, clock: FakeClock) -> None:
    """What is read through a link counts for whose it is, and a root that is a link is not watched."""
    (home / "v1" / "link").symlink_to(home / "v2" / "deep")
    (home / "v3").symlink_to("v1")
    tracker = make(*all_watches(home), at(SnapshotId(3), home / "v3"))
    read(home / "v1" / "link" / "er" / "file")
    assert set(taken(tracker, clock)) == {TWO}
    read(home / "v3" / "file")
    assert set(taken(tracker, clock)) == {ONE}


@pytest.mark.parametrize(
    "change",
    [
        "os.mkdir(h + '/v3')",
        "os.rename(h + '/v1', h + '/best')",
        "import shutil; shutil.rmtree(h + '/v2')",
        "os.symlink('v1', h + '/v3')",
    ],
    ids=["create", "rename", "delete", "link"],
)
def test_a_change_at_the_top_level_makes_the_dataset_dirty(home: Path, make: Make, change: str) -> None:
    tracker = make(*all_watches(home))
    python(f"h = sys.argv[1]; {change}", home)
    assert dirty(tracker).datasets == {"imagenet"}


def test_a_dataset_that_is_one_snapshot_is_dirty_when_it_is_moved(home: Path, make: Make) -> None:
    tracker = make(Watch(snapshot_id=None, dataset="imagenet", path=home, child=b"v1"), at(ONE, home / "v1"))
    python("os.rename(sys.argv[1] + '/v1', sys.argv[1] + '/v4')", home)
    assert dirty(tracker).datasets == {"imagenet"}


def test_a_snapshot_renamed_while_it_is_read_stays_the_same_snapshot(home: Path, make: Make, clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    read(home / "v1" / "deep" / "er" / "file")
    python("os.rename(sys.argv[1] + '/v1', sys.argv[1] + '/best')", home)
    read(home / "best" / "deep" / "er" / "file")
    batches = taken(tracker, clock)
    assert batches[ONE].reads > 0
    assert TWO not in batches
    assert dirty(tracker).datasets == {"imagenet"}
    tracker.update([top(home), at(ONE, home / "best"), at(TWO, home / "v2")])
    read(home / "best" / "deep" / "er" / "file")
    assert set(taken(tracker, clock)) == {ONE}


def test_two_snapshots_that_change_names_are_told_apart(home: Path, make: Make, clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    read(home / "v1" / "file")
    read(home / "v2" / "file")
    taken(tracker, clock)
    python(
        "h = sys.argv[1]\nfor a, b in (('v1', 'x'), ('v2', 'v1'), ('x', 'v2')): os.rename(f'{h}/{a}', f'{h}/{b}')",
        home,
    )
    found = dirty(tracker)
    assert found.datasets == {"imagenet"}
    tracker.update([top(home), at(ONE, home / "v2"), at(TWO, home / "v1")])
    taken(tracker, clock)
    read(home / "v2" / "deep" / "er" / "file")
    assert set(taken(tracker, clock)) == {ONE}


def test_another_tree_under_the_same_name_is_noticed(home: Path, make: Make, clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    python(
        "import shutil; h = sys.argv[1]; shutil.rmtree(h + '/v1'); os.mkdir(h + '/v1'); open(h + '/v1/new', 'w')", home
    )
    assert dirty(tracker).datasets == {"imagenet"}
    taken(tracker, clock)
    read(home / "v1" / "new")
    assert set(taken(tracker, clock)) == {ONE}


def test_a_dataset_moved_away_and_back_is_looked_at_again(home: Path, make: Make, clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    away = home.with_name("away")
    home.rename(away)
    wait_for(lambda: "imagenet" in tracker.drain_dirty().datasets)
    write(away / "v1" / "file")
    away.rename(home)
    seen: set[SnapshotId] = set()

    def is_dirty() -> bool:
        seen.update(tracker.drain_dirty().snapshots)
        return ONE in seen

    wait_for(is_dirty)
    taken(tracker, clock)
    read(home / "v1" / "deep" / "er" / "file")
    assert set(taken(tracker, clock)) == {ONE}


def test_a_dataset_deleted_and_made_again_is_watched_again(home: Path, make: Make, clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    shutil.rmtree(home)
    wait_for(lambda: "imagenet" in tracker.drain_dirty().datasets)
    wait_for(lambda: "missing" in tracker.status().detail)
    (home / "v1").mkdir(parents=True)
    wait_for(lambda: "imagenet" in tracker.drain_dirty().datasets)
    taken(tracker, clock)
    write(home / "v1" / "file")
    assert taken(tracker, clock)[ONE].writes > 0


def test_the_switch_of_the_path_by_tierd_itself_is_no_change_of_the_tree(
    home: Path, xfs: Path, make: Make, clock: FakeClock, tmp_path: Path
) -> None:
    """Released: the tree goes aside and is deleted there, the path is a link to another file system."""
    cold = xfs / tmp_path.name / "v1"
    shutil.copytree(home / "v1", cold)
    try:
        aside = home / ".aside"
        aside.symlink_to(cold)
        tracker = make(*all_watches(home))
        tracker.suppress(ONE)
        fd = os.open(home, os.O_RDONLY)
        try:
            rename_exchange(fd, b".aside", fd, b"v1")
        finally:
            os.close(fd)
        shutil.rmtree(aside)
        assert taken(tracker, clock) == {}
        tracker.update([top(home), at(ONE, cold), at(TWO, home / "v2")])
        assert tracker.sync(DEADLINE_S)
        tracker.unsuppress(ONE)
        assert taken(tracker, clock) == {}
        read(home / "v1" / "file")  # through the link
        assert set(taken(tracker, clock)) == {ONE}
    finally:
        shutil.rmtree(cold.parent)


def test_names_that_are_not_text_are_watched_like_others(home: Path, make: Make, clock: FakeClock) -> None:
    odd = home / "v1" / os.fsdecode(b"new\nline\xff" + b"z" * 200)
    odd.mkdir()
    (odd / "f").write_text("x")
    tracker = make(*all_watches(home))
    python("open(os.fsencode(sys.argv[1]) + b'/f').read()", odd)
    assert taken(tracker, clock)[ONE].reads > 0


def test_a_clock_that_jumps_back_leaves_no_time_in_the_future(home: Path, make: Make, clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    read(home / "v1" / "file")
    assert tracker.sync(DEADLINE_S)
    clock.advance(-86400)
    (batch,) = tracker.drain()
    assert batch.read_at == clock.now


# Across mounts


def test_a_read_through_a_bind_mount_counts(home: Path, make: Make, clock: FakeClock, tmp_path: Path) -> None:
    tracker = make(*all_watches(home))
    elsewhere = tmp_path / "bound"
    elsewhere.mkdir()
    run("mount", "--bind", home / "v1" / "deep", elsewhere)
    try:
        read(elsewhere / "er" / "file")
        assert set(taken(tracker, clock)) == {ONE}
    finally:
        run("umount", elsewhere)


def test_a_dataset_watched_through_a_bind_mount_is_seen_by_all_its_paths(
    home: Path, make: Make, clock: FakeClock, tmp_path: Path
) -> None:
    """The host reads by one path, tierd is told of another one."""
    elsewhere = tmp_path / "bound"
    elsewhere.mkdir()
    run("mount", "--bind", home, elsewhere)
    try:
        tracker = make(*all_watches(elsewhere))
        read(elsewhere / "v1" / "deep" / "er" / "file")
        assert set(taken(tracker, clock)) == {ONE}
        read(home / "v2" / "deep" / "er" / "file")
        assert set(taken(tracker, clock)) == {TWO}
        tracker.stop()
    finally:
        run("umount", elsewhere)


def test_a_container_that_mounts_the_dataset_elsewhere_counts(
    home: Path, make: Make, clock: FakeClock, tmp_path: Path
) -> None:
    tracker = make(*all_watches(home))
    data = tmp_path / "data"
    data.mkdir()
    script = 'mount --bind "$1" "$2" && umount -l "$3"; cat "$2/deep/er/file"'
    python(
        "import subprocess; subprocess.run(['unshare', '-m', '-p', '-f', 'sh', '-c', *sys.argv[1:]], check=True)",
        script,
        "sh",
        home / "v2",
        data,
        home.parents[1],
    )
    assert set(taken(tracker, clock)) == {TWO}


def test_a_hundred_namespaces_read_the_same_dataset(home: Path, make: Make, clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    script = 'for i in $(seq 50); do unshare --mount cat "$1" & unshare --mount --pid --fork cat "$2" & done; wait'
    python(
        "import subprocess; subprocess.run(['sh', '-c', *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)",
        script,
        "sh",
        home / "v1" / "file",
        home / "v2" / "file",
    )
    batches = taken(tracker, clock)
    assert {ONE, TWO} == set(batches)
    assert all(len(batch.readers) <= 33 for batch in batches.values())
    assert not tracker.status().is_degraded


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_it_works_on(kind: str, small_mount: SmallMount, make: Make, clock: FakeClock) -> None:
    home = planted(small_mount(kind, 320 if kind == "xfs" else 32) / "imagenet")
    tracker = make(*all_watches(home))
    assert "fanotify" in tracker.status().detail
    read(home / "v1" / "deep" / "er" / "file")
    write(home / "v2" / "deep" / "er" / "file")
    batches = taken(tracker, clock)
    assert (batches[ONE].reads > 0, batches[ONE].writes) == (True, 0)
    assert batches[TWO].writes > 0
    tracker.stop()


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


def test_subvolumes_of_btrfs_are_seen(btrfs: Path, make: Make, clock: FakeClock) -> None:
    """A snapshot that is a subvolume inside a subvolume, and one that is a directory."""
    home = btrfs / "imagenet"
    home.mkdir()
    run("btrfs", "subvolume", "create", home / "v1")
    (home / "v1" / "deep" / "er").mkdir(parents=True)
    (home / "v1" / "deep" / "er" / "file").write_text("x")
    (home / "v2" / "deep").mkdir(parents=True)
    (home / "v2" / "deep" / "file").write_text("x")
    tracker = make(*all_watches(home))
    read(home / "v1" / "deep" / "er" / "file")
    write(home / "v2" / "deep" / "file")
    batches = taken(tracker, clock)
    assert (batches[ONE].reads > 0, batches[ONE].writes) == (True, 0)
    assert batches[TWO].writes > 0
    tracker.drain_dirty()
    run("btrfs", "subvolume", "snapshot", "-r", home / "v1", home / "v3")
    wait_for(lambda: "imagenet" in tracker.drain_dirty().datasets)
    tracker.update([*all_watches(home), at(SnapshotId(3), home / "v3")])
    read(home / "v3" / "deep" / "er" / "file")
    assert set(taken(tracker, clock)) == {SnapshotId(3)}
    run("umount", btrfs)  # nothing of the tracker keeps it busy
    wait_for(lambda: "missing" in tracker.status().detail)


def test_the_tracker_never_keeps_a_file_system_from_being_unmounted(small_mount: SmallMount, make: Make) -> None:
    mount = small_mount()
    home = planted(mount / "imagenet")
    make(*all_watches(home))
    image = mount.parent / "image"
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            for path in (home / "v1" / "file", home / "v1" / "deep" / "er" / "file"):
                try:
                    path.read_text()
                except OSError:
                    stop.wait(0.001)

    churner = threading.Thread(target=churn)
    refused = 0
    churner.start()
    try:
        for _ in range(20):
            for _ in range(200):
                if subprocess.run(["umount", mount], capture_output=True, check=False).returncode == 0:
                    break
                refused += 1  # the churning itself may be in the way, for a moment
                stop.wait(0.001)
            assert not mount.is_mount(), f"umount was refused {refused} times"
            run("mount", "-o", "loop", image, mount)
    finally:
        stop.set()
        churner.join()


def test_a_mount_that_goes_and_comes_back_is_watched_again(
    small_mount: SmallMount, make: Make, clock: FakeClock
) -> None:
    mount = small_mount()
    home = planted(mount / "imagenet")
    tracker = make(*all_watches(home))
    run("umount", mount)
    wait_for(lambda: "missing" in tracker.status().detail)
    tracker.drain_dirty()
    run("mount", "-o", "loop", mount.parent / "image", mount)
    snapshots: set[SnapshotId] = set()
    datasets: set[str] = set()

    def all_dirty() -> bool:
        found = tracker.drain_dirty()
        snapshots.update(found.snapshots)
        datasets.update(found.datasets)
        return snapshots == {ONE, TWO} and datasets == {"imagenet"}

    wait_for(all_dirty)
    read(home / "v1" / "file")
    write(home / "v2" / "file")
    batches = taken(tracker, clock)
    assert batches[ONE].reads > 0
    assert batches[TWO].writes > 0
    tracker.stop()


def test_a_mount_over_the_dataset_hides_it(home: Path, make: Make, clock: FakeClock) -> None:
    """What lies beneath a new mount is not what the path means."""
    tracker = make(*all_watches(home))
    run("mount", "-t", "tmpfs", "tmpfs", home)
    try:
        planted(home)
        wait_for(lambda: "imagenet" in tracker.drain_dirty().datasets)
    finally:
        run("umount", home)
    taken(tracker, clock)
    read(home / "v1" / "deep" / "er" / "file")
    assert set(taken(tracker, clock)) == {ONE}


def test_a_file_system_without_handles_is_followed_by_the_fallback(
    home: Path, make: Make, clock: FakeClock, tmp_path: Path
) -> None:
    """A directory on ramfs: fanotify refuses, inotify does not."""
    other = tmp_path / "ramfs"
    other.mkdir()
    run("mount", "-t", "ramfs", "ramfs", other)
    try:
        (other / "v2").mkdir()
        (other / "v2" / "file").write_text("x")
        fallback = WatchdogTracker(clock=clock, retry_s=0.02)
        tracker = make(at(ONE, home / "v1"), at(TWO, other / "v2"), fallback=fallback)
        if "ramfs" not in tracker.status().detail:
            pytest.skip("this kernel lets fanotify mark a ramfs")
        read(home / "v1" / "file")
        read(other / "v2" / "file")
        assert set(taken(tracker, clock)) == {ONE, TWO}
        tracker.stop()
    finally:
        run("umount", other)


# Bad days


_TRACKED = """
import json, os, sys
from datetime import UTC, datetime
from pathlib import Path
from tierd.model.dataset import SnapshotId
from tierd.observe.fanotify_tracker import FanotifyTracker
from tierd.observe.tracker import Watch

home = Path(sys.argv[1])
tracker = FanotifyTracker(clock=lambda: datetime.now(UTC), retry_s=0.1, loss_felt_s=float(sys.argv[2]))
tracker.start([
    Watch(snapshot_id=None, dataset="imagenet", path=home),
    Watch(snapshot_id=SnapshotId(1), dataset="imagenet", path=home / "v1"),
    Watch(snapshot_id=SnapshotId(2), dataset="imagenet", path=home / "v2"),
])
assert tracker.sync(30)
print("ready", flush=True)
for line in sys.stdin:
    assert tracker.sync(30)
    dirty, status = tracker.drain_dirty(), tracker.status()
    print(json.dumps({
        "snapshots": sorted(dirty.snapshots), "datasets": sorted(dirty.datasets), "lost": status.events_lost,
        "is_degraded": status.is_degraded, "detail": status.detail,
        "reads": sorted(b.snapshot_id for b in tracker.drain() if b.reads)}), flush=True)
tracker.stop()
"""


def test_a_stopped_tracker_stops_nobody_and_what_it_lost_is_looked_at_again(small_mount: SmallMount) -> None:
    """SIGSTOP while readers go through more directories than its queue holds."""
    home = planted(small_mount(size_mb=256, inodes=60_000) / "imagenet")
    for number in range(9000):
        for name in ("v1", "v2"):
            (home / name / "many" / str(number)).mkdir(parents=True)
            (home / name / "many" / str(number) / "f").touch()
    command = [sys.executable, "-c", _TRACKED, str(home), "5"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask() -> dict[str, object]:
            assert process.stdin is not None
            assert process.stdout is not None
            print(file=process.stdin, flush=True)
            found = json.loads(process.stdout.readline())
            assert isinstance(found, dict)
            return found

        assert process.stdout.readline() == "ready\n"
        assert ask()["lost"] == 0
        process.send_signal(signal.SIGSTOP)
        threads = Path(f"/proc/{process.pid}/task")
        wait_for(lambda: all(b") T " in (thread / "stat").read_bytes() for thread in threads.iterdir()))
        try:
            before = time.monotonic()
            for name in ("v1", "v2"):
                for number in range(9000):
                    (home / name / "many" / str(number) / "f").read_bytes()
            (home / "v2" / "unseen").mkdir()
            assert time.monotonic() - before < DEADLINE_S
        finally:
            process.send_signal(signal.SIGCONT)
        found = ask()
        assert found["lost"] == 1
        assert found["is_degraded"] is True
        assert (found["snapshots"], found["datasets"]) == ([1, 2], ["imagenet"])
        (home / "v1" / "file").read_text()
        time.sleep(1.5)
        assert 1 in json.loads(json.dumps(ask()["reads"]))
        wait_for(lambda: ask()["is_degraded"] is False)
        found = ask()
        assert (found["lost"], found["snapshots"]) == (1, [])
        assert "overflowed once" in str(found["detail"])
        process.stdin.close()


def without_time(tracker: FanotifyTracker) -> None:
    """As after half a minute in which somebody made ten thousand directories a second."""
    tracker._intake._for_changes = Allowance(share=0.0, most_s=0.0)


def test_changes_that_are_not_looked_up_are_repaired_later_and_are_no_loss(
    home: Path, make: Make, clock: FakeClock
) -> None:
    tracker = make(*all_watches(home))
    chmod, unknown = "os.chmod(sys.argv[1], 0o600)", home / "v2" / "deep" / "er" / "file"
    read(home / "v1" / "file")
    assert set(taken(tracker, clock)) == {ONE}
    without_time(tracker)
    write(home / "v1" / "file")  # in a directory that is known
    assert taken(tracker, clock)[ONE].writes > 0
    assert dirty(tracker) == Dirty(snapshots=frozenset({ONE}))
    assert tracker.status().detail == "opens and changes on 1 file system (fanotify)"
    python(chmod, unknown)
    assert taken(tracker, clock) == {}
    assert "so many directories change" in tracker.status().detail
    (due,) = tracker._doubts._repair_due.items()
    assert due[1] - time.monotonic() > 50
    tracker._doubts._repair_due[due[0]] = 0.0  # a minute has passed
    assert dirty(tracker) == Dirty(snapshots=frozenset({ONE, TWO}), datasets=frozenset({"imagenet"}))
    status = tracker.status()
    assert (status.is_degraded, status.events_lost) == (False, 0)
    assert "so many" not in status.detail
    python(chmod, unknown)
    assert tracker.sync(DEADLINE_S)
    assert tracker._doubts._repair_due[due[0]] - time.monotonic() > 500  # measuring it all again and again costs more


def test_a_directory_moved_while_there_is_no_time_counts_where_it_is(home: Path, make: Make, clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    read(home / "v1" / "deep" / "er" / "file")
    assert set(taken(tracker, clock)) == {ONE}
    without_time(tracker)
    python("os.rename(sys.argv[1] + '/v1/deep', sys.argv[1] + '/v2/from_v1')", home)
    assert taken(tracker, clock) == {}
    read(home / "v2" / "from_v1" / "er" / "file")
    assert set(taken(tracker, clock)) == {TWO}


def test_what_tierd_itself_changes_is_always_looked_up(home: Path, make: Make) -> None:
    tracker = make(*all_watches(home))
    without_time(tracker)
    (home / "v1" / "deep" / "er" / "file").write_text("more")
    assert dirty(tracker) == Dirty(snapshots=frozenset({ONE}))
    assert "so many" not in tracker.status().detail


_WITHOUT = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from tierd.config import ObserveConfig
from tierd.model.dataset import SnapshotId
from tierd.observe.choose import choose
from tierd.observe.tracker import Watch

tracker = choose(ObserveConfig(tracker=sys.argv[2]), clock=lambda: datetime.now(UTC))
tracker.start([Watch(snapshot_id=SnapshotId(1), dataset="d", path=Path(sys.argv[1]))])
assert tracker.sync(30)
status = tracker.status()
print(status.name, status.is_degraded, status.detail, sep="|")
tracker.stop()
"""


@pytest.mark.parametrize("capability", ["sys_admin", "dac_read_search"])
@pytest.mark.parametrize("wanted", ["auto", "fanotify"])
def test_without_the_capability_inotify_is_used_and_the_remedy_said(home: Path, wanted: str, capability: str) -> None:
    drop = ["setpriv", f"--bounding-set=-{capability}", f"--inh-caps=-{capability}"]
    done = subprocess.run(
        [*drop, sys.executable, "-c", _WITHOUT, str(home / "v1"), wanted],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S * 2,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    name, _, detail = done.stdout.strip().split("|")
    assert name == "watchdog"
    assert "CAP_SYS_ADMIN" in detail
    assert detail.count("CAP_SYS_ADMIN") == 1


def test_the_best_back_end_is_chosen(home: Path) -> None:
    for wanted in ("auto", "fanotify"):
        tracker = choose(ObserveConfig(tracker=wanted), clock=lambda: datetime.now(UTC))
        tracker.start([at(ONE, home / "v1")])
        try:
            assert tracker.sync(DEADLINE_S)
            assert (tracker.status().name, tracker.status().is_degraded) == ("fanotify", False)
            assert tracker.status().detail == "opens and changes on 1 file system (fanotify)"
        finally:
            tracker.stop()


_OPENS = """
until = time.monotonic() + float(sys.argv[2])
while time.monotonic() < until:
    for _ in range(int(sys.argv[4])):
        os.close(os.open(sys.argv[1], os.O_RDONLY))
    time.sleep(float(sys.argv[3]))
"""


def test_listening_is_sparing_while_opens_are_many_and_constant_again_afterwards(
    home: Path, make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Less than tierd's own bounds: on a busy machine one process may not get the time for so many opens.
    monkeypatch.setattr(duty, "MANY", 2000.0)
    monkeypatch.setattr(duty, "FEW", 1000.0)
    tracker = make(*all_watches(home))
    path = home / "v1" / "deep" / "er" / "file"
    busy = threading.Thread(target=lambda: python(_OPENS, path, 6, 0, 200))
    busy.start()
    try:
        wait_for(lambda: "of the time" in tracker.status().detail)
        assert not tracker.status().is_degraded
        wait_for(lambda: taken(tracker, clock).get(ONE) is not None)  # sparing is not blind
        taken(tracker, clock)
        write(home / "v2" / "file")  # changes are never spared
        assert taken(tracker, clock)[TWO].writes > 0
    finally:
        busy.join()
    wait_for(lambda: "of the time" not in tracker.status().detail)
    taken(tracker, clock)
    read(home / "v2" / "file")
    assert taken(tracker, clock)[TWO].reads > 0


def test_a_thousand_opens_a_second_are_all_listened_for(home: Path, make: Make, clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    python(_OPENS, home / "v1" / "file", 3, 0.002, 2)
    assert "of the time" not in tracker.status().detail
    assert taken(tracker, clock)[ONE].reads > 0


def test_stopping_ends_everything_and_keeps_what_was_not_drained(home: Path, make: Make) -> None:
    tracker = make(*all_watches(home))
    fds = len(os.listdir("/proc/self/fd"))
    read(home / "v1" / "file")
    assert tracker.sync(DEADLINE_S)
    tracker.stop()
    tracker.stop()
    assert "tierd-fanotify" not in {thread.name for thread in threading.enumerate()}
    assert {batch.snapshot_id for batch in tracker.drain()} == {ONE}
    assert not tracker.sync(0.1)
    assert tracker.status().is_degraded
    tracker.unsuppress(ONE)
    assert len(os.listdir("/proc/self/fd")) < fds


def test_ten_thousand_snapshots_are_cheap(home: Path, make: Make, clock: FakeClock) -> None:
    watches = [top(home)]
    for number in range(10_000):
        path = home / f"s{number}"
        path.mkdir()
        watches.append(at(SnapshotId(number), path))
    tracker = make(top(home))
    began = time.process_time()
    tracker.update([*watches, at(SnapshotId(20_000), home / "missing")])
    assert tracker.sync(DEADLINE_S)
    set_up = time.process_time() - began
    assert set_up < 5
    (home / "s9999" / "f").touch()
    taken(tracker, clock)
    # A missing path is looked for again every `retry_s`; what others do meanwhile must not make it more often.
    tracker._retry_s = 3600.0
    began = time.process_time()
    python(_OPENS, home / "s9999" / "f", 2, 0.02, 200)
    assert set(taken(tracker, clock)) == {9999}
    assert time.process_time() - began < 0.5
