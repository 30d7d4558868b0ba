"""Parts of snapshots: which there are, and which nobody holds any more."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, or_, select

from tierd.catalog import events, rows
from tierd.catalog.advance import IS_LIVE
from tierd.catalog.holds import active_holds
from tierd.catalog.lookup import snapshot_by_id
from tierd.catalog.schema import part, transfer
from tierd.catalog.session import Session
from tierd.model.dataset import SnapshotId
from tierd.model.part import Part

_ANY = select(part.c.transfer_id).limit(1)


class Parts(Session):
    """Which parts there are. A row says that the part is complete; without it what lies on the tier is litter."""

    def parts(self, snapshot_id: SnapshotId | None = None) -> list[Part]:
        """All parts, or those of one snapshot; the newest first."""
        with self._reading() as conn:
            return _parts(conn, snapshot_id)

    def keys_in_use(self) -> set[str]:
        """Keys of transfers that are live and of those whose parts are there: a sweep leaves alone what has them."""
        with self._reading() as conn:
            brought = select(part.c.transfer_id)
            return set(conn.scalars(select(transfer.c.key).where(or_(IS_LIVE, transfer.c.id.in_(brought)))))

    def drop_parts(self, now: datetime) -> list[Part]:
        """Forget the parts of snapshots that nothing holds; from then on they may be deleted.

        One transaction: a lease is granted either before it (and the part stays) or after it (and finds none).
        """
        if self._known("any part", lambda conn: conn.scalar(_ANY)) is None:
            return []  # nothing to write, nearly always
        with self._writing() as conn:
            dropped = [one for one in _parts(conn, None) if not active_holds(conn, one.snapshot_id, now)]
            for one in dropped:
                conn.execute(delete(part).where(part.c.transfer_id == one.transfer_id))
                about = snapshot_by_id(conn, one.snapshot_id)
                detail = {"tier": one.tier, "location": one.location}
                events.append_about(conn, about, "part.dropped", now=now, detail=detail)
            return dropped


def _parts(conn: Connection, snapshot_id: SnapshotId | None) -> list[Part]:
    query = select(part, transfer.c.key, transfer.c.only).join(transfer, transfer.c.id == part.c.transfer_id)
    if snapshot_id is not None:
        query = query.where(part.c.snapshot_id == snapshot_id)
    return [rows.part(r) for r in conn.execute(query.order_by(part.c.transfer_id.desc()))]
