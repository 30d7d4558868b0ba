"""Take events of fanotify into the ledger: whose tree it was, who did it, and whether it was a read.

Locking, of the whole back end: the lock of the ledger guards whatever more than one thread looks at: the ledger with
its tallies, here the opens and the counters, in the tracker the watches and the wishes. Everything else belongs to
the tracker's thread, which keeps the lock for some milliseconds at most, and never while it waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from tierd.fs.fanotify import CHANGES, MOVED, NAMES, ONDIR, Q_OVERFLOW, Event
from tierd.model.dataset import SnapshotId
from tierd.model.observation import Reader
from tierd.observe.allowance import Allowance
from tierd.observe.directories import Owner, Place
from tierd.observe.doubts import Doubts
from tierd.observe.filesystems import Filesystem
from tierd.observe.ledger import Ledger, Tally
from tierd.observe.who import Who

_GRACE = timedelta(seconds=0.3)
"""An open says nothing of its kind: when the same process writes in the same directory before this, it was no read."""
_MOST_OPENS = 4096
_FOR_OPENS = 0.02
"""Of a core, to look up directories for opens while these are many; who is left out is seen in another window."""
_FOR_CHANGES, _SAVED_UP_S = 0.05, 1.0
"""The same for changes: one who makes ten thousand directories a second must not keep tierd busy. What is saved up is
enough for some 50,000 of them; after that, what changed is found by measuring."""
_AT_ONCE = 128
"""Events worked on while others wait: some milliseconds, if every directory and process is a new one."""
_REST = 19.0
"""After looking at many paths again it rests for so many times as long: a twentieth of a core, whoever makes names."""
_NEVER = float("inf")


class Intake:
    """Used by the tracker's thread, except for `settle`.

    Args:
        doubts: told of lost events, and of those that were skipped.
        on_elsewhere: called when something else is at a watched path, or nothing.

    Attributes:
        seen, lost: events, and times at which the kernel dropped some.
        read_since: snapshots that were seen to be read, until somebody clears it.
    """

    def __init__(self, ledger: Ledger, who: Who, doubts: Doubts, *, on_elsewhere: Callable[[], None]) -> None:
        self._ledger = ledger
        self._who = who
        self._doubts = doubts
        self._on_elsewhere = on_elsewhere
        self.seen = self.lost = 0
        self.read_since: set[SnapshotId] = set()
        self._for_opens = Allowance(_FOR_OPENS, _FOR_OPENS)
        self._for_changes = Allowance(_FOR_CHANGES, _SAVED_UP_S)
        self._opens: dict[tuple[bytes, int], tuple[Tally, Reader, datetime]] = {}
        self._postponed: dict[Filesystem, set[Place]] = {}
        self._rests_until = 0.0

    @property
    def due(self) -> float:
        """When there is something to do next (monotonic)."""
        return self._rests_until if self._postponed else _NEVER

    def forget(self, system: Filesystem) -> None:
        self._postponed.pop(system, None)

    def take_in(self, system: Filesystem, events: Sequence[Event], now: datetime) -> None:
        looked_at = set[Place]()
        with system.directories.mounted():
            for start in range(0, len(events), _AT_ONCE):
                with self._ledger.lock:
                    self._take_in_some(system, events[start : start + _AT_ONCE], now, looked_at)

    def _take_in_some(self, system: Filesystem, events: Sequence[Event], now: datetime, looked_at: set[Place]) -> None:
        self.seen += len(events)
        for mask, pid, handle in events:
            if mask & Q_OVERFLOW:
                self.lost += 1
                self._doubts.lost(system)
                continue
            if not mask & CHANGES and mask & ONDIR:
                continue  # somebody looks at a directory
            owner = system.directories.known(handle) or self._look_up(system, mask, pid, handle)
            if owner is not None and owner.is_somebodys:
                if mask & NAMES:
                    self._look_again(system, owner.below, looked_at)
                self._take_in_one(system, owner, mask, pid, handle, now)

    def _look_up(self, system: Filesystem, mask: int, pid: int, handle: bytes) -> Owner | None:
        """Whose directory this is; None when there is no time to ask."""
        if not mask & CHANGES and not system.duty.is_sparing:
            return system.directories.look_up(handle)
        allowance = self._for_changes if mask & CHANGES else self._for_opens
        # What tierd itself makes is always looked up: making it takes far longer.
        if not allowance.has_some(time.monotonic()) and not (mask & CHANGES and self._who.look(pid).is_ours):
            if mask & CHANGES:
                self._doubts.skipped(system)
            if mask & MOVED and mask & ONDIR:
                system.directories.forget()
            return None
        began = time.thread_time()
        try:
            return system.directories.look_up(handle)
        finally:
            allowance.spend(time.thread_time() - began)

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
            self.read_since.add(tally.snapshot_id)
            if len(self._opens) > _MOST_OPENS:
                self._settle_oldest(now)

    def holders(self, found: Mapping[SnapshotId, Iterable[Reader]], now: datetime) -> None:
        """Who holds a file of a snapshot reads it now."""
        with self._ledger.lock:
            for snapshot_id, readers in found.items():
                self.read_since.add(snapshot_id)
                for reader in readers:
                    self._ledger.tally(snapshot_id).read(now, reader)

    # Opens whose kind is not known yet, oldest first. From any thread, with the lock held.

    def settle(self, now: datetime, *, is_last: bool = False) -> None:
        while self._opens:
            _, _, at = next(iter(self._opens.values()))
            if not is_last and now - _GRACE < at <= now:  # one from the future, before the clock jumped, is old
                return
            self._settle_oldest(now)

    def _settle_oldest(self, now: datetime) -> None:
        tally, reader, at = self._opens.pop(next(iter(self._opens)))
        at = min(at, now)
        tally.read(at if tally.read_at is None else max(at, min(tally.read_at, now)), reader)

    # Names above watched paths

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
                self._on_elsewhere()  # the trees below are elsewhere now, or gone
        self._rests_until = began + (1.0 + _REST) * (time.monotonic() - began)

    def look_at_postponed(self, *, is_wanted: bool) -> None:
        """Make up for what was not looked at while it rested; at once when somebody waits for it."""
        if not self._postponed or (time.monotonic() < self._rests_until and not is_wanted):
            return
        postponed, self._postponed, self._rests_until = self._postponed, {}, 0.0
        for system, places in postponed.items():
            with self._ledger.lock, system.directories.mounted():
                self._rests_until = 0.0
                self._look_again(system, places, set())
