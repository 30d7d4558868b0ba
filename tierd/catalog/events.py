"""The history: every change of state leaves an event, written in the transaction that makes the change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection, and_, delete, insert, or_, select

from tierd.catalog import rows
from tierd.catalog.schema import event, plain, snapshot
from tierd.catalog.session import Session
from tierd.model.dataset import Snapshot, SnapshotId, SnapshotRef
from tierd.model.event import Detail, Event
from tierd.model.transfer import TransferId

_NO_DETAIL: Detail = {}


def append(
    conn: Connection,
    kind: str,
    *,
    now: datetime,
    ref: SnapshotRef | None = None,
    snapshot_id: SnapshotId | None = None,
    transfer_id: TransferId | None = None,
    message: str = "",
    detail: Detail = _NO_DETAIL,
) -> None:
    """Add an event to the transaction of `conn`."""
    conn.execute(
        insert(event).values(
            at=now,
            kind=kind,
            dataset=None if ref is None else ref.dataset,
            name=None if ref is None else ref.name,
            snapshot_id=snapshot_id,
            transfer_id=transfer_id,
            message=message,
            detail=_encode(detail),
        )
    )


def append_about(
    conn: Connection, about: Snapshot, kind: str, *, now: datetime, message: str = "", detail: Detail = _NO_DETAIL
) -> None:
    """Add an event about a snapshot."""
    append(conn, kind, now=now, ref=about.ref, snapshot_id=about.id, message=message, detail=detail)


def _encode(detail: Mapping[str, str | int | float | bool | None]) -> str:
    clean = {k: plain(v) if isinstance(v, str) else v for k, v in detail.items()}
    return json.dumps(clean, separators=(",", ":"))


class Events(Session):
    """Reading, adding and waiting for events."""

    def add_event(
        self,
        kind: str,
        *,
        now: datetime,
        ref: SnapshotRef | None = None,
        transfer_id: TransferId | None = None,
        message: str = "",
        detail: Detail = _NO_DETAIL,
    ) -> None:
        """Record something that happened outside the catalog (a tier went offline, the daemon started)."""
        with self._writing() as conn:
            append(conn, kind, now=now, ref=ref, transfer_id=transfer_id, message=message, detail=detail)

    def events(
        self, *, after: int = 0, limit: int = 100, ref: SnapshotRef | None = None, newest_first: bool = False
    ) -> list[Event]:
        """Events with an id greater than `after`.

        Args:
            ref: only those about this snapshot, also from the time when it had another name.
        """
        query = select(event).where(event.c.id > after).limit(limit)
        if ref is not None:
            same = select(snapshot.c.id).where(
                snapshot.c.dataset == ref.dataset, snapshot.c.name == ref.name, snapshot.c.gone_at.is_(None)
            )
            by_name = and_(event.c.dataset == ref.dataset, event.c.name == ref.name)
            query = query.where(or_(by_name, event.c.snapshot_id.in_(same)))
        query = query.order_by(event.c.id.desc() if newest_first else event.c.id)
        with self._reading() as conn:
            return [rows.event(r) for r in conn.execute(query)]

    def last_event_id(self) -> int:
        """The id of the newest event; 0 when there is none."""
        with self._news:
            return self._newest_event

    def wait_for_event(self, after: int, timeout_s: float) -> bool:
        """Sleep until an event newer than `after` is committed; False when the time is up or the catalog closed."""
        with self._news:
            self._news.wait_for(lambda: self._newest_event > after or self._is_closed, timeout_s)
            return self._newest_event > after

    def prune_events(self, *, before: datetime) -> int:
        """Delete history older than `before`; return how many events went. State is not touched."""
        with self._writing() as conn:
            return conn.execute(delete(event).where(event.c.at < before)).rowcount
