"""The daemon as a whole: status, tiers, and the pause of everything."""

from __future__ import annotations

from collections import Counter

from fastapi import APIRouter

from tierd import __version__
from tierd.model.hold import HoldKind
from tierd.model.plan import View
from tierd.serve import schemas as out
from tierd.serve.asking import Admin, Reader
from tierd.serve.look import live_transfers
from tierd.serve.parts import Have, Parts
from tierd.serve.problems import responses
from tierd.serve.tally import Tally

router = APIRouter(tags=["daemon"])

_MAX_PROBLEMS = 100


@router.get("/v1/status", responses=responses())
def status(have: Have, _: Reader) -> out.StatusOut:
    """The state of everything in short. Its counts are at most a second old."""
    return summary(have, *have.views.recent_summed_up())


def summary(have: Parts, view: View, tally: Tally) -> out.StatusOut:
    """The state of everything in short, as of a view."""
    now, busy = have.clock(), have.ports.busy()
    kinds = Counter(h.kind for s in view.snapshots for h in s.holds if h.is_active(now))
    troubled = [s.snapshot for s in view.snapshots if s.snapshot.problem is not None]
    return out.StatusOut(
        version=__version__,
        started_at=have.started_at,
        uptime_s=max(0.0, (now - have.started_at).total_seconds()),
        tiers=have.look.tiers(view),
        counts=out.CountsOut(by_residency={each.value: n for each, n in tally.by_residency().items()}),
        live_transfers=len(live_transfers(view)),
        leases=kinds[HoldKind.LEASE],
        pins=kinds[HoldKind.PIN],
        is_paused=have.catalog.all_paused,
        io_pressure=busy.io_pressure,
        slowed_transfers=busy.slowed,
        tracker=_tracker(have),
        last_scan_at=have.ports.last_scan_at(),
        problems=[out.SnapshotProblemOut(ref=str(s.ref), problem=s.problem or "") for s in troubled[:_MAX_PROBLEMS]],
    )


@router.get("/v1/tiers", responses=responses())
def tiers(have: Have, _: Reader) -> out.TiersOut:
    """All tiers, the fastest first."""
    return out.TiersOut(items=have.look.tiers(have.views.recent()))


@router.post("/v1/pause", responses=responses())
def pause(have: Have, _: Admin) -> out.PausedOut:
    """Let all transfers rest at their next safe point; survives a restart."""
    have.wishes.pause_all(is_paused=True)
    return out.PausedOut(is_paused=True)


@router.post("/v1/resume", responses=responses())
def resume(have: Have, _: Admin) -> out.PausedOut:
    """Let all transfers go on, except those paused one by one."""
    have.wishes.pause_all(is_paused=False)
    return out.PausedOut(is_paused=False)


def _tracker(have: Parts) -> out.TrackerOut:
    tracker = have.ports.tracker_status()
    return out.TrackerOut(
        name=tracker.name,
        is_degraded=tracker.is_degraded,
        detail=tracker.detail,
        events_seen=tracker.events_seen,
        events_lost=tracker.events_lost,
    )
