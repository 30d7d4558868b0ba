"""The sixth step of the schema: parts of snapshots. The table that gains a column is made anew, for their order."""

from __future__ import annotations

STEP = (
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
    only TEXT,
    restore_cost FLOAT,
    waits_for TEXT,
    expected_at INTEGER,
    is_paused BOOLEAN NOT NULL,
    cancel_requested BOOLEAN NOT NULL,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    advanced_at INTEGER NOT NULL,
    finished_at INTEGER,
    due_at INTEGER,
    CONSTRAINT kind_is_known CHECK (kind IN ('migrate', 'recall', 'remove')),
    CONSTRAINT state_is_known CHECK (state IN ('queued', 'restoring', 'copying', 'verifying', 'committed',
        'releasing', 'done', 'failed', 'cancelled')),
    CONSTRAINT finished_at_tells_live CHECK ((finished_at IS NULL) = (state IN ('queued', 'restoring',
        'copying', 'verifying', 'committed', 'releasing'))),
    CONSTRAINT only_a_migrate_releases CHECK (release = 0 OR kind = 'migrate'),
    CONSTRAINT only_a_remove_has_one_tier CHECK ((kind = 'remove') = (source = destination)),
    CONSTRAINT only_restores_wait CHECK (state = 'restoring' OR (waits_for IS NULL AND expected_at IS NULL)),
    CONSTRAINT only_recalls_bring_parts CHECK (only IS NULL OR kind = 'recall'),
    CONSTRAINT attempt_counts_from_one CHECK (attempt >= 1),
    UNIQUE ("key"),
    FOREIGN KEY(snapshot_id) REFERENCES snapshot (id),
    FOREIGN KEY(source) REFERENCES tier (name),
    FOREIGN KEY(destination) REFERENCES tier (name)
)
    """,
    """
INSERT INTO transfer (
    id, "key", snapshot_id, kind, state, source, destination, release, priority, reason, requested_by,
    attempt, not_before, error, error_code, bytes_total, bytes_done, files_total, files_done, first,
    restore_cost, waits_for, expected_at, is_paused, cancel_requested, created_at, started_at, advanced_at,
    finished_at, due_at
) SELECT
    id, "key", snapshot_id, kind, state, source, destination, release, priority, reason, requested_by,
    attempt, not_before, error, error_code, bytes_total, bytes_done, files_total, files_done, first,
    restore_cost, waits_for, expected_at, is_paused, cancel_requested, created_at, started_at, advanced_at,
    finished_at, due_at
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
CREATE UNIQUE INDEX transfer_one_live ON transfer (snapshot_id) WHERE state IN ('queued', 'restoring',
        'copying', 'verifying', 'committed', 'releasing')
    """,
    """
CREATE TABLE part (
    transfer_id INTEGER NOT NULL,
    snapshot_id INTEGER NOT NULL,
    tier TEXT NOT NULL,
    location BLOB NOT NULL,
    content_id TEXT NOT NULL,
    entries INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    as_of INTEGER NOT NULL,
    PRIMARY KEY (transfer_id),
    FOREIGN KEY(transfer_id) REFERENCES transfer (id),
    FOREIGN KEY(snapshot_id) REFERENCES snapshot (id),
    FOREIGN KEY(tier) REFERENCES tier (name)
)
    """,
    """
CREATE INDEX part_of_snapshot ON part (snapshot_id)
    """,
)
