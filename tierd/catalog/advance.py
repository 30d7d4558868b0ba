"""The guarded change of a transfer and the event it leaves: what every part of the catalog uses that moves one on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update

from tierd.catalog import events, rows
from tierd.catalog.lookup import snapshot_by_id, transfer_by_id
from tierd.catalog.schema import transfer
from tierd.errors import Conflict, IllegalTransition
from tierd.model.dataset import SnapshotId
from tierd.model.event import Detail
from tierd.model.tier import TierName
from tierd.model.transfer import LIVE, TRANSITIONS, Transfer, TransferId, TransferKind, TransferState

IS_LIVE = transfer.c.state.in_(sorted(LIVE))


@dataclass(frozen=True, kw_only=True)
class Change:
    """One change of state and what is recorded with it."""

    id: TransferId
    expected: TransferState
    new: TransferState
    now: datetime
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A transfer that is asked for, as far as it matters to the one that is live."""

    kind: TransferKind
    source: TierName
    destination: TierName
    release: bool
    priority: int
    due_at: datetime | None = None
    only: tuple[str, ...] = ()


def live_transfer(conn: Connection, snapshot_id: SnapshotId) -> Transfer | None:
    """The transfer that owns the snapshot now."""
    row = conn.execute(select(transfer).where(transfer.c.snapshot_id == snapshot_id, IS_LIVE)).one_or_none()
    return None if row is None else rows.transfer(row)


def must_be_live(conn: Connection, transfer_id: TransferId) -> Transfer:
    """The transfer; Conflict when it has ended."""
    t = transfer_by_id(conn, transfer_id)
    if not t.is_live:
        raise Conflict(f"transfer {t.id} has ended already: {t.state}")
    return t


def note(conn: Connection, t: Transfer, kind: str, now: datetime, message: str = "", **detail: Any) -> None:
    """Add an event about a transfer."""
    about = snapshot_by_id(conn, t.snapshot_id)
    full: Detail = {"kind": t.kind, "source": t.source, "destination": t.destination, "attempt": t.attempt, **detail}
    events.append(
        conn, kind, now=now, ref=about.ref, snapshot_id=about.id, transfer_id=t.id, message=message, detail=full
    )


def advance(conn: Connection, change: Change, **values: Any) -> Transfer:
    """The guarded UPDATE and its event.

    Raises:
        IllegalTransition: the transfer is in another state than expected, or the rules do not allow the change.
    """
    before = transfer_by_id(conn, change.id)
    # An attempt may fail before its first step; back to the queue it goes all the same. A restore may go on waiting.
    requeued = change.expected is change.new is TransferState.QUEUED and "attempt" in values
    rewaits = change.expected is change.new is TransferState.RESTORING and "waits_for" in values
    if not (requeued or rewaits) and change.new not in TRANSITIONS[change.expected]:
        raise IllegalTransition(f"transfer {change.id} cannot go from {change.expected} to {change.new}")
    values |= {"state": change.new, "advanced_at": change.now}
    if change.new is not TransferState.RESTORING:
        values |= {"waits_for": None, "expected_at": None}
    if change.new not in LIVE:
        values["finished_at"] = change.now
    elif change.new is not TransferState.QUEUED and before.started_at is None:
        values["started_at"] = change.now
    guarded = update(transfer).where(transfer.c.id == change.id, transfer.c.state == change.expected)
    if conn.execute(guarded.values(**values)).rowcount != 1:
        raise IllegalTransition(
            f"transfer {change.id} is {before.state}, not {change.expected}",
            hint="Someone else advanced or cancelled it; look at it again before going on.",
        )
    after = transfer_by_id(conn, change.id)
    is_news = not rewaits or (before.waits_for, before.expected_at) != (after.waits_for, after.expected_at)
    if is_news:  # a restore is asked after many times in the hours that it takes
        note(conn, after, f"transfer.{change.new}", change.now, change.message, **{"from": change.expected})
    return after


_CANCELLED_AT_ONCE = {
    TransferState.QUEUED: "cancelled before it began",
    TransferState.RESTORING: "cancelled while it waited for the restore; what the store was asked for is charged",
}


def cancel(conn: Connection, t: Transfer, now: datetime, *, message: str | None = None) -> Transfer:
    """End a transfer that only waits; ask the mover to stop one that is under way."""
    if t.state not in _CANCELLED_AT_ONCE:
        return set_wishes(conn, t, "transfer.cancel_requested", now, cancel_requested=True)
    why = message or _CANCELLED_AT_ONCE[t.state]
    ended = Change(id=t.id, expected=t.state, new=TransferState.CANCELLED, now=now, message=why)
    return advance(conn, ended, cancel_requested=True)


def stop_removal(conn: Connection, snapshot_id: SnapshotId, now: datetime) -> None:
    """The snapshot is there again: a remove of one of its copies is cancelled, or asked to stop if it runs."""
    live = live_transfer(conn, snapshot_id)
    if live is not None and live.kind is TransferKind.REMOVE:
        cancel(conn, live, now, message="cancelled: the snapshot is there again")


def join(conn: Connection, live: Transfer, wish: Wish, now: datetime) -> Transfer:
    """Let the live transfer do what is asked for as well; Conflict when it does something else."""
    # A recall brings the same bytes from wherever; every other kind is about one copy on one tier.
    is_same = (live.kind, live.only) == (wish.kind, wish.only) and (
        wish.kind is TransferKind.RECALL or (live.source, live.destination) == (wish.source, wish.destination)
    )
    if not is_same or live.cancel_requested:
        about = snapshot_by_id(conn, live.snapshot_id)
        doing = "being cancelled" if live.cancel_requested else live.state
        raise Conflict(
            f"{about.ref} is owned by transfer {live.id} ({live.kind} to {live.destination}, {doing})",
            hint=f"Wait until it ends, or cancel it with `tierd cancel {live.id}`.",
        )
    dues = [at for at in (live.due_at, wish.due_at) if at is not None]
    stronger = {
        "release": live.release or wish.release,
        "priority": max(live.priority, wish.priority),
        "due_at": min(dues, default=None),
    }
    if stronger == {"release": live.release, "priority": live.priority, "due_at": live.due_at}:
        return live
    return set_wishes(conn, live, "transfer.raised", now, **stronger)


def set_wishes(conn: Connection, t: Transfer, kind: str, now: datetime, **values: Any) -> Transfer:
    """Change wishes (not the state); an event only when something changed."""
    if all(getattr(t, name) == value for name, value in values.items()):
        return t
    conn.execute(update(transfer).where(transfer.c.id == t.id).values(**values))
    told = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}
    note(conn, t, kind, now, **told)
    return transfer_by_id(conn, t.id)
