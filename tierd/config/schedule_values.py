"""Readers of the values of schedules: cron expressions, time zones, and which snapshots are meant."""

from __future__ import annotations

import difflib
import os
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from tierd.config.values import AUTO, duration, text
from tierd.errors import InvalidRequest

LOCAL = "local"
_LOCALTIME = Path("/etc/localtime")
_CRON_HINT = (
    'Write five fields, minute, hour, day of the month, month, day of the week: "0 9 * * 1" is Mondays at 9:00, '
    '"30 6 1 * *" the first of each month at 6:30.'
)
_SNAPSHOTS_HINT = 'Write DATASET/SNAPSHOT, DATASET/latest, or a shell pattern like "laion/2026-*".'


def cron(value: object) -> str:
    """Five cron fields that some moment meets."""
    written = " ".join(text(value).split())
    fields = written.count(" ") + 1
    if fields != 5:
        raise InvalidRequest(f"{written!r} has {fields} field{'' if fields == 1 else 's'}, not 5", hint=_CRON_HINT)
    try:
        next(CronSim(written, datetime(2026, 1, 1, tzinfo=UTC)))
    # Odd texts also make it fail over its own assertions ("L/2 * * * *").
    except (CronSimError, AssertionError, ValueError, TypeError) as error:
        what = str(error).removeprefix("Bad ") or "it"
        raise InvalidRequest(f"{written!r} is no cron expression: {what} cannot be read", hint=_CRON_HINT) from None
    except StopIteration:
        raise InvalidRequest(f"{written!r} never comes", hint=_CRON_HINT) from None
    return written


def time_zone(value: object) -> tzinfo | None:
    """A zone by its IANA name; "local", that of the system, is None."""
    written = text(value)
    if written == LOCAL:
        return None
    try:
        return ZoneInfo(written)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        near = difflib.get_close_matches(written, available_timezones(), n=1, cutoff=0.5)
        meant = f'Did you mean "{near[0]}"? ' if near else ""
        raise InvalidRequest(
            f"{written!r} is no time zone that this machine knows",
            hint=f'{meant}Write a name like "Europe/Berlin" (`timedatectl list-timezones`), or "{LOCAL}".',
        ) from None


def system_zone() -> tzinfo:
    """The zone of this machine, as TZ or /etc/localtime say it; UTC where neither can be read."""
    named = os.environ.get("TZ", "").lstrip(":")
    if not named and _LOCALTIME.is_symlink():
        _, _, named = os.readlink(_LOCALTIME).partition("/zoneinfo/")
    try:
        if named:
            return ZoneInfo(named)
        with _LOCALTIME.open("rb") as rules:
            return ZoneInfo.from_file(rules)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


def lead(value: object) -> timedelta | None:
    """A duration, or "auto"."""
    return None if value == AUTO else duration(value)


def snapshots(value: object) -> str:
    """A snapshot's name, or a pattern of names."""
    written = text(value)
    dataset, _, name = written.partition("/")
    if not dataset or written.startswith(".") or "/" in name or written.endswith("/"):
        raise InvalidRequest(f"{written!r} cannot name a snapshot", hint=_SNAPSHOTS_HINT)
    return written
