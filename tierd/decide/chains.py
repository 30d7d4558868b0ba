"""Chains: copies on the tiers below the first cold one, and releases from the tiers between flash and the last.

A copy goes down by the age that its policy names for a tier. The copy that a snapshot's path leads to leaves a tier
between when a colder one has a verified copy: by age, or because the tier is above its high watermark. Then the copies
of snapshots that are on flash go first, since nobody reads them; without pressure they stay, as they make a later
recall fast. A held snapshot is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from tierd.decide import room as rooms
from tierd.decide.eligibility import unused, used
from tierd.decide.room import Amount, Room
from tierd.decide.scene import Case, Scene, is_leaving
from tierd.decide.wording import ago, at, counted
from tierd.model.placement import Placement
from tierd.model.plan import Action, Step
from tierd.model.tier import Tier, TierKind, TierName
from tierd.model.transfer import Transfer, TransferKind
from tierd.model.units import format_duration, format_percent, format_size

PRIORITY_PRESSURE = 5
PRIORITY_RELEASE = 3
PRIORITY_MIGRATE = 1
"""Each one less than the same for flash, where somebody may be waiting."""


@dataclass(frozen=True, kw_only=True)
class Due:
    """Something that age alone does with one snapshot, and when.

    Attributes:
        what: `copied to cloud`, `released from hdd`.
        since: the policy's words for it: `after 90d unused`.
    """

    tier: TierName
    is_release: bool
    what: str
    since: str
    at: datetime


def dues(case: Case) -> Iterator[Due]:
    """What its policy will do with a snapshot by age on the tiers below the first cold one, as its copies are now."""
    if not case.scene.between or case.s.snapshot.gone_at is not None:
        return
    policy = case.policy
    for tier in case.scene.cold[1:]:  # the first one is what `migrate_after` is about
        after = policy.migrate_after_to.get(tier.name)
        if after is not None and case.s.on(tier.name) is None and source_above(case, tier) is not None:
            since = f"after {format_duration(after)} unused"
            then = case.accessed_at + after
            yield Due(tier=tier.name, is_release=False, what=f"copied to {tier.name}", since=since, at=then)
    leaves = path_tier(case)
    after = None if leaves is None else policy.release_after_from.get(leaves.name)
    if leaves is not None and after is not None and case.flash is None and copy_below(case, leaves) is not None:
        since = f"after {format_duration(after)} unused"
        then = case.accessed_at + after
        yield Due(tier=leaves.name, is_release=True, what=f"released from {leaves.name}", since=since, at=then)


def has_ages(case: Case) -> bool:
    """Whether its policy has ages for tiers below flash at all."""
    return bool(case.policy.migrate_after_to or case.policy.release_after_from)


def due_in_words(due: Due, case: Case) -> str:
    """`copied to cloud after 90d unused, on 2026-12-01 10:00 UTC`."""
    when = "" if case.now >= due.at else f", on {at(due.at, case.now)}"
    return f"{due.what} {due.since}{when}"


def path_tier(case: Case) -> Tier | None:
    """The tier of the copy that the path leads to: the fastest verified one; None where there is none."""
    tiers = (case.scene.flash, *case.scene.cold)
    return next((tier for tier in tiers if case.s.on(tier.name) is not None), None)


def source_above(case: Case, destination: Tier) -> Tier | None:
    """The fastest online tier above the destination that has a verified copy which can be read as files.

    What is in a bucket is no tree: it is recalled, never copied on from there.
    """
    for tier in (case.scene.flash, *case.scene.cold):
        is_above = tier.rank < destination.rank and tier.kind is TierKind.POSIX
        if is_above and case.scene.is_online(tier.name) and case.s.on(tier.name) is not None:
            return tier
    return None


def copy_below(case: Case, above: Tier) -> Placement | None:
    """The verified copy that a path leads to when the one on this tier has gone; on an online tier only."""
    for tier in case.scene.cold:
        if tier.rank > above.rank and case.scene.is_online(tier.name):
            copy = case.s.on(tier.name)
            if copy is not None:
                return copy
    return None


def _is_spare(case: Case, tier: Tier) -> bool:
    """Whether a snapshot on flash can do without its copy on a tier: a colder one has it, and it is not its home."""
    has_copy = case.s.on(tier.name) is not None and case.s.dataset.home != tier.name
    return has_copy and copy_below(case, tier) is not None


class Chains:
    """Draws up the steps of all chains; once.

    Attributes:
        notes: facts about the tiers between flash and the last.
    """

    def __init__(self, scene: Scene, room: Room) -> None:
        self._scene, self._room = scene, room
        self._steps: dict[int, tuple[Case, Step]] = {}
        self.notes: list[str] = []

    def steps(self, on_flash: Iterable[Case], below: Iterable[Case]) -> list[tuple[Case, Step]]:
        """The steps.

        Args:
            on_flash: snapshots whose guards all hold and for which nothing else is planned.
            below: those that are not on flash and whose guards hold.
        """
        if not self._scene.between:
            return []
        below, on_flash = list(below), list(on_flash)
        for tier in self._scene.between:
            if self._scene.is_online(tier.name):
                self._relieve(tier, below, on_flash)
        aged = (case for case in (*on_flash, *below) if has_ages(case))
        for case in sorted(aged, key=lambda case: case.coldness):
            self._copy_aged(case)
        return list(self._steps.values())

    # -- copies ------------------------------------------------------------------------------------------------

    def _copy_aged(self, case: Case) -> None:
        for due in dues(case):
            tier = self._scene.tier(due.tier)
            if due.is_release or case.now < due.at or tier is None:
                continue
            why = f"{used(case)}; {due_in_words(due, case)}"
            if self._copy(case, tier, why=why, priority=PRIORITY_MIGRATE):
                return  # the next tier's turn comes when this copy is made

    def _copy(self, case: Case, destination: Tier, *, why: str, priority: int) -> bool:
        """Plan a copy, if nothing is planned for the snapshot yet and the tier can take it."""
        source = source_above(case, destination)
        if case.s.snapshot.id in self._steps or source is None or not self._room.takes(destination, case.s):
            return False
        self._room.take(destination.name, case.s)
        step = Step(
            action=Action.MIGRATE,
            snapshot_id=case.s.snapshot.id,
            ref=case.s.ref,
            source=source.name,
            destination=destination.name,
            reason=f"{why}; copied from {source.name} and kept there",
            copies_bytes=case.s.snapshot.size_bytes,
            priority=priority,
        )
        self._add(case, step)
        return True

    # -- releases ------------------------------------------------------------------------------------------------

    def _relieve(self, tier: Tier, below: list[Case], on_flash: list[Case]) -> None:
        """Release what age releases from a tier; under pressure also the coldest, copied down first where need be."""
        over = rooms.excess(self._scene, tier)
        priority = PRIORITY_PRESSURE if over.is_lacking else PRIORITY_RELEASE
        concerned = below if over.is_lacking else [case for case in below if case.policy.release_after_from]
        there = sorted((case for case in concerned if path_tier(case) == tier), key=lambda case: case.coldness)
        freed = Amount()
        for case in there:
            aged = next((due for due in dues(case) if due.is_release and case.now >= due.at), None)
            if aged is not None:
                why = f"{used(case)}; {due_in_words(aged, case)}"
                freed += self._release(case, tier, why=why, priority=priority)
        if not over.is_lacking:
            return
        freed += rooms.total(rooms.freeing(self._scene.case(s), tier) for s in self._scene.view.snapshots if s.live)
        need = Amount(
            over.size_bytes - freed.size_bytes if over.size_bytes > 0 else 0,
            over.inodes - freed.inodes if over.inodes > 0 else 0,
        )
        full = rooms.fullness(self._scene, tier.name)
        limits = f"{full}, above {format_percent(tier.high)}, and goes down to {format_percent(tier.low)}"
        for case in sorted((case for case in on_flash if _is_spare(case, tier)), key=lambda case: case.coldness):
            if need.is_lacking:
                why = f"a spare copy, as the snapshot is on {self._scene.flash.name} as well: {limits}"
                need -= self._release(case, tier, why=why, priority=priority)
        for case in there:
            if need.is_lacking and copy_below(case, tier) is not None:
                why = f"unused for {unused(case)} and among the coldest: {limits}"
                need -= self._release(case, tier, why=why, priority=priority)
        copies = self._copy_down(tier, there, need, limits) if need.is_lacking else 0
        self._note(tier, full, need, copies)

    def _release(self, case: Case, tier: Tier, *, why: str, priority: int) -> Amount:
        """Plan a release to the copy below; what it frees, nothing where a step is planned already."""
        copy = copy_below(case, tier)
        if copy is None or case.s.snapshot.id in self._steps:
            return Amount()
        frees = rooms.occupied(case, tier)
        since = "has its original" if copy.verified_at is None else f"was verified {ago(copy.verified_at, case.now)}"
        step = Step(
            action=Action.RELEASE,
            snapshot_id=case.s.snapshot.id,
            ref=case.s.ref,
            source=tier.name,
            destination=copy.tier,
            reason=f"{why}; the copy on {copy.tier} {since}",
            frees_bytes=frees.size_bytes,
            priority=priority,
        )
        self._add(case, step)
        return frees

    def _copy_down(self, tier: Tier, there: list[Case], need: Amount, limits: str) -> int:
        """Copies below what cannot leave without one; the next plan releases it. Returns how many are planned."""
        need -= self._coming_down(tier)
        planned = 0
        for case in there:
            if not need.is_lacking:
                break
            why = f"unused for {unused(case)} and among the coldest, so that it can leave: {limits}"
            for below in self._scene.cold:
                if below.rank > tier.rank and self._copy(case, below, why=why, priority=PRIORITY_PRESSURE):
                    need -= rooms.occupied(case, tier)
                    planned += 1
                    break
        return planned

    def _coming_down(self, tier: Tier) -> Amount:
        """What can leave a tier when the copies under way are made."""
        return rooms.total(
            rooms.occupied(self._scene.case(s), tier)
            for s in self._scene.view.snapshots
            if s.live is not None and self._is_copied_down(s.live, tier)
        )

    def _is_copied_down(self, live: Transfer, tier: Tier) -> bool:
        to = self._scene.tier(live.destination)
        is_down = live.kind is TransferKind.MIGRATE and live.source == tier.name and to is not None
        return is_down and not is_leaving(live) and not live.cancel_requested

    def _note(self, tier: Tier, full: str, missing: Amount, copies: int) -> None:
        above = f"{full}, above its high watermark of {format_percent(tier.high)}"
        low = format_percent(tier.low)
        if not missing.is_lacking:
            self.notes.append(f"{above}; what is planned and under way brings it down to {low}")
            return
        lack = format_size(missing.size_bytes) if missing.size_bytes > 0 else f"{missing.inodes} inodes"
        first = f"{counted(copies, 'snapshot')} to be copied to a colder tier first" if copies else "nothing else may"
        self.notes.append(f"{above}; {lack} more would have to leave for {low}: {first}")

    def _add(self, case: Case, step: Step) -> None:
        self._steps[case.s.snapshot.id] = (case, step)
