"""What was begun and shall not be finished: releases from flash of what its phase keeps there by now, and copies that
were to be made in quiet hours that are over.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from tierd.decide.planner import PRIORITY_QUIET
from tierd.decide.scene import is_leaving
from tierd.model.plan import SnapshotView, View
from tierd.model.transfer import POLICY, Transfer, TransferKind, TransferState

_UNDONE_FREELY = (TransferState.QUEUED, TransferState.RESTORING, TransferState.COPYING, TransferState.VERIFYING)


def withdrawn(view: View, now: datetime) -> Iterator[tuple[Transfer, str]]:
    """Live transfers to be cancelled, and why.

    A release that has begun to leave is finished (a warm brings it back), and so is a copy that is being made.
    """
    window = view.quiet.window
    is_quiet = window is not None and window.is_open(now)
    for s in view.snapshots:
        live = s.live
        if live is None or live.cancel_requested:
            continue
        if _is_kept_by_phase(view, s, live):
            yield live, f"dataset {s.dataset.name} is in phase {s.dataset.phase}, which keeps it on flash"
        elif not is_quiet and _is_for_quiet_hours(live):
            yield live, "the quiet hours are over"


def _is_kept_by_phase(view: View, s: SnapshotView, live: Transfer) -> bool:
    is_release = s.dataset.policy.keeps_flash and is_leaving(live) and live.source == view.flash_tier.name
    return is_release and live.state in _UNDONE_FREELY


def _is_for_quiet_hours(live: Transfer) -> bool:
    is_wish = live.requested_by != POLICY or live.release or live.kind is not TransferKind.MIGRATE
    return not is_wish and live.priority == PRIORITY_QUIET and live.state is TransferState.QUEUED
