"""What an owner deletes on flash, with the whole daemon: its cold copy stays, is listed, and goes only when told to."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.world import FLASH, HDD, digest_tree
from tierd.config import ApiConfig, Config, MoverConfig, ObserveConfig
from tierd.daemon.service import Daemon
from tierd.model.dataset import Dataset, Snapshot, SnapshotId
from tierd.model.placement import PlacementState
from tierd.model.plan import View
from tierd.model.policy import Policy
from tierd.model.tier import Tier
from tierd.model.transfer import TransferKind, TransferState

SECOND = timedelta(seconds=1)


class Clock:
    """Goes on by itself, and can be put forward."""

    def __init__(self) -> None:
        self._ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def later(self, by: timedelta) -> None:
        self._ahead += by


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@contextmanager
def running(base: Path, clock: Clock, *, keep_deleted: timedelta | None) -> Iterator[Daemon]:
    """A daemon that copies every settled snapshot to the HDD at once and releases none."""
    roots = {FLASH: base / "flash", HDD: base / "hdd"}
    for root in roots.values():
        root.mkdir(exist_ok=True)
    (roots[FLASH] / "ds").mkdir(exist_ok=True)
    policy = Policy(settle_after=SECOND, migrate_after=SECOND, release_after=None, keep_deleted=keep_deleted)
    config = Config(
        tiers=(Tier(name=FLASH, root=roots[FLASH], rank=0), Tier(name=HDD, root=roots[HDD], rank=1)),
        datasets=(Dataset(name="ds", path=roots[FLASH] / "ds", home=FLASH, policy=policy),),
        database=base / "tierd.db",
        decide_interval_s=0.2,
        api=ApiConfig(socket=base / "sock"),
        mover=MoverConfig(backoff_s=0.1),
        observe=ObserveConfig(flush_interval_s=0.1),
    )
    daemon = Daemon(config, clock=clock)
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        yield daemon
    finally:
        daemon.stop()
        thread.join(30)


def make(base: Path, text: str = "kept") -> Path:
    tree = base / "flash" / "ds" / "v1"
    tree.mkdir(parents=True)
    (tree / "f").write_text(text * 1000)
    return tree


def present(daemon: Daemon) -> Snapshot:
    wait(lambda: len(daemon.catalog.snapshots()) == 1, "the snapshot is found")
    return daemon.catalog.snapshots()[0]


def cold_copy(daemon: Daemon, snapshot_id: SnapshotId) -> Path | None:
    """Where its verified copy on the HDD lies."""
    for p in daemon.catalog.placements(snapshot_id):
        if p.tier == HDD and p.state is PlacementState.VERIFIED and p.location is not None:
            return daemon.config.tiers[1].root / p.location
    return None


def copied(daemon: Daemon, snapshot: Snapshot) -> Path:
    wait(lambda: cold_copy(daemon, snapshot.id) is not None, "it is copied to the HDD")
    found = cold_copy(daemon, snapshot.id)
    assert found is not None
    return found


def view(daemon: Daemon) -> View:
    return daemon.catalog.view(daemon.config.tiers, daemon.config.datasets, daemon.usage(), now=daemon.clock())


def test_the_copy_of_a_deleted_snapshot_goes_only_when_its_time_is_over(tmp_path: Path) -> None:
    tree, clock = make(tmp_path), Clock()
    with running(tmp_path, clock, keep_deleted=timedelta(days=30)) as daemon:
        old = present(daemon)
        copy = copied(daemon, old)
        before = digest_tree(copy)
        shutil.rmtree(tree)
        wait(lambda: [o.snapshot.id for o in view(daemon).orphans] == [old.id], "it is an orphan")
        make(tmp_path, "new")
        new = present(daemon)
        assert new.id != old.id, "another tree under its name is another snapshot"
        other = copied(daemon, new)
        assert other != copy
        clock.later(timedelta(days=29))
        daemon.wake()
        wait(lambda: all(t.kind is TransferKind.MIGRATE for t in daemon.catalog.transfers()), "nothing is removed")
        assert digest_tree(copy) == before
        clock.later(timedelta(days=2))
        daemon.wake()
        wait(lambda: view(daemon).orphans == (), "its time is over")
        assert not copy.exists()
        (removal,) = [t for t in daemon.catalog.transfers() if t.kind is TransferKind.REMOVE]
        wait(lambda: daemon.catalog.transfer(removal.id).state is TransferState.DONE, "the removal is done")
        assert removal.snapshot_id == old.id
        assert removal.reason.startswith("deleted 31d ago and kept for 30d")
        assert (other / "f").read_text() == "new" * 1000
        assert cold_copy(daemon, new.id) == other


def test_without_a_time_the_copy_stays_and_the_snapshot_can_come_back(tmp_path: Path) -> None:
    tree, clock = make(tmp_path), Clock()
    with running(tmp_path, clock, keep_deleted=None) as daemon:
        snapshot = present(daemon)
        copy = copied(daemon, snapshot)
        aside = tmp_path / "flash" / "aside"
        tree.rename(aside)
        wait(lambda: [o.snapshot.id for o in view(daemon).orphans] == [snapshot.id], "it is an orphan")
        clock.later(timedelta(days=3000))
        daemon.wake()
        aside.rename(tree)
        wait(lambda: view(daemon).orphans == (), "it is back")
        assert [s.id for s in daemon.catalog.snapshots()] == [snapshot.id]
        assert all(t.kind is TransferKind.MIGRATE for t in daemon.catalog.transfers())
        assert digest_tree(copy) == digest_tree(tree)
