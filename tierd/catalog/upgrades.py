"""Forward-only upgrades of the database schema; `PRAGMA user_version` counts the steps that were taken.

A step is SQL frozen at the time it was released: it never refers to `schema`, which moves on. To change the
schema, change `schema`, append a step here, and let the test that compares a fresh with an upgraded database
prove that both lead to the same place. There is no way back; before the first step a copy is kept beside the
database.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from tierd.catalog import upgrade_announced, upgrade_parts
from tierd.errors import CatalogError

Step = tuple[str, ...]
"""Statements of one step; they and the new version number are one transaction."""

_INITIAL: Step = (
    """
CREATE TABLE setting (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name)
)
    """,
    """
CREATE TABLE tier (
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    root BLOB NOT NULL,
    rank INTEGER NOT NULL,
    uuid TEXT,
    is_configured BOOLEAN NOT NULL,
    PRIMARY KEY (name)
)
    """,
    """
CREATE TABLE dataset (
    name TEXT NOT NULL,
    path BLOB NOT NULL,
    home TEXT NOT NULL,
    pattern TEXT,
    is_configured BOOLEAN NOT NULL,
    PRIMARY KEY (name),
    FOREIGN KEY(home) REFERENCES tier (name)
)
    """,
    """
CREATE TABLE snapshot (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    "key" TEXT NOT NULL,
    dataset TEXT NOT NULL,
    name TEXT NOT NULL,
    path BLOB NOT NULL,
    root_inode INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    disk_bytes INTEGER NOT NULL,
    files INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    first_seen_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    accessed_at INTEGER NOT NULL,
    access_source TEXT NOT NULL,
    read_at INTEGER,
    written_at INTEGER,
    episodes INTEGER NOT NULL,
    warmed_at INTEGER,
    scanned_at INTEGER,
    gone_at INTEGER,
    problem TEXT,
    CONSTRAINT key_is_16_digits CHECK (length(key) = 16),
    CONSTRAINT access_source_is_known CHECK (access_source IN ('events', 'atime', 'discovery')),
    UNIQUE ("key"),
    FOREIGN KEY(dataset) REFERENCES dataset (name)
)
    """,
    """
CREATE UNIQUE INDEX snapshot_one_per_name ON snapshot (dataset, name) WHERE gone_at IS NULL
    """,
    """
CREATE TABLE hold (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    snapshot_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    holder TEXT NOT NULL,
    since INTEGER NOT NULL,
    renewed_at INTEGER NOT NULL,
    expires_at INTEGER,
    ended_at INTEGER,
    generation INTEGER NOT NULL,
    note TEXT,
    request_key TEXT,
    CONSTRAINT kind_is_known CHECK (kind IN ('lease', 'pin')),
    CONSTRAINT only_leases_expire CHECK ((kind = 'pin') = (expires_at IS NULL)),
    FOREIGN KEY(snapshot_id) REFERENCES snapshot (id)
)
    """,
    """
CREATE UNIQUE INDEX hold_one_per_request ON hold (request_key) WHERE ended_at IS NULL
    """,
    """
CREATE UNIQUE INDEX hold_one_pin ON hold (snapshot_id) WHERE kind = 'pin' AND ended_at IS NULL
    """,
    """
CREATE INDEX hold_open ON hold (snapshot_id) WHERE ended_at IS NULL
    """,
    """
CREATE TABLE placement (
    snapshot_id INTEGER NOT NULL,
    tier TEXT NOT NULL,
    state TEXT NOT NULL,
    location BLOB,
    content_id TEXT,
    size_bytes INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    verified_at INTEGER,
    PRIMARY KEY (snapshot_id, tier),
    CONSTRAINT state_is_known CHECK (state IN ('partial', 'verified', 'stale')),
    FOREIGN KEY(snapshot_id) REFERENCES snapshot (id),
    FOREIGN KEY(tier) REFERENCES tier (name)
)
WITHOUT ROWID
    """,
    """
