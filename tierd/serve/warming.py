"""Warm: the wish that jobs depend on. Hold, ask whether there is room, promise it, and let the mover bring it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from tierd.catalog import Catalog
from tierd.decide import admit
from tierd.decide.charges import restore_in_words
from tierd.decide.planner import PRIORITY_WISH
from tierd.decide.wording import at
from tierd.errors import Conflict, NotFound, Refused, RestoreNeeded, TooLate
from tierd.model.dataset import Snapshot, SnapshotRef
from tierd.model.hold import Hold, Tie
from tierd.model.part import Part, PartSize, location_of
from tierd.model.placement import Placement
from tierd.model.plan import Action, Admission, Restore, SnapshotView, View, WarmAnswer
from tierd.model.tier import TierKind, TierName
from tierd.model.transfer import POLICY, Transfer, TransferId, TransferKind
from tierd.serve.finding import Finder, Receipt, is_steady
from tierd.serve.ports import Clock, Ports
from tierd.serve.views import Views


@dataclass(frozen=True, kw_only=True)
class LeaseWish:
    """A lease somebody asks for. `request_key`: the same key renews the same lease; `restore`: an archived copy may
    be restored for it, which takes time and money; `first`: patterns of files that come before the others; `only`: of
    those that come at all, `size`: what they come to, and `not_parts`: parts that somebody wrote to; `by`: when it must
    be there, or not be begun at all; `urgency`: among wishes without a time, larger first; `tie`: what the lease ends
    with.
    """

    ref: SnapshotRef
    ttl: timedelta
    holder: str
    request_key: str | None = None
    note: str | None = None
    restore: bool = False
    first: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    size: PartSize | None = None
    not_parts: frozenset[TransferId] = frozenset()
    by: datetime | None = None
    urgency: int = 0
    tie: Tie | None = None


@dataclass(frozen=True, kw_only=True)
class Warmed:
    """A warm that is granted: at once (receipt, no transfer) or by a transfer, which will be there `ready_at`.

    `part`: the part that is there, `part_path`: where it is or will be; None where the whole is meant.
    """

    snapshot: Snapshot
    reason: str
    lease: Hold
    transfer: Transfer | None = None
    receipt: Receipt | None = None
    ready_at: datetime | None = None
    part: Part | None = None
    part_path: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """The flash copy is being given up by this transfer; it was asked to stop. Ask again when it has ended."""

    snapshot: Snapshot
    lease: Hold
    transfer: Transfer


class Warming:
    """Grants warms. Thread-safe; blocks for a few commits at most."""

    def __init__(self, catalog: Catalog, ports: Ports, clock: Clock, views: Views, finder: Finder) -> None:
        self._catalog, self._ports, self._clock, self._views = catalog, ports, clock, views
        self._finder = finder
        # Two admissions at once would both be promised the same room.
        self._admission = threading.Lock()

    def lease(self, wish: LeaseWish) -> Hold:
        """Hold a snapshot for a while; it is not recalled for that.

        Raises:
            NotFound: no such snapshot.
        """
        self._finder.dataset(wish.ref.dataset)
        return self._catalog.grant_lease(
            snapshot_id=self._catalog.snapshot(wish.ref).id,
            holder=wish.holder,
            ttl=wish.ttl,
            now=self._clock(),
            request_key=wish.request_key,
            note=wish.note,
            tie=wish.tie,
        )

    def warm(self, wish: LeaseWish, lease: Hold | None = None) -> Warmed | Leaving:
        """Hold a snapshot, and have it recalled if it is not on flash.

        The lease comes first: from then on nothing that is on flash begins to leave, so what is read afterwards
        stays true. Only a refusal takes it back.

        Args:
            lease: the one that an earlier call for this wish was granted, when it has to be repeated.

        Raises:
            NotFound: no such snapshot.
            Refused: flash cannot hold it, or no copy can be reached.
            TooLate: it cannot be there by the time asked for, or that is over.
            RestoreNeeded: its copy is archived, and the wish does not ask for its restore.
        """
        now = self._clock()
        if wish.by is not None and wish.by <= now:
            raise TooLate(
                f"{wish.ref} cannot be there by {at(wish.by, now)}: that is over",
                hint=f"It is {at(now, now)}; ask for a later time, or without one.",
            )
        lease = lease or self.lease(wish)
        try:
            return self._granted(wish, lease) or self._admitted(wish, lease)
        except (Refused, Conflict, NotFound):
            self.give_back(lease)
            raise

    def give_back(self, lease: Hold) -> None:
        """End a lease that a warm was granted in vain; one that its holder had before is left alone."""
        if lease.generation == 1:
            self._catalog.end_lease(lease.id, self._clock())

    def _granted(self, wish: LeaseWish, lease: Hold) -> Warmed | Leaving | None:
        """The answer when nothing new has to be decided: it is there, on its way up, or on its way down."""
        s = self._finder.find(wish.ref)
        live = s.live
        if live is not None and live.kind is TransferKind.RECALL and not live.cancel_requested:
            if live.only and live.only != wish.only:
                # One transfer at a time: whoever waits for this one's end and asks again is served next.
                return Warmed(snapshot=s.snapshot, reason="another part of it comes first", lease=lease, transfer=live)
            if wish.by is not None and (live.due_at is None or live.due_at > wish.by):
                return None  # whether it can be there by then has to be decided
            # Not ready even where the copy is there already: the path may not lead to it yet.
            path = self._part_path(wish.ref, live)
            return Warmed(snapshot=s.snapshot, reason=live.reason, lease=lease, transfer=live, part_path=path)
        if self._finder.on_flash(s) is not None and is_steady(s):
            reason = f"{s.ref} is on flash"
            return Warmed(snapshot=s.snapshot, reason=reason, lease=lease, receipt=self._finder.receipt(s))
        part = self.part(wish)
        if part is not None:
            reason = f"{', '.join(part.only)} of {s.ref} on flash"
            path = self._finder.part_path(part)
            return Warmed(snapshot=s.snapshot, reason=reason, lease=lease, part=part, part_path=path)
        if live is not None:
            return Leaving(snapshot=s.snapshot, lease=lease, transfer=self._stop(live))
        return None

    def part(self, wish: LeaseWish) -> Part | None:
        """The part that is wished, where it is there and nothing was written to the snapshot since."""
        if not wish.only:
            return None
        snapshot = self._catalog.snapshot(wish.ref)
        changed_at = max(snapshot.changed_at, snapshot.written_at or snapshot.changed_at)
        parts = self._catalog.parts(snapshot.id)
        fitting = (p for p in parts if p.only == wish.only and p.as_of >= changed_at)
        return next((p for p in fitting if p.transfer_id not in wish.not_parts), None)

    def must_measure(self, wish: LeaseWish) -> tuple[Snapshot, Placement] | None:
        """For a wish for a part that is not there: the copy whose manifest tells how large it is.

        Raises:
            NotFound: no such snapshot.
        """
        s = self._finder.find(wish.ref)
        if not wish.only or self._finder.on_flash(s) is not None or self.part(wish) is not None:
            return None
        cold = self._finder.cold(s)
        return None if cold is None else (s.snapshot, cold)

    def _part_path(self, ref: SnapshotRef, transfer: Transfer) -> Path | None:
        if not transfer.only:
            return None
        return self._finder.tier(transfer.destination).root / location_of(ref.dataset, transfer.key)

    def _view(self, wish: LeaseWish) -> View:
        """The present view, in which the snapshot is as large as what is wished of it."""
        view = self._views.current()
        size = wish.size
        if size is None:
            return view

        def as_wished(s: SnapshotView) -> SnapshotView:
            if s.ref != wish.ref:
                return s
            small = replace(
                s.snapshot, size_bytes=size.size_bytes, disk_bytes=size.size_bytes, files=size.files, entries=size.files
            )
            return replace(s, snapshot=small)

        return replace(view, snapshots=tuple(as_wished(s) for s in view.snapshots))

    def _stop(self, live: Transfer) -> Transfer:
        try:
            stopped = self._catalog.request_cancel(live.id, self._clock())
        except Conflict:  # it has just ended by itself
            return self._catalog.transfer(live.id)
        self._ports.wake()
        return stopped

    def _admitted(self, wish: LeaseWish, lease: Hold) -> Warmed | Leaving:
        """Ask whether flash has room, and promise it."""
        with self._admission:
            # Somebody else may have been admitted for the same snapshot while this one waited for its turn.
            answer = self._granted(wish, lease)
            if answer is not None:
                return answer
            admission = admit(self._view(wish), wish.ref, self._clock(), wish.by, urgency=wish.urgency)
            source = admission.source
            if admission.answer is WarmAnswer.READY:
                raise Conflict(f"{wish.ref} is just being changed", hint="Call again.")
            if admission.is_too_late:
                raise self._too_late(wish, admission)
            if admission.answer is WarmAnswer.REFUSED or source is None:
                hint = self._refusal_hint(wish.ref, source)
                raise Refused(f"{wish.ref} cannot be warmed: {admission.reason}", hint=hint)
            if admission.restore is not None and not wish.restore:
                raise _restore_needed(wish.ref, admission.restore)
            warmed = self._recall(wish, lease, self._finder.find(wish.ref), admission, source)
            self._make_room(wish.ref, admission)
        self._ports.wake()
        return warmed

    def _recall(self, wish: LeaseWish, lease: Hold, s: SnapshotView, admission: Admission, source: TierName) -> Warmed:
        restore, reason = admission.restore, admission.reason
        transfer, _ = self._catalog.enqueue(
            snapshot_id=s.snapshot.id,
            kind=TransferKind.RECALL,
            source=source,
            destination=self._finder.flash_tier().name,
            priority=PRIORITY_WISH + wish.urgency,
            reason=reason,
            requested_by=wish.holder,
            bytes_total=s.snapshot.size_bytes if wish.size is None else wish.size.size_bytes,
            files_total=s.snapshot.files if wish.size is None else wish.size.files,
            first=wish.first,
            only=wish.only if s.live is None else s.live.only,  # what is under way is joined as it is
            restore_cost=None if restore is None else restore.cost,
            due_at=wish.by,
            now=self._clock(),
        )
        return Warmed(
            snapshot=s.snapshot,
            reason=reason,
            lease=lease,
            transfer=transfer,
            ready_at=admission.ready_at,
            part_path=self._part_path(wish.ref, transfer),
        )

    def _too_late(self, wish: LeaseWish, admission: Admission) -> TooLate:
        self._catalog.count("deadlines_refused")
        when = "" if admission.ready_at is None else f" from {at(admission.ready_at, self._clock())} on"
        return TooLate(
            f"{wish.ref} cannot be warmed in time: {admission.reason}",
            hint=f"Ask for a time{when}, or for none: then it comes as soon as it can. Nothing was begun.",
        )

    def _refusal_hint(self, ref: SnapshotRef, source: TierName | None) -> str:
        hint = f"`tierd explain {ref}` and `tierd status` show what takes the room"
        if source is not None and self._finder.tier(source).kind is TierKind.POSIX:
            hint += "; the cold copy can be read at its path"
        return f"{hint}."

    def _make_room(self, ref: SnapshotRef, admission: Admission) -> None:
        """Queue the releases that the admission counted on, so that the recall need not wait for the planner."""
        for step in admission.releases:
            try:
                victim = self._catalog.snapshot_by_id(step.snapshot_id)
                self._catalog.enqueue(
                    snapshot_id=step.snapshot_id,
                    kind=TransferKind.MIGRATE,
                    source=step.source,
                    destination=step.destination,
                    release=step.action is Action.RELEASE,
                    priority=PRIORITY_WISH,
                    reason=f"{step.reason} (makes room for {ref})",
                    requested_by=POLICY,
                    bytes_total=victim.size_bytes,
                    files_total=victim.files,
                    now=self._clock(),
                )
            except (Conflict, NotFound):
                # It was warmed or went away since the view was read; the planner finds room for the recall.
                continue


def _restore_needed(ref: SnapshotRef, restore: Restore) -> RestoreNeeded:
    return RestoreNeeded(
        f"{ref} cannot be warmed at once: {restore_in_words(restore)}",
        hint=f"Ask for the restore as well: `tierd warm {ref} --restore`, or `restore` = true in the request.",
    )
