"""A snapshot that is only in a bucket: its path is a link that leads nowhere, and that is no sign of trouble."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from tierd.catalog import Catalog
from tierd.config import Config, ObserveConfig
from tierd.daemon.observer import Observer
from tierd.model.dataset import Dataset, SnapshotRef
from tierd.model.effect import DropPlacement, PutPlacement
from tierd.model.placement import PlacementState, Residency
from tierd.model.s3 import S3Settings
from tierd.model.tier import Tier, TierKind, TierName
from tierd.observe.choose import choose

FLASH, CLOUD = TierName("flash"), TierName("cloud")
REF = SnapshotRef("ds", "v1")
LOCATION = "ds/v1/0123456789abcdef"


def clock() -> datetime:
    return datetime.now(UTC)


def test_a_snapshot_in_a_bucket_is_there_as_long_as_its_link_is(tmp_path: Path) -> None:
    data = tmp_path / "flash" / "ds"
    data.mkdir(parents=True)
    bucket = S3Settings(bucket="cold", state=tmp_path / "s3")
    tiers = (
        Tier(name=FLASH, root=tmp_path / "flash", rank=0),
        Tier(name=CLOUD, kind=TierKind.S3, root=tmp_path / "view" / "cloud", rank=1, s3=bucket),
    )
    datasets = (Dataset(name="ds", path=data, home=FLASH),)
    config = Config(tiers=tiers, datasets=datasets, database=tmp_path / "tierd.db", observe=ObserveConfig())
    with Catalog.open(config.database, wait_s=0) as catalog:
        catalog.configure(tiers, datasets)
        s = catalog.add_snapshot(REF, path=data / "v1", root_inode=7, home=FLASH, now=clock())
        copy = PutPlacement(
            tier=CLOUD,
            state=PlacementState.VERIFIED,
            location=LOCATION,
            content_id="c0ffee",
            size_bytes=1000,
            entries=2,
            verified_at=clock(),
        )
        catalog.apply(s.id, [copy, DropPlacement(FLASH)], now=clock())
        (data / "v1").symlink_to(tiers[1].root / LOCATION)
        tracker = choose(config.observe, clock=clock)
        observer = Observer(config, catalog, tracker, clock, is_online=lambda _: True, on_change=lambda: None)
        observer.tick()
        assert observer.is_ready
        assert catalog.snapshot(REF).gone_at is None
        assert [e.kind for e in catalog.events() if e.kind in ("observe.problem", "snapshot.problem")] == []

        (data / "v1").unlink()
        observer.rescan()
        observer.tick()
        view = catalog.view(tiers, datasets, {}, now=clock())
        assert [view.residency(o) for o in view.orphans] == [Residency.ORPHANED]

        (data / "v1").symlink_to(tiers[1].root / LOCATION)
        observer.rescan()
        observer.tick()
        assert catalog.snapshot(REF).gone_at is None, "who puts the link back has the snapshot back"
        assert [s.id for s in catalog.snapshots()] == [s.id]
