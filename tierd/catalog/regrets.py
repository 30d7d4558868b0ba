"""Regret: what transfers turned out to be worth, counted when they end.

Counters (`Measured.counters`): deadlines_met, deadlines_missed, deadlines_refused; rewarmed and rewarmed_bytes:
brought back within a week after the policy had released them; warmed_unread and its bytes: released again without
having been read; warm_wait_s: from asking to arrival, summed over recalls that people or jobs asked for, warms: those;
cold_uses and cold_use_bytes: uses that began while the snapshot was not on flash (bytes: of the whole snapshot, an
upper bound of what was read).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, select

from tierd.catalog.lookup import snapshot_by_id
from tierd.catalog.measured import count
from tierd.catalog.schema import transfer
from tierd.model.transfer import POLICY, Transfer, TransferKind, TransferState

WINDOW = timedelta(days=7)


def note_done(conn: Connection, t: Transfer, *, leaves_flash: bool, now: datetime) -> None:
    """A transfer ended as it should."""
    if t.kind is TransferKind.RECALL:
        _note_recall(conn, t, now)
    elif t.release and leaves_flash:
        about = snapshot_by_id(conn, t.snapshot_id)
        if about.warmed_at is not None and (about.read_at is None or about.read_at < about.warmed_at):
            count(conn, "warmed_unread")
            count(conn, "warmed_unread_bytes", about.size_bytes)


def _note_recall(conn: Connection, t: Transfer, now: datetime) -> None:
    if t.due_at is not None:
        count(conn, "deadlines_met" if now <= t.due_at else "deadlines_missed")
    if t.requested_by != POLICY:
        count(conn, "warms")
        count(conn, "warm_wait_s", max(0.0, (now - t.created_at).total_seconds()))
    if t.only:
        return
    released = (
        select(transfer.c.id)
        .where(
            transfer.c.snapshot_id == t.snapshot_id,
            transfer.c.kind == TransferKind.MIGRATE,
            transfer.c.release,
            transfer.c.state == TransferState.DONE,
            transfer.c.source == t.destination,
            transfer.c.requested_by == POLICY,
            transfer.c.finished_at > now - WINDOW,
        )
        .limit(1)
    )
    if conn.scalar(released) is not None:
        count(conn, "rewarmed")
        count(conn, "rewarmed_bytes", t.bytes_total)
