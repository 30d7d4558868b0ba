"""How full a tier is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tierd.model.tier import Tier, TierName
from tierd.observe.usage import usage


def tier(root: Path, capacity_bytes: int | None = None) -> Tier:
    return Tier(name=TierName("flash"), root=root, rank=0, capacity_bytes=capacity_bytes)


def test_capacity_is_what_can_be_used_and_what_is_used(tmp_path: Path) -> None:
    fs = os.statvfs(tmp_path)
    found = usage(tier(tmp_path))
    assert found.is_online
    assert found.capacity_bytes == found.used_bytes + found.free_bytes
    assert found.free_bytes == pytest.approx(fs.f_bavail * fs.f_frsize, rel=0.05)


def test_an_overridden_capacity_counts_what_tierd_knows(tmp_path: Path) -> None:
    found = usage(tier(tmp_path, 1_000_000), known_bytes=900_000)
    assert (found.capacity_bytes, found.used_bytes, found.free_bytes) == (1_000_000, 900_000, 100_000)
    assert found.used_ratio >= 0.9


def test_free_is_never_negative_and_never_more_than_the_file_system_has(tmp_path: Path) -> None:
    assert usage(tier(tmp_path, 1000), known_bytes=5000).free_bytes == 0
    fs = os.statvfs(tmp_path)
    assert usage(tier(tmp_path, 1 << 60)).free_bytes <= fs.f_blocks * fs.f_frsize


def test_an_offline_tier_says_why(tmp_path: Path) -> None:
    found = usage(tier(tmp_path), online=False, offline_reason="another store is mounted")
    assert (found.is_online, found.offline_reason, found.capacity_bytes) == (False, "another store is mounted", 0)


def test_a_missing_root_is_offline(tmp_path: Path) -> None:
    found = usage(tier(tmp_path / "missing"))
    assert not found.is_online
    assert "missing" in (found.offline_reason or "")


def test_a_file_system_without_inode_limit_is_never_full_of_inodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(tmp_path)
    values = list(real)
    values[5] = values[6] = values[7] = 0  # f_files, f_ffree, f_favail, as btrfs reports them
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(values))
    found = usage(tier(tmp_path))
    assert (found.capacity_inodes, found.used_inodes) == (0, 0)
