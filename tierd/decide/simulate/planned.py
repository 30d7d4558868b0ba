"""What schedules would have announced: which uses of a trace they foresaw, and when they would have begun to warm."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase

from tierd.decide.schedules import occurrences
from tierd.decide.simulate.trace import Trace
from tierd.model.schedule import LATEST, Schedule
from tierd.model.value import Cost

_SAFETY, _AT_LEAST_S = 1.3, 60.0
"""As `schedules` has them."""
_MOST = 100_000
"""Occurrences looked at of one schedule: of one for every minute two months."""


def warming_s(cost_s: float) -> float:
    """How long before its use warming begins of what takes so long to bring."""
    return _AT_LEAST_S + _SAFETY * cost_s


def planned(trace: Trace, schedules: Iterable[Schedule], cost: Cost) -> Mapping[int, float]:
    """By the number of an access, when its snapshot would have been warmed for it. Times of the trace: since 1970."""
    found: dict[int, float] = {}
    if not len(trace):
        return found
    for schedule in schedules:
        after = datetime.fromtimestamp(trace.at[0], UTC) - schedule.use_for - timedelta(seconds=1)
        for count, use_at in enumerate(occurrences(schedule, after)):
            begins = use_at.timestamp()
            if begins > trace.at[-1] or count >= _MOST:
                break
            _foresee(trace, schedule, begins, cost, found)
    return found


def _foresee(trace: Trace, schedule: Schedule, begins: float, cost: Cost, found: dict[int, float]) -> None:
    first, last = bisect_left(trace.at, begins), bisect_right(trace.at, begins + schedule.use_for.total_seconds())
    meant = _latest(trace, schedule.snapshots, first) or schedule.snapshots
    seen: set[int] = set()
    for number in range(first, last):
        s = trace.snapshots[number]
        if s not in seen and fnmatchcase(trace.names[s], meant):
            seen.add(s)
            lead_s = warming_s(cost.seconds(trace.sizes[s], trace.files[s]))
            warms_at = begins - (schedule.lead.total_seconds() if schedule.lead is not None else lead_s)
            found[number] = min(warms_at, found.get(number, warms_at))


def _latest(trace: Trace, pattern: str, before: int) -> str | None:
    """What DATASET/latest meant: the snapshot of the dataset that was first used last. A trace knows no other birth."""
    dataset, _, name = pattern.partition("/")
    if name != LATEST:
        return None
    known = set(trace.snapshots[:before])
    # Snapshots are numbered in the order of their first use.
    names = [trace.names[s] for s in sorted(known, reverse=True) if trace.names[s].partition("/")[0] == dataset]
    return names[0] if names else None
