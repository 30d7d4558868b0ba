"""A view of the catalog that is shared by requests for a moment, because a full one costs milliseconds per 1,000
snapshots.

Two bounds, and which routes rely on which: `recent` may be RECENT old (lists, status, metrics, plan, the page);
`current` misses nothing that an event tells of (explain, admission), and of what has no event (access times,
measures that found no change) it may be CURRENT old. Metrics show nothing of the latter, so they take a view of any
age as long as nothing moves and nothing was recorded since (`summed_up`).
"""

from __future__ import annotations

import threading
from collections.abc import Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property

from tierd.catalog import Catalog
from tierd.config import Config
from tierd.decide import plan, timetable
from tierd.model.dataset import SnapshotId, SnapshotRef
from tierd.model.plan import Plan, View
from tierd.serve.ports import Clock, Ports
from tierd.serve.tally import Tally, tally

RECENT = timedelta(seconds=1)
CURRENT = timedelta(seconds=5)
PLAN = timedelta(seconds=5)


@dataclass(frozen=True, kw_only=True)
class _Read:
    view: View
    refs: dict[SnapshotId, SnapshotRef]
    last_event_id: int
    at: datetime

    @cached_property
    def tally(self) -> Tally:
        return tally(self.view)

    @cached_property
    def is_moving(self) -> bool:
        """Whether transfers are under way, of whose progress there are no events."""
        return any(s.live is not None for s in (*self.view.snapshots, *self.view.orphans))


class Views:
    """Reads views, one at a time, and keeps the last. Thread-safe."""

    def __init__(self, config: Config, catalog: Catalog, ports: Ports, clock: Clock) -> None:
        self._config, self._catalog, self._ports, self._clock = config, catalog, ports, clock
        self._reading = threading.Lock()
        self._planning = threading.Lock()
        self._last: _Read | None = None
        self._plan: tuple[_Read, Plan] | None = None

    def recent(self) -> View:
        """A view that is at most RECENT old, or older if nothing was recorded since (never older than CURRENT)."""
        return self.with_usage(self._recent().view)

    def recent_summed_up(self) -> tuple[View, Tally]:
        """A recent view, with what it comes to."""
        read = self._recent()
        return self.with_usage(read.view), read.tally

    def summed_up(self) -> tuple[View, Tally]:
        """For metrics: misses nothing of which there is an event. Access times, of which there is none, may be old."""
        last = self._last
        if last is not None and not last.is_moving and last.last_event_id == self._catalog.last_event_id():
            return self.with_usage(last.view), last.tally
        return self.recent_summed_up()

    def current(self) -> View:
        """A view that misses nothing of which there is an event."""
        return self.with_usage(self._current().view)

    def plan(self) -> Plan:
        """What the planner would do: at most RECENT old, or PLAN if nothing was recorded since."""
        with self._planning:
            now = self._clock()
            if self._plan is not None and _is_younger(self._plan[1].made_at, RECENT, now):
                return self._plan[1]
            read = self._current()
            if self._plan is not None:
                known, made = self._plan
                if known.last_event_id == read.last_event_id and _is_younger(made.made_at, PLAN, now):
                    return made
            made = plan(self.with_usage(read.view), now)
            self._plan = (read, made)
            return made

    def late(self) -> Set[SnapshotId]:
        """Snapshots whose recall will miss its deadline as things stand."""
        now, view = self._clock(), self.recent()
        return {recall.snapshot_id for recall, _ in timetable.late(timetable.recalls(view, now), now)}

    def ref(self, snapshot_id: SnapshotId) -> SnapshotRef:
        """The name of a snapshot, also of one that is gone."""
        known = self._last
        found = None if known is None else known.refs.get(snapshot_id)
        return found or self._catalog.snapshot_by_id(snapshot_id).ref

    def with_usage(self, view: View) -> View:
        """The same with what is not in the catalog as it is now: how full the tiers are, what recalls cost."""
        usage, costs = dict(self._ports.usage()), self._ports.costs()
        return replace(view, usage=usage, costs=costs, judgement=self._config.value, quiet=self._config.quiet)

    def _recent(self) -> _Read:
        last = self._last
        if last is not None and _is_younger(last.at, RECENT, self._clock()):
            return last
        return self._current()

    def _current(self) -> _Read:
        # Whoever waits here gets what the one before it read: many requests at once cost one read.
        with self._reading:
            now, last = self._clock(), self._last
            # Before the view, so that an event in between makes the next caller read again.
            newest = self._catalog.last_event_id()
            if last is not None and last.last_event_id == newest and _is_younger(last.at, CURRENT, now):
                return last
            config = self._config
            view = self._catalog.view(config.tiers, config.datasets, self._ports.usage(), now=now)
            refs = {s.snapshot.id: s.ref for s in (*view.snapshots, *view.orphans)}
            self._last = _Read(view=view, refs=refs, last_event_id=newest, at=now)
            return self._last


def _is_younger(at: datetime, bound: timedelta, now: datetime) -> bool:
    # Not negative: after the clock jumped back an old view would seem fresh for hours.
    return timedelta(0) <= now - at <= bound
