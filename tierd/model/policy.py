"""What a dataset's owner wants: when its snapshots go down, and what keeps them up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Rules for the snapshots of one dataset.

    Attributes:
        settle_after: a snapshot nobody changed for this long is settled and may move.
        migrate_after: not used for this long: make a verified cold copy (premigrate). None: only under pressure.
        release_after: not used for this long: release the flash copy as well. None: only under pressure.
        min_residency: after a warm, the flash copy stays at least this long.
        verify: "read" re-reads the whole copy from the device and compares digests; "size" compares
            sizes and metadata only.
    """

    settle_after: timedelta = timedelta(minutes=15)
    migrate_after: timedelta | None = timedelta(days=14)
    release_after: timedelta | None = timedelta(days=30)
    min_residency: timedelta = timedelta(hours=6)
    verify: str = "read"
