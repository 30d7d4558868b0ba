"""Schedules: uses that come again and again, as an operator wrote them down."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from zoneinfo import ZoneInfo

LATEST = "latest"
"""Stands for the newest snapshot of a dataset, where none has that very name."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One `[[schedules]]` entry.

    Attributes:
        snapshots: which: `imagenet/v3`, `imagenet/latest`, or a shell pattern like `laion/2026-*`.
        cron: when reading begins, as five cron fields, in `time_zone`.
        time_zone: None: the configuration's own.
        use_for: how long it is read each time; held for so long.
        lead: how long before that the warming begins; None: as long as it takes, as was measured.
    """

    name: str
    snapshots: str
    cron: str
    use_for: timedelta
    time_zone: ZoneInfo | None = None
    lead: timedelta | None = None

    @property
    def holder(self) -> str:
        """Who announces, and holds, what it concerns."""
        return f"schedule:{self.name}"
