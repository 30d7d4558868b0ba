"""What is known of times in which nobody watched: nothing, where the mount keeps no access times.

A daemon that was down, or a tracker that only samples, sees no use of a tree on a mount without access times
(`noatime`, read-only). Such time is left out when it is asked how long a snapshot was not used: unknown is not cold,
and a restart each day does not make everything hot either.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

from tierd.catalog import Catalog
from tierd.model.dataset import SnapshotId
from tierd.model.observation import TrackerStatus
from tierd.model.units import format_duration
from tierd.observe.measure import keeps_atime

log = logging.getLogger(__name__)

_EVERY_S = 60.0
Trees = Callable[[], Iterable[tuple[SnapshotId, Path]]]
"""Snapshots, and where each lies now."""


class Watching:
    """Notes how far uses were watched for. Used by the observer's thread."""

    def __init__(self, catalog: Catalog, status: Callable[[], TrackerStatus]) -> None:
        self._catalog, self._status = catalog, status
        self._until: datetime | None = None
        self._lost = 0
        self._due = 0.0

    def note(self, now: datetime, trees: Trees, *, is_last: bool = False) -> None:
        """Called after accesses were written to the catalog; does something once a minute, and when `is_last`."""
        if time.monotonic() < self._due and not is_last:
            return
        self._due = time.monotonic() + _EVERY_S
        status = self._status()
        is_first, since = self._until is None, self._until or self._catalog.observed_until() or now
        # Before the first note nobody watched; a tracker that samples sees no more than access times tell.
        was_blind = is_first or status.name == "atime" or status.events_lost > self._lost
        unobserved = [s for s, path in trees() if not keeps_atime(path)] if was_blind and since < now else []
        self._catalog.note_observed(until=now, since=since, unobserved=unobserved)
        self._until, self._lost = now, status.events_lost
        if unobserved and is_first:
            gap = format_duration(round((now - since).total_seconds()))
            message = f"for {gap} nobody watched: {len(unobserved)} snapshots on mounts that keep no access times"
            self._catalog.add_event("observe.unobserved", now=now, message=message)
