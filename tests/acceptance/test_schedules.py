"""Schedules as operators meet them: what is read again and again is there before its time, and let go afterwards."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.acceptance.daemon_process import DaemonProcess
from tests.world import digest_tree

_SCHEDULES = """
[[schedules]]
name = "often"
snapshots = "ds/latest"
cron = "* * * * *"
time_zone = "Europe/Berlin"
for = "3s"

[[schedules]]
name = "nothing"
snapshots = "ds/x*"
cron = "* * * * *"
for = "1s"
"""


def _leases(daemon: DaemonProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.get("/v1/leases").json()["items"]
    return found


def _kinds(daemon: DaemonProcess) -> list[str]:
    return [e["kind"] for e in daemon.get("/v1/events?ref=ds/v2&limit=1000").json()["items"]]


def test_a_schedule_brings_a_cold_snapshot_back_before_its_time_and_lets_it_go(tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path)
    for name in ("v1", "v2"):
        (daemon.dataset / name).mkdir()
        (daemon.dataset / name / "data").write_bytes(os.urandom(200_000))
        (daemon.dataset / name / "more").write_bytes(name.encode())
    before = digest_tree(daemon.dataset / "v2")
    daemon.start()
    try:
        for name in ("v1", "v2"):
            daemon.wait_until(lambda name=name: daemon.snapshot(f"ds/{name}")["is_settled"], "settled")  # type: ignore[misc]
            daemon.post(f"/v1/snapshots/ds/{name}/release")
            daemon.wait_for_residency(f"ds/{name}", "migrated")
        daemon.stop()
        daemon.process = None
        daemon.settings["schedules"] = _SCHEDULES
        daemon.write_config()
        # With some time left until the next minute, and none of the last one's use.
        daemon.wait_until(lambda: 4 <= datetime.now(UTC).second < 40, "a good moment")
        daemon.start()

        # The lead is a minute at least, so that of a use every minute begins at once.
        daemon.wait_until(lambda: bool(_leases(daemon)), "a lease of the schedule")
        lease = _leases(daemon)[0]
        assert (lease["ref"], lease["holder"]) == ("ds/v2", "schedule:often")
        daemon.wait_for_residency("ds/v2", "premigrated")
        use_at = datetime.fromisoformat(lease["expires_at"]) - timedelta(seconds=3)
        assert datetime.now(UTC) < use_at
        assert use_at.second == 0
        assert digest_tree(daemon.dataset / "v2") == before
        assert daemon.snapshot("ds/v1")["residency"] == "migrated"

        daemon.wait_until(lambda: "lease.expired" in _kinds(daemon), "its lease ended", timeout=90)
        assert lease["id"] not in {each["id"] for each in _leases(daemon)}
        assert "schedule.warmed" in _kinds(daemon)
        told = [e for e in daemon.get("/v1/events?limit=1000").json()["items"] if e["kind"] == "schedule.empty"]
        assert told
        assert len({e["detail"]["use_at"] for e in told}) == len(told)
    finally:
        daemon.close()
