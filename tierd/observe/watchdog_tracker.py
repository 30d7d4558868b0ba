"""Access tracking by inotify events, for any user: one watch per directory.

Two threads: one takes events in, one gets trees watched (planter). An event costs a few dictionary look-ups and
leaves nothing behind but counters: neither the number of events nor the number of files costs memory.

Opened / closed-no-write is a read, closed-after-write / modified / attributes / created / deleted / moved is a write.
An open alone says neither: it waits for what comes next and is a read after `_GRACE` (a reader that keeps a file
mapped for days closes nothing).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from watchdog.observers.inotify_c import InotifyConstants as In

from tierd.model.dataset import AccessSource, SnapshotId
from tierd.model.observation import AccessBatch
from tierd.observe import inotify
from tierd.observe.forest import Forest, Node, Tree
from tierd.observe.inotify import InotifyQueue
from tierd.observe.ledger import Ledger, Tally
from tierd.observe.planter import Planter
from tierd.observe.tracker import LOSS_FELT_S, Clock, Dirty, Tracker, TrackerStatus, Watch, missing_note, times

_GRACE = timedelta(seconds=2)
_MAX_OPENS = 4096
"""Opens of unknown kind kept; with more of them the oldest counts as a read at once."""
_BATCH_PAUSE_S = 0.005
_FULL_BATCH = 2048
"""Events gather in the kernel for a moment: one wake-up per batch instead of one per event leaves the processor to
training. After a full batch there is no pause, since the kernel's queue (16,384 events by default) must not fill up."""
_RESYNC_S = 60.0
_MARK_WAIT_S = 1.0


