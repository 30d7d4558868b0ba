"""Quiet hours, as the daemon keeps them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.acceptance.daemon_process import DaemonProcess

_ALL_DAY = '[quiet]\nwindow = "00:00-24:00"\nafter = "1s"\n'


def test_what_nobody_uses_is_copied_in_quiet_hours_long_before_its_age_asks_for_it(tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path, migrate_after="30d", release_after="60d")
    (daemon.dataset / "v1").mkdir()
    (daemon.dataset / "v1" / "f").write_bytes(b"x" * 100_000)
    daemon.config.write_text(daemon.config.read_text() + _ALL_DAY)
    daemon.start()
    try:
        daemon.wait_for_residency("ds/v1", "premigrated")
        (transfer,) = daemon.get("/v1/transfers").json()["items"]
        assert "quiet hours" in transfer["reason"]
        assert not (daemon.dataset / "v1").is_symlink()
    finally:
        daemon.close()


def test_outside_of_them_explain_tells_when_they_begin(tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path, migrate_after="30d", release_after="60d")
    (daemon.dataset / "v1").mkdir()
    (daemon.dataset / "v1" / "f").write_bytes(b"x")
    daemon.config.write_text('time_zone = "Pacific/Kiritimati"\n' + daemon.config.read_text() + _ALL_DAY)
    daemon.config.write_text(daemon.config.read_text().replace('"00:00-24:00"', f'"{_other_day()} 03:00-03:01"'))
    daemon.start()
    try:
        daemon.wait_until(lambda: "settled after" in daemon.cli("explain", "ds/v1").stdout, "it is found")
        daemon.wait_until(lambda: "quiet hours after 1s unused, on" in daemon.cli("explain", "ds/v1").stdout, "told")
        assert "(03:00 +14)" in daemon.cli("explain", "ds/v1").stdout
        assert daemon.get("/v1/transfers").json()["items"] == []
    finally:
        daemon.close()


def _other_day() -> str:
    """A day of the week that is neither today nor tomorrow nor yesterday, anywhere."""
    return f"{datetime.now(UTC) + timedelta(days=3):%a}"
