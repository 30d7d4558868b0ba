"""A tier is known by its identity, never by its mount point."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tierd.errors import TierOffline
from tierd.storage.posix.identity import check_identity, establish_identity, read_identity

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_new_tier_gets_an_identity_and_keeps_it(tmp_path: Path) -> None:
    first = establish_identity(tmp_path, "hdd", known=None, now=NOW)
    assert establish_identity(tmp_path, "hdd", known=first, now=NOW) == first
    assert establish_identity(tmp_path, "hdd", known=None, now=NOW) == first
    assert (tmp_path / ".tierd").stat().st_mode & 0o777 == 0o700


def test_an_empty_mount_point_is_off_line_and_stays_empty(tmp_path: Path) -> None:
    with pytest.raises(TierOffline, match="no identity"):
        establish_identity(tmp_path, "hdd", known="uuid of the missing disk", now=NOW)
    assert list(tmp_path.iterdir()) == []


def test_another_disk_is_off_line(tmp_path: Path) -> None:
    establish_identity(tmp_path, "hdd", known=None, now=NOW)
    with pytest.raises(TierOffline, match="another disk"):
        check_identity(tmp_path, "some other uuid")


def test_a_damaged_identity_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".tierd").mkdir()
    (tmp_path / ".tierd" / "tier.json").write_text("{")
    with pytest.raises(TierOffline, match="damaged"):
        read_identity(tmp_path)
    with pytest.raises(TierOffline):
        establish_identity(tmp_path, "hdd", known=None, now=NOW)
