"""Opening: what is refused, and what the refusal says."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.catalog.catalog_world import NOW, configured
from tierd.catalog import Catalog
from tierd.catalog.upgrades import VERSION
from tierd.errors import CatalogCorrupt, CatalogError, CatalogLocked, CatalogTooNew

HOLD_LOCK = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(fd, fcntl.LOCK_EX)
os.write(fd, f"{os.getpid()}\\n".encode())
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A database with some content, closed."""
    path = tmp_path / "tierd.db"
    with Catalog.open(path, wait_s=0) as catalog:
        world = configured(catalog, tmp_path)
        for n in range(200):
            world.add(f"v{n}")
    return path


def test_everything_is_there_after_a_restart(db: Path) -> None:
    with Catalog.open(db, wait_s=0) as catalog:
        assert len(catalog.snapshots()) == 200
        assert catalog.last_event_id() == 200


def test_new_database_is_private_and_durable(tmp_path: Path) -> None:
    path = tmp_path / "tierd.db"
    with Catalog.open(path, wait_s=0) as catalog:
        assert path.stat().st_mode & 0o777 == 0o600
        with catalog._writing() as conn:
            pragmas = {p: conn.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("journal_mode", "synchronous")}
            assert conn.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    assert pragmas == {"journal_mode": "wal", "synchronous": 2}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tierd.db", "tierd.db.lock"]


def test_leftover_of_an_interrupted_creation_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "tierd.db.new").write_bytes(b"half a database")
    Catalog.open(tmp_path / "tierd.db", wait_s=0).close()
    assert not (tmp_path / "tierd.db.new").exists()


def test_readers_cannot_write(db: Path) -> None:
    with Catalog.open(db, wait_s=0) as catalog, pytest.raises(CatalogError), catalog._reading() as conn:
        conn.exec_driver_sql("DELETE FROM event")


def refused(path: Path, kind: type[CatalogError]) -> CatalogError:
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(kind) as caught:
        Catalog.open(path, wait_s=0)
    assert type(caught.value) is kind
    assert caught.value.hint
    assert (path.read_bytes() if path.is_file() else b"") == before, "a refusal changes nothing"
    return caught.value


def test_random_bytes_are_refused(db: Path) -> None:
    db.write_bytes(os.urandom(100_000))
    assert "damaged" in refused(db, CatalogCorrupt).message


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7])
def test_truncated_database_is_refused(db: Path, share: float) -> None:
    os.truncate(db, int(db.stat().st_size * share))
    refused(db, CatalogCorrupt)


def test_overwritten_page_is_refused(db: Path) -> None:
    pages = db.stat().st_size // 4096
    with db.open("r+b") as file:
        for page in range(2, pages):
            file.seek(page * 4096)
            file.write(os.urandom(64))
    refused(db, CatalogCorrupt)


def test_missing_database_with_a_log_left_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tierd.db-wal").write_bytes(b"x" * 4152)
    assert "missing" in refused(tmp_path / "tierd.db", CatalogCorrupt).message
    assert not (tmp_path / "tierd.db").exists()


def test_newer_database_is_refused_with_both_versions(db: Path) -> None:
    raw = sqlite3.connect(db)
    raw.execute(f"PRAGMA user_version = {VERSION + 1}")
    raw.close()
    message = refused(db, CatalogTooNew).message
    assert str(VERSION + 1) in message
    assert f"knows {VERSION}" in message


def test_database_of_another_program_is_refused(tmp_path: Path) -> None:
    raw = sqlite3.connect(tmp_path / "other.db")
    raw.execute("CREATE TABLE music (title TEXT)")
    raw.close()
    assert "not a tierd catalog" in refused(tmp_path / "other.db", CatalogError).message


def test_database_locked_by_another_daemon_is_refused_until_that_ends(db: Path) -> None:
    lock = db.with_name("tierd.db.lock")
    lock.unlink()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert str(other.pid) in refused(db, CatalogLocked).message
        other.kill()
    Catalog.open(db, wait_s=5).close()


