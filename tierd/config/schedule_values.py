"""Readers of the values of schedules: cron expressions, and which snapshots are meant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cronsim import CronSim, CronSimError

from tierd.config.values import AUTO, duration, text
from tierd.errors import InvalidRequest

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
