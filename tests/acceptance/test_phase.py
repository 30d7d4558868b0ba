"""Moving a dataset to another phase while the daemon runs."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.daemon_process import DaemonProcess


def test_a_phase_given_by_one_command_counts_at_once_and_after_a_restart(tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path, release_after="1s", migrate_after="1s")
    (daemon.dataset / "v1").mkdir()
    (daemon.dataset / "v1" / "f").write_bytes(b"x" * 100_000)
    # In the file it is kept on flash: without a phase of its own it would be gone after a second.
    daemon.config.write_text(daemon.config.read_text().replace('name = "ds"', 'name = "ds"\nphase = "deploy"'))
    daemon.start()
    try:
        daemon.wait_for_residency("ds/v1", "premigrated")
        assert daemon.cli("release", "ds/v1").returncode == 5
        moved = daemon.cli("phase", "ds", "train")
        assert moved.returncode == 0, moved.stderr
        daemon.wait_for_residency("ds/v1", "migrated")
        daemon.stop()
        daemon.start()
        assert "ds is in phase train (tierd phase; configured: deploy)" in daemon.cli("phase", "ds").stdout
        assert daemon.cli("phase", "ds", "configured").returncode == 0
        warmed = daemon.cli("warm", "ds/v1", "--wait", "--lease", "1s")
        assert warmed.returncode == 0, warmed.stderr
        assert daemon.cli("release", "ds/v1").returncode == 5
        assert not (daemon.dataset / "v1").is_symlink()
    finally:
        daemon.close()
