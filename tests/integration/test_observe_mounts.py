"""Observing across mounts: options, mount points inside, unmounting, kernel limits, large directories. Needs root."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tierd.model.dataset import Dataset, SnapshotId
from tierd.model.tier import TierName
from tierd.observe.atime_tracker import AtimeTracker
from tierd.observe.discover import discover
from tierd.observe.measure import keeps_atime, measure
from tierd.observe.tracker import Watch
from tierd.observe.watchdog_tracker import WatchdogTracker

pytestmark = [
    pytest.mark.mounts,
    pytest.mark.skipif(os.geteuid() != 0, reason="making mounts needs root"),
]

ONE = SnapshotId(1)
DEADLINE_S = 30.0

Mount = Callable[..., Path]


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    mounted: list[Path] = []

    def mount(name: str, options: str = "") -> Path:
        at = tmp_path / name
        at.mkdir(exist_ok=True, parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=256m{options}", "tmpfs", str(at)], check=True)
        mounted.append(at)
        return at

    yield mount
    for at in reversed(mounted):
        subprocess.run(["umount", "-l", str(at)], check=False, capture_output=True)


def look(path: Path) -> tuple[bool, datetime | None, str | None]:
    fd = os.open(path, os.O_RDONLY)
    try:
        found = measure(fd, keeps_atime=keeps_atime(fd))
        return keeps_atime(fd), found.newest_access, found.problem
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("options", "keeps"),
    [(",relatime", True), (",strictatime,lazytime", True), (",noatime", False), (",nodiratime", True)],
)
def test_mount_options_say_whether_access_times_mean_anything(mount: Mount, options: str, keeps: bool) -> None:
    at = mount("fs", options)
    (at / "file").write_text("x")
    assert keeps_atime(at) is keeps
    assert (look(at)[1] is not None) is keeps


def test_a_read_only_mount_keeps_no_access_times(mount: Mount) -> None:
    at = mount("fs")
    subprocess.run(["mount", "-o", "remount,ro", str(at)], check=True)
    assert not keeps_atime(at)


def test_without_access_times_sampling_says_so_and_makes_nothing_up(mount: Mount) -> None:
    at = mount("fs", ",noatime")
    (at / "v1").mkdir()
    (at / "v1" / "file").write_text("x")
    os.utime(at / "v1" / "file", (1_700_000_000, 1_700_000_000))
    tracker = AtimeTracker(clock=now)
    tracker.start([Watch(snapshot_id=ONE, dataset="d", path=at / "v1")])
    try:
        assert tracker.sync(DEADLINE_S)
        (at / "v1" / "file").read_text()
        assert tracker.sync(DEADLINE_S)
        assert tracker.drain() == []
        status = tracker.status()
        assert status.is_degraded
        assert "the mount keeps no access times" in status.detail
    finally:
        tracker.stop()


def test_a_mount_point_inside_is_a_problem(mount: Mount) -> None:
    outer = mount("fs")
    inner = mount("fs/v1/inner")
    (inner / "secret").write_text("x" * 1000)
    (outer / "v1" / "file").write_text("x")
    fd = os.open(outer / "v1", os.O_RDONLY)
    try:
        found = measure(fd, keeps_atime=True)
    finally:
        os.close(fd)
    assert "inner is a mount point inside the snapshot" in (found.problem or "")
    assert found.size_bytes < 1000


def test_a_child_that_is_a_mount_point_is_not_a_snapshot(mount: Mount) -> None:
    outer = mount("fs")
    mount("fs/v2")
    (outer / "v1").mkdir()
    found = discover(Dataset(name="d", path=outer, home=TierName("flash")))
    assert [f.name for f in found.found] == ["v1"]
    assert [i.name for i in found.ignored] == ["v2"]


def test_an_unmounted_dataset_is_noticed_and_watched_again_when_it_is_back(mount: Mount) -> None:
    at = mount("fs")
    (at / "data" / "v1").mkdir(parents=True)
    tracker = WatchdogTracker(clock=now, retry_s=0.02)
    tracker.start(
        [
            Watch(snapshot_id=None, dataset="d", path=at / "data"),
            Watch(snapshot_id=ONE, dataset="d", path=at / "data" / "v1"),
        ]
    )
    try:
        assert tracker.sync(DEADLINE_S)
        tracker.drain_dirty()
        subprocess.run(["umount", str(at)], check=True)  # nothing of the tracker keeps it busy
        wait_for(lambda: tracker.status().watches == 0)
        assert tracker.drain_dirty().datasets == {"d"}
        assert tracker.drain() == []
        mount("fs")
        (at / "data" / "v1").mkdir(parents=True)
        wait_for(lambda: ONE in tracker.drain_dirty().snapshots)
        (at / "data" / "v1" / "file").write_text("x")
        assert tracker.sync(DEADLINE_S)
        assert [batch.snapshot_id for batch in tracker.drain()] == [ONE]
    finally:
        tracker.stop()


def wait_for(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(DEADLINE_S / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("the condition did not come true in time")


LIMITED = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from tierd.observe.tracker import Watch
from tierd.observe.watchdog_tracker import WatchdogTracker
from tierd.model.dataset import SnapshotId

home = Path(sys.argv[1])
tracker = WatchdogTracker(clock=lambda: datetime.now(UTC))
tracker.start([Watch(snapshot_id=SnapshotId(1), dataset="d", path=home)])
assert tracker.sync(30)
(home / "file").write_text("x")
assert tracker.sync(30)
print(tracker.status().is_degraded, tracker.status().watches, bool(tracker.drain()), tracker.status().detail)
tracker.stop()
"""


def test_the_kernels_own_limit_is_recognised(tmp_path: Path) -> None:
    """The limit is lowered in a user namespace, where it holds for this one process."""
    home = tmp_path / "v1"
    for number in range(50):
        (home / str(number)).mkdir(parents=True)
    # Of the two sysctls only this one belongs to the namespace; fs.inotify.* would change the whole machine.
    script = 'echo 20 > /proc/sys/user/max_inotify_watches && exec "$@"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", sys.executable, "-c", LIMITED, str(home)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S * 3,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    if "unshare" in done.stderr or "max_inotify_watches" in done.stderr:
        pytest.skip(f"no user namespaces with limits of their own here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    degraded, watches, has_drained, detail = done.stdout.strip().split(" ", 3)
    assert (degraded, has_drained) == ("True", "True")
    assert 0 < int(watches) <= 20
    assert "raise the sysctl user.max_inotify_watches (now 20)" in detail


def test_a_hundred_thousand_entries_in_one_directory(mount: Mount) -> None:
    at = mount("fs", ",nr_inodes=300k")
    v1 = at / "data" / "v1"
    v1.mkdir(parents=True)
    fd = os.open(v1, os.O_RDONLY)
    try:
        for number in range(100_000):
            os.mknod(f"f{number}", dir_fd=fd)
        found = measure(fd, keeps_atime=True)
    finally:
        os.close(fd)
    assert (found.files, found.entries) == (100_000, 100_001)
    (at / "data" / "v2").mkdir()
    assert len(discover(Dataset(name="d", path=at / "data", home=TierName("flash"))).found) == 2
    tracker = WatchdogTracker(clock=now)
    tracker.start([Watch(snapshot_id=ONE, dataset="d", path=v1)])
    try:
        assert tracker.sync(DEADLINE_S)
        assert tracker.status().watches == 1
        (v1 / "f99999").read_bytes()
        assert tracker.sync(DEADLINE_S)
        assert [batch.reads for batch in tracker.drain()] == [1]
    finally:
        tracker.stop()
