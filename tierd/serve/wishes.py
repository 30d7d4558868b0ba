"""What callers may wish for, and what is recorded for it: warm, migrate, release, pin, lease, cancel, pause.

Serve moves nothing. A wish is checked, written to the catalog, and the control loop is woken.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta

from tierd.catalog import Catalog
from tierd.config import Config
from tierd.decide import admit
from tierd.errors import Conflict, Held, InvalidRequest, NotFound, NotSettled, Refused, TierOffline
from tierd.model.dataset import Dataset, Snapshot, SnapshotRef
from tierd.model.hold import Hold, HoldId, HoldKind
from tierd.model.placement import Placement, PlacementState, Residency, residency
from tierd.model.plan import Action, Admission, SnapshotView, WarmAnswer
from tierd.model.tier import Tier, TierName
from tierd.model.transfer import Transfer, TransferId, TransferKind, TransferState
from tierd.serve.ports import Clock, Ports
from tierd.serve.views import Views

_WARM_PRIORITY = 10


@dataclass(frozen=True, kw_only=True)
class LeaseWish:
    """A lease somebody asks for. `request_key`: the same key renews the same lease."""

    ref: SnapshotRef
    ttl: timedelta
    holder: str
    request_key: str | None = None
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Proof that a snapshot is wholly on flash at this moment."""

    snapshot: Snapshot
    placement: Placement
    residency: Residency
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Warmed:
    """A warm that is granted: at once (receipt, no transfer) or by a transfer."""

    snapshot: Snapshot
    reason: str
    lease: Hold
    transfer: Transfer | None = None
    receipt: Receipt | None = None


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """The flash copy is being given up by this transfer; it was asked to stop. Ask again when it has ended."""

    snapshot: Snapshot
    lease: Hold
    transfer: Transfer


