"""Carries out schedules: announces what comes next, and has it warmed and held in time.

Nothing has to be remembered across a restart: announcements and leases carry the key of their occurrence, so asking
again changes nothing, and an occurrence that was missed while nobody ran is due as long as its use goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from tierd.catalog import Catalog
from tierd.decide.schedules import Turn, all_turns
from tierd.errors import Conflict, NotFound, TierdError, TooLate
from tierd.model.announced import AnnouncedBy, Announcement
from tierd.model.dataset import SnapshotId
from tierd.model.plan import SnapshotView, View
from tierd.model.schedule import Schedule
from tierd.model.tier import TierName
from tierd.serve import LeaseWish, Leaving, Warmed, Warming

log = logging.getLogger(__name__)

_AGAIN = timedelta(minutes=1)
"""After a warm was refused."""
_AT_ONCE = 500
"""Announcements that begin, or end, in one transaction and round: others want to write, too."""
_WARMS_AT_ONCE = 20
"""In one round: each is admitted by itself, and the control loop has more to do."""


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """How a warm went: refused with `problem`, or granted."""

    at: datetime
    until: datetime
    problem: str | None


class Scheduler:
    """One per daemon, used by the control loop alone."""

    def __init__(self, schedules: Sequence[Schedule], catalog: Catalog, warming: Warming) -> None:
        self._schedules, self._catalog, self._warming = schedules, catalog, warming
        self._announced: set[str] = set()
        self._tried: dict[str, _Tried] = {}
        self.is_behind = False
        """There was more to do than one round may take: the next one should come soon."""
        # What was told before this start is not told again. By occurrence and snapshot: the kind of the last event.
        self._told = {
            (name, str(e.detail.get("use_at")), e.ref): e.kind for name, e in catalog.schedule_events().items()
        }

    def tick(self, view: View, now: datetime) -> bool:
        """Announce and warm what is due; True if that changed what a view shows."""
        before = self._catalog.last_event_id()
        coming = all_turns(self._schedules, view, now)
        keys = {turn.key(s) for turn in coming for s in turn.snapshots}
        self._announced &= keys
        self._withdraw(coming, view, now)
        new = [(turn, s) for turn in coming for s in turn.snapshots if turn.key(s) not in self._announced]
        if new:
            with self._catalog.together():
                for turn, s in new[:_AT_ONCE]:
                    self._announce(turn, s, now)
        wanted = [(turn, s) for turn in coming if turn.is_due(now) for s in self._to_warm(turn, view, now)]
        for turn, s in wanted[:_WARMS_AT_ONCE]:
            self._warm(turn, s, now)
        self.is_behind = len(new) > _AT_ONCE or len(wanted) > _WARMS_AT_ONCE
        self._tried = {key: tried for key, tried in self._tried.items() if tried.until >= now}
        times = {(turn.schedule.name, turn.use_at.isoformat()) for turn in coming}
        self._told = {about: kind for about, kind in self._told.items() if about[:2] in times}
        return self._catalog.last_event_id() != before

    def _announce(self, turn: Turn, s: SnapshotView, now: datetime) -> None:
        key = turn.key(s)
        try:
            self._catalog.announce(
                snapshot_id=s.snapshot.id,
                source=AnnouncedBy.SCHEDULE,
                holder=turn.schedule.holder,
                use_at=turn.use_at,
                until=turn.until,
                request_key=key,
                now=now,
            )
        except (Conflict, NotFound) as error:  # it was deleted since the view was read
            log.info("%s is not announced: %s", s.ref, error)
        else:
            self._announced.add(key)

    def _withdraw(self, coming: Sequence[Turn], view: View, now: datetime) -> None:
        """End what schedules announced and no longer mean: they were changed, or another snapshot is the latest."""
        meant = {(turn.schedule.holder, s.snapshot.id, turn.use_at) for turn in coming for s in turn.snapshots}
        said = (a for s in view.snapshots for a in s.announcements if a.source is AnnouncedBy.SCHEDULE)
        over = [a.id for a in said if _said(a) not in meant][:_AT_ONCE]
        if over:
            with self._catalog.together():
                for announcement_id in over:
                    self._catalog.end_announcement(announcement_id, now)

    def _to_warm(self, turn: Turn, view: View, now: datetime) -> list[SnapshotView]:
        if not turn.snapshots:
            message = f"schedule {turn.schedule.name} matches nothing: no snapshot is {turn.schedule.snapshots}"
            self._tell("schedule.empty", turn, None, message, now)
        return [s for s in turn.snapshots if self._wants_warm(turn.key(s), s, view.flash, now)]

    def _wants_warm(self, key: str, s: SnapshotView, flash: frozenset[TierName], now: datetime) -> bool:
        tried = self._tried.get(key)
        if tried is None:
            return True
        if tried.problem is None:  # what was granted may have failed for good since
            is_coming = s.live is not None and s.live.brings_whole
            if is_coming or any(s.on(name) for name in flash):
                return False
        return not tried.at <= now < tried.at + _AGAIN  # nor wait for a clock that was set back

    def _warm(self, turn: Turn, s: SnapshotView, now: datetime) -> None:
        key, name = turn.key(s), turn.schedule.name
        wish = LeaseWish(
            ref=s.ref,
            ttl=max(turn.until - now, timedelta(seconds=1)),
            holder=turn.schedule.holder,
            request_key=key,
            note=f"for its use at {turn.use_at:%Y-%m-%d %H:%M} UTC",
        )
        problem: str | None = None
        try:
            answer = self._ask(wish, turn, s, now)
        except TierdError as error:
            problem = error.message if error.hint is None else f"{error.message}. {error.hint}"
            self._tell("schedule.refused", turn, s, f"schedule {name}: {problem}", now)
        else:
            if isinstance(answer, Leaving):  # its release was asked to stop: the next round finds it there
                return
            way = "is on flash" if answer.transfer is None else f"comes to flash by transfer {answer.transfer.id}"
            held = f"held until {turn.until:%Y-%m-%d %H:%M} UTC"
            self._tell("schedule.warmed", turn, s, f"schedule {name}: {s.ref} {way}, {held}", now)
        self._tried[key] = _Tried(at=now, until=turn.until, problem=problem)

    def _ask(self, wish: LeaseWish, turn: Turn, s: SnapshotView, now: datetime) -> Warmed | Leaving:
        """With the time of use as a promise where one can be made; without it is still better than not at all."""
        if s.live is None and turn.use_at > now:
            try:
                return self._warming.warm(replace(wish, by=turn.use_at))
            except TooLate as error:
                log.info("schedule %s: %s", turn.schedule.name, error)
        return self._warming.warm(wish)

    def _tell(self, kind: str, turn: Turn, s: SnapshotView | None, message: str, now: datetime) -> None:
        """An event; for each occurrence and snapshot once, until there is other news."""
        detail = {"schedule": turn.schedule.name, "use_at": turn.use_at.isoformat()}
        about = (detail["schedule"], detail["use_at"], None if s is None else s.ref)
        if self._told.get(about) == kind:
            return
        self._told[about] = kind
        self._catalog.add_event(kind, now=now, ref=None if s is None else s.ref, message=message, detail=detail)


def _said(a: Announcement) -> tuple[str, SnapshotId, datetime]:
    return a.holder, a.snapshot_id, a.use_at
