"""Times of the day and week in which something holds: quiet hours, and the hours of a rate.

Written in the clock time of a place. Days on which its clocks change have 23 or 25 hours: a window begins and ends
when the clock on the wall says so; a time that the clocks skip counts as if they had not been changed yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

EVERY_DAY = frozenset(range(7))
DAY_MINUTES = 24 * 60
_WEEK_DAYS = 7
_UTC_ZONE = ZoneInfo("UTC")


@dataclass(frozen=True, kw_only=True)
class Span:
    """From one clock time to another, on some days of the week.

    Attributes:
        start, end: minutes since midnight, the end up to 24:00; an end that is not after the start is on the next day.
        days: on which it begins; Monday is 0.
    """

    start: int
    end: int
    days: frozenset[int] = EVERY_DAY


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Several spans, in the clock time of one zone."""

    spans: tuple[Span, ...]
    zone: ZoneInfo = _UTC_ZONE

    def is_open(self, now: datetime) -> bool:
        """Whether a span is running."""
        return any(begin <= now < end for begin, end in self._around(now))

    def closes_at(self, now: datetime) -> datetime | None:
        """When what is open now ends; None where nothing is open, or where it never ends."""
        for begin, end in self._around(now):
            if begin <= now < end:
                return None if end - now > timedelta(days=_WEEK_DAYS) else end
        return None

    def next_open(self, now: datetime) -> datetime | None:
        """When the next one begins that has not begun; None where it is always open."""
        return next((begin for begin, _ in self._around(now) if begin > now), None)

    def clock(self, moment: datetime) -> str:
        """A moment as the clock there shows it: `06:00 CET`."""
        return f"{moment.astimezone(self.zone):%H:%M %Z}"

    def _around(self, now: datetime) -> list[tuple[datetime, datetime]]:
        """What is open from yesterday to a little more than a week ahead, in order; what touches is one."""
        found: list[tuple[datetime, datetime]] = []
        for begin, end in sorted(self._single(now.astimezone(self.zone).date())):
            if found and begin <= found[-1][1]:
                found[-1] = (found[-1][0], max(end, found[-1][1]))
            else:
                found.append((begin, end))
        return found

    def _single(self, today: date) -> Iterator[tuple[datetime, datetime]]:
        for number in range(-2, _WEEK_DAYS + 2):
            day = today + timedelta(days=number)
            for span in self.spans:
                if day.weekday() in span.days:
                    length = span.end if span.end > span.start else span.end + DAY_MINUTES
                    begin, end = self._moment(day, span.start), self._moment(day, length)
                    if begin < end:  # not so where the clocks skip all of it
                        yield begin, end

    def _moment(self, day: date, minutes: int) -> datetime:
        days, rest = divmod(minutes, DAY_MINUTES)
        wall = datetime.combine(day + timedelta(days=days), time(rest // 60, rest % 60), self.zone)
        return wall.astimezone(UTC)


@dataclass(frozen=True, kw_only=True)
class Quiet:
    """Quiet hours, in which copies are made that nobody needs yet.

    Attributes:
        window: when; None: there are none.
        after: what is unused for this long gets its cold copy then, even before its policy asks for one.
    """

    window: Windows | None = None
    after: timedelta = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class TimedRate:
    """What a tier's transfers may read and write, in bytes/s, while a window is open; None is no limit."""

    window: Windows
    read_rate: int | None
    write_rate: int | None
