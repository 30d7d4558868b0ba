"""The inotify back end on real directories: what counts, for whom, and what happens on bad days."""

from __future__ import annotations

import mmap
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tierd.fs.linux import rename_exchange
from tierd.model.dataset import AccessSource, SnapshotId
from tierd.model.observation import AccessBatch
from tierd.observe.forest import Forest, Tree
from tierd.observe.inotify import InotifyQueue
from tierd.observe.tracker import Dirty, Tracker, TrackerStatus, Watch
from tierd.observe.watchdog_tracker import WatchdogTracker

ONE, TWO = SnapshotId(1), SnapshotId(2)
START = datetime(2026, 3, 1, tzinfo=UTC)
DEADLINE_S = 20.0


class FakeClock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class FallBack:
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.watches: list[Watch] = []
        self.updated = threading.Event()

    def start(self, watches: Sequence[Watch]) -> None: ...

    def update(self, watches: Sequence[Watch]) -> None:
        self.watches = list(watches)
        self.updated.set()

    def stop(self) -> None: ...

    def drain(self) -> list[AccessBatch]:
        return [AccessBatch(snapshot_id=w.snapshot_id, reads=1) for w in self.watches if w.snapshot_id is not None]

    def drain_dirty(self) -> Dirty:
        return Dirty()

    def status(self) -> TrackerStatus:
        return TrackerStatus(name="fake", is_degraded=False, detail="")

    def suppress(self, snapshot_id: SnapshotId) -> None: ...

    def unsuppress(self, snapshot_id: SnapshotId) -> None: ...

    def sync(self, timeout_s: float) -> bool:
        return True


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "imagenet"
    for name in ("v1", "v2"):
        (home / name / "deep" / "er").mkdir(parents=True)
        (home / name / "file").write_text("x")
        (home / name / "deep" / "er" / "file").write_text("x")
    return home


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make(clock: FakeClock) -> Iterator[Callable[..., WatchdogTracker]]:
    made: list[WatchdogTracker] = []

    def make(
        *watches: Watch, fallback: Tracker | None = None, max_watches: int | None = None, retry_s: float = 0.02
    ) -> WatchdogTracker:
        tracker = WatchdogTracker(clock=clock, fallback=fallback, max_watches=max_watches, retry_s=retry_s)
        made.append(tracker)
        tracker.start(watches)
        assert tracker.sync(DEADLINE_S)
        tracker.drain_dirty()
        return tracker

    yield make
    for tracker in made:
        tracker.stop()


def top(home: Path) -> Watch:
    return Watch(snapshot_id=None, dataset="imagenet", path=home)


def at(snapshot_id: SnapshotId, path: Path) -> Watch:
    return Watch(snapshot_id=snapshot_id, dataset="imagenet", path=path)


def taken(tracker: Tracker) -> dict[SnapshotId, AccessBatch]:
    assert tracker.sync(DEADLINE_S)
    return {batch.snapshot_id: batch for batch in tracker.drain()}


def dirty(tracker: Tracker) -> Dirty:
    assert tracker.sync(DEADLINE_S)
    return tracker.drain_dirty()


