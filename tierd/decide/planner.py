"""The planner: what should be done now, in which order, and why everything else stays as it is.

Order of thought: what its age alone releases; then what must leave because flash is above its high watermark; then
what must leave for recalls that wait for room; then the copies that make later releases free, the chains below
flash, and last what is left of deleted snapshots. Each knows what the ones before it already give back, so that
nothing is released twice or in vain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import partial

from tierd.decide import chains, orphans, victims
from tierd.decide import room as rooms
from tierd.decide.eligibility import (
    COLD_COPY,
    GUARDS,
    GUARDS_BELOW,
    IN_QUIET_HOURS,
    MAY_LEAVE,
    ON_FLASH,
    UNUSED_FOR_MIGRATE,
    UNUSED_FOR_RELEASE,
    first_unmet,
    quiet_hours,
)
from tierd.decide.promotion import Promotion
from tierd.decide.reasons import Reason, Reasons
from tierd.decide.room import Amount, Room
from tierd.decide.scene import Case, Scene
from tierd.decide.victims import Release, Victims
from tierd.decide.wording import counted, listed
from tierd.model.dataset import SnapshotId
from tierd.model.plan import Action, Plan, Step, View
from tierd.model.transfer import Transfer
from tierd.model.units import format_duration, format_percent, format_size

PRIORITY_WISH = 10
"""Somebody asked for it; more or less where they said how urgent it is."""
PRIORITY_ROOM = 8
"""Somebody waits for this room."""
PRIORITY_PRESSURE = 6
PRIORITY_RELEASE = 4
PRIORITY_MIGRATE = 2
PRIORITY_QUIET = 0
"""Nobody needs the copy yet."""


def plan(view: View, now: datetime) -> Plan:
    """What should be done now. The same view and moment give the same plan, in whatever order the view is."""
    return Planner(view, now).plan()


class Planner:
    """Draws up one plan.

    Attributes:
        room: what is left on the cold tiers after the plan.
    """

    def __init__(self, view: View, now: datetime) -> None:
        self.scene = Scene(view, now)
        self.room = Room(self.scene)
        self._kept = Reasons()
        self._releases: list[Release] = []
        self._steps: list[tuple[Case, Step]] = []
        self._notes: list[str] = []
        self._unmet: Counter[str] = Counter()
        self._roomless: set[SnapshotId] = set()
        self._freeing = Amount()
        self._promised: list[tuple[Case, Transfer]] = []
        self._below: list[Case] = []

    def plan(self) -> Plan:
        """Draw it up; once per planner."""
        open_cases = self._sort_out()
        self._note_offline()
        freeing = self._freeing
        over = rooms.excess(self.scene)
        waiting, missing = self._waiting_recalls()
        is_urgent = PRIORITY_ROOM if missing.is_lacking else PRIORITY_PRESSURE if over.is_lacking else PRIORITY_RELEASE
        rest = self._release_aged(open_cases, priority=is_urgent)
        freeing += rooms.total(r.frees for r in self._releases)
        rest = self._relieve(rest, over, freeing)
        freeing = self._freeing + rooms.total(r.frees for r in self._releases)
        rest = self._make_room(rest, waiting, freeing)
        rest = self._migrate(rest)
        rest = self._promote(rest)
        self._chain(rest)
        self._remove()
        return self._finished()

    # -- sorting out ---------------------------------------------------------------------------------------

    def _sort_out(self) -> list[Case]:
        """The snapshots for which all guards hold, coldest first; the others are kept, each for its reason."""
        open_cases: list[Case] = []
        has_below = bool(self.scene.between)
        for s in self.scene.view.snapshots:
            case = self.scene.case(s)
            if s.live is not None:
                self._freeing += rooms.freeing(case)
                if rooms.is_coming(case):
                    self._promised.append((case, s.live))
            unmet = first_unmet(GUARDS, case)
            if unmet is None:
                open_cases.append(case)
                if not MAY_LEAVE.holds(case):
                    self._unmet[MAY_LEAVE.otherwise] += 1
                continue
            self._kept.set(s.ref, partial(unmet.detail, case))
            if unmet is not ON_FLASH and case.flash is not None:
                self._unmet[unmet.otherwise] += 1
            if case.flash is None and case.cold is not None and has_below and first_unmet(GUARDS_BELOW, case) is None:
                self._below.append(case)
        open_cases.sort(key=lambda case: case.coldness)
        return open_cases

    def _note_offline(self) -> None:
        for tier in (self.scene.flash, *self.scene.cold):
            if not self.scene.is_online(tier.name):
                self._notes.append(f"{self.scene.offline(tier.name)}; nothing is planned that involves it")

    # -- releases --------------------------------------------------------------------------------------------

    def _release_aged(self, cases: Iterable[Case], *, priority: int) -> list[Case]:
        rest: list[Case] = []
        for case in cases:
            planned: Release | None = None
            if UNUSED_FOR_RELEASE.holds(case):
                why = UNUSED_FOR_RELEASE.detail(case)
                planned = victims.release(case, self.room, why=why, priority=priority)
            if planned is None:
                rest.append(case)
            else:
                self._add(planned)
        return rest

    def _relieve(self, cases: Sequence[Case], over: Amount, freeing: Amount) -> list[Case]:
        """Bring flash from above its high watermark down to its low one."""
        flash = self.scene.flash
        if not over.is_lacking or not self.scene.is_online(flash.name):
            return list(cases)
        # Only what is over in bytes needs bytes, only what is over in inodes needs inodes.
        need = Amount(
            over.size_bytes - freeing.size_bytes if over.size_bytes > 0 else 0,
            over.inodes - freeing.inodes if over.inodes > 0 else 0,
        )
        full = rooms.fullness(self.scene, flash.name)
        why = f"{full}, above {format_percent(flash.high)}, and goes down to {format_percent(flash.low)}"
        rest, missing = self._take(cases, need, why=why, priority=PRIORITY_PRESSURE)
        self._note_pressure(full, missing)
        return rest

    def _note_pressure(self, full: str, missing: Amount) -> None:
        flash = self.scene.flash
        above = f"{full}, above its high watermark of {format_percent(flash.high)}"
        if not missing.is_lacking:
            self._notes.append(f"{above}; what is planned and under way brings it down to {format_percent(flash.low)}")
            return
        too_much = " and ".join(
            text
            for text, is_short in (
                (format_size(missing.size_bytes), missing.size_bytes > 0),
                (f"{missing.inodes} inodes", missing.inodes > 0),
            )
            if is_short
        )
        unmet = [f"{count} {what}" for what, count in sorted(self._unmet.items())]
        if self._roomless:
            unmet.append(f"{len(self._roomless)} without room for a copy")
        stays = f" (of the snapshots there: {listed(unmet, most=9)})" if unmet else ""
        self._notes.append(
            f"{above}; {too_much} more would have to leave for {format_percent(flash.low)}, and nothing else may{stays}"
        )

    # -- room for recalls --------------------------------------------------------------------------------------

    def _waiting_recalls(self) -> tuple[list[tuple[Case, Transfer]], Amount]:
        """Recalls that wait in the queue, in the order in which they are claimed, and what flash lacks for them."""
        online = [(c, t) for c, t in self._promised if self.scene.is_online(t.source)]
        waiting = [(c, t) for c, t in online if rooms.is_waiting(t)]
        waiting.sort(key=lambda pair: (-pair[1].priority, pair[1].created_at, pair[1].id))
        if not waiting or not self.scene.is_online(self.scene.flash.name):
            return [], Amount()
        return waiting, rooms.total(rooms.coming(c) for c, _ in online) + rooms.spare(self.scene) - rooms.free(
            self.scene
        )

    def _make_room(self, cases: Sequence[Case], waiting: list[tuple[Case, Transfer]], freeing: Amount) -> list[Case]:
        """Release for queued recalls what they lack; one that can never fit releases nothing in vain."""
        if not waiting:
            return list(cases)
        running = rooms.total(
            rooms.coming(c) for c, t in self._promised if not rooms.is_waiting(t) and self.scene.is_online(t.source)
        )
        room = rooms.free(self.scene) + freeing - running - rooms.spare(self.scene)
        need = Amount()
        most: Amount | None = None
        served: list[Case] = []
        for case, _ in waiting:
            more = need + rooms.coming(case)
            if not more.fits(room):
                # All that could go is tried out once, and only when it is needed.
                most = most if most is not None else room + self._releasable(cases)
                if not more.fits(most):
                    self._note_no_room(case, more - most)
                    continue
            need = more
            served.append(case)
        if need.fits(room):
            return list(cases)
        size = format_size(need.size_bytes)
        recalls = f"the recall of {served[0].s.ref}" if len(served) == 1 else counted(len(served), "queued recall")
        rest, _ = self._take(cases, need - room, why=f"room for {recalls} ({size})", priority=PRIORITY_ROOM)
        return rest

    def _releasable(self, cases: Sequence[Case]) -> Amount:
        everything = Amount(1 << 62, 1 << 62)
        releases, _ = Victims(cases, self.room.fork()).take(everything, why="", priority=0)
        return rooms.total(r.frees for r in releases)

    def _note_no_room(self, case: Case, lacking: Amount) -> None:
        missing = format_size(lacking.size_bytes) if lacking.size_bytes > 0 else f"{lacking.inodes} inodes"
        flash = self.scene.flash.name
        self._notes.append(f"the recall of {case.s.ref} waits: {flash} lacks {missing} even if all that may leave does")

    def _take(self, cases: Sequence[Case], need: Amount, *, why: str, priority: int) -> tuple[list[Case], Amount]:
        queue = Victims(cases, self.room)
        taken, missing = queue.take(need, why=why, priority=priority)
        for planned in taken:
            self._add(planned)
        self._roomless.update(case.s.snapshot.id for case in queue.without_room)
        gone = {planned.step.snapshot_id for planned in taken}
        return [case for case in cases if case.s.snapshot.id not in gone], missing

    def _add(self, planned: Release) -> None:
        self._releases.append(planned)
        self._steps.append((planned.case, planned.step))

    # -- copies, and the rest ----------------------------------------------------------------------------------

    def _migrate(self, cases: Iterable[Case]) -> list[Case]:
        """Copy what is due to the first cold tier, then what quiet hours allow; return the rest."""
        rest: list[Case] = []
        short = 0
        for case in sorted(cases, key=lambda case: not UNUSED_FOR_MIGRATE.holds(case)):
            is_due = UNUSED_FOR_MIGRATE.holds(case)
            if (is_due or IN_QUIET_HOURS.holds(case)) and not case.is_premigrated:
                destination = self.room.destination(case)
                if destination is not None:
                    self.room.take(destination, case.s)
                    why = (UNUSED_FOR_MIGRATE if is_due else IN_QUIET_HOURS).detail(case)
                    priority = PRIORITY_MIGRATE if is_due else PRIORITY_QUIET
                    self._steps.append((case, victims.migrate(case, destination, why=why, priority=priority)))
                    continue
                short += is_due and case.cold is None
            rest.append(case)
            self._kept.set(case.s.ref, self._why_kept(case, is_due=is_due))
        if short:
            self._notes.append(f"{counted(short, 'cold snapshot')} cannot be copied: no cold tier can take them")

        return rest

    def _promote(self, on_flash: list[Case]) -> list[Case]:
        """Bring up what is worth more than what is there; return what stays of that."""
        if not self.scene.view.judgement.promote:
            return on_flash
        flash = self.scene.flash
        freed = self._freeing + rooms.total(r.frees for r in self._releases)
        coming = rooms.total(rooms.coming(case) for case, _ in self._promised)
        drawn = Promotion(self.scene, self.room, rooms.below_low(self.scene, flash) + freed - coming, on_flash)
        below = [self.scene.case(s) for s in self.scene.view.snapshots if s.live is None]
        for case, step in drawn.steps([case for case in below if case.flash is None and case.cold is not None]):
            self._steps.append((case, step))
            self._kept.drop(step.ref)
        for planned in drawn.releases:
            self._add(planned)
            self._kept.drop(planned.step.ref)
        moved = {step.snapshot_id for _, step in self._steps}
        self._below = [case for case in self._below if case.s.snapshot.id not in moved]
        return [case for case in on_flash if case.s.snapshot.id not in moved]

    def _chain(self, on_flash: Iterable[Case]) -> None:
        """Copy and release on the tiers below flash; what stays there is told when it will not."""
        if not self.scene.between:
            return
        drawn = chains.Chains(self.scene, self.room)
        for case in self._below:
            if chains.has_ages(case) and any(chains.dues(case)):
                self._kept.add(case.s.ref, partial(_dues, case))
        for case, step in drawn.steps(on_flash, self._below):
            self._steps.append((case, step))
            self._kept.drop(step.ref)
        self._notes += drawn.notes

    def _remove(self) -> None:
        """What is left of deleted snapshots goes when it was kept for long enough."""
        if not self.scene.view.orphans:
            return
        present = {s.ref for s in self.scene.view.snapshots}
        for s in self.scene.view.orphans:
            step = orphans.removal(self.scene, s)
            if step is not None:
                self._steps.append((self.scene.case(s), step))
            elif s.ref not in present:
                self._kept.set(s.ref, orphans.why_kept(self.scene, s))

    def _why_kept(self, case: Case, *, is_due: bool) -> Reason:
        """Made at once where it speaks of the room that is left now."""
        if case.cold is not None:
            return lambda: f"{UNUSED_FOR_RELEASE.detail(case)}; {COLD_COPY.detail(case)}"
        if is_due:
            unused = format_duration(case.now - case.accessed_at)
            return f"unused for {unused}, but there is {self.room.shortage(case)}"
        if not MAY_LEAVE.holds(case):
            return lambda: f"{UNUSED_FOR_MIGRATE.detail(case)}; {MAY_LEAVE.detail(case)}"
        if case.s.snapshot.id in self._roomless:
            needs = f"{self.scene.flash.name} needs its room now, but there is {self.room.shortage(case)}"
            return f"{UNUSED_FOR_MIGRATE.detail(case)}; {needs}"
        if self.scene.view.quiet.window is not None:
            return lambda: f"{UNUSED_FOR_MIGRATE.detail(case)}; {quiet_hours(case)}"
        return partial(UNUSED_FOR_MIGRATE.detail, case)

    def _finished(self) -> Plan:
        self._steps.sort(key=lambda pair: _turn(*pair))
        return Plan(
            made_at=self.scene.now,
            steps=tuple(step for _, step in self._steps),
            kept=self._kept,
            notes=tuple(self._notes),
        )


def _dues(case: Case) -> str:
    return listed([chains.due_in_words(due, case) for due in chains.dues(case)])


def _turn(case: Case, step: Step) -> tuple[object, ...]:
    """Sort key: the least valuable leave first, the most valuable come first."""
    leaves, value, *rest = case.coldness
    is_coming = step.action is Action.WARM
    return -step.priority, step.copies_bytes > 0, leaves, -value if is_coming else value, *rest
