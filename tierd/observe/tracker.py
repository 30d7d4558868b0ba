"""The interface of access tracking: what every back end promises.

Contract, for every back end (fanotify, inotify, sampling of access times):

- `start` once, `stop` once, `update` in between whenever the set of snapshots or the place of their bytes changes;
  none of them waits for a tree to be walked. All methods may be called from any thread.
- A `Watch` says where bytes lie *now* and whose they are: a migrated snapshot is watched at its cold copy.
  Nothing is watched through a link, and a watch whose path is missing is not an error: it begins when it appears.
- Accesses are kept in memory, merged per snapshot; memory grows with watched directories, never with events.
  `drain` hands over what has come together since the last call, at most one batch per snapshot and source.
  A crash loses what was not drained: access times on disk make up for it where the mount keeps them.
- Times come from the clock given to the back end, and never lie in its future, even after it jumped back.
- An open and a close of a file that was read is a read; a change of contents, metadata or names is a write.
  Looking at directories is neither. An open whose kind is not known yet becomes a read after a short grace.
- `suppress` is for tierd's own reading: while it lasts, reads of that snapshot do not count; writes always do.
  It nests. Reads by others in that time are not counted either, where the back end cannot tell who read. One that can
  never counts what the daemon and its workers do: their writes make a snapshot dirty and are no access.
- What a back end cannot see it says: `status().is_degraded`, with the reason and the remedy in `detail`. After lost
  events everything that may have changed unseen is reported by `drain_dirty`, so that a rescan repairs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from tierd.model.dataset import SnapshotId
from tierd.model.observation import AccessBatch, TrackerStatus

__all__ = ["LOSS_FELT_S", "Clock", "Dirty", "Tracker", "TrackerStatus", "Watch", "missing_note", "times"]

Clock = Callable[[], datetime]
LOSS_FELT_S = 3600.0
"""Lost events leave a back end degraded until the repair was asked for, and for so long again: measuring takes its
time, and one loss often follows another. They stay counted."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What to watch.

    Attributes:
        snapshot_id: whose tree lies at `path`; None for a directory whose top level alone matters (the dataset's).
        path: where the bytes are.
        child: with `snapshot_id` None, the only name in `path` that matters; None for all (hidden ones never do).
            For a dataset that is one snapshot: watch the parent directory for the dataset's own name.
    """

    snapshot_id: SnapshotId | None
    dataset: str
    path: Path
    child: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Dirty:
    """What must be looked at again.

    Attributes:
        datasets: names of those whose top level changed: discover them.
        snapshots: those whose tree changed, or may have changed unseen: measure them.
    """

    datasets: frozenset[str] = frozenset()
    snapshots: frozenset[SnapshotId] = frozenset()

    def __or__(self, other: Dirty) -> Dirty:
        return Dirty(datasets=self.datasets | other.datasets, snapshots=self.snapshots | other.snapshots)


def times(count: int) -> str:
    """For `TrackerStatus.detail`."""
    return "once" if count == 1 else f"{count} times"


def missing_note(paths: int) -> str:
    """For `TrackerStatus.detail`."""
    return "1 watched path is missing now" if paths == 1 else f"{paths} watched paths are missing now"


class Tracker(Protocol):
    """One back end. See the module for the contract."""

    def start(self, watches: Sequence[Watch]) -> None:
        """Begin; returns at once, the watches are set up in the background."""

    def update(self, watches: Sequence[Watch]) -> None:
        """Replace the set of watches; what stays the same is not disturbed."""

    def stop(self) -> None:
        """End, and wait until the back end's threads are gone. What was not drained can still be drained."""

    def drain(self) -> list[AccessBatch]:
        """Accesses since the last drain."""

    def drain_dirty(self) -> Dirty:
        """What changed since the last call."""

    def status(self) -> TrackerStatus:
        """How well it sees, now."""

    def suppress(self, snapshot_id: SnapshotId) -> None:
        """Begin tierd's own reading of a snapshot; earlier reads by others still count."""

    def unsuppress(self, snapshot_id: SnapshotId) -> None:
        """End it; the reads made until this call still do not count."""

    def sync(self, timeout_s: float) -> bool:
        """Wait until whatever happened before this call has been taken in; False when the time was up first."""
