"""Opening the database: the lock, the checks that refuse what cannot be trusted, connections, error translation.

Owns every way in which SQLite is configured. Knows nothing of snapshots or transfers.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool, StaticPool
from sqlalchemy.schema import CreateIndex, CreateTable

from tierd.catalog import upgrades
from tierd.catalog.schema import metadata
from tierd.errors import CatalogCorrupt, CatalogError, CatalogLocked, CatalogTooNew, NotFound

APPLICATION_ID = 0x74696572
"""`PRAGMA application_id` of a catalog: "tier" in ASCII."""

_BUSY_TIMEOUT_S = 5.0
_POLL_S = 0.05
_READERS = 64  # more than the API's threads, so that a reader never waits for another

_DAMAGED_HINT = (
    "Restore it from a backup, or move it and its -wal and -shm files to another place and run `tierd rebuild`, which "
    "fills a new catalog from the tiers. No data on the tiers was touched."
)
_ACCESS_HINT = "Run tierd as the user that owns the directory of the database, on a local file system that is writable."


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An open database: `reader` may only read, `writer` has one connection for whoever holds the write lock."""

    path: Path
    lock_fd: int
    reader: Engine
    writer: Engine

    def close(self) -> None:
        self.reader.dispose()
        self.writer.dispose()
        # Only close: an explicit unlock would also take the lock from workers that inherited the descriptor.
        os.close(self.lock_fd)


def open_database(path: Path, *, wait_s: float) -> Opened:
    """Lock, check, create or upgrade the database and connect to it.

    Raises:
        CatalogLocked, CatalogTooNew, CatalogCorrupt, CatalogError: each with what to do about it.
    """
    lock_fd = _lock(path, wait_s)
    try:
        with translated(path):
            _prepare(path, wait_s)
            return Opened(path=path, lock_fd=lock_fd, reader=_reader(path), writer=_writer(path))
    except BaseException:
        os.close(lock_fd)
        raise


def look_at_database(path: Path) -> Opened:
    """Connect to a database that may belong to a daemon, to read only: no lock is taken, nothing is changed.

    Raises:
        NotFound: there is none.
        CatalogTooNew, CatalogCorrupt, CatalogError: it cannot be read.
    """
    if not path.exists():
        raise NotFound(f"there is no catalog {path}", hint="`tierd rebuild` makes one from what lies on the tiers.")
    with translated(path):
        db = _connect(path, timeout_s=_BUSY_TIMEOUT_S, read_only=True)
        try:
            _check(db, path)
            if upgrades.version_of(db) < upgrades.VERSION:
                raise CatalogError(
                    f"catalog {path} was made by an older tierd", hint="Start the daemon once: it upgrades the catalog."
                )
        finally:
            db.close()
        reader = _reader(path)
        return Opened(path=path, lock_fd=os.open(path, os.O_RDONLY | os.O_CLOEXEC), reader=reader, writer=reader)


def _lock(path: Path, wait_s: float) -> int:
    lock = path.with_name(path.name + ".lock")
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as e:
        hint = "Create the directory first." if isinstance(e, FileNotFoundError) else _ACCESS_HINT
        raise CatalogError(f"cannot open the lock of the catalog, {lock}: {e.strerror}", hint=hint) from e
    try:
        _wait_for_lock(fd, path, time.monotonic() + wait_s)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as e:
        os.close(fd)
        raise CatalogError(f"cannot lock the catalog, {lock}: {e.strerror}", hint=_ACCESS_HINT) from e
    except BaseException:
        os.close(fd)
        raise
    return fd


