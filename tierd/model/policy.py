"""What a dataset's owner wants: when its snapshots go down, and what keeps them up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from tierd.model.tier import TierName


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Rules for the snapshots of one dataset.

    Attributes:
        settle_after: a snapshot nobody changed for this long is settled and may move.
        migrate_after: not used for this long: make a verified cold copy (premigrate) on the first colder tier. None:
            only under pressure.
        release_after: not used for this long: release the flash copy as well. None: only under pressure.
        migrate_after_to: the same for single tiers by name: not used for this long, a copy is made there as well.
        release_after_from: the same for single tiers: not used for this long, the copy there goes, when a colder tier
            has a verified one.
        keep_deleted: a snapshot whose owner deleted it keeps its cold copies for this long. None: for ever.
        min_residency: after a warm, the flash copy stays at least this long.
        verify: "read" re-reads the whole copy from the device and compares digests; "size" compares
            sizes and metadata only.
        leaves: when flash is short of room, lower leaves first, whatever its value; set by the phase.
        keeps_flash: it is never released from flash; set by the phase.
    """

    settle_after: timedelta = timedelta(minutes=15)
    migrate_after: timedelta | None = timedelta(days=14)
    release_after: timedelta | None = timedelta(days=30)
    min_residency: timedelta = timedelta(hours=6)
    verify: str = "read"
    migrate_after_to: Mapping[TierName, timedelta | None] = field(default_factory=dict)
    release_after_from: Mapping[TierName, timedelta | None] = field(default_factory=dict)
    keep_deleted: timedelta | None = None
    leaves: int = 0
    keeps_flash: bool = False
