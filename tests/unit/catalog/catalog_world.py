"""Short ways to fill a catalog in tests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tierd.catalog import Catalog
from tierd.model.dataset import Dataset, Snapshot, SnapshotId, SnapshotRef
from tierd.model.effect import PutPlacement
from tierd.model.observation import Measure
from tierd.model.placement import PlacementState
from tierd.model.tier import Tier, TierName
from tierd.model.transfer import Transfer, TransferKind, TransferState

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
FLASH, HDD = TierName("flash"), TierName("hdd")
S = TransferState


@dataclass(frozen=True, kw_only=True)
class World:
    """An open catalog with one dataset on flash and a place for cold copies."""

    catalog: Catalog
    tiers: tuple[Tier, ...]
    datasets: tuple[Dataset, ...]

    def add(self, name: str = "v1", *, now: datetime = NOW, **more: Any) -> Snapshot:
        ref = SnapshotRef("imagenet", name)
        path = self.datasets[0].path / name
        return self.catalog.add_snapshot(ref, path=path, root_inode=42, home=FLASH, now=now, **more)

    def enqueue(self, snapshot_id: SnapshotId, kind: TransferKind = TransferKind.MIGRATE, **more: Any) -> Transfer:
        return self.try_enqueue(snapshot_id, kind, **more)[0]

    def try_enqueue(
        self, snapshot_id: SnapshotId, kind: TransferKind = TransferKind.MIGRATE, **more: Any
    ) -> tuple[Transfer, bool]:
        source, destination = {
            TransferKind.MIGRATE: (FLASH, HDD),
            TransferKind.RECALL: (HDD, FLASH),
            TransferKind.REMOVE: (HDD, HDD),
        }[kind]
        values: dict[str, Any] = {
            "source": source,
            "destination": destination,
            "reason": "not used for 14 days",
            "requested_by": "policy",
            "bytes_total": 1000,
            "files_total": 10,
            "now": NOW,
        }
        return self.catalog.enqueue(snapshot_id=snapshot_id, kind=kind, **values | more)

    def run(self, t: Transfer, *states: TransferState, now: datetime = NOW) -> Transfer:
        """Advance through the states given."""
        for state in states:
            t = self.catalog.advance(t.id, t.state, state, now=now)
        return t

    def kinds(self) -> list[str]:
        return [e.kind for e in self.catalog.events(limit=10_000)]


def cold_copy() -> PutPlacement:
    return PutPlacement(
        tier=HDD,
        state=PlacementState.VERIFIED,
        location="imagenet/v1",
        content_id="c" * 64,
        size_bytes=1000,
        entries=11,
        verified_at=NOW,
    )


def measure(**more: Any) -> Measure:
    values: dict[str, Any] = {
        "root_inode": 42,
        "size_bytes": 1000,
        "disk_bytes": 4096,
        "files": 10,
        "entries": 11,
        "newest_change": NOW - timedelta(days=3),
        "newest_access": NOW - timedelta(days=1),
    }
    return Measure(**values | more)


def configured(catalog: Catalog, root: Path) -> World:
    tiers = (Tier(name=FLASH, root=root / "flash", rank=0), Tier(name=HDD, root=root / "hdd", rank=1))
    datasets = (Dataset(name="imagenet", path=root / "flash/imagenet", home=FLASH),)
    catalog.configure(tiers, datasets)
    return World(catalog=catalog, tiers=tiers, datasets=datasets)
