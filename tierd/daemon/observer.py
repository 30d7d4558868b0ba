"""Carries observations into the catalog: discovery, measures, accesses. One thread; the tracker has its own.

It scans everything at the start and then rarely; between scans it looks only at what the tracker says has changed.
What tierd itself does to a tree is not a change of it: while a transfer of a snapshot runs, and until the tracker
has seen the last of it, writes are only a reason to measure again afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from tierd.catalog import Catalog
from tierd.config import Config
from tierd.daemon.watching import Watching
from tierd.errors import NotFound, SourceChanged, TierdError
from tierd.fs.walk import open_root
from tierd.model.dataset import Dataset, Snapshot, SnapshotId, SnapshotRef
from tierd.model.effect import MarkStale
from tierd.model.observation import AccessBatch, Measure
from tierd.model.placement import Placement, PlacementState
from tierd.model.tier import TierKind, TierName
from tierd.model.transfer import TransferState
from tierd.observe.discover import Found, discover
from tierd.observe.measure import keeps_atime, measure
from tierd.observe.reconcile import Appeared, Back, Change, Gone, Renamed, Replaced, reconcile
from tierd.observe.tracker import Tracker, Watch

log = logging.getLogger(__name__)

_QUIET = timedelta(seconds=5)
"""A tree that is being written is measured when the writing pauses for this long …"""
_PATIENCE = timedelta(minutes=5)
"""… or at the latest after this long."""
_SWITCHING = (TransferState.VERIFYING, TransferState.COMMITTED, TransferState.RELEASING)
_TOGETHER = 100
"""Writes that share a transaction: other writers wait for it, a tenth of a second at most."""


class Observer:
    """See the module. Also the mover's `Suppressor`.

    Args:
        is_online: whether a tier carries its identity.
        on_change: called when something changed that a decision may depend on.
    """

    def __init__(
        self,
        config: Config,
        catalog: Catalog,
        tracker: Tracker,
        clock: Callable[[], datetime],
        *,
        is_online: Callable[[TierName], bool],
        on_change: Callable[[], None],
    ) -> None:
        self._config = config
        self._catalog = catalog
        self._tracker = tracker
        self._clock = clock
        self._is_online = is_online
        self._on_change = on_change
        self._thread = threading.Thread(target=self._loop, name="observer", daemon=True)
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._moving: Counter[SnapshotId] = Counter()  # transfers of each that run, or have just ended
        self._dirty: dict[SnapshotId, tuple[datetime, datetime]] = {}  # since when, last sign of change
        self._unsure: dict[str, frozenset[SnapshotId]] = {}  # by dataset: those about which nothing was concluded
        self._scan_due = clock()
        self._watches_due = True
        self._watched: dict[SnapshotId, Path] = {}
        self._measure_all = True
        self._watching = Watching(catalog, tracker.status)
        self._warned: set[str] = set()
        self._reported: list[AccessBatch] = []
        self._writes: list[Callable[[], None]] = []
        self.is_ready = False
        self.last_scan_at: datetime | None = None

    # -- life --------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        if self._thread.ident is None:  # the daemon could not start: nothing was watched
            self._tracker.stop()
            return
        self._thread.join(10)
        self._tracker.stop()
        with contextlib.suppress(TierdError):  # what came since the last round; it must not keep the daemon from ending
            now = self._clock()
            self._flush_accesses(now)
            self._watching.note(now, self._trees, is_last=True)

    def placements_changed(self) -> None:
        """A transfer ended: copies lie elsewhere now, the tracker must watch other places."""
        self._watches_due = True
        self._wake.set()

    def reported(self, batches: Sequence[AccessBatch]) -> None:
        """Uses that somebody told of: taken with those that the tracker saw."""
        with self._lock:
            self._reported += batches
        self._wake.set()

    def rescan(self) -> None:
        """A tier is back: what happened there meanwhile, nobody has seen."""
        self._measure_all = True
        self._scan_due = self._clock()
        self._wake.set()

    def suppress(self, snapshot_id: SnapshotId) -> None:
        with self._lock:
            self._moving[snapshot_id] += 1
        self._tracker.suppress(snapshot_id)

    def unsuppress(self, snapshot_id: SnapshotId) -> None:
        self._tracker.unsuppress(snapshot_id)
        with self._lock:
            self._moving[snapshot_id] -= 1
            if not self._moving[snapshot_id]:
                del self._moving[snapshot_id]

    def _is_moving(self, snapshot_id: SnapshotId) -> bool:
        with self._lock:
            return snapshot_id in self._moving

    def _loop(self) -> None:
        self._tracker.start([])
        while not self._stop.is_set():
            try:
                self.tick()
            except TierdError as error:
                log.error("observer: %s", error)
            except Exception:  # one bad round must not end the watch over every other snapshot
                log.exception("observer: unexpected")
            self._wake.wait(self._config.observe.flush_interval_s)
            self._wake.clear()

    # -- one round -----------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One round: flush accesses, look at what changed, scan everything when it is due."""
        now = self._clock()
        changed = self._flush_accesses(now)
        self._watching.note(now, self._trees)
        dirty = self._tracker.drain_dirty()
        for snapshot_id in dirty.snapshots:
            self._mark_dirty(snapshot_id, now)
        is_full = now >= self._scan_due or self._scan_due - now > timedelta(
            seconds=self._config.observe.scan_interval_s
        )
        again = self._sure_again()
        for dataset in self._config.datasets:
            if is_full or dataset.name in dirty.datasets or dataset.name in again:
                changed |= self._look_at(dataset, is_full=is_full)
        changed |= self._measure_dirty(now)
        if self._watches_due:
            self._watches_due = False
            self._watch(now)
        if is_full:
            self._measure_all = False
            self._scan_due = now + timedelta(seconds=self._config.observe.scan_interval_s)
            self.last_scan_at = self._clock()
            if not self.is_ready:
                self.is_ready = True
                changed = True
        if changed:
            self._on_change()

    def _flush_accesses(self, now: datetime) -> bool:
        batches: list[AccessBatch] = []
        with self._lock:
            told, self._reported = self._reported, []
        for batch in [*self._tracker.drain(), *told]:
            if batch.written_at is not None:
                self._mark_dirty(batch.snapshot_id, now)
                if self._is_moving(batch.snapshot_id):
                    batch = replace(batch, written_at=None, writes=0)
            if batch.read_at is not None or batch.written_at is not None:
                batches.append(batch)
        if batches:
            self._catalog.record_access(batches, now=now)
        return any(b.written_at is not None for b in batches)

    def _mark_dirty(self, snapshot_id: SnapshotId, now: datetime) -> None:
        since, _ = self._dirty.get(snapshot_id, (now, now))
        self._dirty[snapshot_id] = (since, now)

    # -- datasets --------------------------------------------------------------------------------------------

    def _look_at(self, dataset: Dataset, *, is_full: bool) -> bool:
        if not self._is_online(dataset.home):
            return False  # an empty mount point is not an empty dataset
        discovery = discover(dataset)
        if not discovery.is_readable:
            self._warn_once(f"dataset {dataset.name} cannot be read: {discovery.error}")
            return False
        for ignored in discovery.ignored:
            self._warn_once(f"dataset {dataset.name}: {ignored.name} is not looked after: {ignored.reason}")
        known = self._catalog.snapshots(dataset.name, include_gone=True)
        busy = self._busy()
        self._unsure[dataset.name] = frozenset(s.id for s in known if s.id in busy)
        placements = self._catalog.placements_by_snapshot()
        changes = reconcile(known, discovery, self._targets(known, placements).get, busy=busy)
        for change in changes:
            self._apply(dataset, change)
        if changes:
            self._watches_due = True
        # After the first scan the tracker tells what changed; only while it may miss something is all measured again.
        if is_full and (self._measure_all or self._may_miss_changes()):
            for snapshot in self._catalog.snapshots(dataset.name):
                if not self._is_moving(snapshot.id) and not self._stop.is_set():
                    self._measure(snapshot, placements.get(snapshot.id, []))
        self._write_out()
        return bool(changes)

    def _busy(self) -> set[SnapshotId]:
        """Snapshots whose paths are changed by tierd itself: what is found there says nothing about them."""
        with self._lock:
            busy = set(self._moving)
        # A transfer that was interrupted around the switch: the path is ahead of the catalog until it goes on.
        live = self._catalog.transfers(live_only=True, limit=100_000)
        return busy | {t.snapshot_id for t in live if t.state in _SWITCHING}

    def _sure_again(self) -> set[str]:
        """Datasets to be looked at once more: what their owners did to a snapshot while it was busy was not noted."""
        if not any(self._unsure.values()):
            return set()
        busy = self._busy()
        return {name for name, unsure in self._unsure.items() if unsure and not unsure <= busy}

    def _may_miss_changes(self) -> bool:
        status = self._tracker.status()
        return status.is_degraded or status.name == "atime"  # access times say nothing of writes

    def _targets(
        self, snapshots: list[Snapshot], placements: Mapping[SnapshotId, list[Placement]]
    ) -> dict[bytes, SnapshotId]:
        """Where tierd's own links lead, and whose they are."""
        roots = {t.name: t.root for t in self._config.tiers}
        return {
            os.fsencode(roots[p.tier] / p.location): s.id
            for s in snapshots
            for p in placements.get(s.id, [])
            if p.location is not None and p.tier in roots
        }

    def _apply(self, dataset: Dataset, change: Change) -> None:
        now = self._clock()
        match change:
            case Appeared(found):
                self._enter(dataset, found)
            case Renamed(snapshot, found):
                self._catalog.rename_snapshot(snapshot.id, SnapshotRef(dataset.name, found.name), found.path, now)
            case Back(snapshot, found):
                inode = snapshot.root_inode if found.link_target is not None else found.root_inode
                self._catalog.mark_back(snapshot.id, path=found.path, root_inode=inode, now=now)
            case Replaced(snapshot, found):
                # Another tree under the same name is another snapshot; the old one keeps its cold copies.
                if snapshot.gone_at is None:
                    self._catalog.mark_gone(snapshot.id, now)
                self._enter(dataset, found)
            case Gone(snapshot):
                self._catalog.mark_gone(snapshot.id, now)

    def _enter(self, dataset: Dataset, found: Found) -> None:
        """Make a new snapshot known, measured if that is possible now."""
        ref = SnapshotRef(dataset.name, found.name)
        measured = None  # while it is being written; then again when that pauses
        with contextlib.suppress(SourceChanged):
            measured = self._walk(os.fsencode(found.path), str(ref))

        def write() -> None:
            now = self._clock()
            snapshot = self._catalog.add_snapshot(
                ref, path=found.path, root_inode=found.root_inode, home=dataset.home, now=now, measure=measured
            )
            if measured is None:
                self._mark_dirty(snapshot.id, now)

        self._submit(write)

    # -- measures ----------------------------------------------------------------------------------------------

    def _measure_dirty(self, now: datetime) -> bool:
        done = False
        for snapshot_id, (since, last) in list(self._dirty.items()):
            if self._is_moving(snapshot_id) or (now - last < _QUIET and now - since < _PATIENCE):
                continue
            del self._dirty[snapshot_id]
            with contextlib.suppress(NotFound):
                self._measure(self._catalog.snapshot_by_id(snapshot_id), self._catalog.placements(snapshot_id))
                done = True
        self._write_out()
        return done

    def _measure(self, snapshot: Snapshot, placements: list[Placement]) -> None:
        """Walk the snapshot's tree where it lies now, and record what was found."""
        where = self._where(snapshot, placements)
        if where is None:
            return  # its tier is offline; everything is looked at again when it is back
        tree, placement = where
        try:
            is_at_home = tree == os.fsencode(snapshot.path)
            found = self._walk(tree, str(snapshot.ref), is_at_home=is_at_home)
        except SourceChanged:
            self._mark_dirty(snapshot.id, self._clock())
            return
        if found is None:
            return
        measured = self._without_our_doing(found, snapshot, placement)

        def write() -> None:
            recorded = self._catalog.record_measure(snapshot.id, measured, now=self._clock())
            self._mark_stale(recorded, placements, placement)

        self._submit(write)

    def _walk(self, tree: bytes, name: str, *, is_at_home: bool = True) -> Measure | None:
        """Measure a tree; None (and a warning) when it cannot be read.

        Raises:
            SourceChanged: it changes right now.
        """
        try:
            fd = open_root(tree)
            try:
                return measure(fd, keeps_atime=keeps_atime(fd), is_at_home=is_at_home, now=self._clock())
            finally:
                os.close(fd)
        except SourceChanged:
            raise
        except TierdError as error:
            self._warn_once(f"{name} cannot be measured: {error.message}")
            return None

    def _submit(self, write: Callable[[], None]) -> None:
        """Write soon, together with others: thousands of snapshots must not wait for the disk one by one."""
        self._writes.append(write)
        if len(self._writes) >= _TOGETHER:
            self._write_out()

    def _write_out(self) -> None:
        if not self._writes:
            return
        writes, self._writes = self._writes, []
        with self._catalog.together():
            for write in writes:
                try:
                    write()
                except TierdError as error:
                    log.warning("observer: %s", error)

    def _where(self, snapshot: Snapshot, placements: list[Placement]) -> tuple[bytes, Placement | None] | None:
        """The tree that the path leads to, and its placement; None when it cannot be looked at now."""
        try:
            target = os.readlink(os.fsencode(snapshot.path))
        except OSError:
            dataset = next((d for d in self._config.datasets if d.name == snapshot.ref.dataset), None)
            home = next((p for p in placements if dataset is not None and p.tier == dataset.home), None)
            return os.fsencode(snapshot.path), home
        for tier in self._config.tiers:
            if tier.kind is not TierKind.POSIX:
                continue  # what is in a bucket is no tree, and nobody changes it there
            for placement in placements:
                if placement.tier == tier.name and placement.location is not None:
                    tree = os.fsencode(tier.root / placement.location)
                    if tree == target and self._is_online(tier.name):
                        return tree, placement
        return None

    def _without_our_doing(self, found: Measure, snapshot: Snapshot, placement: Placement | None) -> Measure:
        """A copy's entries are as new as the copy: only what is newer than its verification was done by others."""
        made_at = placement.verified_at if placement is not None and placement.content_id is not None else None
        if made_at is not None and found.newest_change <= made_at:
            return replace(found, newest_change=snapshot.changed_at)
        return found

    def _mark_stale(self, snapshot: Snapshot, placements: list[Placement], live: Placement | None) -> None:
        """Copies that were verified before the snapshot was changed protect nothing any more."""
        for p in placements:
            is_other = live is not None and p.tier != live.tier and p.state is PlacementState.VERIFIED
            if is_other and p.verified_at is not None and snapshot.changed_at > p.verified_at:
                self._catalog.apply(snapshot.id, [MarkStale(tier=p.tier)], now=self._clock())

    # -- watches -------------------------------------------------------------------------------------------------

    def _watch(self, now: datetime) -> None:
        """Have the tracker watch what there is now, and look once at what it did not watch from the first moment."""
        watches = self._watches()
        self._tracker.update(watches)
        before, self._watched = self._watched, {w.snapshot_id: w.path for w in watches if w.snapshot_id is not None}
        for snapshot_id, path in self._watched.items():
            if before.get(snapshot_id, path) != path:  # what is written from the switch of its path on may be unseen
                self._mark_dirty(snapshot_id, now)

    def _watches(self) -> list[Watch]:
        """Every dataset's directory, and the trees elsewhere that its links lead to."""
        watches = [
            Watch(snapshot_id=None, dataset=d.name, path=d.path)
            if d.pattern is not None
            else Watch(snapshot_id=None, dataset=d.name, path=d.path.parent, child=os.fsencode(d.path.name))
            for d in self._config.datasets
            if self._is_online(d.home)
        ]
        datasets = {s.id: s.ref.dataset for s in self._catalog.snapshots()}
        watches += [Watch(snapshot_id=s, dataset=datasets[s], path=path) for s, path in self._trees() if s in datasets]
        return watches

    def _trees(self) -> Iterator[tuple[SnapshotId, Path]]:
        """Snapshots whose tree can be looked at now, and where it lies."""
        placements = self._catalog.placements_by_snapshot()
        for snapshot in self._catalog.snapshots():
            where = self._where(snapshot, placements.get(snapshot.id, []))
            if where is not None:
                yield snapshot.id, Path(os.fsdecode(where[0]))

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self._catalog.add_event("observe.problem", now=self._clock(), message=message)
