"""Access tracking by sampling: trees are measured on a schedule, and a newer time than last time is an access.

The fall-back where events cannot be had. It sees that a snapshot was used, not how often; under relatime a file's
access time moves once a day. Where the mount keeps no access times it reports no reads at all, and says so: a made-up
time would let a snapshot in use look cold.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from tierd.errors import Interrupted, TierdError
from tierd.fs.walk import open_root
from tierd.model.dataset import AccessSource, SnapshotId
from tierd.model.observation import AccessBatch, Measure
from tierd.observe.ledger import Ledger, Tally
from tierd.observe.measure import keeps_atime, measure
from tierd.observe.tracker import Clock, Dirty, TrackerStatus, Watch

_TOP_INTERVAL_S = 10.0


@dataclass
class _Tree:
    """The last sample of a tree; access times up to `own_reads_until` may be of tierd's own reading."""

    last: Measure | None = None
    own_reads_until: datetime | None = None
    keeps_atime: bool = True
    is_failing: bool = False


class AtimeTracker:
    """The sampling back end. See `Tracker` for the contract.

    Args:
        interval_s: seconds between two samples of all trees. A sample walks them (some 20 µs per entry).
        top_interval_s: seconds between looks at the top level of datasets, which cost one stat each.
        reason: why it is used in place of a better back end; it counts as degraded then.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        interval_s: float = 3600.0,
        top_interval_s: float = _TOP_INTERVAL_S,
        reason: str | None = None,
    ) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._top_interval_s = min(top_interval_s, interval_s)
        self._reason = reason
        self._ledger = Ledger(AccessSource.ATIME)
        self._changed = threading.Condition(self._ledger.lock)
        self._trees: dict[Watch, _Tree] = {}
        self._tops: dict[Watch, tuple[int, int] | None] = {}
        self._wanted_round = 0
        self._done_round = 0
        self._samples = 0
        self._is_in_round = False
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="tierd-atime", daemon=True)

    # Tracker

    def start(self, watches: Sequence[Watch]) -> None:
        self.update(watches)
        self._thread.start()

    def update(self, watches: Sequence[Watch]) -> None:
        trees = [w for w in watches if w.snapshot_id is not None]
        tops = [w for w in watches if w.snapshot_id is None]
        with self._changed:
            has_new = any(w not in self._trees for w in trees)
            self._trees = {w: self._trees.get(w) or _Tree() for w in trees}
            self._tops = {w: self._tops[w] if w in self._tops else _identity(w) for w in tops}
            self._ledger.retain({w.snapshot_id for w in trees if w.snapshot_id is not None})
            if has_new:
                self._wanted_round = max(self._wanted_round, self._done_round + 1)
                self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def drain(self) -> list[AccessBatch]:
        return self._ledger.drain(self._clock())

    def drain_dirty(self) -> Dirty:
        return self._ledger.drain_dirty()

    def status(self) -> TrackerStatus:
        with self._changed:
            blind = sum(not tree.keeps_atime for tree in self._trees.values())
            failing = sum(tree.is_failing for tree in self._trees.values())
            count, samples = len(self._trees), self._samples
        faults = [self._reason] if self._reason else []
        if blind:
            faults.append(
                f"the mount keeps no access times for {blind} of {count} trees: "
                "remount it with relatime or strictatime,lazytime"
            )
        if self._thread.ident is not None and not self._thread.is_alive():
            faults.append("stopped" if self._is_stopping else "the sampling thread ended unexpectedly")
        notes = [f"access times are sampled every {self._interval_s:g} s"]
        if failing:
            notes.append(f"{failing} {'tree' if failing == 1 else 'trees'} could not be walked last time")
        return TrackerStatus(
            name="atime",
            is_degraded=bool(faults),
            detail="; ".join(faults + notes),
            events_seen=samples,
            watches=count,
        )

    def suppress(self, snapshot_id: SnapshotId) -> None:
        with self._changed:
            self._ledger.tally(snapshot_id).suppressions += 1

    def unsuppress(self, snapshot_id: SnapshotId) -> None:
        now = self._clock()
        with self._changed:
            for watch, tree in self._trees.items():
                if watch.snapshot_id == snapshot_id:
                    tree.own_reads_until = now
            tally = self._ledger.tally(snapshot_id)
            tally.suppressions = max(0, tally.suppressions - 1)

    def sync(self, timeout_s: float) -> bool:
        """Sample everything once more, now."""
        with self._changed:
            # A round that is under way may have passed the change already, so only the next one counts.
            wanted = self._done_round + 2 if self._is_in_round else self._done_round + 1
            self._wanted_round = max(self._wanted_round, wanted)
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._done_round >= wanted, timeout_s)

    # The sampling thread

    def _run(self) -> None:
        sample_at = 0.0
        while True:
            with self._changed:
                self._is_in_round = False
                self._changed.notify_all()
                pause = min(self._top_interval_s, max(0.0, sample_at - time.monotonic()))
                self._changed.wait_for(lambda: self._is_stopping or self._wanted_round > self._done_round, pause)
                if self._is_stopping:
                    return
                is_due = self._wanted_round > self._done_round or time.monotonic() >= sample_at
                self._is_in_round = is_due
            self._look_at_tops()
            if is_due:
                sample_at = time.monotonic() + self._interval_s
                self._sample_all()

    def _sample_all(self) -> None:
        with self._changed:
            todo = list(self._trees.items())
        for watch, tree in todo:
            if self._is_stopping:
                return
            self._sample(watch, tree, self._ledger, lambda: self._is_stopping)
        with self._changed:
            self._done_round += 1

    def _look_at_tops(self) -> None:
        with self._changed:
            tops = list(self._tops.items())
        for watch, before in tops:
            after = _identity(watch)
            if after != before:
                with self._changed:
                    self._ledger.dirty_datasets.add(watch.dataset)
                    if watch in self._tops:
                        self._tops[watch] = after

    def _sample(self, watch: Watch, tree: _Tree, ledger: Ledger, is_stopped: Callable[[], bool]) -> None:
        def checkpoint() -> None:
            if is_stopped():
                raise Interrupted

        if watch.snapshot_id is None:
            return
        try:
            root = open_root(os.fsencode(watch.path))
            try:
                keeps = keeps_atime(root)
                after = measure(root, keeps_atime=keeps, now=self._clock(), checkpoint=checkpoint)
            finally:
                os.close(root)
        except TierdError:  # changing under the walk, or gone: the next sample tells
            tree.is_failing = True
            return
        with self._changed, ledger.lock:
            self._samples += 1
            before, tree.last, tree.keeps_atime, tree.is_failing = tree.last, after, keeps, False
            _compare(ledger.tally(watch.snapshot_id), before, after, own_reads_until=tree.own_reads_until)


def _compare(tally: Tally, before: Measure | None, after: Measure, *, own_reads_until: datetime | None) -> None:
    read_at = after.newest_access
    # Making a file sets its access time as well: only a time after the last change is surely that of a read.
    not_reads = [after.newest_change, before.newest_access if before is not None else None, own_reads_until]
    if read_at is not None and not tally.suppressions and all(at is None or read_at > at for at in not_reads):
        tally.read(read_at)
    if before is not None and (before.newest_change, before.root_inode) != (after.newest_change, after.root_inode):
        tally.write(after.newest_change)


def _identity(watch: Watch) -> tuple[int, int] | None:
    """What changes when the top level does: the directory's inode and ctime, or the only child's inode."""
    try:
        if watch.child is not None:
            return os.lstat(os.path.join(os.fsencode(watch.path), watch.child)).st_ino, 0
        st = os.lstat(watch.path)
    except OSError:
        return None
    return st.st_ino, st.st_ctime_ns
