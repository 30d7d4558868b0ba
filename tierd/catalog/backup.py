"""Copies of the database for safe keeping, made while the daemon works on it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from tierd.catalog.engine import APPLICATION_ID, look_at_database, translated
from tierd.errors import CatalogCorrupt, CatalogError, Conflict


def back_up(database: Path, to: Path) -> int:
    """Write a copy of the catalog as it is at this moment, check it to the last page, and put it in place.

    A file of that name is replaced only if it is a copy of a catalog, and only by a sound one.

    Returns:
        the size of the copy in bytes.

    Raises:
        NotFound: there is no catalog.
        Conflict: the name belongs to something else.
        CatalogError: the catalog cannot be read, or the copy not be written.
    """
    look_at_database(database).close()
    _check_name(database, to)
    new = to.with_name(f"{to.name}.new")
    try:
        _copy(database, new)
        size = new.stat().st_size
        new.replace(to)
        _sync(to.parent)
    except OSError as e:
        hint = "Choose a directory that exists, that you may write to, and that has room."
        raise CatalogError(f"cannot write the backup {to}: {e.strerror or e}", hint=hint) from e
    finally:
        new.unlink(missing_ok=True)
    return size


def _check_name(database: Path, to: Path) -> None:
    if not to.exists():
        return
    if to.samefile(database):
        raise Conflict(f"{to} is the catalog itself", hint="Name another file, best on another disk.")
    if not to.is_file() or not is_catalog(to):
        raise Conflict(f"{to} is there and is no backup of a catalog", hint="Name another file.")


def is_catalog(path: Path) -> bool:
    """Whether a file is a catalog or a backup of one."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            return bool(db.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID)
    except sqlite3.Error:
        return False


def _copy(database: Path, new: Path) -> None:
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)  # it says who read what
    with translated(database), closing(sqlite3.connect(database)) as source:
        source.execute("PRAGMA query_only = ON")
        with translated(new), closing(sqlite3.connect(new, isolation_level=None)) as target:
            # All pages in one step: one state, whatever the daemon writes meanwhile; it does not wait for this.
            source.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")  # one file, which can be copied like any other
            faults = [str(row[0]) for row in target.execute("PRAGMA integrity_check(3)")]
            if faults != ["ok"]:
                raise CatalogCorrupt(
                    f"the copy of catalog {database} is damaged: {'; '.join(faults)}",
                    hint="An older backup was kept. Look into the kernel log for errors of the disk.",
                )
    _sync(new)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
