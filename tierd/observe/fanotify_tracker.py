"""Access tracking by fanotify: one mark per file system, none per directory, and the process is known.

One thread takes events in. It waits a moment after the first: events of one process in one directory merge in the
queue meanwhile, so that an epoch over a million files costs a few hundred events. Opens are reported all the time
while they are few, for a moment now and then while they are many (see `duty`); changes always are.

Nobody waits for tierd: the queue may overflow (16,384 events), which is repaired by a look at everything on that
file system; whoever reads does not notice.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from tierd.fs.fanotify import CHANGES, MOVED, NAMES, ONDIR, OPEN, Q_OVERFLOW, Event, check_rights
from tierd.model.dataset import AccessSource, SnapshotId
from tierd.model.observation import AccessBatch, Reader
from tierd.observe.directories import Owner, Place
from tierd.observe.duty import CONFIRM_S, PROBE_S, WINDOW_S
from tierd.observe.filesystems import Filesystem, Filesystems
from tierd.observe.holders import Holders
from tierd.observe.holding import Holding
from tierd.observe.ledger import Ledger, Tally
from tierd.observe.tracker import Clock, Dirty, Tracker, TrackerStatus, Watch
from tierd.observe.who import Who

_PAUSE_S = 0.1
_GRACE = timedelta(seconds=0.3)
"""An open says nothing of its kind: when the same process writes in the same directory before this, it was no read."""
_MOST_OPENS = 4096
_REPAIR_REST_S = 60.0
_LOOK_UPS_PER_S = 1000
"""Directories looked up for opens (some 20 µs each) while these are many; who is left out is seen in another window."""
_FOREVER_S = 3600.0
_AT_ONCE = 128
"""Events worked on while others wait: some milliseconds, if every directory and process is a new one."""
_REST = 19.0
"""After looking at many paths again it rests for so many times as long: a twentieth of a core, whoever makes names."""
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
    ) -> None:
        check_rights()
        self._clock = clock
        self._fallback = fallback
        self._who = who or Who()
        self._holding = Holding(Holders(self._who), hold_every_s)
        self._retry_s, self._sample_every_s = retry_s, sample_every_s
        self._ledger = Ledger(AccessSource.EVENTS)
        self._changed = threading.Condition(self._ledger.lock)
        self._systems = Filesystems()
        self._watches: list[Watch] = []
        self._watches_due = False
        self._places: dict[Watch, Place] = {}
        self._missing = 0
        self._retry_due = 0.0
        self._look_ups = 0
        self._look_ups_since = 0.0
        self._opens: dict[tuple[bytes, int], tuple[Tally, Reader, datetime]] = {}
        self._seen = self._lost = 0
        self._repair_due: dict[Filesystem, float] = {}
        self._repaired_at: dict[Filesystem, float] = {}
        self._sample_due = time.monotonic() + sample_every_s
        self._read_since: set[SnapshotId] = set()
        self._postponed: dict[Filesystem, set[Place]] = {}
        self._rests_until = 0.0
        self._handed_over: list[Watch] = []
        self._wanted_round = self._done_round = 0
        self._is_stopping = False
        self._is_busy = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
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
            self._settle_opens(self._clock(), is_last=True)
            self._changed.notify_all()
            os.close(self._wake)
            self._wake = -1
        self._systems.close()

    def drain(self) -> list[AccessBatch]:
        now = self._clock()
        with self._changed:
            self._settle_opens(now)
            batches = self._ledger.drain(now)
        return batches + (self._fallback.drain() if self._fallback is not None else [])

    def drain_dirty(self) -> Dirty:
        own = self._ledger.drain_dirty()
        if self._fallback is None:
            return own
        other = self._fallback.drain_dirty()
        return Dirty(datasets=own.datasets | other.datasets, snapshots=own.snapshots | other.snapshots)

    def status(self) -> TrackerStatus:
        faults: list[str] = []
        if self._thread.ident is not None and not self._thread.is_alive():
            faults.append("stopped" if self._is_stopping else "the thread of the tracker ended unexpectedly")
        with self._changed:
            systems, refused = self._systems.all(), dict(self._systems.refused)
            seen, lost, missing, trees = self._seen, self._lost, self._missing, len(self._places)
            is_pending = self._watches_due
        if lost:
            faults.append(f"the kernel's queue overflowed {lost} times; each time everything there was looked at again")
        notes = [f"opens and changes on {len(systems)} file systems (fanotify)"]
        now = time.monotonic()
        notes += [
            f"{os.fsdecode(system.where)} is so busy that opens are listened for only "
            f"{system.duty.coverage(now):.0%} of the time; access times tell the rest"
            for system in systems
            if system.duty.is_sparing
        ]
        if refused and self._fallback is not None:
            other = self._fallback.status()
            which = ", ".join(f"{os.fsdecode(path)} ({reason})" for path, reason in sorted(refused.items()))
            note = f"followed by {other.name} instead: {which}"
            (faults if other.is_degraded else notes).append(f"{note}; {other.detail}" if other.is_degraded else note)
            seen, lost, trees = seen + other.events_seen, lost + other.events_lost, trees + other.watches
        if missing:
            notes.append(f"{missing} watched paths are missing now")
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
        ready = _ready([self._wake], timeout_s=self._until_due(_PAUSE_S), mounts=mounts) if self._is_busy else set()
        if not ready:
            groups = [system.group.fd for system in self._systems.all()]
            ready = _ready([*groups, self._wake], timeout_s=self._until_due(_FOREVER_S), mounts=mounts)
        return mounts in ready

    def _until_due(self, longest_s: float) -> float:
        due = [system.duty.window_due for system in self._systems.all()]
        due += [*self._repair_due.values(), self._sample_due, self._holding.due]
        if self._missing:
            due.append(self._retry_due)
        if self._postponed:
            due.append(self._rests_until)
        return max(0.0, min([longest_s, *(at - time.monotonic() for at in due)]))

    def _round(self, *, is_remounted: bool) -> None:
        # In this order: a wish that comes in between wakes the next round.
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        with self._changed:
            wanted = self._wanted_round
        if is_remounted or self._watches_due or (self._missing and time.monotonic() >= self._retry_due):
            self._set_up(is_remounted=is_remounted)
        seen = self._seen
        for system in self._systems.all():
            self._attend(system)
        self._is_busy = self._seen > seen
        self._look_at_postponed(is_wanted=wanted > self._done_round)
        self._repair()
        self._look_at_holders()
        self._sample()
        with self._changed:
            if not self._watches_due:
                self._done_round = max(self._done_round, wanted)
                self._changed.notify_all()

    def _attend(self, system: Filesystem) -> None:
        """Take in what is in a file system's queue, and decide whether opens are listened for from now on.

        While opens are many they are not listened for when events are worked on: that takes its time.
        """
        events = _gather(system)
        if not system.duty.is_sparing:
            events += self._watch_rate(system, _opens(events))
        elif time.monotonic() >= system.duty.window_due:
            events += self._open_window(system)
        system.gathered_at = time.monotonic()
        if events:
            self._take_in(system, events)

    def _watch_rate(self, system: Filesystem, opens: int) -> list[Event]:
        """While it is listened all the time: are there too many opens for that?"""
        duty, now = system.duty, time.monotonic()
        duty.gathered(now, opens, now - system.gathered_at)
        events = self._probe(system) if opens and duty.wants_probe(now) else []
        if duty.is_suspicious:  # in the time of a rest the queue may overflow
            _ready([self._wake], timeout_s=CONFIRM_S)
            events += _gather(system) + self._probe(system)
        if duty.is_sparing:
            system.listen(is_on=False)
            events += _gather(system)
        return events

    def _open_window(self, system: Filesystem) -> list[Event]:
        """Listen for a moment; what comes is only gathered."""
        duty = system.duty
        system.listen(is_on=True)
        if duty.wants_probe(time.monotonic()):
            events = self._probe(system)
        else:
            began = time.monotonic()
            _ready([self._wake], timeout_s=WINDOW_S)
            duty.windowed(time.monotonic(), time.monotonic() - began)
            events = []
        if duty.is_sparing:
            system.listen(is_on=False)
        return events + _gather(system)

    def _probe(self, system: Filesystem) -> list[Event]:
        """Count opens at the rate at which they are made; see `duty`."""
        began = now = time.monotonic()
        events: list[Event] = []
        while (left := began + PROBE_S - now) > 0:
            some = system.group.read()
            events += some
            if not some:
                _ready([system.group.fd], timeout_s=left)
            now = time.monotonic()
        system.duty.probed(now, _opens(events), now - began)
        return events

    # Events

    def _take_in(self, system: Filesystem, events: list[Event]) -> None:
        now, looked_at = self._clock(), set[Place]()
        with system.directories.mounted():
            for start in range(0, len(events), _AT_ONCE):
                with self._changed:
                    self._take_in_some(system, events[start : start + _AT_ONCE], now, looked_at)

    def _take_in_some(self, system: Filesystem, events: list[Event], now: datetime, looked_at: set[Place]) -> None:
        self._seen += len(events)
        for mask, pid, handle in events:
            if mask & Q_OVERFLOW:
                self._lost += 1
                rested = self._repaired_at.get(system, -_REPAIR_REST_S) + _REPAIR_REST_S
                self._repair_due.setdefault(system, rested)
                continue
            if not mask & CHANGES and mask & ONDIR:
                continue  # somebody looks at a directory
            may_look_up = bool(mask & CHANGES) or not system.duty.is_sparing or self._may_look_up()
            owner = system.directories.owner(handle, may_look_up=may_look_up)
            if owner is not None and owner.is_somebodys:
                if mask & NAMES:
                    self._look_again(system, owner.below, looked_at)
                self._take_in_one(system, owner, mask, pid, handle, now)

    def _may_look_up(self) -> bool:
        now = time.monotonic()
        if now - self._look_ups_since >= 1.0:
            self._look_ups_since, self._look_ups = now, 0
        self._look_ups += 1
        return self._look_ups <= _LOOK_UPS_PER_S

    def _look_again(self, system: Filesystem, places: Iterable[Place], looked_at: set[Place]) -> None:
        """Names changed in a directory: is what lies below it still at its path? Asked once per batch of events."""
        began = time.monotonic()
        if began < self._rests_until:
            self._postponed.setdefault(system, set()).update(places)
            return
        for place in places:
            if place in looked_at:
                continue
            looked_at.add(place)
            if system.directories.look_again(place) and place.tally is None:
                self._ledger.dirty_datasets.add(place.watch.dataset)
                self._watches_due = True  # the trees below are elsewhere now, or gone
                self._poke()
        self._rests_until = began + (1.0 + _REST) * (time.monotonic() - began)

    def _look_at_postponed(self, *, is_wanted: bool) -> None:
        """Make up for what was not looked at while it rested; at once when somebody waits for it."""
        if not self._postponed or (time.monotonic() < self._rests_until and not is_wanted):
            return
        postponed, self._postponed, self._rests_until = self._postponed, {}, 0.0
        for system, places in postponed.items():
            with self._changed, system.directories.mounted():
                self._rests_until = 0.0
                self._look_again(system, places, set())

    def _take_in_one(self, system: Filesystem, owner: Owner, mask: int, pid: int, handle: bytes, now: datetime) -> None:
        if mask & MOVED and mask & ONDIR:
            system.directories.forget()
        if mask & NAMES:
            self._ledger.dirty_datasets |= owner.datasets
        process = self._who.look(pid)
        tally = None if owner.place is None else owner.place.tally
        if tally is None:
            return
        if process.is_ours or (process.is_gone and tally.suppressions and not mask & CHANGES):
            tally.is_dirty |= bool(mask & CHANGES)  # our own doing is a reason to measure, and no access
        elif mask & CHANGES:
            self._opens.pop((handle, pid), None)
            tally.write(now, process.reader)
        elif not process.is_ignored:
            self._opens.setdefault((handle, pid), (tally, process.reader, now))
            self._read_since.add(tally.snapshot_id)
            if len(self._opens) > _MOST_OPENS:
                self._settle_oldest_open(now)

    def _settle_opens(self, now: datetime, *, is_last: bool = False) -> None:
        while self._opens:
            _, _, at = next(iter(self._opens.values()))
            if not is_last and now - _GRACE < at <= now:  # one from the future, before the clock jumped, is old
                return
            self._settle_oldest_open(now)

    def _settle_oldest_open(self, now: datetime) -> None:
        tally, reader, at = self._opens.pop(next(iter(self._opens)))
        at = min(at, now)
        tally.read(at if tally.read_at is None else max(at, min(tally.read_at, now)), reader)

    # What was not seen

    def _repair(self) -> None:
        """Some time after events were lost: everything on that file system may have changed."""
        now = time.monotonic()
        for system in [s for s, due in self._repair_due.items() if due <= now]:
            del self._repair_due[system]
            self._repaired_at[system] = now
            self._doubt(system)

    def _doubt(self, system: Filesystem) -> None:
        with self._changed:
            for place in system.directories.places:
                if place.tally is not None:
                    place.tally.is_dirty = True
            self._ledger.dirty_datasets |= system.directories.datasets

    def _look_at_holders(self) -> None:
        found = self._holding.look()
        if not found:
            return
        now = self._clock()
        with self._changed:
            watched = {watch.snapshot_id for watch in self._watches}
            for snapshot_id, readers in found.items():
                if snapshot_id not in watched:
                    continue
                self._read_since.add(snapshot_id)
                for reader in readers:
                    self._ledger.tally(snapshot_id).read(now, reader)

    def _sample(self) -> None:
        now = time.monotonic()
        if now < self._sample_due:
            return
        self._sample_due = now + self._sample_every_s
        with self._changed:
            for system in self._systems.all():
                if system.has_spared:
                    system.has_spared = system.duty.is_sparing
                    for place in system.directories.places:
                        if place.tally is not None and place.tally.snapshot_id not in self._read_since:
                            place.tally.is_dirty = True
            self._read_since.clear()

    # Where watches are

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
                self._repair_due.pop(system, None)
                self._repaired_at.pop(system, None)
                self._postponed.pop(system, None)
            for place in changed:  # it came or went before an event told; what went on there, nobody has seen
                self._ledger.dirty_datasets.add(place.watch.dataset)
                if place.tally is not None and place.root is not None:
                    place.tally.is_dirty = True
        self._holding.trees = trees
        if is_remounted:
            for system in fresh:
                self._doubt(system)
        if self._fallback is not None and self._systems.refused_watches != self._handed_over:
            self._handed_over = list(self._systems.refused_watches)
            self._fallback.update(self._handed_over)

    def _new_place(self, watch: Watch) -> Place:
        return Place(watch, None if watch.snapshot_id is None else self._ledger.tally(watch.snapshot_id))


def _gather(system: Filesystem) -> list[Event]:
    """Everything that is in the queue."""
    events: list[Event] = []
    while some := system.group.read():
        events += some
    return events


def _opens(events: Sequence[Event]) -> int:
    """How many are opens by others, of files or directories: reporting either costs the same, and fills the queue."""
    own = os.getpid()
    return sum(1 for mask, pid, _ in events if mask & OPEN and pid != own)


def _ready(fds: Sequence[int], *, timeout_s: float, mounts: int | None = None) -> set[int]:
    """Which descriptors can be read; `mounts`, always readable, is ready when the mount table has changed."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    if mounts is not None:
        poll.register(mounts, select.POLLPRI)
    return {fd for fd, _ in poll.poll(timeout_s * 1000)}
