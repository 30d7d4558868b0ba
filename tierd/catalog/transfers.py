"""Transfers: queueing, claiming, and the guarded advance from state to state."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, insert, or_, select, update

from tierd.catalog import effects as effect_rules
from tierd.catalog import events, rows, settings
from tierd.catalog.holds import active_holds
from tierd.catalog.lookup import snapshot_by_id, tier_must_exist, transfer_by_id
from tierd.catalog.schema import transfer
from tierd.catalog.session import Session
from tierd.errors import Conflict, Held, IllegalTransition, InvalidRequest
from tierd.model.dataset import SnapshotId
from tierd.model.effect import Effect, MarkPartial
from tierd.model.event import Detail
from tierd.model.tier import TierName
from tierd.model.transfer import LIVE, TRANSITIONS, Transfer, TransferId, TransferKind, TransferState

_IS_LIVE = transfer.c.state.in_(sorted(LIVE))


@dataclass(frozen=True, kw_only=True)
class _Move:
    """One change of state and what is recorded with it."""

    id: TransferId
    expected: TransferState
    new: TransferState
    now: datetime
    message: str = ""


def live_transfer(conn: Connection, snapshot_id: SnapshotId) -> Transfer | None:
    row = conn.execute(select(transfer).where(transfer.c.snapshot_id == snapshot_id, _IS_LIVE)).one_or_none()
    return None if row is None else rows.transfer(row)


def _note(conn: Connection, t: Transfer, kind: str, now: datetime, message: str = "", **detail: Any) -> None:
    about = snapshot_by_id(conn, t.snapshot_id)
    full: Detail = {"kind": t.kind, "source": t.source, "destination": t.destination, "attempt": t.attempt, **detail}
    events.append(
        conn, kind, now=now, ref=about.ref, snapshot_id=about.id, transfer_id=t.id, message=message, detail=full
    )


def _move(conn: Connection, move: _Move, **values: Any) -> Transfer:
    """The guarded UPDATE and its event.

    Raises:
        IllegalTransition: the transfer is in another state than expected, or the rules do not allow the change.
    """
    before = transfer_by_id(conn, move.id)
    # An attempt may fail before its first step; back to the queue it goes all the same.
    requeued = move.expected is move.new is TransferState.QUEUED and "attempt" in values
    if not requeued and move.new not in TRANSITIONS[move.expected]:
        raise IllegalTransition(f"transfer {move.id} cannot go from {move.expected} to {move.new}")
    values |= {"state": move.new, "advanced_at": move.now}
    if move.new not in LIVE:
        values["finished_at"] = move.now
    elif move.new is not TransferState.QUEUED and before.started_at is None:
        values["started_at"] = move.now
    guarded = update(transfer).where(transfer.c.id == move.id, transfer.c.state == move.expected)
    if conn.execute(guarded.values(**values)).rowcount != 1:
        raise IllegalTransition(
            f"transfer {move.id} is {before.state}, not {move.expected}",
            hint="Someone else advanced or cancelled it; look at it again before going on.",
        )
    after = transfer_by_id(conn, move.id)
    _note(conn, after, f"transfer.{move.new}", move.now, move.message, **{"from": move.expected})
    return after


def _refuse_if_held(conn: Connection, transfer_id: TransferId, now: datetime) -> None:
    t = transfer_by_id(conn, transfer_id)
    holds = active_holds(conn, t.snapshot_id, now)
    if holds:
        ref = snapshot_by_id(conn, t.snapshot_id).ref
        first = holds[0]
        until = "" if first.expires_at is None else f" until {first.expires_at:%Y-%m-%d %H:%M:%S} UTC"
        raise Held(
            f"{ref} is held by a {first.kind} of {first.holder}{until}",
            hint=f"It can be released when the hold ends; `tierd explain {ref}` shows all of them.",
        )


class Transfers(Session):
    """Queueing, claiming and advancing transfers."""

    def enqueue(
        self,
        *,
        snapshot_id: SnapshotId,
        kind: TransferKind,
        source: TierName,
        destination: TierName,
        release: bool = False,
        priority: int = 0,
        reason: str,
        requested_by: str,
        bytes_total: int,
        files_total: int,
        now: datetime,
    ) -> tuple[Transfer, bool]:
        """Queue a transfer, or join the live one of the same kind (its release and priority become the stronger).

        Returns:
            The transfer, and True if it is new.

        Raises:
            NotFound: no such snapshot or tier.
            Conflict: a transfer of the other kind is live, or the one to join is being cancelled, or the snapshot
                is gone.
        """
        if source == destination or (release and kind is not TransferKind.MIGRATE):
            raise InvalidRequest(f"a {kind} from {source} to {destination} with release={release} makes no sense")
        with self._writing() as conn:
            about = snapshot_by_id(conn, snapshot_id)
            live = live_transfer(conn, snapshot_id)
            if live is not None:
                return _join(conn, live, kind, release=release, priority=priority, now=now), False
            if about.gone_at is not None:
                raise Conflict(f"{about.ref} is gone", hint="Its directory was removed; nothing can be moved.")
            for name in (source, destination):
                tier_must_exist(conn, name)
            row = insert(transfer).values(
                key=secrets.token_hex(8),
                snapshot_id=snapshot_id,
                kind=kind,
                state=TransferState.QUEUED,
                source=source,
                destination=destination,
                release=release,
                priority=priority,
                reason=reason,
                requested_by=requested_by,
                attempt=1,
                bytes_total=bytes_total,
                bytes_done=0,
                files_total=files_total,
                files_done=0,
                is_paused=False,
                cancel_requested=False,
                created_at=now,
                advanced_at=now,
            )
            new = transfer_by_id(conn, TransferId(conn.execute(row).lastrowid))
            _note(conn, new, "transfer.queued", now, reason, requested_by=requested_by, release=release)
            return new, True

    def transfer(self, transfer_id: TransferId) -> Transfer:
        """One transfer.

        Raises:
            NotFound: there is none with this id.
        """
        with self._reading() as conn:
            return transfer_by_id(conn, transfer_id)

    def transfers(
        self,
        *,
        live_only: bool = False,
        snapshot_id: SnapshotId | None = None,
        limit: int = 100,
        before_id: int | None = None,
    ) -> list[Transfer]:
        """Transfers, the newest first; `before_id` continues after the last one of the page before."""
        query = select(transfer).order_by(transfer.c.id.desc()).limit(limit)
        if live_only:
            query = query.where(_IS_LIVE)
        if snapshot_id is not None:
            query = query.where(transfer.c.snapshot_id == snapshot_id)
        if before_id is not None:
            query = query.where(transfer.c.id < before_id)
        with self._reading() as conn:
            return [rows.transfer(r) for r in conn.execute(query)]

    def claimable(self, now: datetime, limit: int) -> list[Transfer]:
        """Live transfers that may be worked on now: recalls first, then by priority, then the oldest.

        States other than queued are included: after a crash they are resumed. The caller leaves out those it is
        carrying out already, and asks for as many more. One that shall be cancelled is included even while paused
        or backing off, so that what it left behind is cleaned up.
        """
        is_due = or_(transfer.c.not_before.is_(None), transfer.c.not_before <= now)
        ready = and_(transfer.c.is_paused.is_(False), is_due)
        query = (
            select(transfer)
            .order_by(transfer.c.kind != TransferKind.RECALL, transfer.c.priority.desc(), transfer.c.id)
            .limit(limit)
        )
        with self._reading() as conn:
            may_run = transfer.c.cancel_requested
            if not settings.is_all_paused(conn):
                may_run = or_(may_run, ready)  # type: ignore[assignment]  # both are SQL conditions
            return [rows.transfer(r) for r in conn.execute(query.where(_IS_LIVE, may_run))]

    def advance(
        self,
        transfer_id: TransferId,
        expected: TransferState,
        new: TransferState,
        *,
        now: datetime,
        message: str = "",
        effects: Sequence[Effect] = (),
    ) -> Transfer:
        """Move a transfer from one state to the next and apply the effects on its snapshot, all or nothing.

        Raises:
            NotFound: there is no such transfer.
            IllegalTransition: it is not in the expected state, or the change is not allowed.
            Held: to releasing, while a lease or a pin holds the snapshot (a held snapshot stays).
            Conflict: the effects would leave the snapshot without a verified copy.
        """
        with self._writing() as conn:
            moved = _move(conn, _Move(id=transfer_id, expected=expected, new=new, now=now, message=message))
            if new is TransferState.RELEASING:
                _refuse_if_held(conn, transfer_id, now)
            effect_rules.apply(conn, moved.snapshot_id, effects, now=now)
            return moved

    def let_go(self, transfer_id: TransferId, now: datetime) -> Transfer:
        """The point of no return of a release: the source's copy stops counting as a copy and may be deleted.

        Checked and recorded in one transaction, so that a lease is granted either before it (and stops it) or after
        it (and finds no flash copy).

        Raises:
            NotFound: there is no such transfer.
            IllegalTransition: it is not releasing.
            Held: a lease or a pin holds the snapshot.
            Conflict: the snapshot would be left without a verified copy.
        """
        with self._writing() as conn:
            t = transfer_by_id(conn, transfer_id)
            if t.state is not TransferState.RELEASING:
                raise IllegalTransition(f"transfer {t.id} is {t.state}, not {TransferState.RELEASING}")
            _refuse_if_held(conn, transfer_id, now)
            effect_rules.apply(conn, t.snapshot_id, [MarkPartial(t.source)], now=now)
            return t

    def retry_later(
        self,
        transfer_id: TransferId,
        expected: TransferState,
        *,
        error: str,
        error_code: str,
        not_before: datetime,
        now: datetime,
    ) -> Transfer:
        """Put a transfer back into the queue after a failed attempt, not to be claimed before `not_before`.

        Raises:
            NotFound, IllegalTransition: as for `advance`.
        """
        with self._writing() as conn:
            attempt = transfer_by_id(conn, transfer_id).attempt + 1
            move = _Move(id=transfer_id, expected=expected, new=TransferState.QUEUED, now=now, message=error)
            return _move(conn, move, error=error, error_code=error_code, not_before=not_before, attempt=attempt)

    def fail(
        self, transfer_id: TransferId, expected: TransferState, *, error: str, error_code: str, now: datetime
    ) -> Transfer:
        """End a transfer as failed.

        Raises:
            NotFound, IllegalTransition: as for `advance`.
        """
        with self._writing() as conn:
            move = _Move(id=transfer_id, expected=expected, new=TransferState.FAILED, now=now, message=error)
            return _move(conn, move, error=error, error_code=error_code)

    def request_cancel(self, transfer_id: TransferId, now: datetime) -> Transfer:
        """Cancel a queued transfer at once; ask the mover to cancel one that is under way.

        Raises:
            NotFound: there is no such transfer.
            Conflict: it has ended already.
        """
        with self._writing() as conn:
            t = _must_be_live(conn, transfer_id)
            if t.state is TransferState.QUEUED:
                new = TransferState.CANCELLED
                move = _Move(id=t.id, expected=t.state, new=new, now=now, message="cancelled before it began")
                return _move(conn, move, cancel_requested=True)
            return _set(conn, t, "transfer.cancel_requested", now, cancel_requested=True)

    def cancelled(self, transfer_id: TransferId, expected: TransferState, *, message: str, now: datetime) -> Transfer:
        """End a transfer as cancelled; the message says what was undone and what was not.

        Raises:
            NotFound, IllegalTransition: as for `advance`.
        """
        return self.advance(transfer_id, expected, TransferState.CANCELLED, now=now, message=message)

    def set_paused(self, transfer_id: TransferId, is_paused: bool, now: datetime) -> Transfer:
        """Pause or resume one transfer.

        Raises:
            NotFound: there is no such transfer.
            Conflict: it has ended already.
        """
        with self._writing() as conn:
            t = _must_be_live(conn, transfer_id)
            return _set(conn, t, "transfer.paused" if is_paused else "transfer.resumed", now, is_paused=is_paused)

    def set_progress(self, transfer_id: TransferId, bytes_done: int, files_done: int) -> None:
        """Keep how far a live transfer came, for those who ask after a restart."""
        with self._writing() as conn:
            live = update(transfer).where(transfer.c.id == transfer_id, _IS_LIVE)
            conn.execute(live.values(bytes_done=bytes_done, files_done=files_done))


def _join(
    conn: Connection, live: Transfer, kind: TransferKind, *, release: bool, priority: int, now: datetime
) -> Transfer:
    if live.kind is not kind or live.cancel_requested:
        about = snapshot_by_id(conn, live.snapshot_id)
        doing = "being cancelled" if live.cancel_requested else live.state
        raise Conflict(
            f"{about.ref} is owned by transfer {live.id} ({live.kind}, {doing})",
            hint=f"Wait until it ends, or cancel it with `tierd cancel {live.id}`.",
        )
    stronger = {"release": live.release or release, "priority": max(live.priority, priority)}
    if stronger == {"release": live.release, "priority": live.priority}:
        return live
    return _set(conn, live, "transfer.raised", now, **stronger)


def _must_be_live(conn: Connection, transfer_id: TransferId) -> Transfer:
    t = transfer_by_id(conn, transfer_id)
    if not t.is_live:
        raise Conflict(f"transfer {t.id} has ended already: {t.state}")
    return t


def _set(conn: Connection, t: Transfer, kind: str, now: datetime, **values: Any) -> Transfer:
    """Change wishes (not the state); an event only when something changed."""
    if all(getattr(t, name) == value for name, value in values.items()):
        return t
    conn.execute(update(transfer).where(transfer.c.id == t.id).values(**values))
    _note(conn, t, kind, now, **values)
    return transfer_by_id(conn, t.id)
