"""What callers may wish for, and what is recorded for it: migrate, release, pin, lease, cancel, pause.

Serve moves nothing. A wish is checked, written to the catalog, and the control loop is woken.
"""

from __future__ import annotations

from datetime import timedelta

from tierd.catalog import Catalog
from tierd.decide.planner import PRIORITY_WISH
from tierd.errors import Conflict, Held, NotSettled, TierOffline
from tierd.model.dataset import Dataset, SnapshotRef
from tierd.model.hold import Hold, HoldId, HoldKind, Tie
from tierd.model.phase import Phase
from tierd.model.plan import SnapshotView
from tierd.model.transfer import Transfer, TransferId, TransferKind
from tierd.serve.finding import Finder
from tierd.serve.ports import Clock, Ports
from tierd.serve.views import Views


class Wishes:
    """Records wishes. Thread-safe; every method blocks for a few commits at most."""

    def __init__(self, catalog: Catalog, ports: Ports, clock: Clock, views: Views, finder: Finder) -> None:
        self._catalog, self._ports, self._clock, self._views = catalog, ports, clock, views
        self._finder = finder

    # ------------------------------------------------------------------ migrate and release

    def migrate(self, ref: SnapshotRef, *, release: bool, requested_by: str) -> Transfer:
        """Have a verified cold copy made, and with `release` the flash copy removed afterwards.

        Raises:
            NotFound: no such snapshot.
            Conflict: there is nothing to do, or another transfer is under way.
            Held, NotSettled: what forbids it.
            TierOffline: the cold tier cannot be reached.
        """
        s = self._finder.find(ref)
        flash = self._finder.on_flash(s)
        if flash is None:
            raise Conflict(f"{ref} is not on flash", hint=f"`tierd explain {ref}` says where it is.")
        cold = self._finder.cold(s)
        if cold is not None and not release:
            hint = f"`tierd release {ref}` removes the flash copy."
            raise Conflict(f"{ref} has a verified copy on {cold.tier} already", hint=hint)
        self._check_may_move(s, release=release)
        destination = self._finder.cold_tier(flash.tier) if cold is None else self._finder.tier(cold.tier)
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
            priority=PRIORITY_WISH,
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
        if release and s.dataset.policy.keeps_flash:
            name, phase = s.dataset.name, s.dataset.phase
            raise Held(
                f"dataset {name} is in phase {phase}, which keeps it on flash",
                hint=f"`tierd phase {name} {Phase.TRAIN}` lets it go.",
            )
        holds = [h for h in s.holds if h.is_active(now)]
        if release and holds:
            who = ", ".join(f"{h.kind} {h.id} of {h.holder}" for h in holds[:3])
            raise Held(f"{s.ref} is held by {who}", hint="Wait until it ends, or end it: a hold forbids every release.")

    # ------------------------------------------------------------------ phases

    def set_phase(self, dataset: str, phase: Phase | None, *, by: str) -> Dataset:
        """Give a dataset a phase, or None to leave it to the configuration; the next decision knows.

        Raises:
            NotFound: no such dataset.
        """
        name = self._finder.dataset(dataset).name
        if self._catalog.set_phase(name, phase, by=by, now=self._clock()):
            self._ports.wake()
        return self._finder.dataset(name)

    # ------------------------------------------------------------------ holds

    def renew(self, hold_id: HoldId, ttl: timedelta, generation: int | None) -> Hold:
        """Let a lease end later.

        Raises:
            NotFound, Conflict: there is no such lease, it has ended, or somebody else renewed it.
        """
        self._need_lease(hold_id)
        return self._catalog.renew_lease(hold_id, ttl, self._clock(), generation=generation)

    def hand_over(
        self, hold_id: HoldId, *, holder: str, tie: Tie | None, ttl: timedelta, generation: int | None
    ) -> Hold:
        """Give a lease to another holder.

        Raises:
            NotFound, Conflict: there is no such lease, it has ended, or somebody else changed it.
        """
        self._need_lease(hold_id)
        return self._catalog.hand_over(
            hold_id, holder=holder, tie=tie, ttl=ttl, now=self._clock(), generation=generation
        )

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
