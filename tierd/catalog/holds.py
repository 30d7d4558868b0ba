"""Leases and pins: who holds what, since when, until when."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, insert, or_, select, update

from tierd.catalog import events, rows
from tierd.catalog.lookup import snapshot_by_id
from tierd.catalog.schema import hold
from tierd.catalog.session import Session
from tierd.errors import Conflict, InvalidRequest, NotFound
from tierd.model.dataset import SnapshotId
from tierd.model.event import Detail
from tierd.model.hold import Hold, HoldId, HoldKind, Tie

_OPEN = hold.c.ended_at.is_(None)
_FIRST_TO_EXPIRE = select(func.min(hold.c.expires_at)).where(_OPEN)
EXPIRED_HINT = "Ask for the snapshot again: `tierd warm` gives a new lease."


def active_holds(conn: Connection, snapshot_id: SnapshotId | None, now: datetime) -> list[Hold]:
    # Sorted here: asked to sort, SQLite walks through the whole history instead of the few that are open.
    query = select(hold).where(_OPEN, or_(hold.c.expires_at.is_(None), hold.c.expires_at > now))
    if snapshot_id is not None:
        query = query.where(hold.c.snapshot_id == snapshot_id)
    return sorted((rows.hold(r) for r in conn.execute(query)), key=lambda h: h.id)


def hold_row(conn: Connection, hold_id: HoldId) -> rows.AnyRow:
    row = conn.execute(select(hold).where(hold.c.id == hold_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no lease {hold_id}", hint="`tierd status` shows what is held.")
    return row


def _note(conn: Connection, h: Hold, kind: str, now: datetime) -> None:
    expires = None if h.expires_at is None else h.expires_at.isoformat()
    detail: Detail = {"hold": h.id, "holder": h.holder, "generation": h.generation, "expires_at": expires}
    events.append_about(conn, snapshot_by_id(conn, h.snapshot_id), kind, now=now, message=h.note or "", detail=detail)


def change(conn: Connection, hold_id: HoldId, kind: str, now: datetime, **values: Any) -> Hold:
    conn.execute(update(hold).where(hold.c.id == hold_id).values(**values))
    changed = rows.hold(hold_row(conn, hold_id))
    _note(conn, changed, kind, now)
    return changed


def _add(conn: Connection, event_kind: str, *, snapshot_id: SnapshotId, now: datetime, **values: Any) -> Hold:
    about = snapshot_by_id(conn, snapshot_id)
    if about.gone_at is not None:
        raise Conflict(f"{about.ref} is gone", hint="Its directory was removed; there is nothing to hold.")
    row = insert(hold).values(snapshot_id=snapshot_id, since=now, renewed_at=now, generation=1, **values)
    added = rows.hold(hold_row(conn, HoldId(conn.execute(row).lastrowid)))
    _note(conn, added, event_kind, now)
    return added


def expiry(ttl: timedelta, now: datetime) -> datetime:
    try:
        expires_at = now + ttl
    except OverflowError as e:
        raise InvalidRequest(f"a lease of {ttl} is too long", hint="Use a pin to hold without end.") from e
    if expires_at <= now:
        raise InvalidRequest(f"a lease of {ttl} holds nothing", hint="Give a duration greater than zero.")
    return expires_at


def columns(tie: Tie | None) -> dict[str, Any]:
    """The columns of a hold that say what it is tied to."""
    known = tie or Tie()
    return {"pid": known.pid, "pid_started": known.pid_started, "boot_id": known.boot_id, "job": known.job}


class Holds(Session):
    """Granting, renewing and ending leases and pins."""

    def grant_lease(
        self,
        *,
        snapshot_id: SnapshotId,
        holder: str,
        ttl: timedelta,
        now: datetime,
        request_key: str | None = None,
        note: str | None = None,
        tie: Tie | None = None,
    ) -> Hold:
        """Hold a snapshot for a while.

        Args:
            request_key: names the caller's request: asking again with it renews the same lease (never shortens it).
            tie: what it ends with.

        Raises:
            NotFound: there is no such snapshot.
            Conflict: the snapshot is gone, or the request key is in use for another one.
        """
        expires_at = expiry(ttl, now)
        with self._writing() as conn:
            same = None
            if request_key is not None:
                same = conn.execute(select(hold).where(hold.c.request_key == request_key, _OPEN)).one_or_none()
            if same is not None and same.expires_at <= now:  # not swept yet: it is over all the same
                change(conn, same.id, "lease.expired", now, ended_at=same.expires_at)
                same = None
            if same is None:
                lease = {"kind": HoldKind.LEASE, "holder": holder, "expires_at": expires_at, "note": note}
                lease |= columns(tie)
                return _add(conn, "lease.granted", snapshot_id=snapshot_id, now=now, request_key=request_key, **lease)
            if same.snapshot_id != snapshot_id:
                raise Conflict(f"request key {request_key!r} is in use for another snapshot")
            values: dict[str, Any] = {"expires_at": max(same.expires_at, expires_at), "renewed_at": now}
            if tie is not None:
                values |= columns(tie)
            return change(conn, same.id, "lease.renewed", now, generation=same.generation + 1, **values)

    def renew_lease(self, hold_id: HoldId, ttl: timedelta, now: datetime, generation: int | None = None) -> Hold:
        """Let a lease end `ttl` from now.

        Args:
            generation: as the caller last saw it; a renewal based on another one is refused.

        Raises:
            NotFound: there is no such lease.
            Conflict: it ended, or was renewed by someone else since.
        """
        expires_at = expiry(ttl, now)
        with self._writing() as conn:
            row = hold_row(conn, hold_id)
            if row.kind != HoldKind.LEASE:
                raise Conflict(f"hold {hold_id} is a pin and needs no renewal")
            if row.ended_at is not None or row.expires_at <= now:
                raise Conflict(f"lease {hold_id} of {row.holder} has ended", hint=EXPIRED_HINT)
            if generation is not None and generation != row.generation:
                raise Conflict(f"lease {hold_id} is at generation {row.generation}, not {generation}")
            values = {"expires_at": expires_at, "renewed_at": now, "generation": row.generation + 1}
            return change(conn, hold_id, "lease.renewed", now, **values)

    def end_lease(self, hold_id: HoldId, now: datetime) -> None:
        """End a lease; nothing happens if it has ended already.

        Raises:
            NotFound: there is no such lease.
            Conflict: it is a pin.
        """
        with self._writing() as conn:
            row = hold_row(conn, hold_id)
            if row.kind != HoldKind.LEASE:
                raise Conflict(f"hold {hold_id} is a pin", hint="Remove it with `tierd unpin`.")
            if row.ended_at is None:
                change(conn, hold_id, "lease.ended", now, ended_at=min(now, row.expires_at))

    def expire_leases(self, now: datetime) -> list[Hold]:
        """End the leases whose time is over; return them."""
        first = self._known("first lease to expire", lambda conn: conn.scalar(_FIRST_TO_EXPIRE))
        if first is None or first > now:  # nearly always: do not keep writers waiting for that
            return []
        with self._writing() as conn:
            # Without an order, as above.
            due = conn.execute(select(hold).where(_OPEN, hold.c.expires_at <= now)).fetchall()
            return [
                change(conn, r.id, "lease.expired", now, ended_at=r.expires_at) for r in sorted(due, key=lambda r: r.id)
            ]

    def pin(self, snapshot_id: SnapshotId, holder: str, now: datetime, note: str | None = None) -> Hold:
        """Hold a snapshot without end; the present pin is returned if there is one.

        Raises:
            NotFound: there is no such snapshot.
            Conflict: the snapshot is gone.
        """
        with self._writing() as conn:
            present = conn.execute(
                select(hold).where(hold.c.snapshot_id == snapshot_id, hold.c.kind == HoldKind.PIN, _OPEN)
            ).one_or_none()
            if present is not None:
                return rows.hold(present)
            return _add(conn, "pin.set", snapshot_id=snapshot_id, now=now, kind=HoldKind.PIN, holder=holder, note=note)

    def unpin(self, snapshot_id: SnapshotId, now: datetime) -> bool:
        """Remove the pin; False if there was none."""
        with self._writing() as conn:
            present = conn.execute(
                select(hold.c.id).where(hold.c.snapshot_id == snapshot_id, hold.c.kind == HoldKind.PIN, _OPEN)
            ).one_or_none()
            if present is None:
                return False
            change(conn, present.id, "pin.removed", now, ended_at=now)
            return True

    def holds(self, snapshot_id: SnapshotId | None = None, *, now: datetime) -> list[Hold]:
        """The holds that are active now, the oldest first."""
        with self._reading() as conn:
            return active_holds(conn, snapshot_id, now)

    def hold(self, hold_id: HoldId) -> Hold:
        """One hold, also after its end (then `expires_at` is when it ended).

        Raises:
            NotFound: there is none with this id.
        """
        with self._reading() as conn:
            return rows.hold(hold_row(conn, hold_id))
