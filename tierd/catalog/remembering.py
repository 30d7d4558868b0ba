"""Taking over from a backup what the tiers themselves do not know: uses, holds, announcements, phases, rates.

Where copies lie is never taken from it: the backup is older than the tiers.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from tierd.catalog import engine, events
from tierd.catalog.backup import is_catalog
from tierd.catalog.lookup import snapshot_by_id
from tierd.catalog.schema import to_micros
from tierd.errors import NotFound
from tierd.model.dataset import SnapshotId
from tierd.model.placement import PlacementState

_Row = Mapping[str, Any]

_OF_SNAPSHOT = {
    "access_hour": "1",
    "access_day": "1",
    "episode": "1",
    "hold": "ended_at IS NULL AND (expires_at IS NULL OR expires_at > :now)",
    "announcement": "ended_at IS NULL AND until > :now",
}
"""Tables with a row for a snapshot, and which of them still count."""
_USES = ("first_seen_at", "read_at", "written_at", "episodes", "weight", "weight_at", "floor")


@contextmanager
def opened(backup: Path) -> Iterator[sqlite3.Connection]:
    """A copy of a backup, upgraded to this version; the backup itself stays as it is.

    Raises:
        NotFound: it is no backup of a catalog.
        CatalogError: it is damaged, or of a newer tierd.
    """
    if not is_catalog(backup):
        raise NotFound(f"{backup} is no backup of a catalog", hint="Name a file that `tierd backup` wrote.")
    with tempfile.TemporaryDirectory(prefix="tierd-") as directory:
        copy = Path(directory) / "backup.db"
        with (
            engine.translated(backup),
            closing(sqlite3.connect(f"{backup.absolute().as_uri()}?mode=ro", uri=True)) as db,
            closing(sqlite3.connect(copy)) as target,
        ):
            db.backup(target)
        engine.open_database(copy, wait_s=5.0).close()
        with engine.translated(backup), closing(sqlite3.connect(copy)) as db:
            db.row_factory = sqlite3.Row
            yield db


def take_over(
    conn: Connection, old: sqlite3.Connection, *, is_there: Callable[[Path, int], bool], now: datetime
) -> int:
    """Enter what the backup knows of snapshots that are still the same; returns of how many.

    Args:
        is_there: whether the directory at a path is still the one of that inode.
    """
    datasets = {row[0]: row[1] for row in conn.exec_driver_sql("SELECT name, home FROM dataset WHERE is_configured")}
    tiers = {row[0] for row in conn.exec_driver_sql("SELECT name FROM tier")}
    known = {row[0]: row[1] for row in conn.exec_driver_sql("SELECT key, id FROM snapshot")}
    ids: dict[int, int] = {}
    for row in _rows(old, "SELECT * FROM snapshot WHERE gone_at IS NULL"):
        path = Path(os.fsdecode(row["path"]))
        if row["key"] in known:
            ids[row["id"]] = known[row["key"]]
            _update(conn, "snapshot", {name: row[name] for name in _USES}, id=known[row["key"]])
        elif row["dataset"] in datasets and is_there(path, row["root_inode"] % (1 << 64)):
            ids[row["id"]] = _enter(conn, row, datasets[row["dataset"]], now)
    for table, which in _OF_SNAPSHOT.items():
        for row in _rows(old, f"SELECT * FROM {table} WHERE {which}", now=to_micros(now)):
            if row["snapshot_id"] in ids:
                _insert(conn, table, {**row, "snapshot_id": ids[row["snapshot_id"]]})
    for row in _rows(old, "SELECT name, phase FROM dataset WHERE phase IS NOT NULL"):
        _update(conn, "dataset", {"phase": row["phase"]}, name=row["name"])
    for row in _rows(old, "SELECT * FROM rate"):
        if {row["source"], row["destination"]} <= tiers:
            _insert(conn, "rate", row)
    return len(ids)


def _enter(conn: Connection, row: _Row, home: str, now: datetime) -> int:
    """A snapshot that lies only at home, and of which the tiers therefore have no note."""
    micros = to_micros(now)
    values = {**row, "accessed_at": micros, "scanned_at": None, "changed_at": min(row["changed_at"], micros)}
    del values["id"]
    added = _insert(conn, "snapshot", values)
    original = {"snapshot_id": added, "tier": home, "state": str(PlacementState.VERIFIED)}
    _insert(conn, "placement", original | {"size_bytes": row["size_bytes"], "entries": row["entries"]})
    about = snapshot_by_id(conn, SnapshotId(added))
    events.append_about(conn, about, "snapshot.restored", now=now, message="by rebuild, from a backup of the catalog")
    return added


def _rows(db: sqlite3.Connection, query: str, **values: int) -> list[_Row]:
    return [dict(row) for row in db.execute(query, values if ":now" in query else {})]


def _insert(conn: Connection, table: str, values: _Row) -> int:
    names = list(values)
    marks = ", ".join("?" * len(names))
    done = conn.exec_driver_sql(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", tuple(values.values()))
    return int(done.lastrowid)


def _update(conn: Connection, table: str, values: _Row, **where: object) -> None:
    changed, ((key, value),) = ", ".join(f"{name} = ?" for name in values), where.items()
    conn.exec_driver_sql(f"UPDATE {table} SET {changed} WHERE {key} = ?", (*values.values(), value))
