"""Upgrades: fresh and upgraded databases are the same, and a crash in between is harmless."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import pytest

from tierd.catalog import Catalog, upgrades
from tierd.catalog.engine import APPLICATION_ID, fresh_schema
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
