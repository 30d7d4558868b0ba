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
class Hold:
    """A lease or a pin.

    Attributes:
        holder: who holds it, as they say it (`alice@node7:4711`, `slurm:991`).
        generation: grows with each renewal, so that a late renewal of an ended lease is noticed.
        expires_at: None for a pin.
    """

    id: HoldId
    snapshot_id: SnapshotId
    kind: HoldKind
    holder: str
    since: datetime
    expires_at: datetime | None
    generation: int = 1
    note: str | None = None

    def is_active(self, now: datetime) -> bool:
        return self.expires_at is None or now < self.expires_at
