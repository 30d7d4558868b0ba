"""Announced use: what somebody said will be read, and when. Worth more than any guess from the past."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NewType

from tierd.model.dataset import SnapshotId

AnnouncementId = NewType("AnnouncementId", int)


class AnnouncedBy(StrEnum):
    CALLER = "caller"
    """`tierd announce`, or the API."""
    SCHEDULE = "schedule"
    """A `[[schedules]]` entry of the configuration."""
    SCHEDULER = "scheduler"
    """A batch system, for a job in its queue."""


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """One announced use.

    Attributes:
        holder: who announced it, as they say it (`slurm:991`, `schedule:nightly`).
        use_at: when reading begins, about; until: when it is over, about, not before `use_at`.
        confidence: how likely it is to happen, above 0, at most 1.
    """

    id: AnnouncementId
    snapshot_id: SnapshotId
    source: AnnouncedBy
    holder: str
    use_at: datetime
    until: datetime
    confidence: float = 1.0
    note: str | None = None