CREATE TABLE transfer (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    "key" TEXT NOT NULL,
    snapshot_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    source TEXT NOT NULL,
    destination TEXT NOT NULL,
    release BOOLEAN NOT NULL,
    priority INTEGER NOT NULL,
    reason TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    not_before INTEGER,
    error TEXT,
    error_code TEXT,
    bytes_total INTEGER NOT NULL,
    bytes_done INTEGER NOT NULL,
    files_total INTEGER NOT NULL,
    files_done INTEGER NOT NULL,
    is_paused BOOLEAN NOT NULL,
    cancel_requested BOOLEAN NOT NULL,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    advanced_at INTEGER NOT NULL,
    finished_at INTEGER,
    CONSTRAINT kind_is_known CHECK (kind IN ('migrate', 'recall')),
    CONSTRAINT state_is_known
        CHECK (state IN ('queued', 'copying', 'verifying', 'committed', 'releasing', 'done', 'failed', 'cancelled')),
    CONSTRAINT finished_at_tells_live
        CHECK ((finished_at IS NULL) =
            (state IN ('queued', 'copying', 'verifying', 'committed', 'releasing'))),
    CONSTRAINT only_a_migrate_releases CHECK (release = 0 OR kind = 'migrate'),
    CONSTRAINT source_is_not_destination CHECK (source <> destination),
    CONSTRAINT attempt_counts_from_one CHECK (attempt >= 1),
    UNIQUE ("key"),
    FOREIGN KEY(snapshot_id) REFERENCES snapshot (id),
    FOREIGN KEY(source) REFERENCES tier (name),
    FOREIGN KEY(destination) REFERENCES tier (name)
)
    """,
    """
CREATE INDEX transfer_failed ON transfer (snapshot_id) WHERE state = 'failed'
    """,
    """
CREATE INDEX transfer_of_snapshot ON transfer (snapshot_id)
    """,
    """
CREATE UNIQUE INDEX transfer_one_live ON transfer (snapshot_id)
    WHERE state IN ('queued', 'copying', 'verifying', 'committed', 'releasing')
    """,
    """
CREATE TABLE event (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    dataset TEXT,
    name TEXT,
    snapshot_id INTEGER,
    transfer_id INTEGER,
    message TEXT NOT NULL,
    detail TEXT NOT NULL,
    FOREIGN KEY(snapshot_id) REFERENCES snapshot (id),
    FOREIGN KEY(transfer_id) REFERENCES transfer (id)
)
    """,
    """
CREATE INDEX event_of_name ON event (dataset, name)
    """,
    """
CREATE INDEX event_of_snapshot ON event (snapshot_id)
    """,
    """
CREATE INDEX event_of_transfer ON event (transfer_id)
    """,
)

_CHAINS: Step = (
    # SQLite changes no constraint in place, so the table is made anew. Under its own name from the start: one that
    # was renamed would be written down in another form than that of a fresh database.
    """
CREATE TABLE transfer_before AS SELECT * FROM transfer
    """,
    """
DROP TABLE transfer
    """,
    """
CREATE TABLE transfer (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    "key" TEXT NOT NULL,
    snapshot_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    source TEXT NOT NULL,
    destination TEXT NOT NULL,
    release BOOLEAN NOT NULL,
    priority INTEGER NOT NULL,
    reason TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    not_before INTEGER,
    error TEXT,
    error_code TEXT,
    bytes_total INTEGER NOT NULL,
    bytes_done INTEGER NOT NULL,
    files_total INTEGER NOT NULL,
    files_done INTEGER NOT NULL,
    first TEXT,
    restore_cost FLOAT,
    waits_for TEXT,
    expected_at INTEGER,
    is_paused BOOLEAN NOT NULL,
    cancel_requested BOOLEAN NOT NULL,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    advanced_at INTEGER NOT NULL,
    finished_at INTEGER,
    CONSTRAINT kind_is_known CHECK (kind IN ('migrate', 'recall', 'remove')),
    CONSTRAINT state_is_known
        CHECK (state IN ('queued', 'restoring', 'copying', 'verifying', 'committed', 'releasing', 'done', 'failed',
            'cancelled')),
    CONSTRAINT finished_at_tells_live
        CHECK ((finished_at IS NULL) =
            (state IN ('queued', 'restoring', 'copying', 'verifying', 'committed', 'releasing'))),
    CONSTRAINT only_a_migrate_releases CHECK (release = 0 OR kind = 'migrate'),
    CONSTRAINT only_a_remove_has_one_tier CHECK ((kind = 'remove') = (source = destination)),
    CONSTRAINT only_restores_wait CHECK (state = 'restoring' OR (waits_for IS NULL AND expected_at IS NULL)),
    CONSTRAINT attempt_counts_from_one CHECK (attempt >= 1),
    UNIQUE ("key"),
    FOREIGN KEY(snapshot_id) REFERENCES snapshot (id),
    FOREIGN KEY(source) REFERENCES tier (name),
    FOREIGN KEY(destination) REFERENCES tier (name)
)
    """,
    """
