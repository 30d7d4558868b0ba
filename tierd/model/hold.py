"""Holds: what forbids the release of a snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NewType

from tierd.model.dataset import SnapshotId

HoldId = NewType("HoldId", int)


class HoldKind(StrEnum):
    LEASE = "lease"
    """Ends at its expiry unless its holder renews it."""
    PIN = "pin"
    """An operator's hold without end."""


@dataclass(frozen=True, kw_only=True)
class Tie:
    """The living thing that a lease ends with: a process, or a job.

    Attributes:
        pid, pid_started, boot_id: the process, when it began (clock ticks after the boot), and of which boot.
        job: the number of a Slurm job.
    """

    pid: int | None = None
    pid_started: int | None = None
    boot_id: str | None = None
    job: str | None = None


@dataclass(frozen=True, kw_only=True)
class Hold:
    """A lease or a pin.

    Attributes:
        holder: who holds it, as they say it (`alice@node7:4711`, `slurm:991`).
        generation: grows with each renewal, so that a late renewal of an ended lease is noticed.
        expires_at: None for a pin.
        renewed_at: when it was last said that it goes on.
        tie: what it ends with, however long it was granted for; while that lives it goes on.
    """

    id: HoldId
    snapshot_id: SnapshotId
    kind: HoldKind
    holder: str
    since: datetime
    expires_at: datetime | None
    generation: int = 1
    note: str | None = None
    renewed_at: datetime | None = None
    tie: Tie | None = None

    def is_active(self, now: datetime) -> bool:
        return self.expires_at is None or now < self.expires_at
