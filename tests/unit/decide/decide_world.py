"""Views made of plain values: a flash of 1,000 GiB, an HDD ten times as large, an archive below it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tierd.model.dataset import AccessSource, Dataset, Snapshot, SnapshotId, SnapshotRef
from tierd.model.hold import Hold, HoldId, HoldKind
from tierd.model.placement import Placement, PlacementState, own_copies
from tierd.model.plan import Action, SnapshotView, Step, View
from tierd.model.policy import Policy
from tierd.model.s3 import Prices, S3Settings
from tierd.model.tier import Tier, TierKind, TierName, TierUsage
from tierd.model.transfer import Transfer, TransferId, TransferKind, TransferState

NOW = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
FLASH, HDD, ARCHIVE = TierName("flash"), TierName("hdd"), TierName("archive")
CLOUD, VAULT = TierName("cloud"), TierName("vault")
GIB = 1 << 30
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
POLICY = Policy()

_ids = itertools.count(1)


def ref(name: str) -> SnapshotRef:
    return SnapshotRef("ds", name)


def copy(tier: TierName, number: int, size: int, state: PlacementState = PlacementState.VERIFIED) -> Placement:
    return Placement(
        snapshot_id=SnapshotId(number),
        tier=tier,
        state=state,
        location=None,
        content_id="c0ffee",
        size_bytes=size,
        entries=11,
        verified_at=NOW - 2 * DAY,
    )


def snapshot(
    name: str,
    *,
    on: Iterable[TierName] = (FLASH,),
    unused: timedelta = HOUR,
    gib: float = 100,
    policy: Policy = POLICY,
    home: TierName = FLASH,
    number: int | None = None,
    live: Transfer | None = None,
    failed: Transfer | None = None,
    holds: Sequence[Hold] = (),
    **more: Any,
) -> SnapshotView:
    """A settled snapshot, used (as events tell) `unused` ago."""
    number = next(_ids) if number is None else number
    size = int(gib * GIB)
    values: dict[str, Any] = {
        "size_bytes": size,
        "disk_bytes": size,
        "files": 10,
        "entries": 11,
        "first_seen_at": NOW - 400 * DAY,
        "changed_at": NOW - 300 * DAY,
        "accessed_at": NOW - unused,
        "access_source": AccessSource.EVENTS,
    }
    sid = SnapshotId(number)
    return SnapshotView(
        snapshot=Snapshot(
            id=sid, ref=ref(name), key=f"{number:016x}", path=Path("/f/ds") / name, root_inode=1, **(values | more)
        ),
        dataset=Dataset(name="ds", path=Path("/f/ds"), home=home, policy=policy),
        placements=tuple(copy(tier, number, size) for tier in on),
        holds=tuple(replace(h, snapshot_id=sid) for h in holds),
        live=None if live is None else replace(live, snapshot_id=sid, bytes_total=live.bytes_total or size),
        last_failure=failed,
    )


def transfer(
    kind: TransferKind, state: TransferState = TransferState.QUEUED, *, release: bool = False, **more: Any
) -> Transfer:
    source, destination = (FLASH, HDD) if kind is TransferKind.MIGRATE else (HDD, FLASH)
    values: dict[str, Any] = {"source": source, "destination": destination, "created_at": NOW - HOUR}
    return Transfer(
        id=TransferId(next(_ids)),
        key="k",
        snapshot_id=SnapshotId(0),
        kind=kind,
        state=state,
        release=release,
        **(values | more),
    )


def recall(state: TransferState = TransferState.QUEUED, **more: Any) -> Transfer:
    return transfer(TransferKind.RECALL, state, **more)


def leaving(state: TransferState = TransferState.RELEASING, **more: Any) -> Transfer:
    return transfer(TransferKind.MIGRATE, state, release=True, **more)


def failure(ago: timedelta, attempt: int = 1, error: str = "disk on fire") -> Transfer:
    failed = transfer(TransferKind.MIGRATE, TransferState.FAILED, attempt=attempt, error=error)
    return replace(failed, finished_at=NOW - ago)


def lease(holder: str = "alice@node7", *, ends_in: timedelta = 8 * HOUR) -> Hold:
    return Hold(
        id=HoldId(next(_ids)),
        snapshot_id=SnapshotId(0),
        kind=HoldKind.LEASE,
        holder=holder,
        since=NOW - 2 * HOUR,
        expires_at=NOW + ends_in,
    )


def pin(holder: str = "root") -> Hold:
    return replace(lease(holder), kind=HoldKind.PIN, expires_at=None)


def usage(tier: TierName, used_gib: float, capacity_gib: float, **more: Any) -> TierUsage:
    values: dict[str, Any] = {
        "capacity_bytes": int(capacity_gib * GIB),
        "used_bytes": int(used_gib * GIB),
        "free_bytes": int((capacity_gib - used_gib) * GIB),
        "capacity_inodes": 1_000_000,
        "used_inodes": 1000,
    }
    return TierUsage(tier=tier, is_online=True, **(values | more))


def offline(tier: TierName) -> TierUsage:
    return TierUsage(tier=tier, is_online=False, offline_reason="the disk is missing")


def view(
    *snapshots: SnapshotView,
    used: float = 500,
    flash: TierUsage | None = None,
    hdd: TierUsage | None = None,
    archive: TierUsage | None = None,
) -> View:
    """A view; `used`: GiB used on flash."""
    return View(
        snapshots=snapshots,
        tiers=(
            Tier(name=HDD, root=Path("/h"), rank=1, high=0.95, low=0.9),
            Tier(name=FLASH, root=Path("/f"), rank=0),
            Tier(name=ARCHIVE, root=Path("/a"), rank=2, high=0.95, low=0.9),
        ),
        usage={
            FLASH: flash or usage(FLASH, used, 1000),
            HDD: hdd or usage(HDD, 1000, 10_000),
            ARCHIVE: archive or usage(ARCHIVE, 0, 100_000),
        },
    )


def cloud(**prices: Any) -> Tier:
    """A bucket below the HDD."""
    s3 = S3Settings(bucket="cold", state=Path("/var/lib/tierd/s3/cloud"), prices=Prices(**prices))
    return Tier(name=CLOUD, kind=TierKind.S3, root=Path("/run/tierd/view/cloud"), rank=2, s3=s3)


def vault(storage_class: str = "GLACIER", *, retrieval: str = "Standard", prices: Prices | None = None) -> Tier:
    """An archive below the bucket."""
    s3 = S3Settings(
        bucket="vault",
        state=Path("/var/lib/tierd/s3/vault"),
        storage_class=storage_class,
        restore_tier=retrieval,
        prices=prices or Prices(),
    )
    return Tier(name=VAULT, kind=TierKind.S3, root=Path("/run/tierd/view/vault"), rank=3, s3=s3)


def bucket(tier: TierName) -> TierUsage:
    """How full a tier without a limit is."""
    return TierUsage(tier=tier, is_online=True, free_bytes=1 << 62)


def chain(
    *snapshots: SnapshotView,
    orphans: Sequence[SnapshotView] = (),
    used: float = 500,
    hdd: TierUsage | None = None,
    below: Sequence[Tier] = (),
    **offline_or_full: TierUsage,
) -> View:
    """A view of flash, HDD and buckets below (a plain one where none are named); `used`: GiB used on flash."""
    buckets = tuple(below) or (cloud(),)
    usages = {
        FLASH: usage(FLASH, used, 1000),
        HDD: hdd or usage(HDD, 1000, 10_000),
        **{tier.name: bucket(tier.name) for tier in buckets},
    }
    usages |= {TierName(name): found for name, found in offline_or_full.items()}
    tiers = (Tier(name=FLASH, root=Path("/f"), rank=0), Tier(name=HDD, root=Path("/h"), rank=1, high=0.95, low=0.9))
    return View(snapshots=snapshots, tiers=(*tiers, *buckets), usage=usages, orphans=tuple(orphans))


def orphan(name: str, *, gone: timedelta = DAY, on: Iterable[TierName] = (HDD,), **more: Any) -> SnapshotView:
    """A snapshot whose owner deleted it `gone` ago, with copies left on these tiers."""
    s = snapshot(name, on=(FLASH,), gone_at=NOW - gone, **more)
    left = tuple(
        replace(copy(tier, s.snapshot.id, s.snapshot.size_bytes), location=f"ds/{name}.{s.snapshot.id}") for tier in on
    )
    return replace(s, placements=(*s.placements, *left))


def queued(seen: View, steps: Iterable[Step]) -> View:
    """The view after these steps were queued and nothing has moved yet."""
    by_id = {step.snapshot_id: step for step in steps}

    def with_transfers(found: Iterable[SnapshotView]) -> tuple[SnapshotView, ...]:
        return tuple(_with_transfer(s, by_id.get(s.snapshot.id)) for s in found)

    return replace(seen, snapshots=with_transfers(seen.snapshots), orphans=with_transfers(seen.orphans))


def _with_transfer(s: SnapshotView, step: Step | None) -> SnapshotView:
    if step is None:
        return s
    kinds = {Action.REMOVE: TransferKind.REMOVE, Action.WARM: TransferKind.RECALL}
    live = transfer(
        kinds.get(step.action, TransferKind.MIGRATE),
        release=step.action is Action.RELEASE,
        source=step.source,
        destination=step.destination,
        bytes_total=s.snapshot.size_bytes,
        priority=step.priority,
    )
    return replace(s, live=replace(live, snapshot_id=s.snapshot.id))


def done(seen: View, steps: Iterable[Step]) -> View:
    """The view after these steps were carried out."""
    by_id = {step.snapshot_id: step for step in steps}
    used = {name: [u.used_bytes, u.used_inodes] for name, u in seen.usage.items()}
    snapshots, orphans = [], []
    for s in (*seen.snapshots, *seen.orphans):
        step = by_id.get(s.snapshot.id)
        if step is not None:
            placements = list(s.placements)
            is_new = step.action is Action.RELEASE and s.on(step.destination) is None  # an empty snapshot has no bytes
            if step.copies_bytes or is_new or step.action is Action.MIGRATE:
                placements.append(copy(step.destination, s.snapshot.id, s.snapshot.size_bytes))
                used[step.destination][0] += s.snapshot.size_bytes
                used[step.destination][1] += s.snapshot.entries
            if step.action is Action.RELEASE:
                placements = [p for p in placements if p.tier != step.source]
                used[step.source][0] -= s.snapshot.disk_bytes
                used[step.source][1] -= s.snapshot.entries
                s = replace(s, released_at=NOW if step.source == FLASH else s.released_at)
            if step.action is Action.WARM:
                s = replace(s, snapshot=replace(s.snapshot, warmed_at=NOW))
            if step.action is Action.REMOVE:
                placements = [p for p in placements if p.tier != step.source]
            s = replace(s, placements=tuple(placements))
        if s.snapshot.gone_at is None:
            snapshots.append(s)
        elif own_copies(s.placements):
            orphans.append(s)
    after = {
        name: replace(
            u,
            used_bytes=used[name][0],
            used_inodes=used[name][1],
            free_bytes=u.free_bytes + u.used_bytes - used[name][0],
        )
        if u.is_online
        else u
        for name, u in seen.usage.items()
    }
    return replace(seen, snapshots=tuple(snapshots), orphans=tuple(orphans), usage=after)