class Wishes:
    """Records wishes. Thread-safe; every method blocks for a few commits at most."""

    def __init__(self, config: Config, catalog: Catalog, ports: Ports, clock: Clock, views: Views) -> None:
        self._config, self._catalog, self._ports = config, catalog, ports
        self._clock, self._views = clock, views
        # Two admissions at once would both be promised the same room.
        self._admission = threading.Lock()
        self._flash = frozenset(t.name for t in config.tiers if t.rank == 0)

    # ------------------------------------------------------------------ looking

    def find(self, ref: SnapshotRef) -> SnapshotView:
        """What the catalog says about one snapshot now, without reading any other.

        Raises:
            NotFound: there is no such snapshot, or its dataset is not configured.
        """
        snapshot = self._catalog.snapshot(ref)
        # The transfer before the placements: one that ends in between is then seen as still live, never as a snapshot
        # that is neither on flash nor on its way.
        live = self._catalog.transfers(live_only=True, snapshot_id=snapshot.id, limit=1)
        return SnapshotView(
            snapshot=snapshot,
            dataset=self._dataset(ref.dataset),
            placements=tuple(self._catalog.placements(snapshot.id)),
            holds=tuple(self._catalog.holds(snapshot.id, now=self._clock())),
            live=live[0] if live else None,
        )

    def residency(self, s: SnapshotView) -> Residency:
        """Where the snapshot's bytes are."""
        recalling = s.live is not None and s.live.kind is TransferKind.RECALL
        return residency(s.placements, flash=self._flash, recalling=recalling)

    def receipt(self, s: SnapshotView) -> Receipt:
        """The receipt of a snapshot.

        Raises:
            Conflict: it is not wholly on flash, or about to leave.
        """
        placement = self._on_flash(s)
        if placement is None or not _is_steady(s):
            raise Conflict(
                f"{s.ref} is not on flash",
                hint="Warm it, and ask for the receipt when its transfer is done.",
            )
        return Receipt(snapshot=s.snapshot, placement=placement, residency=self.residency(s), at=self._clock())

    # ------------------------------------------------------------------ warm

    def warm(self, wish: LeaseWish, lease: Hold | None = None) -> Warmed | Leaving:
        """Hold a snapshot, and have it recalled if it is not on flash.

        The lease comes first: from then on nothing that is on flash begins to leave, so what is read afterwards
        stays true. Only a refusal takes it back.

        Args:
            lease: the one that an earlier call for this wish was granted, when it has to be repeated.

        Raises:
            NotFound: no such snapshot.
            Refused: flash cannot hold it, or no copy can be reached.
        """
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
        s = self.find(wish.ref)
        live = s.live
        if live is not None and live.kind is TransferKind.RECALL and not live.cancel_requested:
            # Not ready even where the copy is there already: the path may not lead to it yet.
            return Warmed(snapshot=s.snapshot, reason=live.reason, lease=lease, transfer=live)
        if self._on_flash(s) is not None and _is_steady(s):
            reason = f"{s.ref} is on flash"
            return Warmed(snapshot=s.snapshot, reason=reason, lease=lease, receipt=self.receipt(s))
        if live is not None:
            return Leaving(snapshot=s.snapshot, lease=lease, transfer=self._stop(live))
        return None

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
            admission = admit(self._views.current(), wish.ref, self._clock())
            source = admission.source
            if admission.answer is WarmAnswer.READY:
                raise Conflict(f"{wish.ref} is just being changed", hint="Call again.")
            if admission.answer is WarmAnswer.REFUSED or source is None:
                raise Refused(f"{wish.ref} cannot be warmed: {admission.reason}", hint=_refusal_hint(wish.ref))
            warmed = self._recall(wish, lease, self.find(wish.ref), source, reason=admission.reason)
            self._make_room(wish.ref, admission)
        self._ports.wake()
        return warmed

    def _recall(self, wish: LeaseWish, lease: Hold, s: SnapshotView, source: TierName, *, reason: str) -> Warmed:
        transfer, _ = self._catalog.enqueue(
            snapshot_id=s.snapshot.id,
            kind=TransferKind.RECALL,
            source=source,
            destination=self._flash_tier().name,
            priority=_WARM_PRIORITY,
            reason=reason,
            requested_by=wish.holder,
            bytes_total=s.snapshot.size_bytes,
            files_total=s.snapshot.files,
            now=self._clock(),
        )
        return Warmed(snapshot=s.snapshot, reason=reason, lease=lease, transfer=transfer)

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
                    priority=_WARM_PRIORITY,
                    reason=f"{step.reason} (makes room for {ref})",
                    requested_by="policy",
                    bytes_total=victim.size_bytes,
                    files_total=victim.files,
                    now=self._clock(),
                )
            except (Conflict, NotFound):
                # It was warmed or went away since the view was read; the planner finds room for the recall.
                continue

    # ------------------------------------------------------------------ migrate and release

    def migrate(self, ref: SnapshotRef, *, release: bool, requested_by: str) -> Transfer:
        """Have a verified cold copy made, and with `release` the flash copy removed afterwards.

        Raises:
            NotFound: no such snapshot.
            Conflict: there is nothing to do, or another transfer is under way.
            Held, NotSettled: what forbids it.
            TierOffline: the cold tier cannot be reached.
        """
        s = self.find(ref)
        flash = self._on_flash(s)
        if flash is None:
            raise Conflict(f"{ref} is not on flash", hint=f"`tierd explain {ref}` says where it is.")
        cold = self._cold(s)
        if cold is not None and not release:
            hint = f"`tierd release {ref}` removes the flash copy."
            raise Conflict(f"{ref} has a verified copy on {cold.tier} already", hint=hint)
        self._check_may_move(s, release=release)
        destination = self._cold_tier(flash.tier) if cold is None else self._tier(cold.tier)
        usage = self._ports.usage().get(destination.name)
        if usage is None or not usage.is_online:
            why = usage.offline_reason if usage is not None else None
            raise TierOffline(f"tier {destination.name} is offline: {why or 'not looked at yet'}")
        transfer, _ = self._catalog.enqueue(
            snapshot_id=s.snapshot.id,
            kind=TransferKind.MIGRATE,
            source=flash.tier,
            destination=destination.name,
            release=release,
            priority=_WARM_PRIORITY,
            reason=f"asked for by {requested_by}",
            requested_by=requested_by,
            bytes_total=s.snapshot.size_bytes,
            files_total=s.snapshot.files,
            now=self._clock(),
        )
        self._ports.wake()
        return transfer

    def _check_may_move(self, s: SnapshotView, *, release: bool) -> None:
        now = self._clock()
        if s.snapshot.problem is not None:
            raise Conflict(f"{s.ref} is not looked after: {s.snapshot.problem}")
        settles_at = s.snapshot.changed_at + s.dataset.policy.settle_after
        if now < settles_at:
            raise NotSettled(
                f"{s.ref} was changed at {s.snapshot.changed_at:%Y-%m-%d %H:%M:%S} UTC",
                hint=f"If nobody changes it again, it is settled at {settles_at:%Y-%m-%d %H:%M:%S} UTC.",
            )
        holds = [h for h in s.holds if h.is_active(now)]
        if release and holds:
            who = ", ".join(f"{h.kind} {h.id} of {h.holder}" for h in holds[:3])
            raise Held(f"{s.ref} is held by {who}", hint="Wait until it ends, or end it: a hold forbids every release.")

    # ------------------------------------------------------------------ holds

    def lease(self, wish: LeaseWish) -> Hold:
        """Hold a snapshot for a while; it is not recalled for that.

        Raises:
            NotFound: no such snapshot.
        """
        self._dataset(wish.ref.dataset)
        return self._catalog.grant_lease(
            snapshot_id=self._catalog.snapshot(wish.ref).id,
            holder=wish.holder,
            ttl=wish.ttl,
            now=self._clock(),
            request_key=wish.request_key,
            note=wish.note,
        )

    def renew(self, hold_id: HoldId, ttl: timedelta, generation: int | None) -> Hold:
        """Let a lease end later.

        Raises:
            NotFound, Conflict: there is no such lease, it has ended, or somebody else renewed it.
        """
        self._need_lease(hold_id)
        return self._catalog.renew_lease(hold_id, ttl, self._clock(), generation=generation)

    def end(self, hold_id: HoldId) -> None:
        """End a lease now.

        Raises:
            NotFound, Conflict: there is no such lease, or it is a pin.
        """
        self._need_lease(hold_id)
        self._catalog.end_lease(hold_id, self._clock())
        self._ports.wake()

    def _need_lease(self, hold_id: HoldId) -> None:
        hold = self._catalog.hold(hold_id)
        if hold.kind is not HoldKind.LEASE:
            ref = self._views.ref(hold.snapshot_id)
            raise Conflict(f"hold {hold_id} is a pin of {ref}", hint=f"`tierd unpin {ref}` removes it.")

    def pin(self, ref: SnapshotRef, holder: str, note: str | None) -> Hold:
        """Hold a snapshot without end. Again is as good as once."""
        return self._catalog.pin(self._catalog.snapshot(ref).id, holder, self._clock(), note=note)

    def unpin(self, ref: SnapshotRef) -> None:
        """Remove the pin; nothing happens where there is none."""
        if self._catalog.unpin(self._catalog.snapshot(ref).id, self._clock()):
            self._ports.wake()

    # ------------------------------------------------------------------ transfers

    def cancel(self, transfer_id: TransferId) -> Transfer:
        """Ask a transfer to stop at the next safe point; one that is only queued ends at once.

        Raises:
            NotFound, Conflict: there is no such transfer, or it has ended.
        """
        transfer = self._need_live(transfer_id)
        cancelled = self._catalog.request_cancel(transfer.id, self._clock())
        self._ports.wake()
        return cancelled

    def pause(self, transfer_id: TransferId, *, is_paused: bool) -> Transfer:
        """Let a transfer rest, or go on.

        Raises:
            NotFound, Conflict: there is no such transfer, or it has ended.
        """
        transfer = self._need_live(transfer_id)
        changed = self._catalog.set_paused(transfer.id, is_paused, self._clock())
        self._ports.wake()
        return changed

    def pause_all(self, *, is_paused: bool) -> None:
        """Let all transfers rest, or go on."""
        self._catalog.set_all_paused(is_paused, self._clock())
        self._ports.wake()

    def _need_live(self, transfer_id: TransferId) -> Transfer:
        transfer = self._catalog.transfer(transfer_id)
        if not transfer.is_live:
            raise Conflict(f"transfer {transfer_id} has ended as {transfer.state}")
        return transfer

    # ------------------------------------------------------------------ tiers

    def _dataset(self, name: str) -> Dataset:
        found = next((d for d in self._config.datasets if d.name == name), None)
        if found is None:
            known = ", ".join(sorted(d.name for d in self._config.datasets)[:10])
            raise NotFound(f"no dataset {name!r} is configured", hint=f"Configured are: {known or 'none'}.")
        return found

    def _tier(self, name: TierName) -> Tier:
        found = next((t for t in self._config.tiers if t.name == name), None)
        if found is None:
            raise NotFound(f"no tier {name!r} is configured")
        return found

    def _flash_tier(self) -> Tier:
        return min(self._config.tiers, key=lambda t: t.rank)

    def _cold_tier(self, above: TierName) -> Tier:
        """The tier to which a snapshot goes from this one: the next slower one."""
        rank = self._tier(above).rank
        slower = [t for t in self._config.tiers if t.rank > rank]
        if not slower:
            raise InvalidRequest(f"there is no tier below {above}", hint="Configure a tier of a larger rank.")
        return min(slower, key=lambda t: t.rank)

    def _on_flash(self, s: SnapshotView) -> Placement | None:
        return next((p for p in s.placements if p.tier in self._flash and _is_complete(p)), None)

    def _cold(self, s: SnapshotView) -> Placement | None:
        return next((p for p in s.placements if p.tier not in self._flash and _is_complete(p)), None)


def _is_complete(p: Placement) -> bool:
    return p.state is PlacementState.VERIFIED


def _is_steady(s: SnapshotView) -> bool:
    """Whether what is on flash is at the path and stays there, given a hold: no recall switches it, nothing releases it."""
    if s.live is None:
        return True
    return s.live.kind is TransferKind.MIGRATE and s.live.state is not TransferState.RELEASING


def _refusal_hint(ref: SnapshotRef) -> str:
    return f"`tierd explain {ref}` and `tierd status` show what takes the room; the cold copy can be read at its path."