INSERT INTO transfer (
    id, "key", snapshot_id, kind, state, source, destination, release, priority, reason, requested_by, attempt,
    not_before, error, error_code, bytes_total, bytes_done, files_total, files_done, is_paused, cancel_requested,
    created_at, started_at, advanced_at, finished_at
) SELECT
    id, "key", snapshot_id, kind, state, source, destination, release, priority, reason, requested_by, attempt,
    not_before, error, error_code, bytes_total, bytes_done, files_total, files_done, is_paused, cancel_requested,
    created_at, started_at, advanced_at, finished_at
FROM transfer_before
    """,
    """
DROP TABLE transfer_before
    """,
    """
CREATE INDEX transfer_failed ON transfer (snapshot_id) WHERE state = 'failed'
    """,
    """
CREATE INDEX transfer_of_snapshot ON transfer (snapshot_id)
    """,
    """
CREATE UNIQUE INDEX transfer_one_live ON transfer (snapshot_id)
    WHERE state IN ('queued', 'restoring', 'copying', 'verifying', 'committed', 'releasing')
    """,
)

_HISTORY: Step = (
    # As above: a new source of accesses changes a constraint, so the table is made anew.
    """
CREATE TABLE snapshot_before AS SELECT * FROM snapshot
    """,
    """
DROP TABLE snapshot
    """,
    """
CREATE TABLE snapshot (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    "key" TEXT NOT NULL,
    dataset TEXT NOT NULL,
    name TEXT NOT NULL,
    path BLOB NOT NULL,
    root_inode INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    disk_bytes INTEGER NOT NULL,
    files INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    first_seen_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    accessed_at INTEGER NOT NULL,
    access_source TEXT NOT NULL,
    read_at INTEGER,
    written_at INTEGER,
    episodes INTEGER NOT NULL,
    weight FLOAT NOT NULL,
    weight_at INTEGER,
    warmed_at INTEGER,
    scanned_at INTEGER,
    gone_at INTEGER,
    problem TEXT,
    CONSTRAINT key_is_16_digits CHECK (length(key) = 16),
    CONSTRAINT access_source_is_known
        CHECK (access_source IN ('events', 'atime', 'reported', 'unobserved', 'discovery')),
    UNIQUE ("key"),
    FOREIGN KEY(dataset) REFERENCES dataset (name)
)
    """,
    """
INSERT INTO snapshot (
    id, "key", dataset, name, path, root_inode, size_bytes, disk_bytes, files, entries, first_seen_at, changed_at,
    accessed_at, access_source, read_at, written_at, episodes, weight, weight_at, warmed_at, scanned_at, gone_at,
    problem
) SELECT
    id, "key", dataset, name, path, root_inode, size_bytes, disk_bytes, files, entries, first_seen_at, changed_at,
    accessed_at, access_source, read_at, written_at, episodes, episodes > 0, accessed_at, warmed_at, scanned_at,
    gone_at, problem
FROM snapshot_before
    """,
    """
DROP TABLE snapshot_before
    """,
    """
CREATE UNIQUE INDEX snapshot_one_per_name ON snapshot (dataset, name) WHERE gone_at IS NULL
    """,
    """
CREATE TABLE access_day (
    snapshot_id INTEGER NOT NULL,
    day INTEGER NOT NULL,
    reads INTEGER NOT NULL,
    writes INTEGER NOT NULL,
    PRIMARY KEY (snapshot_id, day),
    FOREIGN KEY(snapshot_id) REFERENCES snapshot (id)
)
WITHOUT ROWID
    """,
    """
CREATE TABLE access_hour (
    snapshot_id INTEGER NOT NULL,
    hour INTEGER NOT NULL,
    reads INTEGER NOT NULL,
    writes INTEGER NOT NULL,
    PRIMARY KEY (snapshot_id, hour),
    FOREIGN KEY(snapshot_id) REFERENCES snapshot (id)
)
WITHOUT ROWID
    """,
    """
