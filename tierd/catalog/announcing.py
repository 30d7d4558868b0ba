"""Announced use: what somebody said will be read, and when."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from tierd.catalog import events, rows
from tierd.catalog.lookup import snapshot_by_id
from tierd.catalog.schema import announcement, event
from tierd.catalog.session import Session
from tierd.errors import Conflict, InvalidRequest, NotFound
from tierd.model.announced import AnnouncedBy, Announcement, AnnouncementId
from tierd.model.dataset import SnapshotId
from tierd.model.event import Detail, Event

HORIZON = timedelta(days=3660)
"""What is announced for later than this, or began longer ago, is a slip of the pen."""

_OPEN = announcement.c.ended_at.is_(None)
_FIRST_OVER = select(func.min(announcement.c.until)).where(_OPEN)
_SAID = ("source", "holder", "use_at", "until", "confidence", "note")
"""What a repetition with the same request key may change."""
_NEWEST = 50_000
"""Events that are looked through for what became of schedules: a history of years is not."""


def open_announcements(conn: Connection, snapshot_id: SnapshotId | None, now: datetime) -> list[Announcement]:
    """Those that are not over, the next use first."""
    query = select(announcement).where(_OPEN, announcement.c.until >= now)
    if snapshot_id is not None:
        query = query.where(announcement.c.snapshot_id == snapshot_id)
    query = query.order_by(announcement.c.use_at, announcement.c.id)
    return [rows.announcement(r) for r in conn.execute(query)]


class Announcing(Session):
    """Announcing uses, changing and ending what was announced."""

    def announce(
        self,
        *,
        snapshot_id: SnapshotId,
        source: AnnouncedBy,
        holder: str,
        use_at: datetime,
        until: datetime,
        now: datetime,
        confidence: float = 1.0,
        note: str | None = None,
        request_key: str | None = None,
    ) -> Announcement:
        """Record that a snapshot will be read.

        Args:
            request_key: names the caller's request: announcing again with it changes what was announced.

        Raises:
            NotFound: there is no such snapshot.
            Conflict: the snapshot is gone, or the request key is in use for another one.
            InvalidRequest: the time is over or ends before it begins, or the confidence is no share.
        """
        _check(use_at, until, confidence, now)
        said = dict(zip(_SAID, (source, holder, use_at, until, confidence, note), strict=True))
        with self._writing() as conn:
            same = None
            if request_key is not None:
                query = select(announcement).where(announcement.c.request_key == request_key, _OPEN)
                same = conn.execute(query).one_or_none()
            if same is not None and same.until < now:  # not swept yet: it is over all the same
                _end(conn, same.id, "announcement.over", same.until, now)
                same = None
            if same is None:
                return _add(conn, snapshot_id, {**said, "request_key": request_key}, now)
            if same.snapshot_id != snapshot_id:
                raise Conflict(
                    f"request key {request_key!r} is in use for another snapshot",
                    hint=f"Withdraw announcement {same.id} first, or choose another key.",
                )
            if all(getattr(same, name) == value for name, value in said.items()):
                return rows.announcement(same)
            conn.execute(update(announcement).where(announcement.c.id == same.id).values(**said))
            return _noted(conn, same.id, "announcement.changed", now)

    def end_announcement(self, announcement_id: AnnouncementId, now: datetime) -> None:
        """Withdraw what was announced; nothing happens if it has ended already.

        Raises:
            NotFound: there is no such announcement.
        """
        with self._writing() as conn:
            row = _row(conn, announcement_id)
            if row.ended_at is None:
                _end(conn, announcement_id, "announcement.withdrawn", now, now)

    def expire_announcements(self, now: datetime) -> list[Announcement]:
        """End those whose time is over; return them."""
        first = self._known("first announcement to be over", lambda conn: conn.scalar(_FIRST_OVER))
        if first is None or first >= now:  # nearly always: do not keep writers waiting for that
            return []
        with self._writing() as conn:
            # Without an order: asked for one, SQLite walks through the whole history instead of the few that are open.
            due = conn.execute(select(announcement).where(_OPEN, announcement.c.until < now)).fetchall()
            over = sorted(due, key=lambda r: r.id)
            return [_end(conn, r.id, "announcement.over", r.until, now) for r in over]

    def announcements(self, snapshot_id: SnapshotId | None = None, *, now: datetime) -> list[Announcement]:
        """What is announced and not over, the next use first."""
        with self._reading() as conn:
            return open_announcements(conn, snapshot_id, now)

    def announcement(self, announcement_id: AnnouncementId) -> Announcement:
        """One announcement, also after its end.

        Raises:
            NotFound: there is none with this id.
        """
        with self._reading() as conn:
            return rows.announcement(_row(conn, announcement_id))

    def schedule_events(self) -> Mapping[str, Event]:
        """What last became of each schedule, by its name, as far as recent history tells."""
        newest = select(func.coalesce(func.max(event.c.id), 0)).scalar_subquery()
        query = select(event).where(event.c.id > newest - _NEWEST, event.c.kind.like("schedule.%"))
        query = query.order_by(event.c.id.desc())
        found: dict[str, Event] = {}
        with self._reading() as conn:
            for each in (rows.event(r) for r in conn.execute(query)):
                found.setdefault(str(each.detail.get("schedule")), each)
        return found


def _check(use_at: datetime, until: datetime, confidence: float, now: datetime) -> None:
    if not 0 < confidence <= 1:
        raise InvalidRequest(f"a confidence of {confidence:g} is no share", hint="Write above 0 and up to 1, like 0.8.")
    if any(abs(at - now) > HORIZON for at in (use_at, until)):
        raise InvalidRequest(
            f"from {use_at.isoformat()} until {until.isoformat()} is more than ten years away",
            hint="Announce a use when it is nearer.",
        )
    if until < use_at:
        raise InvalidRequest(
            f"the use would end ({_at(until)}) before it begins ({_at(use_at)})",
            hint="Give an end that is not before the beginning, or a duration.",
        )
    if until < now:
        raise InvalidRequest(
            f"the use would be over since {_at(until)}",
            hint=f"Announce what is still to come; it is {_at(now)} here.",
        )


def _row(conn: Connection, announcement_id: AnnouncementId) -> rows.AnyRow:
    row = conn.execute(select(announcement).where(announcement.c.id == announcement_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no announcement {announcement_id}", hint="`tierd announcements` lists them.")
    return row


def _add(conn: Connection, snapshot_id: SnapshotId, values: Mapping[str, Any], now: datetime) -> Announcement:
    about = snapshot_by_id(conn, snapshot_id)
    if about.gone_at is not None:
        raise Conflict(f"{about.ref} is gone", hint="Its directory was removed; nothing can read it.")
    row = insert(announcement).values(snapshot_id=snapshot_id, created_at=now, **values)
    return _noted(conn, AnnouncementId(conn.execute(row).lastrowid), "announcement.made", now)


def _end(
    conn: Connection, announcement_id: AnnouncementId, kind: str, ended_at: datetime, now: datetime
) -> Announcement:
    conn.execute(update(announcement).where(announcement.c.id == announcement_id).values(ended_at=ended_at))
    return _noted(conn, announcement_id, kind, now)


def _noted(conn: Connection, announcement_id: AnnouncementId, kind: str, now: datetime) -> Announcement:
    """Add the event, and return the announcement as it is now."""
    a = rows.announcement(_row(conn, announcement_id))
    detail: Detail = {
        "announcement": a.id,
        "holder": a.holder,
        "source": a.source,
        "use_at": a.use_at.isoformat(),
        "until": a.until.isoformat(),
        "confidence": a.confidence,
    }
    message = f"{a.holder} reads it from {_at(a.use_at)} to {_at(a.until)}" + (f": {a.note}" if a.note else "")
    events.append_about(conn, snapshot_by_id(conn, a.snapshot_id), kind, now=now, message=message, detail=detail)
    return a


def _at(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
