"""Carry a plan out: the paths first, then the catalog in one transaction.

Killed in between, it is simply run again: paths that lead to copies already are found as they are.
"""

from __future__ import annotations

import contextlib
import os
import stat
from datetime import datetime
from pathlib import Path

from tierd.catalog import Catalog, Restored
from tierd.catalog.remembering import opened
from tierd.config import Config
from tierd.errors import SourceGone
from tierd.fs.linux import rename_noreplace
from tierd.fs.walk import open_root, show, translated
from tierd.move.rebuild.values import Action, Found, Plan, Restore
from tierd.storage.posix.homepath import open_below
from tierd.storage.posix.identity import PRIVATE


def apply(
    plan: Plan, found: Found, config: Config, catalog: Catalog, *, now: datetime, backup: Path | None = None
) -> int:
    """Make the paths lead to their copies, and enter everything into the catalog, which must be empty.

    Args:
        backup: an older catalog; what the tiers do not know is taken from it.

    Returns:
        of how many snapshots the backup knew something.

    Raises:
        NotFound: the backup is none; nothing was done.
        StorageError, SourceGone: a path could not be made to lead to its copy; the catalog is still empty.
        CatalogError
    """
    if backup is not None:
        with opened(backup):  # a faulty one is told before anything is done
            pass
    for restore in plan.restored:
        _lead(restore, config)
    catalog.configure(config.tiers, config.datasets)
    with catalog.together():
        for name, uuid in found.identities.items():
            catalog.set_tier_identity(name, uuid)
        for restore in plan.restored:
            catalog.restore_snapshot(_restored(restore, now), now=now)
        return 0 if backup is None else catalog.take_over(backup, is_there=_is_there, now=now)


def _is_there(path: Path, inode: int) -> bool:
    try:
        st = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(st.st_mode) and st.st_ino == inode


def _restored(restore: Restore, now: datetime) -> Restored:
    return Restored(
        key=restore.key,
        ref=restore.ref,
        path=restore.path,
        root_inode=restore.root_inode,
        size_bytes=restore.newest.size_bytes,
        files=restore.newest.files,
        entries=restore.newest.entries,
        changed_at=restore.newest.as_of or now,
        placements=restore.placements,
    )


def _lead(restore: Restore, config: Config) -> None:
    """Put at the path what shall be there. Whatever came there since it was looked at makes this fail."""
    if restore.action not in (Action.MAKE_LINK, Action.PUT_BACK):
        return
    root = next(t.root for t in config.tiers if t.name == restore.home)
    path = os.fsencode(restore.path)
    try:
        parent = open_below(root, os.path.dirname(path))
    except SourceGone as error:
        raise SourceGone(error.message, hint="Create the directory of the dataset, and rebuild again.") from error
    name = os.path.basename(path)
    try:
        with translated(show(path)):
            if restore.target is not None:
                owner = os.fstat(parent)
                os.symlink(os.fsencode(restore.target), name, dir_fd=parent)
                with contextlib.suppress(PermissionError):  # who may remove snapshots may remove the link
                    os.chown(name, owner.st_uid, owner.st_gid, dir_fd=parent, follow_symlinks=False)
            else:
                aside = open_root(os.fsencode(root / PRIVATE / "aside"))
                try:
                    rename_noreplace(aside, os.fsencode(restore.key), parent, name)
                    os.fsync(aside)
                finally:
                    os.close(aside)
            os.fsync(parent)
    finally:
        os.close(parent)
