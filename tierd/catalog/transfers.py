"""Transfers: queueing, claiming, and the guarded advance from state to state."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import and_, insert, or_, select, update

from tierd.catalog import effects as effect_rules
from tierd.catalog import regrets, rows, settings
from tierd.catalog.advance import (
    IS_LIVE,
    Change,
    Wish,
    advance,
    cancel,
    join,
    live_transfer,
    must_be_live,
    note,
    set_wishes,
)
from tierd.catalog.lookup import snapshot_by_id, tier_must_exist, transfer_by_id
from tierd.catalog.refusals import refuse_if_held, refuse_removal, refuse_unless_gone
from tierd.catalog.schema import tier, transfer
from tierd.catalog.session import Session
from tierd.errors import Conflict, IllegalTransition, InvalidRequest
from tierd.model.dataset import SnapshotId
from tierd.model.effect import Effect, MarkPartial
from tierd.model.tier import TierName
from tierd.model.transfer import Transfer, TransferId, TransferKind, TransferState

_ANY_LIVE = select(transfer.c.id).where(IS_LIVE).limit(1)


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
        first: tuple[str, ...] = (),
        only: tuple[str, ...] = (),
        restore_cost: float | None = None,
        due_at: datetime | None = None,
        now: datetime,
    ) -> tuple[Transfer, bool]:
        """Queue a transfer, or join the live one of the same kind (its release and priority become the stronger, its
        deadline the earlier).

        Returns:
            The transfer, and True if it is new.

        Raises:
            NotFound: no such snapshot or tier.
            Conflict: another transfer is live (of another kind, or a migrate between other tiers), or the one to join
                is being cancelled; or the snapshot is gone, or for a remove: is not.
            Held: a remove of a snapshot that a lease or a pin holds.
        """
        is_remove = kind is TransferKind.REMOVE
        if (source == destination) is not is_remove or (release and kind is not TransferKind.MIGRATE):
            raise InvalidRequest(f"a {kind} from {source} to {destination} with release={release} makes no sense")
        with self._writing() as conn:
            about = snapshot_by_id(conn, snapshot_id)
            live = live_transfer(conn, snapshot_id)
            if live is not None:
                wish = Wish(
                    kind=kind,
                    source=source,
                    destination=destination,
                    release=release,
                    priority=priority,
                    due_at=due_at,
                    only=only,
                )
                return join(conn, live, wish, now), False
            if is_remove:
                refuse_unless_gone(conn, snapshot_id)
                refuse_if_held(conn, snapshot_id, now)
            elif about.gone_at is not None:
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
                first=first,
                only=only,
                restore_cost=restore_cost,
                is_paused=False,
                cancel_requested=False,
                created_at=now,
                advanced_at=now,
                due_at=due_at,
            )
            new = transfer_by_id(conn, TransferId(conn.execute(row).lastrowid))
            note(conn, new, "transfer.queued", now, reason, requested_by=requested_by, release=release)
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
            query = query.where(IS_LIVE)
        if snapshot_id is not None:
            query = query.where(transfer.c.snapshot_id == snapshot_id)
        if before_id is not None:
            query = query.where(transfer.c.id < before_id)
        with self._reading() as conn:
            return [rows.transfer(r) for r in conn.execute(query)]

    def claimable(self, now: datetime, limit: int) -> list[Transfer]:
        """Live transfers that may be worked on now: recalls first, of them the earliest deadline, then by priority,
        then the oldest.

        States other than queued are included: after a crash they are resumed. The caller leaves out those it is
        carrying out already, and asks for as many more. One that shall be cancelled is included even while paused
        or backing off, so that what it left behind is cleaned up.
        """
        if self._known("any live transfer", lambda conn: conn.scalar(_ANY_LIVE)) is None:
            return []
        is_due = or_(transfer.c.not_before.is_(None), transfer.c.not_before <= now)
        ready = and_(transfer.c.is_paused.is_(False), is_due)
        query = (
            select(transfer)
            .order_by(
                transfer.c.kind != TransferKind.RECALL,
                transfer.c.due_at.is_(None),
                transfer.c.due_at,
                transfer.c.priority.desc(),
                transfer.c.id,
            )
            .limit(limit)
        )
        with self._reading() as conn:
            may_run = transfer.c.cancel_requested
            if not settings.is_all_paused(conn):
                may_run = or_(may_run, ready)  # type: ignore[assignment]  # both are SQL conditions
            return [rows.transfer(r) for r in conn.execute(query.where(IS_LIVE, may_run))]

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
            Conflict: the effects would leave the snapshot without a verified copy; or a remove would delete a copy of
                a snapshot that is there again.
        """
        with self._writing() as conn:
            moved = advance(conn, Change(id=transfer_id, expected=expected, new=new, now=now, message=message))
            if new is TransferState.RELEASING:
                refuse_if_held(conn, moved.snapshot_id, now)
            refuse_removal(conn, moved, new, now)
            effect_rules.apply(conn, moved.snapshot_id, effects, now=now)
            if new is TransferState.DONE:
                leaves_flash = conn.scalar(select(tier.c.rank).where(tier.c.name == moved.source)) == 0
                regrets.note_done(conn, moved, leaves_flash=leaves_flash, now=now)
            return moved

    def wait_for_restore(
        self,
        transfer_id: TransferId,
        state: TransferState,
        *,
        message: str,
        until: datetime | None,
        not_before: datetime,
        now: datetime,
    ) -> Transfer:
        """Let a transfer wait for an archive class, or wait on; no attempt is counted.

        Args:
            state: in which it is now: queued, or restoring already.
            message: what it waits for, for people.
            until: when that should be there; None while nobody can say.
            not_before: when to look again: it is claimable from then on.

        Raises:
            NotFound: there is no such transfer.
            IllegalTransition: it is not in `state`, or cannot wait from there.
        """
        with self._writing() as conn:
            change = Change(id=transfer_id, expected=state, new=TransferState.RESTORING, now=now, message=message)
            return advance(conn, change, waits_for=message, expected_at=until, not_before=not_before)

    def let_go(self, transfer_id: TransferId, now: datetime) -> Transfer:
        """The point of no return of a release or remove: the source's copy stops counting as one and may be deleted.

        Checked and recorded in one transaction, so that a lease is granted either before it (and stops it) or after
        it (and finds no flash copy).

        Raises:
            NotFound: there is no such transfer.
            IllegalTransition: it is not releasing.
            Held: a lease or a pin holds the snapshot.
            Conflict: the snapshot would be left without a verified copy; for a remove: it is there again.
        """
        with self._writing() as conn:
            t = transfer_by_id(conn, transfer_id)
            if t.state is not TransferState.RELEASING:
                raise IllegalTransition(f"transfer {t.id} is {t.state}, not {TransferState.RELEASING}")
            refuse_if_held(conn, t.snapshot_id, now)
            if t.kind is TransferKind.REMOVE:
                refuse_unless_gone(conn, t.snapshot_id)
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
            change = Change(id=transfer_id, expected=expected, new=TransferState.QUEUED, now=now, message=error)
            return advance(conn, change, error=error, error_code=error_code, not_before=not_before, attempt=attempt)

    def fail(
        self, transfer_id: TransferId, expected: TransferState, *, error: str, error_code: str, now: datetime
    ) -> Transfer:
        """End a transfer as failed.

        Raises:
            NotFound, IllegalTransition: as for `advance`.
        """
        with self._writing() as conn:
            change = Change(id=transfer_id, expected=expected, new=TransferState.FAILED, now=now, message=error)
            return advance(conn, change, error=error, error_code=error_code)

    def request_cancel(self, transfer_id: TransferId, now: datetime) -> Transfer:
        """Cancel one that only waits (queued, restoring) at once; ask the mover to cancel one that is under way.

        Raises:
            NotFound: there is no such transfer.
            Conflict: it has ended already.
        """
        with self._writing() as conn:
            return cancel(conn, must_be_live(conn, transfer_id), now)

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
            t = must_be_live(conn, transfer_id)
            return set_wishes(conn, t, "transfer.paused" if is_paused else "transfer.resumed", now, is_paused=is_paused)

    def set_progress(self, transfer_id: TransferId, bytes_done: int, files_done: int) -> None:
        """Keep how far a live transfer came, for those who ask after a restart."""
        with self._writing() as conn:
            live = update(transfer).where(transfer.c.id == transfer_id, IS_LIVE)
            conn.execute(live.values(bytes_done=bytes_done, files_done=files_done))
