"""How much room each tier will have once everything under way has ended."""

from __future__ import annotations

from dataclasses import dataclass

from tierd.model.plan import SnapshotView, View
from tierd.model.tier import Tier, TierName
from tierd.model.transfer import Transfer, TransferKind, TransferState

SPARE_BYTES = 1 << 30
"""Left free on flash after a warm (or 1 % of a smaller tier): a full file system is slow and breaks its writers."""


@dataclass
class Ledger:
    """Bytes and inodes of one tier: used now, to come, and to go. Changed while a plan is made."""

    tier: Tier
    is_online: bool
    capacity_bytes: int
    used_bytes: int
    free_bytes: int
    capacity_inodes: int
    used_inodes: int
    coming_bytes: int = 0
    coming_inodes: int = 0
    going_bytes: int = 0
    going_inodes: int = 0

    def share(self, *, with_coming: bool = False) -> float:
        """Used share (of the scarcer of bytes and inodes) after what goes has gone."""
        more = (self.coming_bytes, self.coming_inodes) if with_coming else (0, 0)
        by_bytes = _share(self.used_bytes - self.going_bytes + more[0], self.capacity_bytes)
        return max(by_bytes, _share(self.used_inodes - self.going_inodes + more[1], self.capacity_inodes))

    def fits(self, size_bytes: int, inodes: int) -> bool:
        """Whether a copy fits below the high watermark, beside everything that is coming."""
        if self.free_bytes < self.coming_bytes + size_bytes:
            return False
        by_bytes = _share(self.used_bytes + self.coming_bytes + size_bytes, self.capacity_bytes)
        by_inodes = _share(self.used_inodes + self.coming_inodes + inodes, self.capacity_inodes)
        return max(by_bytes, by_inodes) <= self.tier.high

    def missing_for_coming(self, extra_bytes: int = 0) -> int:
        """Bytes that have to be released before everything that is coming (and this much more) fits."""
        spare = min(SPARE_BYTES, self.capacity_bytes // 100)
        return self.coming_bytes + extra_bytes + spare - self.free_bytes - self.going_bytes

    def come(self, size_bytes: int, inodes: int) -> None:
        self.coming_bytes += size_bytes
        self.coming_inodes += inodes

    def go(self, size_bytes: int, inodes: int) -> None:
        self.going_bytes += size_bytes
        self.going_inodes += inodes


def _share(used: int, capacity: int) -> float:
    return used / capacity if capacity else 0.0


def ledgers(view: View) -> dict[TierName, Ledger]:
    """A ledger for each tier, with the live transfers entered."""
    books = {}
    for tier in view.tiers:
        u = view.usage.get(tier.name)
        books[tier.name] = Ledger(
            tier=tier,
            is_online=u is not None and u.is_online,
            capacity_bytes=u.capacity_bytes if u else 0,
            used_bytes=u.used_bytes if u else 0,
            free_bytes=u.free_bytes if u else 0,
            capacity_inodes=u.capacity_inodes if u else 0,
            used_inodes=u.used_inodes if u else 0,
        )
    for s in view.snapshots:
        if s.live is not None:
            _enter(books, s, s.live)
    return books


def _enter(books: dict[TierName, Ledger], s: SnapshotView, live: Transfer) -> None:
    is_placed = live.state in (TransferState.COMMITTED, TransferState.RELEASING)
    needs_copy = s.on(live.destination) is None and not is_placed
    if needs_copy and live.destination in books:
        left = max(0, max(live.bytes_total, s.snapshot.size_bytes) - live.bytes_done)
        books[live.destination].come(left, s.snapshot.entries)
    if live.kind is TransferKind.MIGRATE and live.release and live.source in books:
        books[live.source].go(occupies(s), s.snapshot.entries)


def occupies(s: SnapshotView) -> int:
    """Bytes that the release of its flash copy frees."""
    return s.snapshot.disk_bytes or s.snapshot.size_bytes
