"""What decides who leaves flash: the settings of the value policy, and what bringing a snapshot back costs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class PolicyName(StrEnum):
    EWR = "ewr"
    """Expected warm-value rate: how soon it is needed again, times what it costs to bring back, per byte."""
    LRU = "lru"
    LFU_DA = "lfu-da"
    GDSF = "gdsf"
    S3_FIFO = "s3-fifo"
    STP = "stp"
    TTL = "ttl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What it takes to bring a snapshot to flash from one tier: `start_s + bytes · s_per_byte + files · s_per_file`.

    Attributes:
        start_s: seconds, whatever the size.
        s_per_byte, s_per_file: seconds for each; measured together, so that they add up.
        samples: finished transfers that this was learned from; 0 for an assumption.
    """

    start_s: float
    s_per_byte: float
    s_per_file: float
    samples: int = 0

    def seconds(self, size_bytes: int, files: int) -> float:
        return self.start_s + size_bytes * self.s_per_byte + files * self.s_per_file


ASSUMED = Cost(start_s=1.0, s_per_byte=1 / 200e6, s_per_file=1 / 2000)
"""A hard disk, until something was measured."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """How snapshots are weighed against each other, and what restrains moving them.

    Attributes:
        policy: the score function.
        promote: whether snapshots that are read on a cold tier come to flash by themselves.
        challenger: what is promoted without being asked for must be worth so many times its victims.
        cool_down: after a release, a snapshot is not promoted automatically for this long (leases always are).
        daily_writes: bytes that automatic promotion may write to flash in 24 hours; None: no limit.
        stall_hour_price: money that an hour of waiting costs, in the currency of the tiers' prices: what makes
            money and time comparable. None: money is not weighed.
    """

    policy: PolicyName = PolicyName.EWR
    promote: bool = False
    challenger: float = 1.25
    cool_down: timedelta = timedelta(hours=24)
    daily_writes: int | None = None
    stall_hour_price: float | None = None
