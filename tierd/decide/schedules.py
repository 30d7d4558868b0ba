"""Schedules: when each comes next, what it concerns, and from when on that must be warmed.

Occurrences follow Debian's cron on the days on which clocks are changed: a time of day that does not exist comes when
the clocks are past it, one that comes twice is meant once, the first time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

from cronsim import CronSim

from tierd.decide.charges import restore
from tierd.decide.naming import Names
from tierd.model.placement import PlacementState
from tierd.model.plan import SnapshotView, View
from tierd.model.schedule import Schedule
from tierd.model.value import ASSUMED

HORIZON = timedelta(days=14)
"""What is further away is not announced yet."""

_SAFETY = 1.3
_AT_LEAST = timedelta(seconds=60)
_FAR = timedelta(days=3650)
_OVERLAP = timedelta(hours=3)
"""More than any clock is set back: within it a time of day may stand for two moments."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One occurrence of a schedule, with what it concerns as things stand.

    Attributes:
        snapshots: what matches now.
        missing: those of them that are not on flash.
        lead: how long before `use_at` their warming has to begin.
    """

    schedule: Schedule
    use_at: datetime
    until: datetime
    snapshots: tuple[SnapshotView, ...]
    missing: tuple[SnapshotView, ...]
    lead: timedelta

    @property
    def begins_at(self) -> datetime:
        """When warming begins."""
        return self.use_at - self.lead

    @property
    def recall_bytes(self) -> int:
        return sum(s.snapshot.size_bytes for s in self.missing)

    def is_due(self, now: datetime) -> bool:
        """Whether what matches has to be on flash, or on its way."""
        return self.begins_at <= now <= self.until

    def key(self, s: SnapshotView) -> str:
        """Names the use of one snapshot: announced and held once, however often that is asked for.

        By its id: a snapshot that is renamed stays the same, another tree under the same name is none of it.
        """
        return f"{self.schedule.holder}:{self.use_at:%Y-%m-%dT%H:%MZ}:{s.snapshot.id}"


def occurrences(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    """Times of use later than `after`, in UTC."""
    for found in CronSim(schedule.cron, after.astimezone(schedule.time_zone or UTC)):
        moment = found.astimezone(UTC)
        if moment > after:  # the hour that comes twice has no second 02:30 for cron, but `after` may lie in it
            yield moment


def last_occurrence(schedule: Schedule, now: datetime) -> datetime | None:
    """The latest time of use that is not later than `now`; None: there was none for half a century."""
    late = (now + _OVERLAP).astimezone(schedule.time_zone or UTC)
    for found in CronSim(schedule.cron, late, reverse=True):
        moment = found.astimezone(UTC)
        if moment <= now:
            return moment
    return None


def turns(schedule: Schedule, view: View, names: Names, now: datetime, horizon: timedelta = HORIZON) -> list[Turn]:
    """The use that goes on, if there is one, and the next one within the horizon."""
    snapshots = tuple(names.matching(schedule.snapshots))
    missing = tuple(s for s in snapshots if not any(s.on(name) for name in view.flash))
    lead = schedule.lead or _lead(missing, view)
    last = last_occurrence(schedule, now)
    times = [] if last is None or last + schedule.use_for < now else [last]
    times += [at for at in islice(occurrences(schedule, now), 1) if at <= now + max(horizon, lead)]
    return [
        Turn(
            schedule=schedule,
            use_at=at,
            until=at + schedule.use_for,
            snapshots=snapshots,
            missing=missing,
            lead=lead,
        )
        for at in times
    ]


def all_turns(schedules: Sequence[Schedule], view: View, now: datetime) -> list[Turn]:
    """Those of all schedules."""
    names = Names(view.snapshots) if schedules else Names(())
    return [turn for schedule in schedules for turn in turns(schedule, view, names, now)]


def _lead(missing: Sequence[SnapshotView], view: View) -> timedelta:
    """How long before its use a set of snapshots has to be begun, from what copying took lately."""
    tiers = {t.name: t for t in view.tiers}
    seconds = 0.0
    waits = timedelta(0)
    for s in missing:
        colder = [p for p in s.placements if p.state is PlacementState.VERIFIED and p.tier in tiers]
        copy = min(colder, key=lambda p: tiers[p.tier].rank, default=None)
        cost = ASSUMED if copy is None else view.costs.get(copy.tier, ASSUMED)
        seconds += cost.seconds(s.snapshot.size_bytes, s.snapshot.files)
        # Restores run side by side. One that nobody asked for is refused in time to ask for it.
        needed = None if copy is None else restore(tiers[copy.tier], copy)
        waits = waits if needed is None else max(waits, needed.takes)
    return _AT_LEAST + waits + timedelta(seconds=min(_SAFETY * seconds, _FAR.total_seconds()))
