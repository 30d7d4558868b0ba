"""Snapshots: found, measured, used, renamed, gone."""

from __future__ import annotations

import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select, update

from tierd.catalog import events, noting, rows
from tierd.catalog.advance import stop_removal
from tierd.catalog.lookup import dataset_must_exist, snapshot_by_id, snapshot_by_ref, tier_must_exist
from tierd.catalog.schema import placement, snapshot
from tierd.catalog.session import Session
from tierd.errors import Conflict
from tierd.model.dataset import AccessSource, Snapshot, SnapshotId, SnapshotRef
from tierd.model.event import Detail
from tierd.model.observation import AccessBatch, Measure
from tierd.model.placement import PlacementState
from tierd.model.tier import TierName


def _set(conn: Connection, snapshot_id: SnapshotId, **values: Any) -> Snapshot:
    conn.execute(update(snapshot).where(snapshot.c.id == snapshot_id).values(**values))
    return snapshot_by_id(conn, snapshot_id)


def _name_must_be_free(conn: Connection, ref: SnapshotRef, *, but: SnapshotId | None = None) -> None:
    owner = conn.scalar(
        select(snapshot.c.id).where(
            snapshot.c.dataset == ref.dataset, snapshot.c.name == ref.name, snapshot.c.gone_at.is_(None)
        )
    )
    if owner is not None and owner != but:
        raise Conflict(f"there is a snapshot {ref} already")


def _measured(measure: Measure, now: datetime) -> dict[str, Any]:
    return {
        "size_bytes": measure.size_bytes,
        "disk_bytes": measure.disk_bytes,
        "files": measure.files,
        "entries": measure.entries,
        "problem": measure.problem,
        "scanned_at": now,
    }


def _note_problem(conn: Connection, about: Snapshot, old: str | None, now: datetime) -> None:
    if about.problem != old:
        kind = "snapshot.problem" if about.problem else "snapshot.problem_solved"
        events.append_about(conn, about, kind, now=now, message=about.problem or "")


