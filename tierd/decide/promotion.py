"""Promotion: snapshots that are read on a cold tier again and again come back to flash without being asked for.

Off unless configured. What comes must be worth more than what leaves for it by a factor, must not have left a short
while ago, and no more than a budget is written in a day. Who asks for a snapshot by a warm is bound by none of this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from tierd.decide import room as rooms
from tierd.decide.eligibility import GUARDS_BELOW, first_unmet
from tierd.decide.room import Amount, Room
from tierd.decide.scene import Case, Scene
from tierd.decide.victims import Release, Victims
from tierd.decide.wording import ago
from tierd.model.plan import Action, Step
from tierd.model.tier import TierName
from tierd.model.units import format_duration, format_size

PRIORITY_PROMOTE = 1
_LATELY = timedelta(hours=24)
_LEAST_USES = 2
"""Read once, it may be served where it is; jobs of several epochs read again."""
_MOST_AT_ONCE = 4


class Promotion:
    """Draws up what comes to flash by itself.

    Args:
        left: what is free on flash below its low watermark after the plan so far.
        may_leave: what is on flash and may be released for it.
    """

    def __init__(self, scene: Scene, room: Room, left: Amount, may_leave: Sequence[Case]) -> None:
        self._scene, self._room, self._left = scene, room, left
        self._may_leave = list(may_leave)
        self._judgement = scene.view.judgement
        self.releases: list[Release] = []

    def steps(self, cases: Sequence[Case]) -> Iterator[tuple[Case, Step]]:
        """The most valuable first, a few at a time."""
        if not self._judgement.promote or not self._scene.is_online(self._scene.flash.name):
            return
        wanted = [(case, source) for case in cases if (source := self._source(case)) is not None]
        wanted.sort(key=lambda pair: pair[0].coldness, reverse=True)
        budget = self._judgement.daily_writes
        written = self._scene.view.promoted_bytes
        for case, source in wanted[:_MOST_AT_ONCE]:
            size_bytes = case.s.snapshot.size_bytes
            if budget is not None and written + size_bytes > budget:
                continue
            instead = self._instead(case)
            if instead is None:
                continue
            written += size_bytes
            self.releases += instead
            yield case, self._step(case, source, instead)

    def _source(self, case: Case) -> TierName | None:
        """Where it would come from; None where it does not qualify."""
        snapshot = case.s.snapshot
        if case.flash is not None or case.cold is None or not self._scene.is_online(case.cold.tier):
            return None
        tier = self._scene.tier(case.cold.tier)
        if tier is None or (tier.s3 is not None and tier.s3.is_archive):  # a restore costs money: somebody must want it
            return None
        if snapshot.read_at is None or case.now - snapshot.read_at > _LATELY or snapshot.episodes < _LEAST_USES:
            return None
        released_at = case.s.released_at
        if released_at is not None and case.now < released_at + self._judgement.cool_down:
            return None
        return None if first_unmet(GUARDS_BELOW, case) is not None else tier.name

    def _instead(self, case: Case) -> list[Release] | None:
        """Who leaves for it; None where nobody may, or where they are worth nearly as much."""
        need = rooms.copied(case.s)
        if need.fits(self._left):
            self._left -= need
            return []
        fork = self._room.fork()
        factor = self._judgement.challenger
        bar = case.value / factor if case.value > 0 else case.value * factor
        weaker = [other for other in self._may_leave if other.value < bar]
        why = f"room for {case.s.ref} ({format_size(need.size_bytes)}), which is worth more"
        releases, missing = Victims(weaker, fork).take(need - self._left, why=why, priority=PRIORITY_PROMOTE)
        if missing.is_lacking:
            return None
        # Values are per byte: many bytes worth little may be worth more than a few precious ones.
        lost = sum(planned.case.value * planned.case.s.snapshot.size_bytes for planned in releases)
        if 0 < case.value * case.s.snapshot.size_bytes < factor * lost:
            return None
        for planned in releases:
            if planned.step.copies_bytes:
                self._room.take(planned.step.destination, planned.case.s)
        gone = {planned.step.snapshot_id for planned in releases}
        self._may_leave = [other for other in self._may_leave if other.s.snapshot.id not in gone]
        self._left = self._left + rooms.total(planned.frees for planned in releases) - need
        return releases

    def _step(self, case: Case, source: TierName, instead: Sequence[Release]) -> Step:
        snapshot, flash = case.s.snapshot, self._scene.flash.name
        seconds = timedelta(seconds=self._scene.valuer.price(case.s, case.cold).seconds)
        read = f"read {ago(snapshot.read_at, case.now)} on {source}" if snapshot.read_at else f"read on {source}"
        text = f"{read} and often before; bringing it to {flash} takes about {format_duration(seconds)}"
        if instead:
            text += f", and what leaves for it is worth less than 1/{self._judgement.challenger:g} of it"
        return Step(
            action=Action.WARM,
            snapshot_id=snapshot.id,
            ref=snapshot.ref,
            source=source,
            destination=flash,
            reason=text,
            copies_bytes=snapshot.size_bytes,
            priority=PRIORITY_PROMOTE,
        )
