"""The key that signs sessions of the page: it outlives restarts, and what a crash left of it."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tierd.serve.sessions import Sessions

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def signed(path: Path) -> str:
    return Sessions(path, lambda: NOW).form_token("somebody")


@pytest.mark.parametrize("left", [None, b"", b"half of a key"])
def test_a_restart_signs_nobody_out(tmp_path: Path, left: bytes | None) -> None:
    path = tmp_path / "page.key"
    if left is not None:
        path.write_bytes(left)
    assert signed(path) == signed(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["page.key"]


def test_another_daemon_signs_otherwise(tmp_path: Path) -> None:
    assert signed(tmp_path / "one.key") != signed(tmp_path / "other.key")
