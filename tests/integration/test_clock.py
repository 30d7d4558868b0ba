"""A clock that jumps back must neither lose anything nor stop tierd until the old time comes again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.world import FLASH, HDD, digest_tree
from tierd.config import ApiConfig, Config, MoverConfig, ObserveConfig
from tierd.daemon.service import Daemon
from tierd.model.dataset import Dataset
from tierd.model.placement import Residency, residency
from tierd.model.policy import Policy
from tierd.model.tier import Tier


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_snapshots_settle_and_move_after_the_clock_jumped_back(tmp_path: Path) -> None:
    offset = timedelta(days=365)
    roots = {FLASH: tmp_path / "flash", HDD: tmp_path / "hdd"}
    data = roots[FLASH] / "ds"
    (data / "v1").mkdir(parents=True)
    (data / "v1" / "f").write_bytes(b"x" * 1000)
    roots[HDD].mkdir()
    second = timedelta(seconds=1)
    policy = Policy(settle_after=second, migrate_after=second, release_after=None, min_residency=second)
    config = Config(
        tiers=(Tier(name=FLASH, root=roots[FLASH], rank=0), Tier(name=HDD, root=roots[HDD], rank=1)),
        datasets=(Dataset(name="ds", path=data, home=FLASH, policy=policy),),
        database=tmp_path / "tierd.db",
        decide_interval_s=0.2,
        api=ApiConfig(socket=tmp_path / "sock"),
        mover=MoverConfig(backoff_s=0.1),
        observe=ObserveConfig(flush_interval_s=0.1),
    )
    daemon = Daemon(config, clock=lambda: datetime.now(UTC) + offset)
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        _wait(lambda: len(daemon.catalog.snapshots()) == 1, "found")
        snapshot = daemon.catalog.snapshots()[0]
        daemon.catalog.grant_lease(snapshot_id=snapshot.id, holder="job", ttl=timedelta(hours=1), now=daemon.clock())
        before = digest_tree(data / "v1")
        offset = timedelta(0)  # a year back
        _wait(lambda: daemon.catalog.snapshots()[0].accessed_at <= daemon.clock(), "times are anchored anew")
        lease = daemon.catalog.holds(now=daemon.clock())[0]
        assert lease.expires_at is not None
        assert lease.expires_at - daemon.clock() < timedelta(hours=2), (
            "a lease of an hour must not become one of a year"
        )
        daemon.catalog.end_lease(lease.id, daemon.clock())
        _wait(
            lambda: residency(daemon.catalog.placements(snapshot.id), flash={FLASH}) is Residency.PREMIGRATED,
            "it settles and gets its cold copy by the new clock",
        )
        assert digest_tree(data / "v1") == before
    finally:
        daemon.stop()
        thread.join(30)
