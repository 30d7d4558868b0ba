"""Upgrades: fresh and upgraded databases are the same, and a crash in between is harmless."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tierd.catalog import Catalog, upgrades
from tierd.catalog.engine import APPLICATION_ID, fresh_schema
from tierd.catalog.schema import EPOCH
from tierd.errors import CatalogError


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def shape(db: sqlite3.Connection) -> dict[tuple[str, str], str]:
    """Every table and index with its definition, spaces aside."""
    rows = db.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {(kind, name): "".join(sql.split()) for kind, name, sql in rows}


def run(db: sqlite3.Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        db.execute(statement)


def test_fresh_schema_equals_upgraded_schema(tmp_path: Path) -> None:
    fresh, upgraded = connect(tmp_path / "fresh.db"), connect(tmp_path / "upgraded.db")
    run(fresh, fresh_schema())
    assert upgrades.upgrade(upgraded) == upgrades.VERSION
    assert shape(fresh) == shape(upgraded)
    assert len(shape(fresh)) > 15
    fresh.close()
    upgraded.close()


def test_upgraded_database_opens(tmp_path: Path) -> None:
    db = connect(tmp_path / "tierd.db")
    upgrades.upgrade(db)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.close()
    Catalog.open(tmp_path / "tierd.db", wait_s=0).close()


def test_older_database_is_upgraded_at_open_and_a_copy_is_kept(tmp_path: Path) -> None:
    db = connect(tmp_path / "tierd.db")
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")  # version 0: no step was taken
    db.close()
    Catalog.open(tmp_path / "tierd.db", wait_s=0).close()
    assert (tmp_path / "tierd.db.v0").exists()
    db = connect(tmp_path / "tierd.db")
    assert upgrades.version_of(db) == upgrades.VERSION
    db.close()


def test_what_an_older_database_knows_survives_the_upgrade(tmp_path: Path) -> None:
    """The table of transfers is made anew; its rows, its events and its numbering go on."""
    db = connect(tmp_path / "tierd.db")
    upgrades.upgrade(db, upgrades.STEPS[:1])
    run(
        db,
        (
            f"PRAGMA application_id = {APPLICATION_ID}",
            "INSERT INTO tier VALUES ('flash', 'posix', x'2f66', 0, NULL, 1), ('hdd', 'posix', x'2f68', 1, NULL, 1)",
            "INSERT INTO dataset VALUES ('imagenet', x'2f66', 'flash', '*', 1)",
            "INSERT INTO snapshot VALUES (1, '0123456789abcdef', 'imagenet', 'v1', x'2f66', 7, 10, 10, 1, 2, 0, 0, 0,"
            " 'events', NULL, NULL, 0, NULL, NULL, NULL, NULL)",
            "INSERT INTO transfer VALUES (41, 'k', 1, 'migrate', 'copying', 'flash', 'hdd', 1, 3, 'cold', 'policy', 2,"
            " 5, 'busy', 'source_busy', 10, 4, 1, 0, 1, 0, 0, 1, 2, NULL)",
            "INSERT INTO event VALUES (1, 0, 'transfer.copying', 'imagenet', 'v1', 1, 41, '', '{}')",
        ),
    )
    db.close()
    with Catalog.open(tmp_path / "tierd.db", wait_s=0) as catalog:
        (t,) = catalog.transfers()
        assert (t.id, t.state, t.source, t.destination, t.release, t.priority) == (
            41,
            "copying",
            "flash",
            "hdd",
            True,
            3,
        )
        assert (t.attempt, t.error, t.bytes_done, t.is_paused, t.cancel_requested) == (2, "busy", 4, True, False)
        assert (t.restore_cost, t.waits_for, t.expected_at) == (None, None, None)
        assert [e.transfer_id for e in catalog.events()] == [41]
        catalog.fail(t.id, t.state, error="e", error_code="c", now=t.created_at)
        again, _ = catalog.enqueue(
            snapshot_id=t.snapshot_id,
            kind=t.kind,
            source=t.source,
            destination=t.destination,
            reason="again",
            requested_by="test",
            bytes_total=0,
            files_total=0,
            now=t.created_at,
        )
        assert again.id == 42
    assert (tmp_path / "tierd.db.v1").exists()


def test_leases_and_pins_survive_the_upgrade_that_ties_them_to_processes(tmp_path: Path) -> None:
    """What held before holds afterwards; what had ended stays so."""
    db = connect(tmp_path / "tierd.db")
    upgrades.upgrade(db, upgrades.STEPS[:4])
    later = 4_102_444_800_000_000  # in 2100
    run(
        db,
        (
            f"PRAGMA application_id = {APPLICATION_ID}",
            "INSERT INTO tier VALUES ('flash', 'posix', x'2f66', 0, NULL, 1)",
            "INSERT INTO dataset VALUES ('imagenet', x'2f66', 'flash', '*', 1)",
            "INSERT INTO snapshot VALUES (7, '0123456789abcdef', 'imagenet', 'v1', x'2f6631', 7, 10, 11, 1, 2, 1, 2, 3,"
            " 'events', 4, 5, 6, 1.5, 3, 8, 9, NULL, NULL)",
            f"INSERT INTO hold VALUES (5, 7, 'lease', 'alice', 1, 2, {later}, NULL, 3, 'run 7', 'key')",
            "INSERT INTO hold VALUES (6, 7, 'pin', 'root', 1, 1, NULL, NULL, 1, NULL, NULL)",
            f"INSERT INTO hold VALUES (9, 7, 'lease', 'bob', 1, 2, {later}, 3, 1, NULL, NULL)",
        ),
    )
    db.close()
    with Catalog.open(tmp_path / "tierd.db", wait_s=0) as catalog:
        lease, pin = catalog.holds(now=datetime(2026, 1, 1, tzinfo=UTC))
        assert (lease.id, lease.holder, lease.generation, lease.note, lease.tie) == (5, "alice", 3, "run 7", None)
        assert (pin.id, pin.kind, pin.expires_at) == (6, "pin", None)
        s = catalog.snapshot_by_id(lease.snapshot_id)
        assert (s.episodes, s.weight, s.size_bytes, s.disk_bytes, s.entries, s.floor) == (6, 1.5, 10, 11, 2, 0.0)


STEPS: tuple[upgrades.Step, ...] = (
    ("CREATE TABLE a (x INTEGER PRIMARY KEY)", "INSERT INTO a VALUES (7)"),
    ("ALTER TABLE a ADD COLUMN y TEXT", "UPDATE a SET y = 'seven'"),
    ("CREATE TABLE b (x INTEGER REFERENCES a (x))", "INSERT INTO b VALUES (7)"),
)


def test_only_missing_steps_are_taken(tmp_path: Path) -> None:
    db = connect(tmp_path / "x.db")
    assert upgrades.upgrade(db, STEPS[:1]) == 1
    assert upgrades.upgrade(db, STEPS) == 2
    assert upgrades.upgrade(db, STEPS) == 0
    assert db.execute("SELECT x, y FROM a").fetchall() == [(7, "seven")]
    assert db.execute("PRAGMA foreign_keys").fetchone() == (1,)
    db.close()


def test_failing_step_is_undone_and_can_be_repeated(tmp_path: Path) -> None:
    db = connect(tmp_path / "x.db")
    broken = ("DROP TABLE a", "THIS IS NOT SQL")
    with pytest.raises(sqlite3.OperationalError):
        upgrades.upgrade(db, (*STEPS, broken))
    assert upgrades.version_of(db) == 3
    assert db.execute("SELECT x, y FROM a").fetchall() == [(7, "seven")]
    assert upgrades.upgrade(db, (*STEPS, ("DROP TABLE b",))) == 1
    db.close()


def test_step_that_would_leave_dangling_references_is_undone(tmp_path: Path) -> None:
    db = connect(tmp_path / "x.db")
    with pytest.raises(CatalogError, match="step 4"):
        upgrades.upgrade(db, (*STEPS, ("DELETE FROM a",)))
    assert db.execute("SELECT count(*) FROM a").fetchone() == (1,)
    db.close()


def test_counts_of_use_survive_the_upgrade(tmp_path: Path) -> None:
    db = connect(tmp_path / "tierd.db")
    upgrades.upgrade(db, upgrades.STEPS[:3])
    run(
        db,
        (
            f"PRAGMA application_id = {APPLICATION_ID}",
            "INSERT INTO tier VALUES ('flash', 'posix', x'2f66', 0, NULL, 1)",
            "INSERT INTO dataset VALUES ('imagenet', x'2f66', 'flash', '*', 1)",
            "INSERT INTO snapshot VALUES (1, '0123456789abcdef', 'imagenet', 'v1', x'2f66', 7, 10, 10, 1, 2, 0, 0, 0,"
            " 'events', NULL, NULL, 0, 0.0, NULL, NULL, NULL, NULL, NULL)",
            "INSERT INTO access_day VALUES (1, 20000, 7, 1)",
            "INSERT INTO access_hour VALUES (1, 480000, 6, 0)",
        ),
    )
    db.close()
    day = EPOCH + timedelta(days=20000)
    with Catalog.open(tmp_path / "tierd.db", wait_s=0) as catalog:
        for by_hour, reads in ((False, 7), (True, 6)):
            (span,), _ = catalog.spans("imagenet", since=day, by_hour=by_hour)
            assert (span.start, span.reads, span.episodes) == (day, reads, 0)
    assert (tmp_path / "tierd.db.v3").exists()
