"""Leases that end with a living thing: a process of this machine, or a job of a batch system."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, or_, select, update

from tierd.catalog import events, rows
from tierd.catalog.holds import EXPIRED_HINT, change, columns, expiry, hold_row
from tierd.catalog.lookup import snapshot_by_id
from tierd.catalog.schema import hold
from tierd.catalog.session import Session
from tierd.errors import Conflict
from tierd.model.event import Detail
from tierd.model.hold import Hold, HoldId, HoldKind, Tie

_OPEN = hold.c.ended_at.is_(None)
_TIED = or_(hold.c.pid.is_not(None), hold.c.job.is_not(None))


class Ties(Session):
    """What leases are tied to, and the hand-over from one holder to the next."""

    def tied_leases(self) -> Sequence[Hold]:
        """Leases that have not ended and are tied to something, also those whose time is over."""

        def read(conn: Connection) -> tuple[Hold, ...]:
            # Sorted here, as in `active_holds`.
            found = (rows.hold(r) for r in conn.execute(select(hold).where(_OPEN, _TIED)))
            return tuple(sorted(found, key=lambda h: h.id))

        return self._known("tied leases", read)

    def end_tied(self, leases: Sequence[Hold], now: datetime, message: str) -> None:
        """What they were tied to is over; one that was handed over since is left alone."""
        with self._writing() as conn:
            for seen in leases:
                row = hold_row(conn, seen.id)
                if row.ended_at is None and rows.hold(row).tie == seen.tie:
                    _end(conn, rows.hold(row), now, message)

    def extend_tied(self, hold_ids: Sequence[HoldId], now: datetime) -> None:
        """What they are tied to lives: they go on for as long as they were asked for. No event: nothing changed."""
        with self._writing() as conn:
            for r in conn.execute(select(hold).where(hold.c.id.in_(hold_ids), _OPEN)).fetchall():
                values = {"expires_at": now + (r.expires_at - r.renewed_at), "renewed_at": now}
                conn.execute(update(hold).where(hold.c.id == r.id).values(**values))

    def hand_over(
        self,
        hold_id: HoldId,
        *,
        holder: str,
        tie: Tie | None,
        ttl: timedelta,
        now: datetime,
        generation: int | None = None,
    ) -> Hold:
        """Give a lease to another holder, in one step: there is no moment at which nobody holds the snapshot.

        Args:
            generation: as the caller last saw it; a hand-over based on another one is refused.

        Raises:
            NotFound: there is no such lease.
            Conflict: it ended, is a pin, or was renewed or handed over by someone else since.
        """
        expires_at = expiry(ttl, now)
        with self._writing() as conn:
            row = hold_row(conn, hold_id)
            if row.kind != HoldKind.LEASE:
                raise Conflict(f"hold {hold_id} is a pin; it belongs to nobody", hint="A pin needs no hand-over.")
            if row.ended_at is not None or row.expires_at <= now:
                raise Conflict(f"lease {hold_id} of {row.holder} has ended", hint=EXPIRED_HINT)
            if generation is not None and generation != row.generation:
                raise Conflict(f"lease {hold_id} is at generation {row.generation}, not {generation}")
            values: dict[str, Any] = {"expires_at": expires_at, "renewed_at": now, "generation": row.generation + 1}
            return change(conn, hold_id, "lease.handed_over", now, holder=holder, **values, **columns(tie))


def _end(conn: Connection, h: Hold, now: datetime, message: str) -> None:
    ended_at = now if h.expires_at is None else min(now, h.expires_at)
    conn.execute(update(hold).where(hold.c.id == h.id).values(ended_at=ended_at))
    about = snapshot_by_id(conn, h.snapshot_id)
    detail: Detail = {"hold": h.id, "holder": h.holder, "generation": h.generation}
    events.append_about(conn, about, "lease.ended", now=now, message=message, detail=detail)