CREATE TABLE episode (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    snapshot_id INTEGER NOT NULL,
    program TEXT NOT NULL,
    uid INTEGER,
    job TEXT,
    source TEXT NOT NULL,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    reads INTEGER NOT NULL,
    writes INTEGER NOT NULL,
    CONSTRAINT source_is_known CHECK (source IN ('events', 'atime', 'reported', 'unobserved', 'discovery')),
    FOREIGN KEY(snapshot_id) REFERENCES snapshot (id)
)
    """,
    """
CREATE INDEX episode_by_time ON episode (last_at)
    """,
    """
CREATE INDEX episode_of_snapshot ON episode (snapshot_id, last_at)
    """,
)

_EPISODES_BEGUN: Step = (
    # How many uses began in an hour or a day; of those before nobody knows. Made anew, for the order of the columns.
    """
CREATE TABLE access_day_before AS SELECT * FROM access_day
    """,
    """
DROP TABLE access_day
    """,
    """
CREATE TABLE access_day (
    snapshot_id INTEGER NOT NULL,
    day INTEGER NOT NULL,
    reads INTEGER NOT NULL,
    writes INTEGER NOT NULL,
    episodes INTEGER NOT NULL,
    PRIMARY KEY (snapshot_id, day),
    FOREIGN KEY(snapshot_id) REFERENCES snapshot (id)
)
WITHOUT ROWID
    """,
    """
INSERT INTO access_day SELECT snapshot_id, day, reads, writes, 0 FROM access_day_before
    """,
    """
DROP TABLE access_day_before
    """,
    """
CREATE TABLE access_hour_before AS SELECT * FROM access_hour
    """,
    """
DROP TABLE access_hour
    """,
    """
CREATE TABLE access_hour (
    snapshot_id INTEGER NOT NULL,
    hour INTEGER NOT NULL,
    reads INTEGER NOT NULL,
    writes INTEGER NOT NULL,
    episodes INTEGER NOT NULL,
    PRIMARY KEY (snapshot_id, hour),
    FOREIGN KEY(snapshot_id) REFERENCES snapshot (id)
)
WITHOUT ROWID
    """,
    """
INSERT INTO access_hour SELECT snapshot_id, hour, reads, writes, 0 FROM access_hour_before
    """,
    """
DROP TABLE access_hour_before
    """,
    # No episode is longer than a day, so that one index serves all questions about times.
    """
DROP INDEX episode_by_time
    """,
    """
CREATE INDEX episode_by_start ON episode (first_at)
    """,
)

STEPS: tuple[Step, ...] = (_INITIAL, _CHAINS, _HISTORY, _EPISODES_BEGUN, upgrade_announced.STEP, upgrade_parts.STEP)

VERSION = len(STEPS)
"""The schema version that this tierd reads and writes."""


def version_of(db: sqlite3.Connection) -> int:
    """How many steps this database has behind it; 0 for an empty one."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def upgrade(db: sqlite3.Connection, steps: Sequence[Step] = STEPS) -> int:
    """Take the steps that are missing, each in one transaction; return how many were taken.

    A crash between steps leaves a database of the version in between, from which the next start goes on.

    Raises:
        CatalogError: a step left rows that refer to nothing; that step was undone.
    """
    # A table can only be rebuilt (SQLite's way to change constraints) while references to it are not enforced;
    # the switch does nothing inside a transaction.
    db.execute("PRAGMA foreign_keys = OFF")
    first = version_of(db)
    for number, step in enumerate(steps[first:], start=first + 1):
        db.execute("BEGIN IMMEDIATE")
        try:
            for statement in step:
                db.execute(statement)
            if broken := db.execute("PRAGMA foreign_key_check").fetchall():
                raise CatalogError(
                    f"upgrade step {number} of the catalog would leave {len(broken)} rows that refer to nothing",
                    hint="Nothing was changed. Go back to the tierd version used before, and report this.",
                )
            db.execute(f"PRAGMA user_version = {number}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    db.execute("PRAGMA foreign_keys = ON")
    return max(0, len(steps) - first)


def keep_copy(db: sqlite3.Connection, path: Path) -> Path:
    """Write a copy of the database as it is now beside it, named after its schema version."""
    copy = path.with_name(f"{path.name}.v{version_of(db)}")
    copy.unlink(missing_ok=True)  # left by an upgrade that did not finish
    with sqlite3.connect(copy) as target:
        db.backup(target)
    target.close()
    return copy
