"""The catalog is backed up under a running daemon, lost, and made again from the backup and what lies on the tiers."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.acceptance.daemon_process import DaemonProcess
from tests.rebuilding import call, lose_catalog
from tests.world import World, digest_tree

NAMES = ("stays", "leaves", "comes", "new")


def test_what_happened_after_the_backup_comes_from_the_tiers_and_the_rest_from_the_backup(tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path)
    config, backup = ("--config", str(daemon.config)), tmp_path / "backup.db"
    for name in NAMES[:3]:
        _make(daemon, name)
    daemon.start()
    try:
        for name in NAMES[:3]:
            daemon.wait_for_residency(f"ds/{name}", "resident")
        _done(daemon, "pin", "ds/stays", "--note", "the reference")
        _done(daemon, "pin", "ds/leaves")
        _done(daemon, "phase", "ds", "build")
        _done(daemon, "announce", "ds/stays", "--at", "48h", "--for", "8h")
        _done(daemon, "release", "ds/comes", "--wait")
        _done(daemon, "backup", str(backup), *config)
        # What the backup does not know: one leaves flash, one comes back and is changed, one is made and leaves.
        _done(daemon, "unpin", "ds/leaves")
        _done(daemon, "release", "ds/leaves", "--wait")
        _done(daemon, "warm", "ds/comes", "--wait")
        (daemon.dataset / "comes" / "later").write_text("written after the backup")
        _make(daemon, "new")
        daemon.wait_for_residency("ds/new", "resident")
        daemon.wait_until(lambda: daemon.cli("release", "ds/new", "--wait").returncode == 0, "new has settled and left")
        before = {name: digest_tree(daemon.dataset / name) for name in NAMES}
        daemon.stop()
        for path in tmp_path.glob("tierd.db*"):
            path.unlink()

        rebuilt = _done(daemon, "rebuild", "--backup", str(backup), *config)
        assert "knew 3 snapshots" in rebuilt
        daemon.start()
        for name in NAMES:
            assert digest_tree(daemon.dataset / name) == before[name]
        homes = {name: daemon.snapshot(f"ds/{name}")["residency"] for name in NAMES}
        assert (homes["stays"], homes["leaves"], homes["new"]) == ("resident", "migrated", "migrated")
        assert homes["comes"] in ("resident", "premigrated")
        assert "the reference" in _done(daemon, "lease", "list") + _done(daemon, "explain", "ds/stays")
        assert daemon.cli("release", "ds/stays").returncode == 5  # still pinned
        assert "build" in _done(daemon, "phase")
        assert "ds/stays" in _done(daemon, "announcements")
        for name in NAMES:
            _done(daemon, "warm", f"ds/{name}", "--wait")
            assert digest_tree(daemon.dataset / name) == before[name]
        assert daemon.cli("audit", *config).stdout == ""
    finally:
        daemon.close()


def test_a_backup_is_one_sound_file_that_replaces_only_backups(tmp_path: Path) -> None:
    world = World(tmp_path)
    backup, foreign = tmp_path / "kept" / "backup.db", tmp_path / "thesis.txt"
    foreign.write_text("not a database")
    try:
        world.make()
        nowhere = call(world, "backup", str(backup))
        assert (nowhere.exit_code, "Choose a directory" in nowhere.stderr) == (8, True)
        backup.parent.mkdir()
        assert call(world, "backup", str(backup)).exit_code == 0
        world.make("v2")
        assert call(world, "backup", str(backup)).exit_code == 0
        for wrong in (foreign, tmp_path / "tierd.db"):
            assert call(world, "backup", str(wrong)).exit_code == 5
        assert foreign.read_text() == "not a database"
        assert [path.name for path in backup.parent.iterdir()] == ["backup.db"]
        assert backup.stat().st_mode & 0o777 == 0o600
        with closing(sqlite3.connect(backup)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
            assert db.execute("SELECT name FROM snapshot ORDER BY name").fetchall() == [("v1",), ("v2",)]
        lose_catalog(world)
        refused = call(world, "rebuild", "--backup", str(foreign))
        assert (refused.exit_code, "is no backup of a catalog" in refused.stderr) == (4, True)
    finally:
        world.close()


def _make(daemon: DaemonProcess, name: str) -> None:
    (daemon.dataset / name / "sub").mkdir(parents=True)
    for number in range(10):
        (daemon.dataset / name / "sub" / f"f{number}").write_bytes(f"{name} {number}\n".encode() * 500)


def _done(daemon: DaemonProcess, *words: str) -> str:
    result = daemon.cli(*words)
    assert result.returncode == 0, f"{words}: {result.stdout}{result.stderr}"
    return result.stdout + result.stderr
