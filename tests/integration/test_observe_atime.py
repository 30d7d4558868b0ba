"""Sampling access times on real directories."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tierd.config import ObserveConfig
from tierd.model.dataset import AccessSource, SnapshotId
from tierd.observe import inotify
from tierd.observe.atime_tracker import AtimeTracker
from tierd.observe.choose import choose
from tierd.observe.fanotify_tracker import FanotifyTracker
from tierd.observe.measure import keeps_atime
from tierd.observe.tracker import Dirty, Watch
from tierd.observe.watchdog_tracker import WatchdogTracker

ONE = SnapshotId(1)
DEADLINE_S = 20.0
LATER_NS = 10**9


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    if not keeps_atime(tmp_path):
        pytest.skip("the temporary directory is on a mount without access times")
    home = tmp_path / "imagenet"
    (home / "v1" / "deep").mkdir(parents=True)
    (home / "v1" / "deep" / "file").write_text("x")
    return home


@pytest.fixture
def make() -> Iterator[Callable[..., AtimeTracker]]:
    made: list[AtimeTracker] = []

    def make(*watches: Watch, clock: Callable[[], datetime] = now) -> AtimeTracker:
        tracker = AtimeTracker(clock=clock, interval_s=3600.0, top_interval_s=0.02)
        made.append(tracker)
        tracker.start(watches)
        assert tracker.sync(DEADLINE_S)
        return tracker

    yield make
    for tracker in made:
        tracker.stop()


def watch(home: Path) -> Watch:
    return Watch(snapshot_id=ONE, dataset="imagenet", path=home / "v1")


def touch_access(path: Path) -> datetime:
    """Set the access time a second past the last change, as a read would (setting it is a change of its own)."""
    st = path.stat()
    at_ns = max(time.time_ns(), st.st_ctime_ns) + LATER_NS
    os.utime(path, ns=(at_ns, st.st_mtime_ns))
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_ns // 1000)


def in_an_hour() -> datetime:
    return now() + timedelta(hours=1)


def test_a_newer_access_time_is_a_read(home: Path, make: Callable[..., AtimeTracker]) -> None:
    tracker = make(watch(home), clock=in_an_hour)
    tracker.drain()
    read_at = touch_access(home / "v1" / "deep" / "file")
    assert tracker.sync(DEADLINE_S)
    (batch,) = tracker.drain()
    assert (batch.snapshot_id, batch.read_at, batch.reads, batch.source) == (ONE, read_at, 1, AccessSource.ATIME)
    assert tracker.sync(DEADLINE_S)
    assert tracker.drain() == []


def test_a_real_read_is_seen(home: Path, make: Callable[..., AtimeTracker]) -> None:
    file = home / "v1" / "deep" / "file"
    os.utime(file, (0, 0))  # so that relatime lets the next read move it
    tracker = make(watch(home))
    assert tracker.drain() == []
    file.read_text()
    assert tracker.sync(DEADLINE_S)
    (batch,) = tracker.drain()
    assert batch.read_at is not None
    assert now() - timedelta(minutes=1) < batch.read_at <= now()


def test_writing_is_a_write_and_making_files_is_no_read(home: Path, make: Callable[..., AtimeTracker]) -> None:
    tracker = make(watch(home))
    assert tracker.drain() == []
    (home / "v1" / "new").write_text("x")
    assert tracker.sync(DEADLINE_S)
    (batch,) = tracker.drain()
    assert (batch.reads, batch.writes) == (0, 1)
    assert tracker.drain_dirty().snapshots == {ONE}


def test_an_access_time_in_the_future_is_not_believed(home: Path, make: Callable[..., AtimeTracker]) -> None:
    os.utime(home / "v1" / "deep" / "file", (4_000_000_000, 0))
    assert make(watch(home)).drain() == []


def test_tierds_own_reading_does_not_count(home: Path, make: Callable[..., AtimeTracker]) -> None:
    tracker = make(watch(home), clock=in_an_hour)
    tracker.suppress(ONE)
    touch_access(home / "v1" / "deep" / "file")
    tracker.unsuppress(ONE)
    assert tracker.sync(DEADLINE_S)
    assert not any(batch.reads for batch in tracker.drain())


def test_the_top_level_is_looked_at(home: Path, make: Callable[..., AtimeTracker]) -> None:
    tracker = make(Watch(snapshot_id=None, dataset="imagenet", path=home))
    assert tracker.drain_dirty() == Dirty()
    (home / "v2").mkdir()
    assert wait_for_dirty(tracker) == {"imagenet"}
    shutil.rmtree(home)
    assert wait_for_dirty(tracker) == {"imagenet"}


def wait_for_dirty(tracker: AtimeTracker) -> frozenset[str]:
    pause = threading.Event()
    for _ in range(int(DEADLINE_S / 0.01)):
        found = tracker.drain_dirty().datasets
        if found:
            return found
        pause.wait(0.01)
    raise AssertionError("no dataset became dirty in time")


def test_a_missing_tree_is_no_error(home: Path, make: Callable[..., AtimeTracker]) -> None:
    tracker = make(Watch(snapshot_id=ONE, dataset="imagenet", path=home / "v9"), watch(home))
    assert tracker.sync(DEADLINE_S)
    assert "could not be walked" in tracker.status().detail


def test_the_best_back_end_is_chosen() -> None:
    auto = choose(ObserveConfig(), clock=now)
    assert isinstance(auto, FanotifyTracker if os.geteuid() == 0 else WatchdogTracker)
    auto.stop()
    watchdog = choose(ObserveConfig(tracker="watchdog"), clock=now)
    assert isinstance(watchdog, WatchdogTracker)
    watchdog.stop()
    assert isinstance(choose(ObserveConfig(tracker="atime"), clock=now), AtimeTracker)


def test_without_inotify_access_times_are_sampled_and_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: inotify.InotifyQueue) -> None:
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr(inotify.InotifyQueue, "__init__", refuse)
    tracker = choose(ObserveConfig(tracker="watchdog"), clock=now)
    assert isinstance(tracker, AtimeTracker)
    assert tracker.status().is_degraded
    assert "raise the sysctl fs.inotify.max_user_instances" in tracker.status().detail
