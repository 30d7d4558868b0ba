"""Entering what the tiers themselves say into an empty catalog, and reading a catalog that belongs to a daemon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from sqlalchemy import insert, select

from tierd.catalog import effects, engine, events, remembering
from tierd.catalog.lookup import dataset_must_exist, snapshot_by_id
from tierd.catalog.schema import snapshot, transfer
from tierd.catalog.session import Session
from tierd.model.dataset import AccessSource, Snapshot, SnapshotId, SnapshotRef
from tierd.model.effect import PutPlacement


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A snapshot as its copies describe it.

    Attributes:
        root_inode: of the tree on the home tier; 0 where there is none.
        changed_at: no later than this its bytes were written.
    """

    key: str
    ref: SnapshotRef
    path: Path
    root_inode: int
    size_bytes: int
    files: int
    entries: int
    changed_at: datetime
    placements: tuple[PutPlacement, ...]


class Rebuilding(Session):
    """What `tierd rebuild` and `tierd audit` need of a catalog."""

    @classmethod
    def look(cls, path: Path) -> Self:
        """Open a catalog to read it only, whether it belongs to a daemon or not.

        Raises:
            NotFound: there is none.
            CatalogError: it cannot be read, or is of another version of tierd.
        """
        return cls(engine.look_at_database(path))

    def is_empty(self) -> bool:
        """Whether it never knew a snapshot."""
        with self._reading() as conn:
            return conn.scalar(select(snapshot.c.id).limit(1)) is None

    def transfer_keys(self) -> set[str]:
        """Keys of all transfers there ever were, as far as they are remembered."""
        with self._reading() as conn:
            return set(conn.scalars(select(transfer.c.key)))

    def restore_snapshot(self, found: Restored, *, now: datetime) -> Snapshot:
        """Enter a snapshot and its copies as they were found on the tiers.

        It counts as used now: unknown is never cold.

        Raises:
            NotFound: the dataset or a tier is not configured.
        """
        with self._writing() as conn:
            dataset_must_exist(conn, found.ref.dataset)
            row = insert(snapshot).values(
                key=found.key,
                dataset=found.ref.dataset,
                name=found.ref.name,
                path=found.path,
                root_inode=found.root_inode,
                size_bytes=found.size_bytes,
                disk_bytes=found.size_bytes,
                files=found.files,
                entries=found.entries,
                first_seen_at=now,
                changed_at=min(found.changed_at, now),
                accessed_at=now,
                access_source=AccessSource.DISCOVERY,
                episodes=0,
                weight=0.0,
            )
            added = snapshot_by_id(conn, SnapshotId(conn.execute(row).lastrowid))
            where = ", ".join(put.tier for put in found.placements)
            events.append_about(
                conn, added, "snapshot.restored", now=now, message=f"by rebuild, from what lies on {where}"
            )
            effects.apply(conn, added.id, found.placements, now=now)
            return snapshot_by_id(conn, added.id)

    def take_over(self, backup: Path, *, is_there: Callable[[Path, int], bool], now: datetime) -> int:
        """Enter what a backup knows and the tiers do not: uses, holds, announcements, phases, rates.

        Args:
            is_there: whether the directory at a path is still the one of that inode.

        Returns:
            of how many snapshots it knew something.

        Raises:
            NotFound: it is no backup of a catalog.
            CatalogError: it is damaged, or of a newer tierd.
        """
        with remembering.opened(backup) as old, self._writing() as conn:
            return remembering.take_over(conn, old, is_there=is_there, now=now)
