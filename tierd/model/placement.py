"""Placements: which copies of a snapshot exist, and what follows from that."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tierd.model.dataset import SnapshotId
from tierd.model.tier import TierName


class PlacementState(StrEnum):
    """What a placement is worth."""

    PARTIAL = "partial"
    """Being written: never read, never counted as a copy."""
    VERIFIED = "verified"
    """Complete: the original as its owner wrote it (no content id yet), or a copy whose digests were compared."""
    STALE = "stale"
    """Complete once, but the snapshot has been changed elsewhere since: it protects nothing."""


class Residency(StrEnum):
    """Where a snapshot's bytes are, derived from its placements."""

    RESIDENT = "resident"
    PREMIGRATED = "premigrated"
    MIGRATED = "migrated"
    PARTIAL = "partial"
    ORPHANED = "orphaned"
    """Its owner deleted it; cold copies of it are left."""
    GONE = "gone"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One copy of one snapshot on one tier.

    Attributes:
        location: path of the tree below the tier's root; None for the copy that belongs at the dataset's own
            path (on the home tier it lies at the path, or aside while the path is a link elsewhere).
        content_id: digest of the manifest; None for an original that was never digested.
    """

    snapshot_id: SnapshotId
    tier: TierName
    state: PlacementState
    location: str | None
    content_id: str | None
    size_bytes: int
    entries: int
    verified_at: datetime | None


def own_copies(placements: Collection[Placement]) -> tuple[Placement, ...]:
    """The copies that lie in a tier's own store, whatever they are worth; not what lies at the dataset's path."""
    return tuple(p for p in placements if p.location is not None)


def residency(
    placements: Collection[Placement],
    *,
    flash: Collection[TierName],
    recalling: bool = False,
    is_gone: bool = False,
) -> Residency:
    """Derive the residency.

    Args:
        placements: all placements of one snapshot.
        flash: names of the tiers of rank 0.
        recalling: a recall of it is under way.
        is_gone: its path was found missing, and with it whatever lay there.
    """
    if is_gone:
        return Residency.ORPHANED if own_copies(placements) else Residency.GONE
    complete = [p for p in placements if p.state is PlacementState.VERIFIED]
    on_flash = any(p.tier in flash for p in complete)
    on_cold = any(p.tier not in flash for p in complete)
    if on_flash:
        return Residency.PREMIGRATED if on_cold else Residency.RESIDENT
    if on_cold:
        return Residency.PARTIAL if recalling else Residency.MIGRATED
    return Residency.GONE
