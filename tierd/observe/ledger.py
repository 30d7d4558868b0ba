"""Accesses in memory: one tally per snapshot, however many events there are."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

from tierd.model.dataset import AccessSource, SnapshotId
from tierd.model.observation import AccessBatch, Reader, ReaderTally
from tierd.observe.tracker import Dirty

_MOST_READERS = 32
"""Told apart per snapshot and drain; the others are one reader of whom nothing is known."""


@dataclass(slots=True)
class _ByReader:
    first_at: datetime
    last_at: datetime
    reads: int = 0
    writes: int = 0


@dataclass(eq=False, slots=True)
class Tally:
    """What has been seen of one snapshot since the last drain.

    Attributes:
        suppressions: how many of tierd's own readings are under way.
        is_dirty: its tree changed.
        is_blind: its tree could not be watched for a while; it is dirty as soon as it is watched again.
    """

    snapshot_id: SnapshotId
    reads: int = 0
    writes: int = 0
    read_at: datetime | None = None
    written_at: datetime | None = None
    suppressions: int = 0
    is_dirty: bool = False
    is_blind: bool = False
    readers: dict[Reader, _ByReader] = field(default_factory=dict)

    # The time given last wins, not the latest: after the clock jumped back it is the one that is true.

    def read(self, at: datetime, by: Reader | None = None, count: int = 1) -> None:
        self.reads += count
        self.read_at = at
        if by is not None:
            self._of(by, at).reads += count

    def write(self, at: datetime, by: Reader | None = None) -> None:
        self.writes += 1
        self.written_at = at
        self.is_dirty = True
        if by is not None:
            self._of(by, at).writes += 1

    def _of(self, reader: Reader, at: datetime) -> _ByReader:
        if reader not in self.readers and len(self.readers) >= _MOST_READERS:
            reader = Reader()
        found = self.readers.setdefault(reader, _ByReader(at, at))
        found.first_at, found.last_at = min(found.first_at, at), max(found.last_at, at)
        return found

    def take(self, now: datetime, source: AccessSource) -> AccessBatch:
        batch = AccessBatch(
            snapshot_id=self.snapshot_id,
            read_at=min(self.read_at, now) if self.read_at else None,
            written_at=min(self.written_at, now) if self.written_at else None,
            reads=self.reads,
            writes=self.writes,
            source=source,
            readers=tuple(
                ReaderTally(
                    reader=reader,
                    first_at=min(by.first_at, now),
                    last_at=min(by.last_at, now),
                    reads=by.reads,
                    writes=by.writes,
                )
                for reader, by in self.readers.items()
            ),
        )
        self.readers.clear()
        self.reads = self.writes = 0
        self.read_at = self.written_at = None
        return batch


@dataclass
class Ledger:
    """All tallies and the dirty datasets. `lock` guards everything here; methods take it themselves."""

    source: AccessSource
    lock: threading.RLock = field(default_factory=threading.RLock)
    dirty_datasets: set[str] = field(default_factory=set)
    _tallies: dict[SnapshotId, Tally] = field(default_factory=dict)

    def tally(self, snapshot_id: SnapshotId) -> Tally:
        with self.lock:
            found = self._tallies.get(snapshot_id)
            if found is None:
                found = self._tallies[snapshot_id] = Tally(snapshot_id)
            return found

    def tallies(self) -> list[Tally]:
        with self.lock:
            return list(self._tallies.values())

    def retain(self, watched: Collection[SnapshotId]) -> None:
        """Forget snapshots that are not watched any more and have nothing left to report."""
        keep = set(watched)
        with self.lock:
            for tally in list(self._tallies.values()):
                has_news = tally.reads or tally.writes or tally.is_dirty or tally.is_blind or tally.suppressions
                if tally.snapshot_id not in keep and not has_news:
                    del self._tallies[tally.snapshot_id]

    def drain(self, now: datetime) -> list[AccessBatch]:
        with self.lock:
            return [t.take(now, self.source) for t in self._tallies.values() if t.reads or t.writes]

    def drain_dirty(self) -> Dirty:
        with self.lock:
            snapshots = [t for t in self._tallies.values() if t.is_dirty]
            for tally in snapshots:
                tally.is_dirty = False
            datasets, self.dirty_datasets = frozenset(self.dirty_datasets), set()
            return Dirty(datasets=datasets, snapshots=frozenset(t.snapshot_id for t in snapshots))
