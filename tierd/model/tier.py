"""Tiers: the levels that hold snapshots, and how full they are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import NewType

from tierd.model.s3 import S3Settings
from tierd.model.windows import TimedRate

TierName = NewType("TierName", str)


class TierKind(StrEnum):
    """Which storage driver holds a tier's bytes."""

    POSIX = "posix"
    S3 = "s3"


@dataclass(frozen=True, kw_only=True)
class Tier:
    """One level of storage, as configured.

    Attributes:
        rank: 0 is flash; a larger rank is slower and cheaper. Ranks are unique.
        root: of a posix tier: the directory tierd owns a share of; `<root>/.tierd` is its private part. Of an S3 tier:
            where its copies would appear in the file system (a directory below the configured `view`); the path of a
            snapshot that is only there is a link to `<root>/<location>`, which dangles until something serves it.
        capacity_bytes: overrides what the file system says; None uses the file system's figure.
        high, low: used share (0-1) above which release begins, and at which it ends.
        read_rate, write_rate: bytes/s that transfers may read from or write to the tier; None is no limit.
        rates: what holds instead while a window is open; the first that is open counts.
    """

    name: TierName
    kind: TierKind = TierKind.POSIX
    root: Path
    rank: int
    capacity_bytes: int | None = None
    high: float = 0.90
    low: float = 0.80
    read_rate: int | None = None
    write_rate: int | None = None
    rates: tuple[TimedRate, ...] = ()
    s3: S3Settings | None = None
    """Set for S3 tiers, and only for them."""

    def rates_at(self, now: datetime) -> tuple[int | None, int | None]:
        """What transfers may read and write now, in bytes/s; None is no limit."""
        for timed in self.rates:
            if timed.window.is_open(now):
                return timed.read_rate, timed.write_rate
        return self.read_rate, self.write_rate


@dataclass(frozen=True, kw_only=True)
class TierUsage:
    """How full a tier is now; `is_online` False means that nothing else here can be trusted.

    `used_bytes` counts everything on the file system, ours or not (with a capacity override: what
    tierd knows to lie on the tier). `free_bytes` is what an unprivileged writer may still use.
    """

    tier: TierName
    is_online: bool
    offline_reason: str | None = None
    capacity_bytes: int = 0
    used_bytes: int = 0
    free_bytes: int = 0
    capacity_inodes: int = 0
    used_inodes: int = 0

    @property
    def used_ratio(self) -> float:
        """Used share of the scarcer of bytes and inodes, 0-1."""
        by_bytes = self.used_bytes / self.capacity_bytes if self.capacity_bytes else 0.0
        by_inodes = self.used_inodes / self.capacity_inodes if self.capacity_inodes else 0.0
        return max(by_bytes, by_inodes)
