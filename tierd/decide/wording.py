"""How moments, shares and lists are written in reasons."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from tierd.model.hold import Hold
from tierd.model.units import format_duration

_NEAR = timedelta(hours=1)


def at(moment: datetime, now: datetime) -> str:
    """A moment: `2026-12-01 10:00 UTC`, with seconds when it is less than an hour away."""
    shown = moment.astimezone(UTC)
    if -_NEAR < moment - now < _NEAR:
        return f"{shown:%Y-%m-%d %H:%M:%S} UTC"
    return f"{shown:%Y-%m-%d %H:%M} UTC"


def ago(moment: datetime, now: datetime) -> str:
    """`3d ago`; a moment in the future is named as such."""
    if moment > now:
        return f"in the future ({at(moment, now)})"
    return f"{format_duration(now - moment)} ago"


def counted(count: int, noun: str) -> str:
    """`1 recall`, `3 recalls`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(items: Sequence[str], *, most: int = 3) -> str:
    """`a, b and c`; what is beyond `most` is counted."""
    shown = list(items[:most])
    if len(items) > most:
        shown.append(f"{len(items) - most} more")
    if len(shown) < 2:
        return "".join(shown)
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def hold(held: Hold, now: datetime) -> str:
    """Who holds, since when, and until when."""
    end = "without end" if held.expires_at is None else f"until {at(held.expires_at, now)}"
    return f"{held.kind} of {held.holder} since {at(held.since, now)}, {end}"
