"""Effects: what a step of a transfer changes about its snapshot, applied in the transaction that records the step."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tierd.model.placement import PlacementState
from tierd.model.tier import TierName
from tierd.model.transfer import TransferId


@dataclass(frozen=True, kw_only=True)
class PutPlacement:
    """The snapshot has this placement on the tier now; replaces what was known there."""

    tier: TierName
    state: PlacementState
    location: str | None
    content_id: str | None
    size_bytes: int
    entries: int
    verified_at: datetime | None


@dataclass(frozen=True)
class DropPlacement:
    """The tier holds no copy any more. Nothing happens where none is known."""

    tier: TierName


@dataclass(frozen=True)
class MarkStale:
    """The copy on this tier no longer equals the snapshot. Nothing happens where none is known."""

    tier: TierName


@dataclass(frozen=True)
class MarkPartial:
    """The copy on this tier is being deleted: it is not a copy any more. Nothing happens where none is known."""

    tier: TierName


@dataclass(frozen=True)
class SetContent:
    """The tree on this tier was digested: its content id is known."""

    tier: TierName
    content_id: str


@dataclass(frozen=True)
class SetWarmed:
    """A recall for a warm finished."""

    at: datetime


@dataclass(frozen=True)
class SetRootInode:
    """The tree at the snapshot's path has another root directory now."""

    inode: int


@dataclass(frozen=True, kw_only=True)
class PutPart:
    """Some files of the snapshot are on this tier, brought by this transfer."""

    transfer_id: TransferId
    tier: TierName
    location: str
    content_id: str
    entries: int
    size_bytes: int


Effect = PutPlacement | DropPlacement | MarkStale | MarkPartial | SetContent | SetWarmed | SetRootInode | PutPart
