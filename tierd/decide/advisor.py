"""Advice: uses that come so regularly that a schedule could have the snapshot there in time. Only advises.

Daily: used on nearly every day, or working day, of the last two weeks. Weekly: used about the same weekday in at least
four of the last five weeks, at even distances, and hardly otherwise.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from itertools import pairwise
from statistics import median, median_low

from tierd.model.dataset import SnapshotRef
from tierd.model.observation import Span
from tierd.model.units import format_duration

LOOK_BACK = timedelta(days=35)
"""How much history is looked at: as long as uses are kept by the hour."""

_WEEKS, _WEEKS_USED = 5, 4
_DAYS, _DAYS_USED = 14, 12
_WORKING_DAYS_USED = 9
_MOST_SPREAD = 0.2
"""Median absolute deviation of the distances between uses, as a share of their median."""
_SAME_TIME_H = 3.0
_PAUSE_H, _LONGEST_H = 6, 24
_WEEK_DAYS = ("Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays")
_DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Advice:
    """A schedule that fits what was seen.

    Attributes:
        when: in words, `Mondays about 09:00`.
        seen: how many uses of the kind were seen.
        zone: name of the time zone that `cron` is written in; None where it has none.
    """

    ref: SnapshotRef
    rhythm: str
    when: str
    cron: str
    zone: str | None
    use_for: timedelta
    seen: int

    @property
    def says(self) -> str:
        return f"{self.ref} looks {self.rhythm} ({self.when}): schedule it?"

    @property
    def toml(self) -> str:
        """What to paste into the configuration."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(self.ref)).strip("._-") or "regular"
        # As a pattern that matches this name, in a TOML string.
        target = re.sub(r"([*?[])", r"[\1]", str(self.ref)).replace("\\", "\\\\").replace('"', '\\"')
        zone = f'time_zone = "{self.zone}"\n' if self.zone else ""
        return (
            f'[[schedules]]\nname = "{name[:90]}"\nsnapshots = "{target}"\ncron = "{self.cron}"\n'
            f'for = "{format_duration(self.use_for).replace(" ", "")}"\n{zone}'
        )


def advise(
    spans: Iterable[Span], zone: tzinfo, now: datetime, *, scheduled: Collection[SnapshotRef] = ()
) -> list[Advice]:
    """Regular uses among hourly counts; those of snapshots that are `scheduled` already are left out."""
    by_ref: defaultdict[SnapshotRef, list[Span]] = defaultdict(list)
    for span in spans:
        if span.ref not in scheduled and now - LOOK_BACK <= span.start <= now:
            by_ref[span.ref].append(span)
    found = [_Uses(ref, by_ref[ref], zone, now).advice() for ref in sorted(by_ref)]
    return [each for each in found if each is not None]


class _Uses:
    """The uses of one snapshot, in the days and hours of a zone."""

    def __init__(self, ref: SnapshotRef, spans: list[Span], zone: tzinfo, now: datetime) -> None:
        self._ref, self._zone, self._today = ref, zone, now.astimezone(zone).date()
        self._active = sorted({s.start for s in spans})
        self._starts: defaultdict[date, list[datetime]] = defaultdict(list)
        for start in sorted({s.start for s in spans if s.episodes}):
            self._starts[start.astimezone(zone).date()].append(start)

    def advice(self) -> Advice | None:
        return self._daily() or self._weekly()

    def _daily(self) -> Advice | None:
        # Today may be too young to have been used.
        days = [self._today - _DAY * back for back in range(1, _DAYS + 1)]
        used = [day for day in days if day in self._starts]
        if len(used) >= _DAYS_USED:
            return self._made("daily", "every day", "*", used)
        working = [day for day in used if day.weekday() < 5]
        if len(working) >= _WORKING_DAYS_USED:  # of the ten in two weeks
            return self._made("daily", "Monday to Friday", "1-5", working)
        return None

    def _weekly(self) -> Advice | None:
        best = max((self._on(weekday) for weekday in range(7)), key=lambda found: found[0])
        (_, exact, _), weekday, used = best
        if len(used) < _WEEKS_USED or not exact or not _is_even(used):
            return None
        others = [d for d in self._starts if all(abs((d - u).days) > 1 for u in used)]
        if len(others) > len(used) // 2:
            return None
        return self._made("weekly", _WEEK_DAYS[weekday], str((weekday + 1) % 7), used)

    def _on(self, weekday: int) -> tuple[tuple[int, int, int], int, list[date]]:
        """The uses on or next to a weekday in the last weeks; how good a match that is comes first."""
        anchor = self._today - _DAY * ((self._today.weekday() - weekday) % 7)
        if anchor + _DAY >= self._today and self._near(anchor) is None:
            anchor -= 7 * _DAY  # this week's may still come
        anchors = [anchor - 7 * _DAY * back for back in range(_WEEKS)]
        used = sorted({day for each in anchors if (day := self._near(each)) is not None})
        exact = sum(day.weekday() == weekday for day in used)
        return (len(used), exact, -weekday), weekday, used

    def _near(self, day: date) -> date | None:
        return next((d for d in (day, day - _DAY, day + _DAY) if d in self._starts), None)

    def _made(self, rhythm: str, days: str, cron_days: str, used: list[date]) -> Advice:
        firsts = [self._starts[day][0] for day in used]
        hours = [first.astimezone(self._zone).hour for first in firsts]
        middle = median_low(hours)
        is_same = median(abs(hour - middle) for hour in hours) <= _SAME_TIME_H
        hour = middle if is_same else min(hours)
        return Advice(
            ref=self._ref,
            rhythm=rhythm,
            when=f"{days} {'about' if is_same else 'from'} {hour:02}:00",
            cron=f"0 {hour} * * {cron_days}",
            zone=getattr(self._zone, "key", None),
            use_for=timedelta(hours=median_low(self._length_h(first) for first in firsts)),
            seen=len(used),
        )

    def _length_h(self, first: datetime) -> int:
        """Hours from the beginning of a use until nothing was read for a while."""
        last = first
        for hour in self._active:
            if last < hour <= last + timedelta(hours=_PAUSE_H):
                last = hour
        return min(_LONGEST_H, int((last - first) / timedelta(hours=1)) + 1)


def _is_even(days: list[date]) -> bool:
    """Whether the distances between uses are about the same: one that was left out does not matter."""
    gaps = [(later - earlier).days for earlier, later in pairwise(days)]
    middle = median(gaps)
    return bool(median(abs(gap - middle) for gap in gaps) <= _MOST_SPREAD * middle)
