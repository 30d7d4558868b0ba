"""What forbids a transfer to go on, checked in the transaction that would let it: holds, and orphans that came back."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from tierd.catalog.effects import placements_of
from tierd.catalog.holds import active_holds
from tierd.catalog.lookup import snapshot_by_id
from tierd.errors import Conflict, Held
from tierd.model.dataset import SnapshotId
from tierd.model.placement import PlacementState
from tierd.model.transfer import Transfer, TransferKind, TransferState

_DELETING = frozenset({TransferState.RELEASING, TransferState.DONE})
"""States to which a remove goes in order to delete; every other one leaves the copy alone."""


def refuse_if_held(conn: Connection, snapshot_id: SnapshotId, now: datetime) -> None:
    """Raise Held while a lease or a pin holds the snapshot."""
    holds = active_holds(conn, snapshot_id, now)
    if holds:
        ref = snapshot_by_id(conn, snapshot_id).ref
        first = holds[0]
        until = "" if first.expires_at is None else f" until {first.expires_at:%Y-%m-%d %H:%M:%S} UTC"
        raise Held(
            f"{ref} is held by a {first.kind} of {first.holder}{until}",
            hint=f"It can be released when the hold ends; `tierd explain {ref}` shows all of them.",
        )


def refuse_unless_gone(conn: Connection, snapshot_id: SnapshotId) -> None:
    """Raise Conflict unless the owner deleted the snapshot: only then may the last copy of it go."""
    about = snapshot_by_id(conn, snapshot_id)
    if about.gone_at is None:
        raise Conflict(
            f"{about.ref} is not deleted: its copies are not removed",
            hint="Nothing was changed. What its owner did not delete is released at most, never removed.",
        )


def refuse_removal(conn: Connection, t: Transfer, new: TransferState, now: datetime) -> None:
    """Refuse the advance of a remove that would delete a copy of what is there again, or held.

    One whose copy was given up already can only be finished: a part of it may be deleted.

    Raises:
        Conflict, Held
    """
    if t.kind is not TransferKind.REMOVE or new not in _DELETING:
        return
    copy = next((p for p in placements_of(conn, t.snapshot_id) if p.tier == t.source), None)
    if copy is not None and copy.state is not PlacementState.PARTIAL:
        refuse_unless_gone(conn, t.snapshot_id)
        refuse_if_held(conn, t.snapshot_id, now)
