"""Access tracking by fanotify: one mark per file system, none per directory, and the process is known.

One thread does it all: `listening` gathers events, `intake` says what they mean (and states the rules of locking),
`doubts` has looked at again what may not have been seen, `holding` finds those who make no events any more.

It waits a moment after the first event: those of one process in one directory merge in the queue meanwhile, so that
an epoch over a million files costs a few hundred. Opens are reported all the time while they are few, for a moment
now and then while they are many (see `duty`); changes always are.

Nobody waits for tierd: the queue may overflow (16,384 events), which is repaired by a look at everything on that
file system; whoever reads does not notice. Nor can anybody keep it busy: where directories change by the ten thousand a
second, what lies there is measured some minutes later instead.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tierd.fs.fanotify import check_rights
from tierd.model.dataset import AccessSource, SnapshotId
from tierd.model.observation import AccessBatch
from tierd.observe.directories import Place
from tierd.observe.doubts import Doubts
from tierd.observe.filesystems import Filesystems
from tierd.observe.holders import Holders
from tierd.observe.holding import Holding
from tierd.observe.intake import Intake
from tierd.observe.ledger import Ledger
from tierd.observe.listening import Listener, ready
from tierd.observe.tracker import LOSS_FELT_S, Clock, Dirty, Tracker, TrackerStatus, Watch, missing_note, times
from tierd.observe.who import Who

_PAUSE_S = 0.1
_FOREVER_S = 3600.0
_MOUNTS = Path("/proc/self/mountinfo")


class FanotifyTracker:
    """The fanotify back end. See `Tracker` for the contract.

    A read that began while opens were not listened for is not seen; see `duty`, and `sample_every_s`. Nor is one
    from a file that was opened before, or is only mapped any more: see `hold_every_s`.

    Args:
        clock: the time of an event, read once per batch.
        fallback: follows the trees on file systems that fanotify cannot mark.
        who: tells who a process is.
        retry_s: seconds between looks for trees whose path is missing.
        sample_every_s: seconds after which snapshots of which nothing was seen are reported as dirty, where opens
            were not listened for all the time: measuring them tells their access times.
        hold_every_s: seconds from one look at who holds files open or mapped to the next: each is a read then.
        loss_felt_s: seconds for which lost events leave it degraded after they were repaired.

    Raises:
        OSError: fanotify cannot be used here: EPERM without its capabilities, EINVAL before Linux 5.9.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        fallback: Tracker | None = None,
        who: Who | None = None,
        retry_s: float = 5.0,
        sample_every_s: float = 3600.0,
        hold_every_s: float = 60.0,
        loss_felt_s: float = LOSS_FELT_S,
    ) -> None:
        check_rights()
        self._clock = clock
        self._fallback = fallback
        who = who or Who()
        self._holding = Holding(Holders(who), hold_every_s)
        self._retry_s = retry_s
        self._ledger = Ledger(AccessSource.EVENTS)
        self._changed = threading.Condition(self._ledger.lock)
        self._systems = Filesystems()
        self._watches: list[Watch] = []
        self._watches_due = False
        self._places: dict[Watch, Place] = {}
        self._missing = 0
        self._retry_due = 0.0
        self._doubts = Doubts(self._ledger, sample_every_s, loss_felt_s)
        self._intake = Intake(self._ledger, who, self._doubts, on_elsewhere=self._look_everywhere)
        self._handed_over: list[Watch] = []
        self._wanted_round = self._done_round = 0
        self._is_stopping = False
        self._is_busy = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._listener = Listener(self._wake)
        self._thread = threading.Thread(target=self._run, name="tierd-fanotify", daemon=True)

    # Tracker

    def start(self, watches: Sequence[Watch]) -> None:
        self._set(watches)
        if self._fallback is not None:
            self._fallback.start(())
        self._thread.start()

    def update(self, watches: Sequence[Watch]) -> None:
        self._set(watches)

    def _set(self, watches: Sequence[Watch]) -> None:
        with self._changed:
            self._watches, self._watches_due = list(watches), True
            self._ledger.retain({w.snapshot_id for w in watches if w.snapshot_id is not None})
        self._poke()

    def stop(self) -> None:
        with self._changed:
            if self._is_stopping:
                return
            self._is_stopping = True
        self._poke()
        if self._thread.ident is not None:
            self._thread.join()
        if self._fallback is not None:
            self._fallback.stop()
        with self._changed:
            self._intake.settle(self._clock(), is_last=True)
            self._changed.notify_all()
            os.close(self._wake)
            self._wake = -1
        self._systems.close()

    def drain(self) -> list[AccessBatch]:
        now = self._clock()
        with self._changed:
            self._intake.settle(now)
            batches = self._ledger.drain(now)
        return batches + (self._fallback.drain() if self._fallback is not None else [])

    def drain_dirty(self) -> Dirty:
        own = self._ledger.drain_dirty()
        return own if self._fallback is None else own | self._fallback.drain_dirty()

    def status(self) -> TrackerStatus:
        faults: list[str] = []
        if self._thread.ident is not None and not self._thread.is_alive():
            faults.append("stopped" if self._is_stopping else "the thread of the tracker ended unexpectedly")
        with self._changed:
            notes, refused = self._systems.describe() + self._doubts.describe(), dict(self._systems.refused)
            seen, lost, missing, trees = self._intake.seen, self._intake.lost, self._missing, len(self._places)
            is_pending, is_felt = self._watches_due, self._doubts.is_felt
        if lost:
            said = f"the kernel's queue overflowed {times(lost)}; each time everything there is looked at again"
            (faults if is_felt else notes).append(said)
        if refused and self._fallback is not None:
            other = self._fallback.status()
            which = ", ".join(f"{os.fsdecode(path)} ({reason})" for path, reason in sorted(refused.items()))
            note = f"followed by {other.name} instead: {which}"
            (faults if other.is_degraded else notes).append(f"{note}; {other.detail}" if other.is_degraded else note)
            seen, lost, trees = seen + other.events_seen, lost + other.events_lost, trees + other.watches
        if missing:
            notes.append(missing_note(missing))
        if is_pending:
            notes.append("watches are being set up")
        return TrackerStatus(
            name="fanotify",
            is_degraded=bool(faults),
            detail="; ".join(faults + notes),
            events_seen=seen,
            events_lost=lost,
            watches=trees,
        )

    def suppress(self, snapshot_id: SnapshotId) -> None:
        """Only a process that ended before it could be asked is taken for one of ours while this lasts."""
        with self._changed:
            self._ledger.tally(snapshot_id).suppressions += 1
        if self._fallback is not None:
            self._fallback.suppress(snapshot_id)

    def unsuppress(self, snapshot_id: SnapshotId) -> None:
        self._wait_for_round(1.0)  # tierd's last reads may still be in the queue
        with self._changed:
            tally = self._ledger.tally(snapshot_id)
            tally.suppressions = max(0, tally.suppressions - 1)
        if self._fallback is not None:
            self._fallback.unsuppress(snapshot_id)

    def sync(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        if not self._wait_for_round(timeout_s):
            return False
        return self._fallback is None or self._fallback.sync(max(0.0, deadline - time.monotonic()))

    def _wait_for_round(self, timeout_s: float) -> bool:
        with self._changed:
            # A round that is under way may have passed the event already, so only the next one counts.
            self._wanted_round += 1
            wanted = self._wanted_round
            self._poke()
            self._changed.wait_for(lambda: self._done_round >= wanted or not self._thread.is_alive(), timeout_s)
            return self._done_round >= wanted

    def _poke(self) -> None:
        with self._changed:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    # The thread

    def _run(self) -> None:
        self._holding.begin()
        try:
            with _MOUNTS.open() as mounts:
                while not self._is_stopping:
                    self._round(is_remounted=self._pause(mounts.fileno()))
        finally:
            with self._changed:
                self._changed.notify_all()

    def _pause(self, mounts: int) -> bool:
        """Wait until there is something to do: events, a wish, or an appointment. True: the mounts changed.

        After a busy round it rests first: so the first event of a process is looked at while the process still lives,
        and those that follow merge.
        """
        by = ready([self._wake], timeout_s=self._until_due(_PAUSE_S), mounts=mounts) if self._is_busy else set()
        if not by:
            groups = [system.group.fd for system in self._systems.all()]
            by = ready([*groups, self._wake], timeout_s=self._until_due(_FOREVER_S), mounts=mounts)
        return mounts in by

    def _until_due(self, longest_s: float) -> float:
        due = [system.duty.window_due for system in self._systems.all()]
        due += [self._doubts.due, self._intake.due, self._holding.due]
        if self._missing:
            due.append(self._retry_due)
        return max(0.0, min([longest_s, *(at - time.monotonic() for at in due)]))

    def _round(self, *, is_remounted: bool) -> None:
        # In this order: a wish that comes in between wakes the next round.
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        with self._changed:
            wanted = self._wanted_round
        if is_remounted or self._watches_due or (self._missing and time.monotonic() >= self._retry_due):
            self._set_up(is_remounted=is_remounted)
        self._is_busy = False
        for system in self._systems.all():
            events = self._listener.attend(system)
            if events:
                self._is_busy = True
                self._intake.take_in(system, events, self._clock())
        self._intake.look_at_postponed(is_wanted=wanted > self._done_round)
        if self._doubts.repair():
            self._look_everywhere()  # names may have changed as well
        self._look_at_holders()
        if self._doubts.sample(self._systems.all(), self._intake.read_since):
            self._intake.read_since.clear()
        with self._changed:
            if not self._watches_due:
                self._done_round = max(self._done_round, wanted)
                self._changed.notify_all()

    def _look_at_holders(self) -> None:
        found = self._holding.look()
        if found:
            with self._changed:
                watched = {watch.snapshot_id for watch in self._watches}
                still = {snapshot_id: readers for snapshot_id, readers in found.items() if snapshot_id in watched}
                self._intake.holders(still, self._clock())

    # Where watches are

    def _look_everywhere(self) -> None:
        with self._changed:
            self._watches_due = True
            self._poke()

    def _set_up(self, *, is_remounted: bool) -> None:
        with self._changed:
            watches, self._watches_due = self._watches, False
            places = {w: self._places.get(w) or self._new_place(w) for w in watches}
        changed = [place for place in places.values() if place.look() and place.watch in self._places]
        fresh, gone = self._systems.set_up(list(places.values()), is_remounted=is_remounted)
        with self._changed:
            self._places = places
            self._missing = sum(place.root is None for place in places.values())
            trees = [(p.tally.snapshot_id, p.path) for p in places.values() if p.tally is not None]
            self._retry_due = time.monotonic() + self._retry_s
            for system in gone:
                self._doubts.forget(system)
                self._intake.forget(system)
            for place in changed:  # it came or went before an event told; what went on there, nobody has seen
                self._ledger.dirty_datasets.add(place.watch.dataset)
                if place.tally is not None and place.root is not None:
                    place.tally.is_dirty = True
        self._holding.trees = trees
        if is_remounted:
            for system in fresh:
                self._doubts.everything(system)
        if self._fallback is not None and self._systems.refused_watches != self._handed_over:
            self._handed_over = list(self._systems.refused_watches)
            self._fallback.update(self._handed_over)

    def _new_place(self, watch: Watch) -> Place:
        return Place(watch, None if watch.snapshot_id is None else self._ledger.tally(watch.snapshot_id))
