"""Parts: some files of a snapshot on flash, beside its path, for as long as somebody holds the snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tierd.model.dataset import SnapshotId
from tierd.model.tier import TierName
from tierd.model.transfer import TransferId

PARTS = ".tierd-parts"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part that is there: complete and verified.

    Attributes:
        transfer_id, key: of the transfer that brought it.
        location: below the tier's root.
        only: the patterns that were asked for.
        as_of: when it was asked for: what changed in the snapshot since then may not be in it.
    """

    transfer_id: TransferId
    key: str
    snapshot_id: SnapshotId
    tier: TierName
    location: str
    only: tuple[str, ...]
    content_id: str
    entries: int
    size_bytes: int
    as_of: datetime


@dataclass(frozen=True, kw_only=True)
class PartSize:
    """What patterns come to in one copy of a snapshot."""

    files: int
    size_bytes: int


def location_of(dataset: str, key: str) -> str:
    """Where a part lies below the root of its tier. Hidden, so that it is no snapshot where a dataset is the root."""
    return f"{PARTS}/{dataset}/{key}"
