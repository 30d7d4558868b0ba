"""What happened while nobody watched: inferred where it left traces, never taken for disuse where it did not."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from tierd.config import ApiConfig, Config, ObserveConfig
from tierd.daemon.service import Daemon
from tierd.model.dataset import AccessSource, Dataset, Snapshot
from tierd.model.policy import Policy
from tierd.model.tier import Tier, TierName

pytestmark = [
    pytest.mark.mounts,
    pytest.mark.skipif(os.geteuid() != 0, reason="making mounts needs root"),
]

FLASH, HDD = TierName("flash"), TierName("hdd")
DAY = timedelta(days=1)


@dataclass
class Machine:
    """A daemon that can be stopped and started, with a clock that can be set ahead while it is down."""

    base: Path
    flash: Path
    tracker: str = "auto"
    ahead: timedelta = field(default_factory=timedelta)
    daemon: Daemon | None = None

    def clock(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    @property
    def tree(self) -> Path:
        return self.flash / "ds" / "v1"

    @contextmanager
    def running(self) -> Iterator[Daemon]:
        policy = Policy(settle_after=timedelta(seconds=1), migrate_after=5 * DAY, release_after=None)
        config = Config(
            tiers=(Tier(name=FLASH, root=self.flash, rank=0), Tier(name=HDD, root=self.base / "hdd", rank=1)),
            datasets=(Dataset(name="ds", path=self.flash / "ds", home=FLASH, policy=policy),),
            database=self.base / "tierd.db",
            decide_interval_s=0.2,
            api=ApiConfig(socket=self.base / "sock"),
            observe=ObserveConfig(flush_interval_s=0.1, tracker=self.tracker),
        )
        daemon = self.daemon = Daemon(config, clock=self.clock)
        thread = threading.Thread(target=daemon.run)
        thread.start()
        try:
            self.wait(lambda: daemon.observer.is_ready, "ready")
            assert daemon.tracker.sync(20)
            yield daemon
        finally:
            daemon.stop()
            thread.join(30)
            assert not thread.is_alive()

    def snapshot(self) -> Snapshot:
        assert self.daemon is not None
        return self.daemon.catalog.snapshots()[0]

    def read(self) -> None:
        """By another process: the daemon's own reading counts for nothing."""
        subprocess.run(["cat", str(self.tree / "f")], check=True, stdout=subprocess.DEVNULL)

    @staticmethod
    def wait(condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, what
            time.sleep(0.02)


@pytest.fixture
def machine(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    flash = tmp_path / "flash"
    flash.mkdir()
    options = f"size=64m,{request.param}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(flash)], check=True)
    try:
        made = Machine(base=tmp_path, flash=flash)
        (tmp_path / "hdd").mkdir()
        made.tree.mkdir(parents=True)
        (made.tree / "f").write_bytes(b"x" * 1000)
        yield made
    finally:
        subprocess.run(["umount", "-l", str(flash)], check=True)


@pytest.mark.parametrize("machine", ["relatime"], indirect=True)
def test_a_read_while_the_daemon_was_down_is_inferred_from_access_times(machine: Machine) -> None:
    with machine.running():
        machine.wait(lambda: machine.snapshot().scanned_at is not None, "measured")
    before = datetime.now(UTC)
    machine.read()
    with machine.running() as daemon:
        machine.wait(lambda: machine.snapshot().access_source is AccessSource.ATIME, "inferred")
        found = machine.snapshot()
        assert before - timedelta(seconds=1) <= found.accessed_at <= datetime.now(UTC)
        assert [e.source for e in daemon.catalog.accesses(found.ref)] == [AccessSource.ATIME]
        assert found.weight > 0


@pytest.mark.parametrize("machine", ["relatime"], indirect=True)
def test_disuse_while_the_daemon_was_down_is_known_from_access_times(machine: Machine) -> None:
    with machine.running():
        used = machine.snapshot().accessed_at
    machine.ahead = 10 * DAY
    with machine.running():
        assert machine.snapshot().accessed_at == used
        machine.wait(lambda: len(machine.daemon.catalog.transfers()) == 1, "unused for ten days, it is copied")


@pytest.mark.parametrize("machine", ["noatime"], indirect=True)
def test_where_nothing_tells_of_the_downtime_it_does_not_count_as_disuse(machine: Machine) -> None:
    with machine.running():
        machine.read()
        machine.wait(lambda: machine.snapshot().access_source is AccessSource.EVENTS, "seen")
        used, stopped = machine.snapshot().accessed_at, machine.clock()
    machine.ahead = 10 * DAY
    with machine.running() as daemon:
        found = machine.snapshot()
        assert found.access_source is AccessSource.UNOBSERVED
        idle = machine.clock() - found.accessed_at
        assert idle < (stopped - used) + timedelta(minutes=1)  # as long as before, and not ten days
        said = [e.message for e in daemon.catalog.events(limit=1000) if e.kind == "observe.unobserved"]
        assert ["1 snapshots on mounts that keep no access times" in m for m in said] == [True]
        assert daemon.catalog.transfers() == []


def scanned_since(daemon: Daemon, moment: datetime) -> bool:
    return (daemon.observer.last_scan_at or datetime.min.replace(tzinfo=UTC)) >= moment


@pytest.mark.parametrize("machine", ["noatime"], indirect=True)
def test_a_restart_each_day_keeps_nothing_hot_for_ever(machine: Machine) -> None:
    with machine.running():
        first = machine.snapshot().accessed_at
    moved, day = False, 0
    for day in range(1, 12):
        with machine.running() as daemon:
            # A day goes by while it watches: no time of which nothing is known.
            machine.ahead = day * DAY
            daemon.observer.rescan()
            noon = first + (day - 0.5) * DAY
            machine.wait(partial(scanned_since, daemon, noon), "scanned")
            moved = bool(daemon.catalog.transfers())
        if moved:
            break
    assert moved
    assert day >= 5


@pytest.mark.parametrize("machine", ["noatime"], indirect=True)
def test_a_tracker_that_only_samples_ages_nothing_where_there_are_no_access_times(machine: Machine) -> None:
    machine.tracker = "atime"
    with machine.running():
        assert machine.snapshot().access_source is AccessSource.DISCOVERY
    machine.ahead = 30 * DAY
    with machine.running() as daemon:
        assert machine.clock() - machine.snapshot().accessed_at < DAY
        assert daemon.catalog.transfers() == []
        machine.read()
    with machine.running() as daemon:
        assert machine.clock() - machine.snapshot().accessed_at < DAY
        assert daemon.catalog.transfers() == []