class Snapshots(Session):
    """What is known about the snapshots themselves."""

    def add_snapshot(
        self,
        ref: SnapshotRef,
        *,
        path: Path,
        root_inode: int,
        home: TierName,
        now: datetime,
        measure: Measure | None = None,
    ) -> Snapshot:
        """Enter a snapshot that was found, with the original as a verified placement on its home tier.

        It counts as used now: unknown is never cold. Without a measure it counts as changed now, too.

        Raises:
            NotFound: the dataset or the tier is not configured.
            Conflict: there is a snapshot of this name already.
        """
        values: dict[str, Any] = {"size_bytes": 0, "disk_bytes": 0, "files": 0, "entries": 0, "changed_at": now}
        if measure is not None:
            values = _measured(measure, now) | {"changed_at": min(measure.newest_change, now)}
        with self._writing() as conn:
            dataset_must_exist(conn, ref.dataset)
            tier_must_exist(conn, home)
            _name_must_be_free(conn, ref)
            row = insert(snapshot).values(
                key=secrets.token_hex(8),
                dataset=ref.dataset,
                name=ref.name,
                path=path,
                root_inode=root_inode,
                first_seen_at=now,
                accessed_at=now,
                access_source=AccessSource.DISCOVERY,
                episodes=0,
                weight=0.0,
                **values,
            )
            added = snapshot_by_id(conn, SnapshotId(conn.execute(row).lastrowid))
            original = insert(placement).values(
                snapshot_id=added.id,
                tier=home,
                state=PlacementState.VERIFIED,
                size_bytes=added.size_bytes,
                entries=added.entries,
            )
            conn.execute(original)
            detail: Detail = {"tier": home, "size_bytes": added.size_bytes, "entries": added.entries}
            events.append_about(conn, added, "snapshot.found", now=now, detail=detail)
            _note_problem(conn, added, None, now)
            return added

    def snapshots(self, dataset: str | None = None, *, include_gone: bool = False) -> list[Snapshot]:
        """Snapshots by name, of one dataset or of all (also of those no longer configured)."""
        query = select(snapshot).order_by(snapshot.c.dataset, snapshot.c.name, snapshot.c.id)
        if dataset is not None:
            query = query.where(snapshot.c.dataset == dataset)
        if not include_gone:
            query = query.where(snapshot.c.gone_at.is_(None))
        with self._reading() as conn:
            return [rows.snapshot(r) for r in conn.execute(query)]

    def snapshot(self, ref: SnapshotRef) -> Snapshot:
        """The snapshot of this name; where it is gone, the one that had the name last (`gone_at` tells).

        Raises:
            NotFound: no snapshot ever had it; the hint gives names that are near.
        """
        with self._reading() as conn:
            return snapshot_by_ref(conn, ref)

    def snapshot_by_id(self, snapshot_id: SnapshotId) -> Snapshot:
        """One snapshot.

        Raises:
            NotFound: there is none with this id.
        """
        with self._reading() as conn:
            return snapshot_by_id(conn, snapshot_id)

    def record_measure(self, snapshot_id: SnapshotId, measure: Measure, *, now: datetime) -> Snapshot:
        """Keep what a walk over the tree found; times only ever move forward, and never past now.

        Raises:
            NotFound: there is no such snapshot.
        """
        with self._writing() as conn:
            old = snapshot_by_id(conn, snapshot_id)
            values = _measured(measure, now) | {"changed_at": max(old.changed_at, min(measure.newest_change, now))}
            atime = None if measure.newest_access is None else min(measure.newest_access, now)
            if atime is not None and atime > old.accessed_at:
                inferred = AccessBatch(snapshot_id=snapshot_id, read_at=atime, source=AccessSource.ATIME)
                # Making a file sets its access time too: only one that is newer than every change is surely a read.
                if atime > measure.newest_change:
                    values = noting.note(conn, old, inferred, now) | values
                else:
                    values |= {"accessed_at": atime, "access_source": AccessSource.ATIME}
            new = _set(conn, snapshot_id, **values)
            # An original that was never digested is as large as the tree; a copy's figures are those of its manifest.
            original = (placement.c.snapshot_id == snapshot_id, placement.c.content_id.is_(None))
            undigested = update(placement).where(*original, placement.c.location.is_(None))
            conn.execute(undigested.values(size_bytes=new.size_bytes, entries=new.entries))
            if new.changed_at > old.changed_at:
                detail: Detail = {
                    "changed_at": new.changed_at.isoformat(),
                    "size_bytes": new.size_bytes,
                    "was": old.size_bytes,
                }
                events.append_about(conn, new, "snapshot.changed", now=now, detail=detail)
            _note_problem(conn, new, old.problem, now)
            return new

    def rename_snapshot(self, snapshot_id: SnapshotId, new: SnapshotRef, path: Path, now: datetime) -> Snapshot:
        """The snapshot's directory was renamed; its copies keep their places.

        Raises:
            NotFound: no such snapshot or dataset.
            Conflict: another snapshot has that name.
        """
        with self._writing() as conn:
            old = snapshot_by_id(conn, snapshot_id)
            dataset_must_exist(conn, new.dataset)
            _name_must_be_free(conn, new, but=snapshot_id)
            renamed = _set(conn, snapshot_id, dataset=new.dataset, name=new.name, path=path)
            if renamed != old:
                detail = {"from": str(old.ref), "to": str(new)}
                events.append_about(conn, renamed, "snapshot.renamed", now=now, detail=detail)
            return renamed

    def mark_gone(self, snapshot_id: SnapshotId, now: datetime) -> None:
        """Nothing is at the snapshot's path any more. Its copies stay where they are.

        Raises:
            NotFound: there is no such snapshot.
        """
        with self._writing() as conn:
            if snapshot_by_id(conn, snapshot_id).gone_at is None:
                gone = _set(conn, snapshot_id, gone_at=now)
                events.append_about(conn, gone, "snapshot.gone", now=now)

    def mark_back(self, snapshot_id: SnapshotId, *, path: Path, root_inode: int, now: datetime) -> None:
        """The snapshot is at its path again; a remove of one of its copies is stopped.

        Raises:
            NotFound: there is no such snapshot.
            Conflict: another snapshot has its name now.
        """
        with self._writing() as conn:
            old = snapshot_by_id(conn, snapshot_id)
            _name_must_be_free(conn, old.ref, but=snapshot_id)
            back = _set(conn, snapshot_id, gone_at=None, path=path, root_inode=root_inode)
            if old.gone_at is not None:
                stop_removal(conn, snapshot_id, now)
                events.append_about(conn, back, "snapshot.back", now=now)

    def set_problem(self, snapshot_id: SnapshotId, problem: str | None, now: datetime) -> None:
        """Say why the snapshot is not looked after; None when it is again.

        Raises:
            NotFound: there is no such snapshot.
        """
        with self._writing() as conn:
            old = snapshot_by_id(conn, snapshot_id)
            _note_problem(conn, _set(conn, snapshot_id, problem=problem), old.problem, now)

    def set_root_inode(self, snapshot_id: SnapshotId, inode: int) -> None:
        """Keep the inode of the tree's root, by which a renamed snapshot is recognised.

        Raises:
            NotFound: there is no such snapshot.
        """
        with self._writing() as conn:
            snapshot_by_id(conn, snapshot_id)
            _set(conn, snapshot_id, root_inode=inode)