def test_worker_that_inherited_the_lock_keeps_the_next_daemon_waiting(db: Path) -> None:
    catalog = Catalog.open(db, wait_s=0)
    with subprocess.Popen(["sleep", "60"], pass_fds=[catalog.lock_fd]) as worker:
        catalog.close()
        refused(db, CatalogLocked)
        worker.kill()
    Catalog.open(db, wait_s=5).close()


def test_two_catalogs_in_one_process_are_refused(db: Path) -> None:
    with Catalog.open(db, wait_s=0):
        refused(db, CatalogLocked)


def test_transaction_of_another_program_is_named_as_the_cause(db: Path) -> None:
    raw = sqlite3.connect(db, isolation_level=None)
    raw.execute("BEGIN EXCLUSIVE")
    try:
        assert "another program" in refused(db, CatalogLocked).message
    finally:
        raw.execute("ROLLBACK")
        raw.close()


def test_missing_directory_is_named(tmp_path: Path) -> None:
    assert "nowhere" in refused(tmp_path / "nowhere/tierd.db", CatalogError).message


def test_directory_in_place_of_the_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tierd.db").mkdir()
    refused(tmp_path / "tierd.db", CatalogError)


def test_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "tierd.db.lock").symlink_to(victim)
    refused(tmp_path / "tierd.db", CatalogError)
    assert victim.read_text() == "precious"


def test_unwritable_places_are_refused(db: Path, tmp_path: Path) -> None:
    """As another user, because root may write everywhere."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    script = f"""
import os, sys
from pathlib import Path
from tierd.catalog import Catalog
from tierd.errors import CatalogError
os.setgid(65534); os.setuid(65534)
try:
    Catalog.open(Path({str(db)!r}), wait_s=0)
except CatalogError as e:
    print(e.code, "|", e.message, "|", e.hint)
"""
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("catalog_error | cannot open the lock"), done.stdout + done.stderr
    assert "Run tierd as the user" in done.stdout


def test_read_only_file_system_is_refused_at_start(db: Path) -> None:
    # What SQLite sees on a read-only mount is an error at the first write; an immutable file gives the same.
    if os.geteuid() != 0 or subprocess.run(["chattr", "+i", str(db)], capture_output=True, check=False).returncode:
        pytest.skip("needs root and a file system with immutable files")
    try:
        refused(db, CatalogError)
    finally:
        subprocess.run(["chattr", "-i", str(db)], check=True)


def test_closed_catalog_says_so(db: Path) -> None:
    catalog = Catalog.open(db, wait_s=0)
    catalog.close()
    catalog.close()
    with pytest.raises(CatalogError, match="closed"):
        catalog.snapshots()


def test_write_refused_by_a_busy_database_can_be_repeated(db: Path) -> None:
    with Catalog.open(db, wait_s=0) as catalog:
        with catalog._writing() as conn:
            conn.exec_driver_sql("PRAGMA busy_timeout = 20")
        raw = sqlite3.connect(db, isolation_level=None)
        raw.execute("BEGIN IMMEDIATE")
        with pytest.raises(CatalogLocked, match="another program"):
            catalog.add_event("x.y", now=NOW)
        assert len(catalog.snapshots()) == 200, "readers go on"
        raw.execute("ROLLBACK")
        raw.close()
        catalog.add_event("x.y", now=NOW)
        assert catalog.last_event_id() == 201


def test_full_disk_is_named_and_nothing_is_half_written(db: Path) -> None:
    with Catalog.open(db, wait_s=0) as catalog:
        with catalog._writing() as conn:
            conn.exec_driver_sql("PRAGMA max_page_count = 1")  # SQLite's own way to run out of room

        def fill() -> None:
            for _ in range(1000):
                catalog.add_event("x.y", now=NOW, message="m" * 3000)

        with pytest.raises(CatalogError, match="no room left") as caught:
            fill()
        assert caught.value.hint == "Free space on its file system."
        assert len(catalog.events(after=200, limit=1000)) == catalog.last_event_id() - 200
