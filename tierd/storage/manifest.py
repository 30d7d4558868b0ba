"""The manifest: what a snapshot consists of, entry by entry, in one SQLite file per copy.

It owns the table of entries, the digests, the stamps by which a tree is proven unchanged, and the content id (how
that is computed is written in `tierd.storage.entry`). It knows nothing of how bytes move.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import starmap
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from blake3 import blake3

from tierd.errors import Corrupt, NotFound, StorageError, TierFull, Unsupported
from tierd.storage.entry import CHUNK, CONTENT_COLUMNS, CONTENT_HEADER, Entry, Side, Stamp, canonical, stamp_of

__all__ = ["CHUNK", "Entry", "Manifest", "Side", "Stamp", "Totals", "delete_manifest", "stamp_of"]

FORMAT = 1
_APPLICATION_ID = 0x74726D66
_PAGE = 8192

_SCHEMA = f"""
PRAGMA page_size = {_PAGE};
PRAGMA application_id = {_APPLICATION_ID};
BEGIN;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE entry (
    path BLOB PRIMARY KEY, type TEXT NOT NULL, size INTEGER NOT NULL, mode INTEGER NOT NULL, uid INTEGER NOT NULL,
    gid INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, atime_ns INTEGER NOT NULL, rdev INTEGER NOT NULL, xattrs BLOB,
    target BLOB, link_group BLOB, digest BLOB, source_inode INTEGER, source_ctime_ns INTEGER, copy_inode INTEGER,
    copy_ctime_ns INTEGER, attempt INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX entry_link_group ON entry (link_group) WHERE link_group IS NOT NULL;
CREATE TABLE chunks (path BLOB PRIMARY KEY, digests BLOB NOT NULL) STRICT;
CREATE TABLE link_name (inode INTEGER, path BLOB, count INTEGER NOT NULL, PRIMARY KEY (inode, path))
    STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('format', '{FORMAT}');
COMMIT;
"""


class Totals(NamedTuple):
    """Sums over a manifest: entries with the root, regular file names, bytes with each hard-linked file once."""

    entries: int
    files: int
    size_bytes: int


_COLUMNS = ", ".join(Entry._fields)
_WITHOUT_DATA = " AND (type <> 'f' OR link_group <> path)"
_INSERT = f"INSERT OR REPLACE INTO entry ({_COLUMNS}) VALUES ({', '.join('?' * len(Entry._fields))})"


class Manifest:
    """One manifest file, used by one thread at a time. Use `create` or `open`."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self.path = path
        self._db = db
        self._is_bulk = False

    # -- opening and closing ---------------------------------------------------------------------------

    @classmethod
    def create(cls, path: Path) -> Manifest:
        """Make an empty manifest; the file must not exist."""
        if path.exists():
            raise StorageError(f"manifest {path} exists already")
        with _reported(path):
            db = _connect(path)
            db.executescript(_SCHEMA)
        return cls(path, db)

    @classmethod
    def open(cls, path: Path) -> Manifest:
        """Open a manifest.

        Raises:
            NotFound: there is no such file.
            Corrupt: it is damaged or not a manifest.
            Unsupported: a newer tierd wrote it.
        """
        if not path.is_file():
            raise NotFound(f"there is no manifest {path}")
        with _reported(path):
            db = _connect(path)
            try:
                _check_format(db, path)
            except BaseException:
                db.close()
                raise
        return cls(path, db)

    def close(self) -> None:
        """Close the file; what was not committed is rolled back."""
        if self._is_bulk:
            with suppress(StorageError):  # a full disk: what was committed is in the WAL, and found when next opened
                self.end_bulk()
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def copy_to(self, path: Path, *, durable: bool = True) -> Manifest:
        """Write a copy of this manifest to a new file and open it.

        Args:
            durable: False for one that is soon deleted: nothing that is written to it is waited for.
        """
        if path.exists():
            raise StorageError(f"manifest {path} exists already")
        with self._guard():
            self._db.commit()
            target = sqlite3.connect(path, isolation_level="DEFERRED")
            try:
                target.execute("PRAGMA synchronous = OFF")
                self._db.backup(target, pages=4096)
            finally:
                target.close()
        if durable:
            _fsync(path)
        copy = Manifest.open(path)
        if not durable:
            copy.execute("PRAGMA synchronous = OFF")
        return copy

    # -- bulk writing ----------------------------------------------------------------------------------

    def begin_bulk(self) -> None:
        """Switch to fast writing for one exclusive writer: commits are cheap, and last once `end_bulk` returned.

        After a crash, even a power cut, the file is consistent: it holds what was committed up to some point.
        """
        with self._guard():
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA wal_autocheckpoint = 8192")
        self._is_bulk = True

    def end_bulk(self) -> None:
        """Commit, and make it one durable file again."""
        with self._guard():
            self._db.commit()
            self._db.execute("PRAGMA journal_mode = DELETE")
            self._db.execute("PRAGMA locking_mode = NORMAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("SELECT count(*) FROM meta").fetchone()  # leaves the exclusive lock
        self._is_bulk = False

    def commit(self) -> None:
        with self._guard():
            self._db.commit()

    # -- meta --------------------------------------------------------------------------------------------

    @property
    def meta(self) -> Mapping[str, str]:
        """Small facts about the manifest: `format`, and what its users keep there."""
        with self._guard():
            return dict(self._db.execute("SELECT key, value FROM meta"))

    def set_meta(self, values: Mapping[str, str | None]) -> None:
        """Set facts durably; None removes one."""
        with self._guard():
            for key, value in values.items():
                if value is None:
                    self._db.execute("DELETE FROM meta WHERE key = ?", (key,))
                else:
                    self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
            self._db.commit()

    # -- entries -----------------------------------------------------------------------------------------

    def add(self, entries: Iterable[Sequence[object]]) -> None:
        """Add or replace entries (`Entry` or plain tuples of its fields); not committed."""
        with self._guard():
            self._db.executemany(_INSERT, entries)
            self._db.execute("DELETE FROM meta WHERE key = 'content_id'")

    def add_chunks(self, path: bytes, digests: bytes) -> None:
        """Keep the chunk digests of a large file; not committed."""
        with self._guard():
            self._db.execute("INSERT OR REPLACE INTO chunks VALUES (?, ?)", (path, digests))

    def remove(self, paths: Iterable[bytes]) -> None:
        """Forget entries; not committed."""
        with self._guard():
            keys = [(path,) for path in paths]
            self._db.executemany("DELETE FROM entry WHERE path = ?", keys)
            self._db.executemany("DELETE FROM chunks WHERE path = ?", keys)
            self._db.execute("DELETE FROM meta WHERE key = 'content_id'")

    def find(self, path: bytes) -> Entry | None:
        """The entry of this path, or None."""
        with self._guard():
            row = self._db.execute(f"SELECT {_COLUMNS} FROM entry WHERE path = ?", (path,)).fetchone()
        return None if row is None else Entry._make(row)

    def find_all(self, paths: Sequence[bytes]) -> dict[bytes, Entry]:
        """The entries of these paths (at most a few hundred at once)."""
        marks = ", ".join("?" * len(paths))
        with self._guard():
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM entry WHERE path IN ({marks})", paths)
            return {row[0]: Entry._make(row) for row in rows}

    def chunks(self, path: bytes) -> list[bytes]:
        """The digests of the chunks of a file larger than 4 MiB; empty for any other entry."""
        with self._guard():
            row = self._db.execute("SELECT digests FROM chunks WHERE path = ?", (path,)).fetchone()
        blob = b"" if row is None else row[0]
        return [blob[at : at + 32] for at in range(0, len(blob), 32)]

    def entries(
        self,
        *,
        after: bytes | None = None,
        type: str | None = None,  # noqa: A002  the column's name
        without_data: bool = False,
    ) -> Iterator[Entry]:
        """All entries in path order, or some of them; reads a thousand at a time.

        Args:
            after: only those after this path.
            type: only those of this type.
            without_data: only those that are no files, or a further name of one.
        """
        where = "path > ?" + ("" if type is None else " AND type = ?") + (_WITHOUT_DATA if without_data else "")
        query = f"SELECT {_COLUMNS} FROM entry WHERE {where} ORDER BY path LIMIT 1000"
        if after is None:
            root = self.find(b"")
            if root is not None and type in (None, root.type):
                yield root
        last = after or b""
        while True:
            with self._guard():
                rows = self._db.execute(query, (last,) if type is None else (last, type)).fetchall()
            yield from map(Entry._make, rows)
            if len(rows) < 1000:
                return
            last = rows[-1][0]

    def directories_from_below(self) -> Iterator[Entry]:
        """All directories, each after everything that lies in it."""
        query = f"SELECT {_COLUMNS} FROM entry WHERE type = 'd' AND path < ? ORDER BY path DESC LIMIT 1000"
        with self._guard():
            top = self._db.execute("SELECT max(path) FROM entry").fetchone()[0]
        last = b"" if top is None else top + b"\0"
        while True:
            with self._guard():
                rows = self._db.execute(query, (last,)).fetchall()
            yield from map(Entry._make, rows)
            if len(rows) < 1000:
                return
            last = rows[-1][0]

    def totals(self) -> Totals:
        with self._guard():
            row = self._db.execute(
                "SELECT count(*), coalesce(sum(type = 'f'), 0),"
                " coalesce(sum(CASE WHEN type = 'f' AND (link_group IS NULL OR link_group = path) THEN size END), 0)"
                " FROM entry"
            ).fetchone()
        return Totals(*row)

    def root_stamp(self, side: Side) -> Stamp | None:
        """The stamp of the root directory; None when that side has none (a copy that was never verified)."""
        root = self.find(b"")
        return None if root is None else stamp_of(root, side)

    def content_id(self) -> str:
        """The digest of everything a user sees (see the module); computed once, then kept until entries change."""
        known = self.meta.get("content_id")
        if known is not None:
            return known
        found = self.compute_content_id()
        self.set_meta({"content_id": found})
        return found

    def compute_content_id(self) -> str:
        """The same from the entries alone, whatever is kept."""
        hasher = blake3(CONTENT_HEADER)
        with self._guard():
            rows = self._db.execute(f"SELECT {', '.join(CONTENT_COLUMNS)} FROM entry ORDER BY path")
            while batch := rows.fetchmany(1000):
                hasher.update(b"".join(starmap(canonical, batch)))
        found: str = hasher.hexdigest()
        return found

    # -- for the copy engine -------------------------------------------------------------------------------

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run one statement; only the posix engine, whose journal this file is while it copies, uses it."""
        with self._guard():
            return self._db.execute(sql, parameters).fetchall()

    def execute_many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        with self._guard():
            self._db.executemany(sql, rows)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        with _reported(self.path):
            yield


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=10.0, isolation_level="DEFERRED", check_same_thread=False)
    db.execute("PRAGMA cache_size = -16384")
    db.execute("PRAGMA synchronous = FULL")
    return db


def _check_format(db: sqlite3.Connection, path: Path) -> None:
    if db.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise Corrupt(f"{path} is not a manifest", hint="Run `tierd audit`.")
    row = db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
    if row is None or not row[0].isdigit():
        raise Corrupt(f"manifest {path} does not say its format", hint="Run `tierd audit`.")
    if int(row[0]) > FORMAT:
        raise Unsupported(f"manifest {path} has format {row[0]}, this tierd reads {FORMAT}", hint="Upgrade tierd.")
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    size = db.execute("PRAGMA page_size").fetchone()[0]
    if not Path(f"{path}-wal").exists() and path.stat().st_size < pages * size:
        raise Corrupt(f"manifest {path} is cut off", hint="Run `tierd audit`.")
    db.execute(f"SELECT {_COLUMNS} FROM entry LIMIT 1").fetchone()


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into tierd's."""
    try:
        yield
    except sqlite3.OperationalError as error:
        name = getattr(error, "sqlite_errorname", "")
        if name in ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC"):
            raise TierFull(f"no room to write manifest {path}", hint="Free bytes or inodes on that tier.") from error
        if name == "SQLITE_ERROR":  # no such table or column: not a manifest
            raise Corrupt(f"manifest {path} is damaged: {error}", hint="Run `tierd audit`.") from error
        raise StorageError(f"manifest {path} cannot be used: {error}") from error
    except sqlite3.DatabaseError as error:
        raise Corrupt(f"manifest {path} is damaged: {error}", hint="Run `tierd audit`.") from error


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def delete_manifest(path: Path) -> None:
    """Remove a manifest and what SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        with suppress(FileNotFoundError):
            Path(f"{path}{suffix}").unlink()
