"""What may have gone on unseen by fanotify, and when it is looked at again: reported as dirty, it is measured.

Locking: as in `intake`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable

from tierd.model.dataset import SnapshotId
from tierd.observe.filesystems import Filesystem
from tierd.observe.ledger import Ledger

_REST_S = 60.0
_SKIPPED_REST_S = 600.0
"""Measuring everything costs far more than looking up what changed; so it is done rarely."""
_NEVER = float("inf")


class Doubts:
    """Of all file systems.

    Args:
        sample_every_s: see `sample`.
        loss_felt_s: see `is_felt`.
    """

    def __init__(self, ledger: Ledger, sample_every_s: float, loss_felt_s: float) -> None:
        self._ledger = ledger
        self._loss_felt_s = loss_felt_s
        self._repair_due: dict[Filesystem, float] = {}
        self._repaired_at: dict[Filesystem, float] = {}
        self._loss_repaired_at: dict[Filesystem, float] = {}
        self._crowded: set[Filesystem] = set()
        self._sample_every_s = sample_every_s
        self._sample_due = time.monotonic() + sample_every_s

    @property
    def due(self) -> float:
        """When there is something to do next (monotonic)."""
        return min([*self._repair_due.values(), self._sample_due])

    @property
    def is_felt(self) -> bool:
        """Whether a loss is yet to be repaired, or was lately. With the lock held."""
        since = time.monotonic() - self._loss_felt_s
        return any(at > since for at in self._loss_repaired_at.values())

    def describe(self) -> list[str]:
        """What is skipped, for people. With the lock held."""
        return [
            f"so many directories change on the file system of {os.fsdecode(system.where)} that its snapshots are "
            "measured again some minutes later, instead of looking at each directory"
            for system in self._crowded
        ]

    def lost(self, system: Filesystem) -> None:
        """The kernel dropped events: everything there may have changed. It is said at once, then after a rest."""
        self._loss_repaired_at[system] = _NEVER
        self._repair_by(system, self._repaired_at.get(system, -_NEVER) + _REST_S)

    def skipped(self, system: Filesystem) -> None:
        """There was no time to look where something changed: the same, but late, and it is no loss."""
        if system not in self._crowded:
            self._crowded.add(system)
            now = time.monotonic()
            self._repair_by(system, max(now + _REST_S, self._repaired_at.get(system, -_NEVER) + _SKIPPED_REST_S))

    def _repair_by(self, system: Filesystem, due: float) -> None:
        self._repair_due[system] = min(due, self._repair_due.get(system, _NEVER))

    def forget(self, system: Filesystem) -> None:
        for known in (self._repair_due, self._repaired_at, self._loss_repaired_at):
            known.pop(system, None)
        self._crowded.discard(system)

    def repair(self) -> bool:
        """Some time after events were lost: everything on that file system may have changed.

        Returns:
            Whether it was time for that.
        """
        now = time.monotonic()
        due_now = [s for s, due in self._repair_due.items() if due <= now]
        for system in due_now:
            with self._ledger.lock:
                del self._repair_due[system]
                self._repaired_at[system] = now
                self._crowded.discard(system)
                if system in self._loss_repaired_at:
                    self._loss_repaired_at[system] = min(now, self._loss_repaired_at[system])
                self.everything(system)
        return bool(due_now)

    def everything(self, system: Filesystem) -> None:
        with self._ledger.lock:
            for place in system.directories.places:
                if place.tally is not None:
                    place.tally.is_dirty = True
            self._ledger.dirty_datasets |= system.directories.datasets

    def sample(self, systems: Iterable[Filesystem], read_since: Collection[SnapshotId]) -> bool:
        """Now and then, where opens were not listened for all the time: what was not seen to be read may have been.

        Returns:
            Whether it was time for that.
        """
        now = time.monotonic()
        if now < self._sample_due:
            return False
        self._sample_due = now + self._sample_every_s
        with self._ledger.lock:
            for system in systems:
                if system.has_spared:
                    system.has_spared = system.duty.is_sparing
                    for place in system.directories.places:
                        if place.tally is not None and place.tally.snapshot_id not in read_since:
                            place.tally.is_dirty = True
        return True