def _wait_for_lock(fd: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise CatalogLocked(
                    f"catalog {path} belongs to another daemon (pid {owner}, or a worker it left behind)",
                    hint="Stop the other daemon, or give this one a database of its own.",
                ) from None
            time.sleep(_POLL_S)
        else:
            return


def _prepare(path: Path, wait_s: float) -> None:
    """Make sure that there is a sound database of this version at the path."""
    if not path.exists():
        wal = path.with_name(path.name + "-wal")
        if wal.exists() and wal.stat().st_size > 0:
            # SQLite would replay the old log into a new database and damage it.
            raise CatalogCorrupt(f"catalog {path} is missing but its log {wal.name} is there", hint=_DAMAGED_HINT)
        _create(path)
    if path.stat().st_size == 0:  # _create never leaves that: the file was truncated
        raise CatalogCorrupt(f"catalog {path} is empty (0 bytes)", hint=_DAMAGED_HINT)
    db = _connect(path, timeout_s=wait_s)
    try:
        _check(db, path)
        if upgrades.version_of(db) < upgrades.VERSION:
            upgrades.keep_copy(db, path)
            upgrades.upgrade(db)
        mode = str(db.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        if mode != "wal":
            raise CatalogError(f"catalog {path} cannot use a write-ahead log (got {mode!r})", hint=_ACCESS_HINT)
        # A write that changes nothing fails here, not at the first transfer, when the file is read-only.
        db.execute(f"PRAGMA user_version = {upgrades.VERSION}")
    finally:
        db.close()


def _check(db: sqlite3.Connection, path: Path) -> None:
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise CatalogError(
            f"{path} is a database, but not a tierd catalog", hint="Configure another path for the database."
        )
    version = upgrades.version_of(db)
    if version > upgrades.VERSION:
        raise CatalogTooNew(
            f"catalog {path} has schema version {version}, this tierd knows {upgrades.VERSION}",
            hint=f"Install the newer tierd again, or go back to the copy kept before the upgrade "
            f"({path.name}.v{upgrades.VERSION}, if it is there); that forgets what happened since.",
        )
    faults = [str(row[0]) for row in db.execute("PRAGMA quick_check(3)")]
    if faults != ["ok"]:
        raise CatalogCorrupt(f"catalog {path} is damaged: {'; '.join(faults)}", hint=_DAMAGED_HINT)


def _create(path: Path) -> None:
    """Build a new database under another name and rename it, so that a crash leaves a whole one or none."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    db = sqlite3.connect(new, isolation_level=None)
    try:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE")
        for statement in fresh_schema():
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {upgrades.VERSION}")
        db.execute("COMMIT")
    finally:
        db.close()
    new.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def fresh_schema() -> list[str]:
    """The statements that create an empty database of the present version."""
    statements = []
    for table in metadata.sorted_tables:
        statements.append(str(CreateTable(table).compile(dialect=_DIALECT)))
        statements += [str(CreateIndex(i).compile(dialect=_DIALECT)) for i in sorted(table.indexes, key=_index_name)]
    return statements


def _index_name(index: object) -> str:
    return str(getattr(index, "name", ""))


def _connect(path: Path, *, timeout_s: float, read_only: bool = False) -> sqlite3.Connection:
    # isolation_level None: the driver begins no transactions of its own, ours say which kind they are.
    # A connection moves between threads, but only one uses it at a time.
    db = sqlite3.connect(os.fspath(path), timeout=timeout_s, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA synchronous = FULL")  # a state that was acknowledged survives a power cut
    if read_only:
        db.execute("PRAGMA query_only = ON")
    return db


def _reader(path: Path) -> Engine:
    engine = create_engine(
        "sqlite+pysqlite://",
        creator=lambda: _connect(path, timeout_s=_BUSY_TIMEOUT_S, read_only=True),
        poolclass=QueuePool,
        pool_size=8,
        max_overflow=_READERS - 8,
        pool_timeout=30,
    )
    event.listen(engine, "begin", _begin_deferred)
    return engine


def _writer(path: Path) -> Engine:
    engine = create_engine(
        "sqlite+pysqlite://", creator=lambda: _connect(path, timeout_s=_BUSY_TIMEOUT_S), poolclass=StaticPool
    )
    event.listen(engine, "begin", _begin_immediate)
    return engine


def _begin_deferred(conn: Connection) -> None:
    conn.exec_driver_sql("BEGIN DEFERRED")


def _begin_immediate(conn: Connection) -> None:
    # Take the write lock first: a transaction that reads and then writes could otherwise be refused half-way.
    conn.exec_driver_sql("BEGIN IMMEDIATE")


_DIALECT = create_engine("sqlite+pysqlite://").dialect


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into errors of the catalog."""
    try:
        yield
    except PoolTimeout as e:
        raise CatalogError(f"catalog {path}: no free connection", hint="Too many requests at once; try again.") from e
    except DBAPIError as e:
        if isinstance(e.orig, sqlite3.Error):
            raise _translate(e.orig, path) from e
        raise CatalogError(f"catalog {path}: {e}") from e
    except sqlite3.Error as e:
        raise _translate(e, path) from e
    except OSError as e:
        raise CatalogError(f"catalog {path}: {e.strerror or e}", hint=_ACCESS_HINT) from e


def _translate(error: sqlite3.Error, path: Path) -> CatalogError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the class of the error
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return CatalogLocked(
            f"catalog {path} is locked by another program",
            hint="Close the sqlite3 shell or backup that has a transaction open on it, then try again.",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return CatalogCorrupt(f"catalog {path} is damaged: {error}", hint=_DAMAGED_HINT)
    if code == sqlite3.SQLITE_FULL:
        return CatalogError(f"catalog {path}: no room left to write", hint="Free space on its file system.")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return CatalogError(f"catalog {path}: {error}", hint=_ACCESS_HINT)
    if code == sqlite3.SQLITE_IOERR:
        return CatalogError(f"catalog {path}: {error}", hint="Look into the kernel log for errors of the disk.")
    return CatalogError(f"catalog {path}: {error}")
