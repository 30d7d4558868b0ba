"""The fifth step of the schema: announced use, deadlines, leases of living things, phases, and what was measured.

Tables that gain columns are made anew, for the order of the columns.
"""

from __future__ import annotations

STEP = (
    """
CREATE TABLE dataset_before AS SELECT * FROM dataset
    """,
    """
DROP TABLE dataset
    """,
    """
CREATE TABLE dataset (
    name TEXT NOT NULL,
    path BLOB NOT NULL,
    home TEXT NOT NULL,
    pattern TEXT,
    is_configured BOOLEAN NOT NULL,
    phase TEXT,
    PRIMARY KEY (name),
    FOREIGN KEY(home) REFERENCES tier (name)
)
    """,
    """
INSERT INTO dataset (
    name, path, home, pattern, is_configured
) SELECT
    name, path, home, pattern, is_configured
FROM dataset_before
    """,
    """
DROP TABLE dataset_before
    """,
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
    floor FLOAT DEFAULT 0 NOT NULL,
    CONSTRAINT key_is_16_digits CHECK (length(key) = 16),
    CONSTRAINT access_source_is_known CHECK (access_source IN ('events', 'atime', 'reported', 'unobserved',
        'discovery')),
    UNIQUE ("key"),
    FOREIGN KEY(dataset) REFERENCES dataset (name)
)
    """,
    """
INSERT INTO snapshot (
    id, "key", dataset, name, path, root_inode, size_bytes, disk_bytes, files, entries, first_seen_at,
    changed_at, accessed_at, access_source, read_at, written_at, episodes, weight, weight_at, warmed_at,
    scanned_at, gone_at, problem
) SELECT
    id, "key", dataset, name, path, root_inode, size_bytes, disk_bytes, files, entries, first_seen_at,
    changed_at, accessed_at, access_source, read_at, written_at, episodes, weight, weight_at, warmed_at,
    scanned_at, gone_at, problem
FROM snapshot_before
    """,
    """
DROP TABLE snapshot_before
    """,
    """
CREATE UNIQUE INDEX snapshot_one_per_name ON snapshot (dataset, name) WHERE gone_at IS NULL
    """,
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
    due_at INTEGER,
    CONSTRAINT kind_is_known CHECK (kind IN ('migrate', 'recall', 'remove')),
    CONSTRAINT state_is_known CHECK (state IN ('queued', 'restoring', 'copying', 'verifying', 'committed',
        'releasing', 'done', 'failed', 'cancelled')),
    CONSTRAINT finished_at_tells_live CHECK ((finished_at IS NULL) = (state IN ('queued', 'restoring',
        'copying', 'verifying', 'committed', 'releasing'))),
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
    id, "key", snapshot_id, kind, state, source, destination, release, priority, reason, requested_by,
    attempt, not_before, error, error_code, bytes_total, bytes_done, files_total, files_done, first,
    restore_cost, waits_for, expected_at, is_paused, cancel_requested, created_at, started_at, advanced_at,
    finished_at
) SELECT
    id, "key", snapshot_id, kind, state, source, destination, release, priority, reason, requested_by,
    attempt, not_before, error, error_code, bytes_total, bytes_done, files_total, files_done, first,
    restore_cost, waits_for, expected_at, is_paused, cancel_requested, created_at, started_at, advanced_at,
    finished_at
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
CREATE TABLE hold_before AS SELECT * FROM hold
    """,
    """
DROP TABLE hold
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
    pid INTEGER,
    pid_started INTEGER,
    boot_id TEXT,
    job TEXT,
    CONSTRAINT kind_is_known CHECK (kind IN ('lease', 'pin')),
    CONSTRAINT only_leases_expire CHECK ((kind = 'pin') = (expires_at IS NULL)),
    FOREIGN KEY(snapshot_id) REFERENCES snapshot (id)
)
    """,
    """
INSERT INTO hold (
    id, snapshot_id, kind, holder, since, renewed_at, expires_at, ended_at, generation, note, request_key
) SELECT
    id, snapshot_id, kind, holder, since, renewed_at, expires_at, ended_at, generation, note, request_key
FROM hold_before
    """,
    """
DROP TABLE hold_before
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
CREATE TABLE announcement (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    snapshot_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    holder TEXT NOT NULL,
    use_at INTEGER NOT NULL,
    until INTEGER NOT NULL,
    confidence FLOAT NOT NULL,
    note TEXT,
    request_key TEXT,
    created_at INTEGER NOT NULL,
    ended_at INTEGER,
    CONSTRAINT source_is_known CHECK (source IN ('caller', 'schedule', 'scheduler')),
    CONSTRAINT confidence_is_a_share CHECK (confidence > 0 AND confidence <= 1),
    CONSTRAINT ends_after_it_begins CHECK (until >= use_at),
    FOREIGN KEY(snapshot_id) REFERENCES snapshot (id)
)
    """,
    """
CREATE UNIQUE INDEX announcement_one_per_request ON announcement (request_key) WHERE ended_at IS NULL
    """,
    """
CREATE INDEX announcement_open ON announcement (snapshot_id) WHERE ended_at IS NULL
    """,
    """
CREATE TABLE counter (
    name TEXT NOT NULL,
    value FLOAT NOT NULL,
    PRIMARY KEY (name)
)
    """,
    """
CREATE TABLE rate (
    source TEXT NOT NULL,
    destination TEXT NOT NULL,
    start_s FLOAT NOT NULL,
    s_per_byte FLOAT NOT NULL,
    s_per_file FLOAT NOT NULL,
    samples INTEGER NOT NULL,
    learned TEXT NOT NULL,
    PRIMARY KEY (source, destination),
    FOREIGN KEY(source) REFERENCES tier (name),
    FOREIGN KEY(destination) REFERENCES tier (name)
)
 WITHOUT ROWID
    """,
)