def wait_for(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(DEADLINE_S / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("the condition did not come true in time")


def all_watches(home: Path) -> list[Watch]:
    return [top(home), at(ONE, home / "v1"), at(TWO, home / "v2")]


def test_a_read_is_a_read_of_its_snapshot(home: Path, make: Callable[..., WatchdogTracker], clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    clock.advance(60)
    (home / "v1" / "deep" / "er" / "file").read_text()
    assert taken(tracker) == {ONE: AccessBatch(snapshot_id=ONE, read_at=clock.now, reads=1, source=AccessSource.EVENTS)}
    assert dirty(tracker) == Dirty()
    assert taken(tracker) == {}


def test_a_write_is_a_write_and_not_a_read(home: Path, make: Callable[..., WatchdogTracker], clock: FakeClock) -> None:
    tracker = make(*all_watches(home))
    with (home / "v2" / "file").open("a") as file:
        file.write("more")
    batch = taken(tracker)[TWO]
    assert (batch.read_at, batch.reads, batch.written_at) == (None, 0, clock.now)
    clock.advance(60)
    assert taken(tracker) == {}  # the open that became a write does not come up later
    assert dirty(tracker) == Dirty(snapshots=frozenset({TWO}))


@pytest.mark.parametrize(
    "change",
    [
        lambda v: (v / "file").chmod(0o600),
        lambda v: (v / "file").unlink(),
        lambda v: (v / "new").touch(),
        lambda v: (v / "newdir").mkdir(),
        lambda v: (v / "file").rename(v / "deep" / "moved"),
        lambda v: os.utime(v / "deep"),
        lambda v: os.truncate(v / "file", 0),
        lambda v: (v / "s").symlink_to("/etc"),
        lambda v: (v / "h").hardlink_to(v / "file"),
        lambda v: shutil.rmtree(v / "deep"),
    ],
    ids=["chmod", "unlink", "create", "mkdir", "rename", "utime", "truncate", "symlink", "hardlink", "rmtree"],
)
def test_every_change_is_a_write(
    home: Path, make: Callable[..., WatchdogTracker], change: Callable[[Path], object]
) -> None:
    tracker = make(*all_watches(home))
    change(home / "v1")
    batches = taken(tracker)
    assert set(batches) == {ONE}
    assert batches[ONE].writes > 0
    assert batches[ONE].reads == 0
    assert dirty(tracker) == Dirty(snapshots=frozenset({ONE}))


def test_looking_at_directories_is_no_access(home: Path, make: Callable[..., WatchdogTracker]) -> None:
    tracker = make(*all_watches(home))
    for _, _, files in os.walk(home):
        assert files is not None
    os.stat(home / "v1" / "file")
    assert taken(tracker) == {}


def test_a_file_held_open_for_reading_is_read_after_a_grace(
    home: Path, make: Callable[..., WatchdogTracker], clock: FakeClock
) -> None:
    tracker = make(*all_watches(home))
    with (home / "v1" / "file").open() as file:
        assert taken(tracker) == {}
        opened = clock.now
        clock.advance(5)
        assert taken(tracker)[ONE].read_at == opened
        clock.advance(3600)
        assert file.read() == "x"
    assert taken(tracker)[ONE].read_at == clock.now


def test_a_new_directory_is_watched_with_all_below_it(home: Path, make: Callable[..., WatchdogTracker]) -> None:
    tracker = make(*all_watches(home))
    new = home / "v1" / "a" / "b" / "c"
    new.mkdir(parents=True)
    (new / "file").write_text("x")
    taken(tracker)
    (new / "file").read_text()
    assert taken(tracker)[ONE].reads == 1


def test_a_directory_that_was_renamed_is_still_watched(home: Path, make: Callable[..., WatchdogTracker]) -> None:
    tracker = make(*all_watches(home))
    (home / "v1" / "deep").rename(home / "v1" / "depth")
    taken(tracker)
    (home / "v1" / "depth" / "er" / "file").read_text()
    (home / "v1" / "depth" / "er" / "sub").mkdir()
    taken(tracker)
    (home / "v1" / "depth" / "er" / "sub" / "new").write_text("x")
    assert taken(tracker)[ONE].writes > 0


def test_a_directory_moved_to_another_snapshot_counts_there(home: Path, make: Callable[..., WatchdogTracker]) -> None:
    tracker = make(*all_watches(home))
    (home / "v1" / "deep").rename(home / "v2" / "from_v1")
    assert set(taken(tracker)) == {ONE, TWO}
    (home / "v2" / "from_v1" / "er" / "file").read_text()
    assert set(taken(tracker)) == {TWO}


def test_a_directory_moved_out_counts_no_more(home: Path, make: Callable[..., WatchdogTracker], tmp_path: Path) -> None:
    tracker = make(*all_watches(home))
    before = tracker.status().watches
    (home / "v1" / "deep").rename(tmp_path / "out")
    assert set(taken(tracker)) == {ONE}
    wait_for(lambda: tracker.status().watches == before - 2)
    (tmp_path / "out" / "er" / "file").write_text("changed")
    assert taken(tracker) == {}


def test_a_link_inside_a_tree_is_never_followed(
    home: Path, make: Callable[..., WatchdogTracker], tmp_path: Path
) -> None:
    (tmp_path / "secret" / "sub").mkdir(parents=True)
    (tmp_path / "secret" / "sub" / "file").write_text("x")
    (home / "v1" / "before").symlink_to(tmp_path / "secret")
    tracker = make(*all_watches(home))
    watches = tracker.status().watches
    (home / "v1" / "after").symlink_to(tmp_path / "secret")
    taken(tracker)
    (home / "v1" / "after" / "sub" / "file").read_text()
    (home / "v1" / "before" / "sub" / "file").read_text()
    assert taken(tracker) == {}
    assert tracker.status().watches == watches


def test_a_root_that_is_a_link_is_not_watched(home: Path, make: Callable[..., WatchdogTracker]) -> None:
    (home / "v3").symlink_to("v1")
    tracker = make(at(TWO, home / "v3"))
    (home / "v1" / "file").read_text()
    assert taken(tracker) == {}


@pytest.mark.parametrize(
    "change",
    [
        lambda h: (h / "v3").mkdir(),
        lambda h: (h / "v1").rename(h / "best"),
        lambda h: shutil.rmtree(h / "v2"),
        lambda h: (h / "v3").symlink_to("v1"),
    ],
    ids=["create", "rename", "delete", "link"],
)
def test_a_change_at_the_top_level_makes_the_dataset_dirty(
    home: Path, make: Callable[..., WatchdogTracker], change: Callable[[Path], object]
) -> None:
    tracker = make(*all_watches(home))
    change(home)
    assert dirty(tracker).datasets == {"imagenet"}


def test_hidden_names_at_the_top_level_are_nothing(home: Path, make: Callable[..., WatchdogTracker]) -> None:
    tracker = make(*all_watches(home))
    (home / ".tierd").mkdir()
    (home / ".tmp").touch()
    assert dirty(tracker) == Dirty()


def test_only_its_own_child_matters_to_a_whole_dataset(home: Path, make: Callable[..., WatchdogTracker]) -> None:
    tracker = make(Watch(snapshot_id=None, dataset="imagenet", path=home, child=b"v1"))
    (home / "v3").mkdir()
    assert dirty(tracker) == Dirty()
    (home / "v1").rename(home / "v4")
    assert dirty(tracker).datasets == {"imagenet"}


def test_a_renamed_snapshot_is_dirty_once_it_is_watched_again(home: Path, make: Callable[..., WatchdogTracker]) -> None:
    tracker = make(*all_watches(home))
    (home / "v1").rename(home / "best")
    assert dirty(tracker).datasets == {"imagenet"}
    tracker.update([top(home), at(ONE, home / "best"), at(TWO, home / "v2")])
    assert dirty(tracker).snapshots == {ONE}
    (home / "best" / "deep" / "er" / "file").read_text()
    assert set(taken(tracker)) == {ONE}


def test_a_dataset_deleted_and_made_again_is_watched_again(home: Path, make: Callable[..., WatchdogTracker]) -> None:
    tracker = make(*all_watches(home))
    shutil.rmtree(home)
    assert dirty(tracker).datasets == {"imagenet"}
    wait_for(lambda: "missing" in tracker.status().detail)
    (home / "v1").mkdir(parents=True)
    wait_for(lambda: "imagenet" in tracker.drain_dirty().datasets)
    (home / "v9").mkdir()
    wait_for(lambda: "imagenet" in tracker.drain_dirty().datasets)
    tracker.update([top(home), at(ONE, home / "v1")])
    taken(tracker)
    (home / "v1" / "file").write_text("x")
    assert taken(tracker)[ONE].writes > 0


def test_the_switch_of_the_path_by_tierd_itself_is_no_change_of_the_tree(
    home: Path, make: Callable[..., WatchdogTracker], tmp_path: Path
) -> None:
    """Released: the tree goes aside and is deleted there; none of it is a write to the snapshot."""
    cold = tmp_path / "hdd" / "v1"
    shutil.copytree(home / "v1", cold)
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
    assert taken(tracker) == {}  # before anybody has told the tracker
    tracker.update([top(home), at(ONE, cold), at(TWO, home / "v2")])
    assert tracker.sync(DEADLINE_S)
    tracker.unsuppress(ONE)
    assert taken(tracker) == {}
    assert dirty(tracker).snapshots == set()
    (home / "v1" / "file").read_text()  # through the link
    assert set(taken(tracker)) == {ONE}


def test_tierds_own_reading_does_not_count_but_writes_do(home: Path, make: Callable[..., WatchdogTracker]) -> None:
    tracker = make(*all_watches(home))
    (home / "v1" / "file").read_text()
    tracker.suppress(ONE)
    tracker.suppress(ONE)
    for _ in range(50):
        (home / "v1" / "deep" / "er" / "file").read_text()
    tracker.unsuppress(ONE)
    (home / "v1" / "file").read_text()
    (home / "v2" / "file").read_text()
    tracker.unsuppress(ONE)  # at once: the events of the reads before it may still be on their way
    batches = taken(tracker)
    assert (batches[ONE].reads, batches[TWO].reads) == (1, 1)
    tracker.suppress(ONE)
    (home / "v1" / "file").write_text("changed")
    assert taken(tracker)[ONE].writes > 0
    tracker.unsuppress(ONE)
    (home / "v1" / "file").read_text()
    assert taken(tracker)[ONE].reads == 1


def test_a_clock_that_jumps_back_leaves_no_time_in_the_future(
    home: Path, make: Callable[..., WatchdogTracker], clock: FakeClock
) -> None:
    tracker = make(*all_watches(home))
    (home / "v1" / "file").read_text()
    with (home / "v2" / "file").open():
        assert tracker.sync(DEADLINE_S)
        clock.advance(-86400)
        batches = taken(tracker)
    assert batches[ONE].read_at == clock.now
    assert batches[TWO].read_at == clock.now
    (home / "v1" / "file").read_text()
    assert tracker.sync(DEADLINE_S)
    clock.advance(60)
    assert taken(tracker)[ONE].read_at == clock.now - timedelta(seconds=60)


def test_names_that_are_not_text_are_watched_like_others(home: Path, make: Callable[..., WatchdogTracker]) -> None:
    odd = home / "v1" / os.fsdecode(b"new\nline\xff" + b"z" * 200)
    odd.mkdir()
    (odd / "\n").write_text("x")
    tracker = make(*all_watches(home))
    (odd / "\n").read_text()
    assert taken(tracker)[ONE].reads == 1


def test_the_limit_of_watches_is_said_and_handed_over(home: Path, make: Callable[..., WatchdogTracker]) -> None:
    for number in range(20):
        (home / "v2" / str(number)).mkdir()
    fallback = FallBack()
    tracker = make(at(ONE, home / "v1"), fallback=fallback, max_watches=8)
    assert not tracker.status().is_degraded
    tracker.update([at(ONE, home / "v1"), at(TWO, home / "v2")])
    assert fallback.updated.wait(DEADLINE_S)
    status = tracker.status()
    assert status.is_degraded
    assert "raise the sysctl fs.inotify.max_user_watches" in status.detail
    assert fallback.watches == [at(TWO, home / "v2")]
    assert {batch.snapshot_id for batch in tracker.drain()} >= {TWO}
    fallback.updated.clear()
    tracker.update([at(ONE, home / "v1")])
    assert fallback.updated.wait(DEADLINE_S)
    assert fallback.watches == []
    wait_for(lambda: not tracker.status().is_degraded)


def test_lost_events_are_counted_and_repaired(
    home: Path, make: Callable[..., WatchdogTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's queue overflows while nobody reads: what happened then is found by walking again."""
    tracker = make(*all_watches(home))
    is_open = threading.Event()
    read = tracker._queue.read
    tracker.suppress(TWO)

    def held_read(timeout_s: float | None) -> list[tuple[int, int, bytes]]:
        is_open.wait(DEADLINE_S)
        return read(timeout_s)

    monkeypatch.setattr(tracker._queue, "read", held_read)
    (home / "v2" / "file").read_text()  # ends the read that waits now
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    paths = [home / "v1" / "file", home / "v2" / "file"]
    for number in range(limit // 2 + 100):
        paths[number % 2].read_bytes()
    (home / "v1" / "unseen").mkdir()
    tracker.unsuppress(TWO)  # its mark is lost with the other events
    is_open.set()
    found = dirty(tracker)
    assert found.snapshots == {ONE, TWO}
    assert found.datasets == {"imagenet"}
    status = tracker.status()
    assert status.events_lost >= 1
    assert status.is_degraded
    assert "max_queued_events" in status.detail
    tracker._loss_felt_s = -3600.0  # an hour and more has passed
    assert (tracker.status().is_degraded, tracker.status().events_lost) == (False, status.events_lost)
    assert "max_queued_events" in tracker.status().detail
    tracker.drain()
    (home / "v1" / "unseen" / "file").write_text("x")
    (home / "v2" / "file").read_text()
    batches = taken(tracker)
    assert batches[ONE].writes > 0
    assert batches[TWO].reads == 1


def test_memory_does_not_grow_with_events(home: Path, make: Callable[..., WatchdogTracker]) -> None:
    tracker = make(*all_watches(home))
    many = home / "v1" / "many"
    many.mkdir()
    for number in range(6000):
        (many / str(number)).touch()
    for number in range(6000):
        (many / str(number)).read_bytes()
        if number % 1000 == 0:
            assert tracker.sync(DEADLINE_S)
    assert taken(tracker)[ONE].reads == 6000
    assert not tracker._opens
    assert len(tracker._ledger.tallies()) == 2
    held = [(many / str(number)).open() for number in range(900)]
    assert tracker.sync(DEADLINE_S)
    for file in held:
        file.close()
    assert taken(tracker)[ONE].reads == 900
    assert not tracker._opens


def test_a_flood_of_new_directories_is_watched_to_the_last(home: Path, make: Callable[..., WatchdogTracker]) -> None:
    tracker = make(*all_watches(home))
    before = tracker.status().watches
    for number in range(1500):
        (home / "v1" / f"d{number}" / "x").mkdir(parents=True)
    assert tracker.sync(DEADLINE_S)
    assert tracker.status().watches == before + 3000
    (home / "v1" / "d1499" / "x" / "f").touch()
    assert taken(tracker)[ONE].writes > 0


def test_a_directory_swapped_for_a_link_while_the_tree_is_walked_is_not_left_through_it(
    home: Path, make: Callable[..., WatchdogTracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    for name in ("a", "b"):
        (home / "v1" / name / "sub").mkdir(parents=True)
    shutil.rmtree(home / "v1" / "deep")
    swapped: list[str] = []
    add = Forest.add

    def swapping_add(self: Forest, tree: Tree, fd: int, *, parent: int, name: bytes, is_root: bool) -> int:
        if name in (b"a", b"b") and not swapped:  # both are listed, this one is open, the other one comes next
            other = "b" if name == b"a" else "a"
            swapped.append(other)
            shutil.rmtree(home / "v1" / other)
            (home / "v1" / other).symlink_to(outside)
        return add(self, tree, fd, parent=parent, name=name, is_root=is_root)

    monkeypatch.setattr(Forest, "add", swapping_add)
    make(*all_watches(home))
    assert swapped
    assert not {outside.stat().st_ino, (outside / "sub").stat().st_ino} & watched_inodes(home)


def watched_inodes(home: Path) -> set[int]:
    """Inodes on `home`'s device that any inotify instance of this process watches, as the kernel says (proc(5))."""
    found = set()
    device = home.stat().st_dev
    sdev = f"sdev:{os.major(device) << 20 | os.minor(device):x}"
    for info in Path("/proc/self/fdinfo").iterdir():
        try:
            lines = info.read_text().splitlines()
        except OSError:
            continue
        marks = [line.split() for line in lines if line.startswith("inotify wd:")]
        found |= {int(mark[2].removeprefix("ino:"), 16) for mark in marks if mark[3] == sdev}
    return found


def test_the_kernel_watches_exactly_the_directories_of_the_trees(
    home: Path, make: Callable[..., WatchdogTracker]
) -> None:
    make(*all_watches(home))
    expected = {os.stat(path).st_ino for path, _, _ in os.walk(home)}
    assert watched_inodes(home) == expected


def test_stopping_ends_everything_and_keeps_what_was_not_drained(
    home: Path, make: Callable[..., WatchdogTracker]
) -> None:
    tracker = make(*all_watches(home))
    (home / "v1" / "file").read_text()
    assert tracker.sync(DEADLINE_S)
    before = {thread.name for thread in threading.enumerate()}
    assert "tierd-inotify" in before
    tracker.stop()
    tracker.stop()
    assert not {"tierd-inotify", "tierd-planter"} & {thread.name for thread in threading.enumerate()}
    assert {batch.snapshot_id for batch in tracker.drain()} == {ONE}
    assert not tracker.sync(0.1)
    assert tracker.status().is_degraded
    tracker.unsuppress(ONE)


def test_an_mmapped_file_is_read_by_being_opened(
    home: Path, make: Callable[..., WatchdogTracker], clock: FakeClock
) -> None:
    tracker = make(*all_watches(home))
    with (home / "v1" / "file").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    with mapped:
        assert mapped[:1] == b"x"
        assert tracker.sync(DEADLINE_S)
        clock.advance(10)
        assert taken(tracker)[ONE].reads == 1


def test_what_is_not_a_directory_is_not_watched(home: Path) -> None:
    queue = InotifyQueue()
    fd = os.open(home / "v1" / "file", os.O_RDONLY)
    try:
        with pytest.raises(NotADirectoryError):
            queue.add(fd)
    finally:
        os.close(fd)
        queue.close()
