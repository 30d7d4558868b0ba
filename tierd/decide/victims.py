"""Victims: the snapshots that may leave flash to make room, coldest first, and the steps that release them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tierd.decide.eligibility import MAY_LEAVE, unused
from tierd.decide.room import Amount, Room, occupied
from tierd.decide.scene import Case
from tierd.decide.wording import ago
from tierd.model.plan import Action, Step
from tierd.model.tier import TierName


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A release that is planned, and what it gives back on flash."""

    case: Case
    step: Step
    frees: Amount


def release(case: Case, room: Room, *, why: str, priority: int) -> Release | None:
    """Plan the release of a snapshot whose guards all hold, with a copy first where it has none.

    Returns:
        None where there is no room for the copy it needs.
    """
    if case.cold is not None:
        destination, copies, how = case.cold.tier, 0, _kept_copy(case)
    else:
        found = room.destination(case)
        if found is None:
            return None
        room.take(found, case.s)
        destination, copies, how = found, case.s.snapshot.size_bytes, f"copied to {found} first"
    frees = occupied(case)
    step = Step(
        action=Action.RELEASE,
        snapshot_id=case.s.snapshot.id,
        ref=case.s.ref,
        source=case.scene.flash.name,
        destination=destination,
        reason=f"{why}; {how}",
        frees_bytes=frees.size_bytes,
        copies_bytes=copies,
        priority=priority,
        value=case.value,
    )
    return Release(case=case, step=step, frees=frees)


def migrate(case: Case, destination: TierName, *, why: str, priority: int) -> Step:
    """The step that makes a cold copy."""
    return Step(
        action=Action.MIGRATE,
        snapshot_id=case.s.snapshot.id,
        ref=case.s.ref,
        source=case.scene.flash.name,
        destination=destination,
        reason=f"{why}; copied to {destination} and kept on {case.scene.flash.name}",
        copies_bytes=case.s.snapshot.size_bytes,
        priority=priority,
    )


def _kept_copy(case: Case) -> str:
    cold = case.cold
    if cold is None or cold.verified_at is None:
        return "no copy is needed" if cold is None else f"its original is on {cold.tier}"
    return f"a copy on {cold.tier} was verified {ago(cold.verified_at, case.now)}"


class Victims:
    """A queue of snapshots whose guards all hold, coldest first. Each is taken once; what its phase keeps, never.

    Attributes:
        without_room: those passed over because no cold tier has room for the copy they need.
    """

    def __init__(self, cases: Iterable[Case], room: Room) -> None:
        self._queue = sorted((case for case in cases if MAY_LEAVE.holds(case)), key=lambda case: case.coldness)
        self._next = 0
        self._room = room
        self.without_room: list[Case] = []

    def take(self, need: Amount, *, why: str, priority: int) -> tuple[list[Release], Amount]:
        """Release the coldest until the need is met.

        Returns:
            The releases, and what is still needed (nothing positive when it is met).
        """
        taken: list[Release] = []
        while need.is_lacking and self._next < len(self._queue):
            case = self._queue[self._next]
            self._next += 1
            if not _helps(occupied(case), need):
                continue
            reason = f"unused for {unused(case)} and among the coldest: {why}"
            planned = release(case, self._room, why=reason, priority=priority)
            if planned is None:
                self.without_room.append(case)
                continue
            taken.append(planned)
            need -= planned.frees
        return taken, need


def _helps(frees: Amount, need: Amount) -> bool:
    return (need.size_bytes > 0 and frees.size_bytes > 0) or (need.inodes > 0 and frees.inodes > 0)
