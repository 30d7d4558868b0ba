"""Whether a snapshot may leave flash: one list of conditions for the planner, for admission and for `explain`."""

from __future__ import annotations

from datetime import datetime, timedelta

from tierd.model.hold import HoldKind
from tierd.model.plan import Finding, SnapshotView
from tierd.model.tier import TierName
from tierd.model.units import format_duration

BACKOFF = timedelta(seconds=60)
BACKOFF_MAX = timedelta(hours=1)


def when(at: datetime) -> str:
    """A moment, as reasons write it."""
    return f"{at:%Y-%m-%d %H:%M} UTC"


def conditions(s: SnapshotView, now: datetime) -> list[Finding]:
    """Every condition that must hold before a snapshot moves down, in the order in which they are named."""
    return [
        _no_problem(s),
        _no_live_transfer(s),
        _not_backing_off(s, now),
        _settled(s, now),
        _not_held(s, now),
        _resided(s, now),
    ]


def obstacle(s: SnapshotView, now: datetime) -> Finding | None:
    """The first condition that does not hold, or None."""
    return next((f for f in conditions(s, now) if not f.holds), None)


def unused(s: SnapshotView, now: datetime) -> timedelta:
    """How long nobody has used it; never negative, whatever the clock did."""
    return max(timedelta(0), now - s.snapshot.accessed_at)


def cold_enough(s: SnapshotView, now: datetime, after: timedelta | None, rule: str) -> Finding:
    """Whether it is unused for as long as a rule of its policy asks for."""
    idle = unused(s, now)
    if after is None:
        return Finding(rule=rule, holds=False, detail=f"{rule} is never: only the watermarks decide")
    due = s.snapshot.accessed_at + after
    detail = f"unused for {format_duration(idle)}, {rule} is {format_duration(after)}"
    return Finding(rule=rule, holds=idle >= after, detail=detail, until=due if idle < after else None)


def has_cold_copy(s: SnapshotView, flash: frozenset[TierName]) -> Finding:
    """Whether a verified copy exists below flash, and since when."""
    for p in s.placements:
        copy = s.on(p.tier)
        if p.tier not in flash and copy is not None:
            since = f", verified {when(copy.verified_at)}" if copy.verified_at is not None else ""
            return Finding(rule="cold copy", holds=True, detail=f"a verified copy is on {p.tier}{since}")
    return Finding(rule="cold copy", holds=False, detail="no verified copy is on a colder tier")


def _no_problem(s: SnapshotView) -> Finding:
    problem = s.snapshot.problem
    return Finding(rule="sound", holds=problem is None, detail=problem or "nothing about its tree forbids moving it")


def _no_live_transfer(s: SnapshotView) -> Finding:
    if s.live is None:
        return Finding(rule="idle", holds=True, detail="no transfer of it is under way")
    paused = ", paused" if s.live.is_paused else ""
    detail = f"transfer {s.live.id} ({s.live.kind}) is {s.live.state}{paused}: {s.live.reason}"
    return Finding(rule="idle", holds=False, detail=detail)


def _not_backing_off(s: SnapshotView, now: datetime) -> Finding:
    failure = s.last_failure
    if failure is None or failure.finished_at is None:
        return Finding(rule="back-off", holds=True, detail="its last transfer did not fail")
    again = failure.finished_at + min(BACKOFF_MAX, BACKOFF * 2 ** min(failure.attempt - 1, 10))
    detail = f"transfer {failure.id} failed: {failure.error}"
    if now >= again:
        return Finding(rule="back-off", holds=True, detail=f"{detail}; it may be tried again")
    return Finding(rule="back-off", holds=False, detail=f"{detail}; not tried again before {when(again)}", until=again)


def _settled(s: SnapshotView, now: datetime) -> Finding:
    quiet, needed = now - s.snapshot.changed_at, s.dataset.policy.settle_after
    until = s.snapshot.changed_at + needed
    if quiet >= needed:
        return Finding(rule="settled", holds=True, detail=f"unchanged since {when(s.snapshot.changed_at)}")
    ago = format_duration(max(timedelta(0), quiet))
    detail = f"changed {ago} ago, settled after {format_duration(needed)} without a change"
    return Finding(rule="settled", holds=False, detail=detail, until=until)


def _not_held(s: SnapshotView, now: datetime) -> Finding:
    active = [h for h in s.holds if h.is_active(now)]
    if not active:
        return Finding(rule="not held", holds=True, detail="no lease and no pin holds it")
    names = [f"{h.kind} of {h.holder} since {when(h.since)}" for h in active[:5]]
    more = f" and {len(active) - 5} more" if len(active) > 5 else ""
    ends = [h.expires_at for h in active if h.expires_at is not None]
    pinned = any(h.kind is HoldKind.PIN for h in active)
    until = None if pinned or not ends else max(ends)
    return Finding(rule="not held", holds=False, detail=f"held by {', '.join(names)}{more}", until=until)


def _resided(s: SnapshotView, now: datetime) -> Finding:
    warmed, least = s.snapshot.warmed_at, s.dataset.policy.min_residency
    if warmed is None:
        return Finding(rule="minimum residency", holds=True, detail="it was not warmed")
    until = warmed + least
    if now >= until:
        return Finding(rule="minimum residency", holds=True, detail=f"warmed {when(warmed)}, its minimum stay is over")
    detail = f"warmed {when(warmed)}, stays at least {format_duration(least)}"
    return Finding(rule="minimum residency", holds=False, detail=detail, until=until)
