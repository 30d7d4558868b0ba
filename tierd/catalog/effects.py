"""Placements, and the effects that change them: the one gate through which a copy is named or forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from tierd.catalog import events, rows
from tierd.catalog.lookup import snapshot_by_id, tier_must_exist, transfer_by_id
from tierd.catalog.schema import part, placement, snapshot
from tierd.catalog.session import Session
from tierd.errors import Conflict
from tierd.model.dataset import Snapshot, SnapshotId
from tierd.model.effect import (
    DropPlacement,
    Effect,
    MarkPartial,
    MarkStale,
    PutPart,
    PutPlacement,
    SetContent,
    SetRootInode,
    SetWarmed,
)
from tierd.model.event import Detail
from tierd.model.placement import Placement, PlacementState
from tierd.model.tier import TierName


def placements_of(conn: Connection, snapshot_id: SnapshotId) -> list[Placement]:
    query = select(placement).where(placement.c.snapshot_id == snapshot_id).order_by(placement.c.tier)
    return [rows.placement(r) for r in conn.execute(query)]


def apply(conn: Connection, snapshot_id: SnapshotId, effects: Sequence[Effect], *, now: datetime) -> None:
    """Apply effects in order, within the transaction of `conn`.

    Raises:
        Conflict: a snapshot that is not gone would be left without a verified copy. Whatever a caller believes,
            the catalog never forgets the last one.
    """
    if not effects:
        return
    about = snapshot_by_id(conn, snapshot_id)
    had_copy = _has_verified(conn, snapshot_id)
    for effect in effects:
        _apply_one(conn, about, effect, now)
    if had_copy and about.gone_at is None and not _has_verified(conn, snapshot_id):
        raise Conflict(
            f"{about.ref} would be left without a verified copy",
            hint="Nothing was changed. Another copy has to be verified first.",
        )


def _has_verified(conn: Connection, snapshot_id: SnapshotId) -> bool:
    return any(p.state is PlacementState.VERIFIED for p in placements_of(conn, snapshot_id))


def _apply_one(conn: Connection, about: Snapshot, effect: Effect, now: datetime) -> None:
    match effect:
        case PutPlacement():
            _put(conn, about, effect, now)
        case DropPlacement(tier):
            if conn.execute(delete(placement).where(*_at(about, tier))).rowcount:
                events.append_about(conn, about, "placement.dropped", now=now, detail={"tier": tier})
        case MarkStale(tier):
            known = update(placement).where(*_at(about, tier), placement.c.state != PlacementState.STALE)
            if conn.execute(known.values(state=PlacementState.STALE)).rowcount:
                events.append_about(conn, about, "placement.stale", now=now, detail={"tier": tier})
        case MarkPartial(tier):
            known = update(placement).where(*_at(about, tier), placement.c.state != PlacementState.PARTIAL)
            if conn.execute(known.values(state=PlacementState.PARTIAL)).rowcount:
                events.append_about(conn, about, "placement.given_up", now=now, detail={"tier": tier})
        case SetContent(tier, content_id):
            known = update(placement).where(*_at(about, tier)).values(content_id=content_id)
            if not conn.execute(known).rowcount:
                raise Conflict(f"{about.ref} has no copy on tier {tier} whose content could be known")
        case SetWarmed(at):
            conn.execute(update(snapshot).where(snapshot.c.id == about.id).values(warmed_at=min(at, now)))
            events.append_about(conn, about, "snapshot.warmed", now=now)
        case PutPart():
            _put_part(conn, about, effect, now)
        case SetRootInode(inode):
            conn.execute(update(snapshot).where(snapshot.c.id == about.id).values(root_inode=inode))


def _at(about: Snapshot, tier: TierName) -> tuple[ColumnElement[bool], ...]:
    return (placement.c.snapshot_id == about.id, placement.c.tier == tier)


def _put(conn: Connection, about: Snapshot, put: PutPlacement, now: datetime) -> None:
    tier_must_exist(conn, put.tier)
    values = {
        "state": put.state,
        "location": put.location,
        "content_id": put.content_id,
        "size_bytes": put.size_bytes,
        "entries": put.entries,
        "verified_at": put.verified_at,
    }
    old_state = conn.scalar(select(placement.c.state).where(*_at(about, put.tier)))
    if old_state is None:
        conn.execute(insert(placement).values(snapshot_id=about.id, tier=put.tier, **values))
    else:
        conn.execute(update(placement).where(*_at(about, put.tier)).values(**values))
    if old_state != put.state:  # a step repeated after a crash is not news
        detail = {"tier": put.tier, "content_id": put.content_id, "size_bytes": put.size_bytes}
        events.append_about(conn, about, f"placement.{put.state}", now=now, detail=detail)


def _put_part(conn: Connection, about: Snapshot, put: PutPart, now: datetime) -> None:
    tier_must_exist(conn, put.tier)
    conn.execute(
        insert(part).values(
            transfer_id=put.transfer_id,
            snapshot_id=about.id,
            tier=put.tier,
            location=put.location,
            content_id=put.content_id,
            entries=put.entries,
            size_bytes=put.size_bytes,
            as_of=transfer_by_id(conn, put.transfer_id).created_at,
        )
    )
    detail: Detail = {"tier": put.tier, "location": put.location, "size_bytes": put.size_bytes}
    events.append_about(conn, about, "part.made", now=now, detail=detail)


class Placements(Session):
    """Which copies exist."""

    def placements(self, snapshot_id: SnapshotId) -> list[Placement]:
        """All placements of a snapshot, by tier name.

        Raises:
            NotFound: there is no such snapshot.
        """
        with self._reading() as conn:
            snapshot_by_id(conn, snapshot_id)
            return placements_of(conn, snapshot_id)

    def bytes_on(self, tier: TierName) -> int:
        """Apparent bytes of everything the catalog knows to lie on the tier, whatever it is worth."""
        total = select(func.sum(placement.c.size_bytes)).where(placement.c.tier == tier)
        return self._known(("bytes on", tier), lambda conn: conn.scalar(total)) or 0

    def placements_by_snapshot(self) -> dict[SnapshotId, list[Placement]]:
        """All placements there are, gone snapshots included, in one query."""
        found: dict[SnapshotId, list[Placement]] = {}
        with self._reading() as conn:
            for row in conn.execute(select(placement).order_by(placement.c.snapshot_id, placement.c.tier)):
                one = rows.placement(row)
                found.setdefault(one.snapshot_id, []).append(one)
        return found

    def apply(self, snapshot_id: SnapshotId, effects: Sequence[Effect], *, now: datetime) -> None:
        """Apply effects outside an advance.

        Raises:
            NotFound: there is no such snapshot or tier.
            Conflict: a snapshot that is not gone would be left without a verified copy.
        """
        with self._writing() as conn:
            apply(conn, snapshot_id, effects, now=now)
