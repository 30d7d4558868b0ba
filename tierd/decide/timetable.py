"""When recalls will be there: what was promised to whom, from measured rates and the queue.

Recalls from one tier are reckoned one after the other, whatever runs side by side: two at once share a device, and a
promise must hold all the same. First what runs, then the earliest deadline, then what has none in the order of asking,
as the mover takes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from tierd.model.dataset import SnapshotId, SnapshotRef
from tierd.model.plan import SnapshotView, View
from tierd.model.tier import TierName
from tierd.model.transfer import Transfer, TransferKind, TransferState
from tierd.model.value import ASSUMED

_COPY_SHARE = 0.7
"""Of a whole recall; the rest is its verification and the switch of the path."""
_WAITING = frozenset({TransferState.QUEUED, TransferState.RESTORING})
_FAR = timedelta(days=3650)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recall:
    """One recall as the timetable sees it.

    Attributes:
        seconds: that it still takes, once it may begin.
        begins_at: not earlier than this: a restore, a back-off, room that is still to be made.
        due_at: when it was promised; None where nobody asked for a time.
        turn: among those without a deadline, or with the same one: larger priority first, then the older.
    """

    ref: SnapshotRef
    snapshot_id: SnapshotId
    source: TierName
    seconds: float
    begins_at: datetime
    is_running: bool
    due_at: datetime | None
    turn: tuple[int, int]

    @property
    def order(self) -> tuple[bool, bool, datetime, tuple[int, int]]:
        return not self.is_running, self.due_at is None, self.due_at or self.begins_at, self.turn


def recalls(view: View, now: datetime) -> list[Recall]:
    """Those that are under way or wait; paused and cancelled ones are none."""
    return [found for s in view.snapshots if (found := _recall(view, s, now)) is not None]


def _recall(view: View, s: SnapshotView, now: datetime) -> Recall | None:
    t = s.live
    if t is None or t.kind is not TransferKind.RECALL or t.is_paused or t.cancel_requested:
        return None
    return Recall(
        ref=s.ref,
        snapshot_id=s.snapshot.id,
        source=t.source,
        seconds=_left(view, t),
        begins_at=max([now, *(at for at in (t.expected_at, t.not_before) if at is not None)]),
        is_running=t.state not in _WAITING,
        due_at=t.due_at,
        turn=(-t.priority, t.id),
    )


def _left(view: View, t: Transfer) -> float:
    """Seconds of work left; what is copied already is known from the last report."""
    whole = view.costs.get(t.source, ASSUMED).seconds(t.bytes_total, t.files_total)
    if t.state in _WAITING:
        return whole
    if t.state is not TransferState.COPYING:
        return whole * (1 - _COPY_SHARE)
    done = min(1.0, t.bytes_done / t.bytes_total) if t.bytes_total else 0.0
    return whole * (1 - _COPY_SHARE * done)


def arrivals(wanted: Iterable[Recall], now: datetime) -> Mapping[SnapshotId, datetime]:
    """When each will be there."""
    free_at: dict[TierName, datetime] = {}
    found: dict[SnapshotId, datetime] = {}
    for each in sorted(wanted, key=lambda recall: recall.order):
        begins = max(each.begins_at, now)
        if each.begins_at <= now:  # who waits for a restore lets others go first
            begins = max(begins, free_at.get(each.source, now))
        ends = begins + timedelta(seconds=min(each.seconds, _FAR.total_seconds()))
        found[each.snapshot_id] = ends
        free_at[each.source] = max(free_at.get(each.source, now), ends if each.begins_at <= now else now)
    return found


def late(wanted: Iterable[Recall], now: datetime) -> list[tuple[Recall, datetime]]:
    """Promises that will not be kept as things stand, with the time of arrival, the worst first."""
    wanted = list(wanted)
    at = arrivals(wanted, now)
    found = [(r, at[r.snapshot_id]) for r in wanted if r.due_at is not None and at[r.snapshot_id] > r.due_at]
    found.sort(key=lambda pair: (pair[0].due_at or now) - pair[1])
    return found
