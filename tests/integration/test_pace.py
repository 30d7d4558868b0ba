"""The rate of a real transfer, changed while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.world import FLASH, HDD, World, digest_tree, is_done
from tierd.config import MoverConfig
from tierd.config.windows import window
from tierd.decide.planner import PRIORITY_WISH
from tierd.model.transfer import TransferKind, TransferState
from tierd.model.windows import TimedRate
from tierd.move.pace import Pacer
from tierd.move.pressure import Pressure

MB = 1_000_000


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"not within a minute: {what}"
        time.sleep(0.02)


def test_a_rate_of_the_hour_holds_for_what_runs_and_ends_with_the_hour(tmp_path: Path) -> None:
    slow = TimedRate(window=window("00:00-06:00"), read_rate=None, write_rate=2 * MB)
    world = World(tmp_path, hdd_rates=(slow,))  # its clock begins at midnight
    try:
        snapshot = world.make(files=600, size=200_000)  # a minute for each of two slots at this rate
        before = digest_tree(snapshot.path)
        transfer = world.order(snapshot, TransferKind.MIGRATE)
        world.mover.tick()
        began = time.monotonic()
        wait_until(lambda: world.mover.progress(transfer.id).bytes_done > 2 * MB, "it copies")  # type: ignore[union-attr]
        assert time.monotonic() - began > 1
        world.now = world.now.replace(hour=12)
        world.mover.tick()
        freed = time.monotonic()
        wait_until(lambda: not world.mover.running, "it ends")
        assert time.monotonic() - freed < 30
        assert is_done(world.catalog.transfer(transfer.id))
        assert digest_tree(snapshot.path) == before
    finally:
        world.close()


def test_busy_disks_slow_a_running_transfer_and_it_says_so(tmp_path: Path) -> None:
    kernel, times = tmp_path / "io", iter(range(0, 10_000, 10))
    kernel.write_text("some avg10=35.00 avg60=0.00 avg300=0.00 total=1\n")
    world = World(tmp_path)
    world.mover.pacer = Pacer(1, 0.2, Pressure(kernel, tmp_path / "none"), monotonic=lambda: float(next(times)))
    try:
        snapshot = world.make(files=600, size=200_000)  # 12 s at the slowest
        transfer = world.order(snapshot, TransferKind.MIGRATE)
        began = time.monotonic()
        world.mover.tick()
        for _ in range(12):
            world.mover.tick()
        progress = world.mover.progress(transfer.id)
        assert progress is not None
        assert progress.step.endswith("slowed: the disks are busy (io pressure 35%)")
        wait_until(lambda: world.mover.progress(transfer.id).bytes_done > 30 * MB, "it copies on")  # type: ignore[union-attr]
        assert time.monotonic() - began > 2
        kernel.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n")
        for _ in range(20):
            world.mover.tick()
        wait_until(lambda: not world.mover.running, "it ends")
        assert is_done(world.catalog.transfer(transfer.id))
    finally:
        world.close()


def test_a_copy_makes_way_for_a_warm_and_goes_on_where_it_was(tmp_path: Path) -> None:
    """One worker is busy with a copy that takes minutes; who waits for a recall does not wait for that."""
    settings = MoverConfig(workers=1, backoff_s=0.0, release_wait_s=0.5, nice=0, busy_io=None)
    world = World(tmp_path, mover=settings, hdd_rate=3 * MB)
    try:
        wanted = world.make("wanted", size=2000)
        assert is_done(world.release(wanted))
        slow = world.make("slow", files=300, size=200_000)
        before = digest_tree(slow.path)
        copy = world.order(slow, TransferKind.MIGRATE)
        world.mover.tick()
        wait_until(lambda: world.mover.progress(copy.id).bytes_done > MB, "it copies")  # type: ignore[union-attr]
        recall, _ = world.catalog.enqueue(
            snapshot_id=wanted.id, kind=TransferKind.RECALL, source=HDD, destination=FLASH, priority=PRIORITY_WISH,
            reason="test", requested_by="alice", bytes_total=1, files_total=1, now=world.now,
        )  # fmt: skip
        began = time.monotonic()

        def is_there() -> bool:
            world.mover.tick()
            return not world.catalog.transfer(recall.id).is_live

        wait_until(is_there, "it is recalled")
        assert time.monotonic() - began < 15
        stopped = world.catalog.transfer(copy.id)
        assert (stopped.state, stopped.attempt, stopped.error) == (TransferState.COPYING, 1, None)
        world.config = replace(world.config, tiers=tuple(replace(t, write_rate=None) for t in world.config.tiers))
        world.restart()  # without the limit

        def is_copied() -> bool:
            world.mover.tick()
            return not world.catalog.transfer(copy.id).is_live

        wait_until(is_copied, "it goes on")
        assert digest_tree(slow.path) == before == digest_tree(world.roots[HDD] / "ds" / "slow")
        assert world.litter() == []
    finally:
        world.close()


def test_what_somebody_waits_for_does_not_make_way(tmp_path: Path) -> None:
    settings = MoverConfig(workers=1, backoff_s=0.0, release_wait_s=0.5, nice=0, busy_io=None)
    world = World(tmp_path, mover=settings, hdd_rate=3 * MB)
    try:
        wanted = world.make("wanted", size=2000)
        assert is_done(world.release(wanted))
        slow = world.make("slow", files=100, size=200_000)
        values = {"reason": "test", "requested_by": "alice", "bytes_total": 1, "files_total": 1, "now": world.now}
        copy, _ = world.catalog.enqueue(
            snapshot_id=slow.id, kind=TransferKind.MIGRATE, source=FLASH, destination=HDD, priority=PRIORITY_WISH,
            **values,  # type: ignore[arg-type]
        )  # fmt: skip
        world.mover.tick()
        wait_until(lambda: world.mover.progress(copy.id).bytes_done > MB, "it copies")  # type: ignore[union-attr]
        world.catalog.enqueue(
            snapshot_id=wanted.id, kind=TransferKind.RECALL, source=HDD, destination=FLASH, priority=PRIORITY_WISH,
            **values,  # type: ignore[arg-type]
        )  # fmt: skip

        def is_over() -> bool:
            world.mover.tick()
            return not world.catalog.transfer(copy.id).is_live

        wait_until(is_over, "the copy ends")
        assert is_done(world.catalog.transfer(copy.id))
        assert not [e for e in world.catalog.events(limit=99) if e.kind == "transfer.interrupted"]
    finally:
        world.close()
