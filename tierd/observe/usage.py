"""How full a tier is, as its file system says."""

from __future__ import annotations

import os

from tierd.model.tier import Tier, TierUsage


def usage(tier: Tier, *, online: bool = True, offline_reason: str | None = None, known_bytes: int = 0) -> TierUsage:
    """Ask the tier's file system.

    Capacity is what can be used: blocks reserved for root are left out, as `df` does, so that 100 % means that an
    unprivileged writer gets ENOSPC. A file system without a fixed number of inodes has `capacity_inodes` 0.

    Args:
        online: whether the tier's identity was found; checked by its storage driver.
        offline_reason: why not.
        known_bytes: what tierd knows to lie on the tier; it counts as used where the capacity is overridden.
    """
    if not online:
        return TierUsage(tier=tier.name, is_online=False, offline_reason=offline_reason or "offline")
    try:
        fs = os.statvfs(tier.root)
    except OSError as error:
        return TierUsage(tier=tier.name, is_online=False, offline_reason=f"{tier.root}: {error.strerror}")
    used = (fs.f_blocks - fs.f_bfree) * fs.f_frsize
    free = fs.f_bavail * fs.f_frsize
    capacity = used + free
    if tier.capacity_bytes is not None:
        capacity, used = tier.capacity_bytes, known_bytes
        free = min(free, max(0, capacity - used))
    return TierUsage(
        tier=tier.name,
        is_online=True,
        capacity_bytes=capacity,
        used_bytes=used,
        free_bytes=free,
        capacity_inodes=fs.f_files,
        used_inodes=fs.f_files - fs.f_ffree if fs.f_files else 0,
    )