class WatchdogTracker:
    """The inotify back end. See `Tracker` for the contract.

    Args:
        clock: the time of an event, read once per batch.
        fallback: follows the trees that the limit of watches does not allow.
        max_watches: directories watched at most; None leaves it to the kernel.
        retry_s: seconds between looks for trees whose path is missing.
        missed: why no better back end is used, and what to do about it.
        loss_felt_s: seconds for which lost events leave it degraded after they were repaired.

    Raises:
        OSError: there is no inotify, or the user has too many instances (EMFILE).
    """

    def __init__(
        self,
        *,
        clock: Clock,
        fallback: Tracker | None = None,
        max_watches: int | None = None,
        retry_s: float = 5.0,
        missed: str | None = None,
        loss_felt_s: float = LOSS_FELT_S,
    ) -> None:
        self._clock = clock
        self._fallback = fallback
        self._missed = missed
        self._queue = InotifyQueue()
        self._ledger = Ledger(AccessSource.EVENTS)
        self._forest = Forest(self._queue, max_watches=max_watches)
        self._planter = Planter(self._forest, self._ledger, retry_s=retry_s, on_limited=self._hand_over)
        self._opens: dict[tuple[int, bytes], tuple[Tally, datetime]] = {}
        self._marks: dict[int, Callable[[], None]] = {}
        self._seen = 0
        self._lost = 0
        self._lost_at = 0.0
        self._loss_felt_s = loss_felt_s
        self._stopping = threading.Event()
        self._reader = threading.Thread(target=self._run, name="tierd-inotify", daemon=True)

    # Tracker

    def start(self, watches: Sequence[Watch]) -> None:
        self._planter.plant(watches)
        if self._fallback is not None:
            self._fallback.start(())
        self._reader.start()
        self._planter.start()

    def update(self, watches: Sequence[Watch]) -> None:
        self._planter.plant(watches)
        self._ledger.retain({w.snapshot_id for w in watches if w.snapshot_id is not None})

    def stop(self) -> None:
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._planter.stop()
        self._queue.wake()
        if self._reader.ident is not None:
            self._reader.join()
        if self._fallback is not None:
            self._fallback.stop()
        with self._ledger.lock:
            self._settle_opens(self._clock(), is_last=True)
            marks, self._marks = list(self._marks.values()), {}
            self._queue.close()
        for done in marks:
            done()

    def drain(self) -> list[AccessBatch]:
        now = self._clock()
        with self._ledger.lock:
            self._settle_opens(now)
            batches = self._ledger.drain(now)
        return batches + (self._fallback.drain() if self._fallback is not None else [])

    def drain_dirty(self) -> Dirty:
        own = self._ledger.drain_dirty()
        return own if self._fallback is None else own | self._fallback.drain_dirty()

    def status(self) -> TrackerStatus:
        limited, missing, is_pending = self._planter.counts()
        faults: list[str] = []
        notes = [self._missed] if self._missed else []
        if self._reader.ident is not None and not (self._reader.is_alive() and self._planter.is_alive):
            faults.append("stopped" if self._stopping.is_set() else "a thread of the tracker ended unexpectedly")
        if limited:
            name, limit = inotify.watch_limit()
            faults.append(
                f"the limit of inotify watches leaves {limited} of the trees unwatched"
                f"{', their access times are sampled instead' if self._fallback is not None else ''}: "
                f"raise the sysctl {name} (now {limit})"
            )
        if self._lost:
            is_felt = time.monotonic() - self._lost_at < _RESYNC_S + self._loss_felt_s
            (faults if is_felt else notes).append(
                f"the kernel dropped events {times(self._lost)}: raise the sysctl fs.inotify.max_queued_events "
                f"(now {inotify.sysctl('fs.inotify.max_queued_events')})"
            )
        if missing:
            notes.append(missing_note(missing))
        if is_pending:
            notes.append("watches are being set up")
        with self._ledger.lock:
            seen, lost, watches = self._seen, self._lost, len(self._forest)
        return TrackerStatus(
            name="watchdog",
            is_degraded=bool(faults),
            detail="; ".join(faults + notes) or "open and close events (inotify)",
            events_seen=seen,
            events_lost=lost,
            watches=watches,
        )

    def suppress(self, snapshot_id: SnapshotId) -> None:
        self._wait_for_mark(time.monotonic() + _MARK_WAIT_S)  # reads made before this call belong to others
        with self._ledger.lock:
            self._ledger.tally(snapshot_id).suppressions += 1
        if self._fallback is not None:
            self._fallback.suppress(snapshot_id)

    def unsuppress(self, snapshot_id: SnapshotId) -> None:
        def end() -> None:
            with self._ledger.lock:
                tally = self._ledger.tally(snapshot_id)
                tally.suppressions = max(0, tally.suppressions - 1)

        self._mark(end)  # tierd's last reads may still be in the queue
        if self._fallback is not None:
            self._fallback.unsuppress(snapshot_id)

    def sync(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self._planter.wait_idle(deadline):
            if not self._wait_for_mark(deadline):
                return False
            if not self._planter.counts()[2]:
                return True  # what came in asked for no new watch: nothing is outstanding
        return False

    # Marks: an event of our own says that everything before it has been taken in.

    def _wait_for_mark(self, deadline: float) -> bool:
        passed = threading.Event()
        self._mark(passed.set)
        return passed.wait(max(0.0, deadline - time.monotonic()))

    def _mark(self, done: Callable[[], None]) -> None:
        with self._ledger.lock:
            if not self._stopping.is_set() and self._reader.is_alive():
                try:
                    self._marks[self._queue.mark()] = done
                except OSError:
                    pass  # no watch left even for this: not waiting is better than never ending
                else:
                    return
        done()

    def _renew_marks(self) -> None:
        """After lost events: what came before the marks has been taken in or lost by the time the new ones arrive."""
        marks, self._marks = self._marks, {}
        for done in marks.values():
            self._mark(done)

    # The reading thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            events = self._queue.read(None)
            if events:
                self._take_in(events, self._clock())
                if len(events) < _FULL_BATCH:
                    self._stopping.wait(_BATCH_PAUSE_S)

    def _take_in(self, events: list[inotify.Event], now: datetime) -> None:
        nodes, tops = self._forest.nodes, self._forest.tops
        with self._ledger.lock:
            self._seen += len(events)
            for wd, mask, name in events:
                node = nodes.get(wd)
                if node is not None:
                    self._take_in_tree(node, wd, mask, name, now)
                if wd in tops:
                    self._take_in_top(tops[wd], mask, name)
                if mask & (In.IN_IGNORED | In.IN_Q_OVERFLOW):
                    if wd in self._marks:
                        self._seen -= 1
                        self._marks.pop(wd)()  # here and now: the events after the mark see its effect
                    elif mask & In.IN_Q_OVERFLOW:
                        self._lost += 1
                        self._lost_at = time.monotonic()
                        self._planter.doubt_all(rest_s=_RESYNC_S)
                        self._renew_marks()
                    else:
                        self._planter.forget(wd)

    def _take_in_tree(self, node: Node, wd: int, mask: int, name: bytes, now: datetime) -> None:
        tree = node.tree
        tally = tree.tally
        if tally is None:
            return
        if mask & inotify.READS:
            if mask & In.IN_ISDIR or tally.suppressions or tree.is_displaced:
                return
            if mask & In.IN_OPEN:
                self._opens.setdefault((wd, name), (tally, now))
                if len(self._opens) > _MAX_OPENS:
                    self._settle_oldest_open(now)
            else:
                self._opens.pop((wd, name), None)
                tally.read(now)
            return
        if mask & inotify.ROOT_LEFT and wd == tree.root_wd:
            self._planter.displaced(tree)
            self._ledger.dirty_datasets.add(tree.watch.dataset)
            return
        if not mask & inotify.CHANGES or tree.is_displaced:
            return
        if mask & inotify.CONTENT:
            self._opens.pop((wd, name), None)
        tally.write(now)
        if mask & In.IN_ISDIR:
            if mask & inotify.ARRIVALS:
                self._planter.add(wd, name)
            elif mask & In.IN_MOVED_FROM:
                self._planter.doubt(tree)

    def _take_in_top(self, trees: set[Tree], mask: int, name: bytes) -> None:
        if mask & inotify.ROOT_LEFT:
            for tree in trees:
                self._planter.displaced(tree)
                self._ledger.dirty_datasets.add(tree.watch.dataset)
        elif mask & inotify.NAMES and not name.startswith(b"."):
            for tree in trees:
                if tree.watch.child in (None, name):
                    self._ledger.dirty_datasets.add(tree.watch.dataset)

    # Opens whose kind is not known yet, oldest first

    def _settle_opens(self, now: datetime, *, is_last: bool = False) -> None:
        while self._opens:
            _, at = next(iter(self._opens.values()))
            if not is_last and now - _GRACE < at <= now:  # one from the future, before the clock jumped, is old
                return
            self._settle_oldest_open(now)

    def _settle_oldest_open(self, now: datetime) -> None:
        tally, at = self._opens.pop(next(iter(self._opens)))
        is_newer = tally.read_at is None or at > tally.read_at
        tally.read(min(at, now) if is_newer else tally.read_at or now)

    def _hand_over(self, limited: list[Watch]) -> None:
        if self._fallback is not None:
            self._fallback.update([w for w in limited if w.snapshot_id is not None])
