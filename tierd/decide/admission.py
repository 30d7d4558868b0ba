"""Admission: whether a warm can be granted now, and who has to leave flash for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from tierd.decide import room as rooms
from tierd.decide import timetable
from tierd.decide.charges import restore, restore_in_words
from tierd.decide.eligibility import GUARDS_RELEASE, first_unmet, transfer_in_words
from tierd.decide.planner import PRIORITY_ROOM, PRIORITY_WISH
from tierd.decide.room import Amount, Room
from tierd.decide.scene import Case, Scene
from tierd.decide.victims import Release, Victims
from tierd.decide.wording import at, counted, listed
from tierd.errors import NotFound
from tierd.model.dataset import SnapshotRef
from tierd.model.plan import Admission, Restore, SnapshotView, Step, View, WarmAnswer
from tierd.model.tier import TierName
from tierd.model.transfer import TransferKind
from tierd.model.units import format_size
from tierd.model.value import ASSUMED

_RELEASE_S = 2.0
"""To release a snapshot that has a cold copy."""
_LAST = 2**62
"""Turn of what is asked for now: behind everything of its priority."""
_MOST_TRIED = 100


def admit(view: View, ref: SnapshotRef, now: datetime, by: datetime | None = None, *, urgency: int = 0) -> Admission:
    """Answer a warm of one snapshot.

    Args:
        by: when it must be there. It is granted only if it will be, and no promise made before is broken for it.
        urgency: among wishes without a time, the larger comes first.

    Raises:
        NotFound: there is no such snapshot.
    """
    answer, s = _admit(view, ref, now), view.find(ref)
    if s is None or answer.answer is not WarmAnswer.ACCEPTED or answer.source is None:
        return answer
    return _Promise(view, s, answer, now, urgency).by(by)


def _admit(view: View, ref: SnapshotRef, now: datetime) -> Admission:
    s = view.find(ref)
    if s is None and view.find_orphan(ref) is not None:
        return Admission(answer=WarmAnswer.REFUSED, reason="its owner deleted it; only cold copies of it are left")
    if s is None:
        raise NotFound(f"there is no snapshot {ref}", hint="`tierd ls` lists what there is.")
    scene = Scene(view, now)
    case = scene.case(s)
    flash = scene.flash.name
    if not scene.is_online(flash):
        return _refused(case, scene.offline(flash))
    if case.flash is not None:
        return Admission(answer=WarmAnswer.READY, reason=_why_ready(case))
    live = s.live
    if live is not None and live.kind is TransferKind.RECALL:
        return Admission(
            answer=WarmAnswer.ACCEPTED,
            reason=f"joins what is under way: {transfer_in_words(live)}",
            needs_bytes=max(0, live.bytes_total - live.bytes_done),
            source=live.source,
        )
    if s.snapshot.problem is not None:
        return _refused(case, f"it is not looked after: {s.snapshot.problem}")
    source = _source(case)
    if source is None:
        return _refused(case, _why_no_source(case))
    return _Room(case, source).answer()


class _Promise:
    """Foresees when an accepted warm will be there, and takes it back where that is too late."""

    def __init__(self, view: View, s: SnapshotView, answer: Admission, now: datetime, urgency: int) -> None:
        self._view, self._answer, self._now = view, answer, now
        queue = timetable.recalls(view, now)
        own = next((r for r in queue if r.snapshot_id == s.snapshot.id), None)
        self._others = [r for r in queue if r is not own]
        self._asked = own or self._queued(s, urgency)
        self._late_anyway = {r.snapshot_id for r, _ in timetable.late(self._others, now)}

    def _queued(self, s: SnapshotView, urgency: int) -> timetable.Recall:
        """As it will be queued; what has to be copied down before it adds to its time."""
        source, now, answer = self._answer.source or TierName(""), self._now, self._answer
        waits = timedelta(0) if answer.restore is None else answer.restore.takes
        room_s = sum(_RELEASE_S + self._down_s(step) for step in answer.releases)
        snapshot = s.snapshot
        seconds = self._view.costs.get(source, ASSUMED).seconds(snapshot.size_bytes, snapshot.files)
        return timetable.Recall(
            ref=s.ref,
            snapshot_id=snapshot.id,
            source=source,
            seconds=room_s + seconds,
            begins_at=now + waits,
            is_running=False,
            due_at=None,
            turn=(-PRIORITY_WISH - urgency, _LAST),
        )

    def _down_s(self, step: Step) -> float:
        if not step.copies_bytes:
            return 0.0
        s = next((s for s in self._view.snapshots if s.snapshot.id == step.snapshot_id), None)
        files = 0 if s is None else s.snapshot.files
        # Down it goes about as fast as up: what was measured is the way up.
        return self._view.costs.get(step.destination, ASSUMED).seconds(step.copies_bytes, files)

    def by(self, by: datetime | None) -> Admission:
        """The answer, with the time; a refusal where that or a promise made before could not be kept."""
        answer, now = self._answer, self._now
        asked = replace(self._asked, due_at=_earlier(self._asked.due_at, by))
        ready_at, broken = self._with(asked)
        if by is None:
            return replace(answer, ready_at=ready_at)
        if ready_at <= by and not broken:
            reason = f"{answer.reason}; there about {self._in_words(ready_at)}, promised by {at(by, now)}"
            return replace(answer, ready_at=ready_at, reason=reason)
        if ready_at > by:
            ahead = [r for r in self._others if r.source == asked.source and r.order < asked.order]
            waits = f", behind {counted(len(ahead), 'recall')} promised before" if ahead else ""
            reason = f"it would be there about {self._in_words(ready_at)}{waits}, not by {at(by, now)}"
        else:
            promised = listed([f"{r.ref} by {at(r.due_at, now)}" for r in broken if r.due_at is not None])
            reason = f"what was promised before could then not be kept: {promised}"
        earliest = self._earliest()
        if earliest is not None:
            reason += f"; the earliest that can be promised is {at(earliest, now)}"
        refused = replace(answer, answer=WarmAnswer.REFUSED, reason=reason, releases=())
        return replace(refused, ready_at=earliest, is_too_late=True)

    def _with(self, asked: timetable.Recall) -> tuple[datetime, list[timetable.Recall]]:
        """When it will be there, and whose promise it breaks."""
        everything = [*self._others, asked]
        ready_at = timetable.arrivals(everything, self._now)[asked.snapshot_id]
        known = self._late_anyway | {asked.snapshot_id}
        return ready_at, [r for r, _ in timetable.late(everything, self._now) if r.snapshot_id not in known]

    def _earliest(self) -> datetime | None:
        """The earliest time that could be promised: it may come anywhere among the deadlines that there are."""
        dues = sorted({self._now, *(r.due_at for r in self._others if r.due_at is not None)})
        last = replace(self._asked, turn=(0, _LAST))
        for due in dues[:_MOST_TRIED]:
            ready_at, _ = self._with(replace(last, due_at=due))
            promised, broken = self._with(replace(last, due_at=max(ready_at, due)))
            if promised <= max(ready_at, due) and not broken:
                return max(ready_at, due) if promised > ready_at else ready_at
        return None

    def _in_words(self, ready_at: datetime) -> str:
        known = self._view.costs.get(self._answer.source or TierName(""), ASSUMED).samples
        return at(ready_at, self._now) + ("" if known else " (assumed: nothing was measured yet)")


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((at for at in (one, other) if at is not None), default=None)


def _refused(case: Case, reason: str, source: TierName | None = None) -> Admission:
    size_bytes = case.s.snapshot.size_bytes
    return Admission(answer=WarmAnswer.REFUSED, reason=reason, needs_bytes=size_bytes, source=source)


def _why_ready(case: Case) -> str:
    live, flash = case.s.live, case.scene.flash.name
    if live is None:
        return f"it is on {flash}"
    if live.kind is TransferKind.MIGRATE and live.release:
        return f"it is on {flash}; a lease stops its release ({transfer_in_words(live)})"
    return f"it is on {flash} ({transfer_in_words(live)})"


def _source(case: Case) -> TierName | None:
    """The fastest tier that is online and has a verified copy."""
    return next((t.name for t in case.scene.cold if case.scene.is_online(t.name) and case.s.on(t.name)), None)


def _why_no_source(case: Case) -> str:
    offline = [t.name for t in case.scene.cold if case.s.on(t.name) is not None]
    if not offline:
        return "no verified copy of it is known on any tier"
    return f"its copy cannot be reached: {'; '.join(case.scene.offline(name) for name in offline)}"


def _restore(case: Case, source: TierName) -> Restore | None:
    """What it takes to make the copy on the source readable; None where it is."""
    tier, copy = case.scene.tier(source), case.s.on(source)
    return None if tier is None or copy is None else restore(tier, copy)


class _Room:
    """Looks for room on flash for one snapshot, beside what is promised to others."""

    def __init__(self, case: Case, source: TierName) -> None:
        self._case, self._source, self._scene = case, source, case.scene
        others = [self._scene.case(s) for s in self._scene.view.snapshots if s.snapshot.id != case.s.snapshot.id]
        self._there = [other for other in others if other.flash is not None]
        coming = [other for other in others if rooms.is_coming(other)]
        self._recalls = len(coming)
        self._promised = rooms.total(rooms.coming(other) for other in coming)
        leaving = [other for other in (*others, case) if other.s.live is not None]
        self._freeing = rooms.total(rooms.freeing(other) for other in leaving)
        self._restore = _restore(case, source)
        self._need = rooms.copied(case.s)
        self._left = rooms.free(self._scene) + self._freeing - self._promised - rooms.spare(self._scene)

    def answer(self) -> Admission:
        scene, need = self._scene, self._need
        usage = scene.usage(scene.flash.name)
        size = format_size(need.size_bytes)
        if need.size_bytes + rooms.spare(scene).size_bytes > usage.capacity_bytes:
            whole = f"{scene.flash.name}, which holds {format_size(usage.capacity_bytes)} in all"
            return _refused(self._case, f"its {size} are more than fits on {whole}", self._source)
        candidates = [other for other in self._there if first_unmet(GUARDS_RELEASE, other) is None]
        queue = Victims(candidates, Room(scene))
        why = f"room for {self._case.s.ref} ({size})"
        releases, missing = queue.take(need - self._left, why=why, priority=PRIORITY_ROOM)
        if missing.is_lacking:
            return _refused(self._case, self._why_no_room(releases, queue.without_room), self._source)
        return Admission(
            answer=WarmAnswer.ACCEPTED,
            reason=self._why_accepted(releases),
            needs_bytes=need.size_bytes,
            source=self._source,
            releases=tuple(planned.step for planned in releases),
            restore=self._restore,
        )

    def _why_accepted(self, releases: Sequence[Release]) -> str:
        live, flash = self._case.s.live, self._scene.flash.name
        text = f"{format_size(self._need.size_bytes)} to be copied from {self._source}"
        if live is not None:
            text += f", when what is under way has ended ({transfer_in_words(live)})"
        if releases:
            freed = format_size(sum(planned.frees.size_bytes for planned in releases))
            text += f", after {counted(len(releases), 'colder snapshot')} left {flash} ({freed})"
        return text if self._restore is None else f"{text}; {restore_in_words(self._restore)}"

    # -- refusals ------------------------------------------------------------------------------------------

    def _why_no_room(self, releases: Sequence[Release], without_room: Sequence[Case]) -> str:
        flash = self._scene.flash.name
        freed = rooms.total(planned.frees for planned in releases)
        lacking = self._need - self._left - freed
        free = rooms.free(self._scene)
        if lacking.size_bytes > 0:
            need, have, gain = (format_size(a.size_bytes) for a in (self._need, free, freed + self._freeing))
            promised, spare = (format_size(a.size_bytes) for a in (self._promised, rooms.spare(self._scene)))
        else:
            need, have, gain = (f"{a.inodes} inodes" for a in (self._need, free, freed + self._freeing))
            promised, spare = (f"{a.inodes}" for a in (self._promised, rooms.spare(self._scene)))
        taken = f"{promised} of them promised to {counted(self._recalls, 'other recall')}, " if self._recalls else ""
        text = f"it needs {need} on {flash}: {have} are free ({taken}{spare} stay free), {gain} can be released"
        stays = self._who_stays()
        text += f"; what has to stay: {stays}" if stays else ""
        if without_room:
            text += f"; {counted(len(without_room), 'snapshot')} cannot leave because no colder tier has room"
        return text + self._earliest(lacking)

    def _who_stays(self) -> str:
        """The largest snapshots that must not leave, with what keeps them."""
        kept = [(other, unmet) for other in self._there if (unmet := first_unmet(GUARDS_RELEASE, other)) is not None]
        kept.sort(key=lambda pair: (-rooms.occupied(pair[0]).size_bytes, pair[0].s.ref))
        return listed(
            [
                f"{other.s.ref} ({format_size(rooms.occupied(other).size_bytes)}; {unmet.detail(other)})"
                for other, unmet in kept
            ]
        )

    def _earliest(self, lacking: Amount) -> str:
        """When leases and waiting times that end by themselves will have made room, if they do."""
        ends: list[tuple[datetime, Case]] = []
        for other in self._there:
            unmet = [check for check in GUARDS_RELEASE if not check.holds(other)]
            times = [moment for check in unmet if (moment := check.until(other)) is not None]
            if unmet and len(times) == len(unmet):
                ends.append((max(times), other))
        ends.sort(key=lambda end: (end[0], end[1].coldness))
        for moment, other in ends:
            lacking -= rooms.occupied(other)
            if not lacking.is_lacking:
                return f"; it could be room enough on {at(moment, self._scene.now)}"
        return ""
