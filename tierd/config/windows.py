"""Readers of windows of time: `"22:00-06:00"`, `"Mon-Fri 20:00-07:00"`, several in a list; rates in them; zones."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

from tierd.config import values
from tierd.errors import InvalidRequest
from tierd.model.windows import DAY_MINUTES, EVERY_DAY, Span, Windows

LOCAL = "local"
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SPAN = re.compile(r"(?:(?P<days>[A-Za-z,\s-]+?)\s+)?(?P<from>\d{1,2}:\d{2})\s*-\s*(?P<to>\d{1,2}:\d{2})")
_HINT = 'Write "22:00-06:00" or "Mon-Fri 20:00-07:00", or a list of such.'
_RATES_HINT = 'Write rates = [{ window = "08:00-20:00", read = "200 MB/s", write = "100 MB/s" }].'


def window(value: object) -> Windows:
    """One span or a list of them, in the clock time of UTC until the zone is known."""
    listed = value if isinstance(value, list) else [value]
    if not listed:
        raise InvalidRequest("is an empty list", hint=_HINT)
    return Windows(spans=tuple(_span(each) for each in listed))


def window_or_off(value: object) -> Windows | None:
    """A window, or "off" for none."""
    return None if value == values.OFF else window(value)


def _span(value: object) -> Span:
    found = _SPAN.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise InvalidRequest(f"{value!r} is not a window of time", hint=_HINT)
    start, end = _minutes(found["from"]), _minutes(found["to"])
    if start in (DAY_MINUTES, end):
        why = "begins at the end of the day" if start == DAY_MINUTES else "begins and ends at the same time"
        raise InvalidRequest(f"{value!r} {why}", hint='A whole day is "00:00-24:00".')
    return Span(start=start, end=end, days=_days(found["days"]) if found["days"] else EVERY_DAY)


def _minutes(text: str) -> int:
    hours, minutes = (int(part) for part in text.split(":"))
    if minutes > 59 or hours * 60 + minutes > DAY_MINUTES:
        raise InvalidRequest(f"{text!r} is no time of the day", hint="Write 00:00 to 24:00.")
    return hours * 60 + minutes


def _days(text: str) -> frozenset[int]:
    """`Mon-Fri`, `Sat,Sun`, `Fri-Mon`."""
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        begin = _day(first)
        end = _day(last) if dash else begin
        days |= {day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)}
    return frozenset(days)


def _day(word: str) -> int:
    if word.lower() not in _DAYS:
        raise InvalidRequest(f"{word!r} is no day of the week", hint="Write Mon, Tue, Wed, Thu, Fri, Sat or Sun.")
    return _DAYS.index(word.lower())


def rates(value: object) -> tuple[dict[str, object], ...]:
    """What a tier may be read and written at in windows; a rate that is not named is the tier's own."""
    if not isinstance(value, list):
        raise InvalidRequest(f"is {values.type_name(value)}, not a list of tables", hint=_RATES_HINT)
    return tuple(_timed(entry) for entry in value)


def _timed(entry: object) -> dict[str, object]:
    readers = {"window": window, "read": values.rate_or_unlimited, "write": values.rate_or_unlimited}
    if not isinstance(entry, dict) or entry.keys() - readers.keys() or "window" not in entry or len(entry) < 2:
        raise InvalidRequest(f"{entry!r} is not a window with a read or a write rate", hint=_RATES_HINT)
    return {name: readers[name](given) for name, given in entry.items()}


def time_zone(value: object) -> ZoneInfo:
    """A time zone by its name, or "local" for the one of this machine."""
    if value == LOCAL:
        return local_zone()
    if not isinstance(value, str) or value not in available_timezones():
        near = difflib.get_close_matches(str(value), available_timezones(), n=1)
        meant = f"Did you mean {near[0]!r}? " if near else ""
        raise InvalidRequest(
            f"{value!r} is no time zone", hint=f'{meant}Write one like "Europe/Berlin", "UTC" or "local".'
        )
    return ZoneInfo(value)


def local_zone() -> ZoneInfo:
    """The time zone of this machine by its name; UTC where that cannot be told."""
    _, _, name = str(Path("/etc/localtime").resolve()).partition("/zoneinfo/")
    return ZoneInfo(name) if name in available_timezones() else ZoneInfo("UTC")
