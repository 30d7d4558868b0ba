"""Room: how many bytes and inodes fit where, after everything that is planned or in flight."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tierd.decide.scene import Case, Scene, is_leaving, is_let_go
from tierd.model.plan import SnapshotView
from tierd.model.tier import Tier, TierKind, TierName
from tierd.model.transfer import Transfer, TransferKind, TransferState
from tierd.model.units import format_percent, format_size

_SPARE_BYTES = 1 << 30
_SPARE_INODES = 10_000
_UNLIMITED = 1 << 62
"""Inodes of a file system that makes them as it needs them."""
_WAITING = frozenset({TransferState.QUEUED, TransferState.RESTORING})
_COPYING = _WAITING | {TransferState.COPYING}
_UNCOUNTED = _COPYING | {TransferState.VERIFYING}
"""States in which the catalog does not know the new copy yet, so that it does not count towards a set capacity."""


@dataclass(frozen=True, slots=True)
class Amount:
    """Bytes and inodes; negative where more is there than needed."""

    size_bytes: int = 0
    inodes: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.size_bytes + other.size_bytes, self.inodes + other.inodes)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.size_bytes - other.size_bytes, self.inodes - other.inodes)

    @property
    def is_lacking(self) -> bool:
        """Whether, as a need, it is not met."""
        return self.size_bytes > 0 or self.inodes > 0

    def fits(self, room: Amount) -> bool:
        return not (self - room).is_lacking


def total(amounts: Iterable[Amount]) -> Amount:
    size_bytes = inodes = 0
    for amount in amounts:
        size_bytes += amount.size_bytes
        inodes += amount.inodes
    return Amount(size_bytes, inodes)


def copied(s: SnapshotView) -> Amount:
    """What a new copy of it takes."""
    return Amount(s.snapshot.size_bytes, s.snapshot.entries)


def occupied(case: Case, on: Tier | None = None) -> Amount:
    """What its copy on a tier (flash where none is named) takes, and its release gives back."""
    snapshot, tier = case.s.snapshot, on or case.scene.flash
    if tier.capacity_bytes is not None or tier.kind is TierKind.S3:
        # Use against a set capacity is counted in apparent bytes of the copies known, not in blocks.
        copy = case.s.on(tier.name)
        return Amount(copy.size_bytes if copy is not None else snapshot.size_bytes, snapshot.entries)
    return Amount(snapshot.disk_bytes or snapshot.size_bytes, snapshot.entries)


def in_flight(scene: Scene, s: SnapshotView, t: Transfer) -> Amount:
    """What a live transfer will still write to its destination."""
    tier = scene.tier(t.destination)
    if t.kind is TransferKind.MIGRATE and s.on(t.destination) is not None:
        return Amount()  # the copy is there: only the release is left
    if tier is not None and tier.capacity_bytes is not None:
        return Amount(t.bytes_total, s.snapshot.entries) if t.state in _UNCOUNTED else Amount()
    if t.state not in _COPYING:
        return Amount()
    return Amount(max(0, t.bytes_total - t.bytes_done), max(0, s.snapshot.entries - t.files_done))


# -- what leaves and what comes ---------------------------------------------------------------------------------


def freeing(case: Case, on: Tier | None = None) -> Amount:
    """What the live transfer of a snapshot is sure enough to give back on a tier (flash where none is named).

    One that is held, stopped, failing or waiting for an offline tier is not counted: others have to go instead.
    """
    live, tier = case.s.live, on or case.scene.flash
    if live is None or not is_leaving(live) or live.source != tier.name:
        return Amount()
    if is_let_go(case):
        return occupied(case, tier)
    return occupied(case, tier) if is_sure(case, live) else Amount()


def is_sure(case: Case, live: Transfer) -> bool:
    """Whether nothing is known that keeps a live transfer from reaching its end soon."""
    is_early = live.not_before is not None and live.not_before > case.now
    is_reachable = case.scene.is_online(live.source) and case.scene.is_online(live.destination)
    return not (live.cancel_requested or live.is_paused or is_early or case.holds) and is_reachable


def is_coming(case: Case) -> bool:
    """Whether a recall will bring it to flash."""
    live = case.s.live
    return live is not None and live.kind is TransferKind.RECALL and not live.cancel_requested


def is_waiting(t: Transfer) -> bool:
    """Whether it has not begun to copy: it waits in the queue, or for an archive class."""
    return t.state in _WAITING


def coming(case: Case) -> Amount:
    """What a recall of it will still take on flash: promised to whoever waits for it."""
    live = case.s.live
    if live is None or not is_coming(case):
        return Amount()
    if is_waiting(live):
        # What an earlier attempt left staged may not be usable any more.
        return Amount(live.bytes_total, case.s.snapshot.entries)
    return in_flight(case.scene, case.s, live)


def spare(scene: Scene) -> Amount:
    """What stays free on flash whatever is recalled: for writers, and because a full file system is slow."""
    usage = scene.usage(scene.flash.name)
    return Amount(min(_SPARE_BYTES, usage.capacity_bytes // 100), min(_SPARE_INODES, usage.capacity_inodes // 100))


def free(scene: Scene) -> Amount:
    """What can be written to flash now."""
    usage = scene.usage(scene.flash.name)
    inodes = usage.capacity_inodes - usage.used_inodes if usage.capacity_inodes else _UNLIMITED
    return Amount(usage.free_bytes, inodes)


def excess(scene: Scene, on: Tier | None = None) -> Amount:
    """What must leave a tier (flash where none is named) for its use to fall from above the high watermark to the low
    one; else nothing.

    Bytes and inodes are looked at apart: nothing leaves for the sake of the one that is not scarce.
    """
    tier = on or scene.flash
    usage = scene.usage(tier.name)

    def over(used: int, capacity: int) -> int:
        return used - int(tier.low * capacity) if used > tier.high * capacity else 0

    inodes = over(usage.used_inodes, usage.capacity_inodes) if usage.capacity_inodes else 0
    return Amount(over(usage.used_bytes, usage.capacity_bytes) if usage.capacity_bytes else 0, inodes)


def below_low(scene: Scene, tier: Tier) -> Amount:
    """What could be written to a tier before it reaches its low watermark; negative above it."""
    usage = scene.usage(tier.name)
    inodes = int(tier.low * usage.capacity_inodes) - usage.used_inodes if usage.capacity_inodes else _UNLIMITED
    return Amount(min(usage.free_bytes, int(tier.low * usage.capacity_bytes) - usage.used_bytes), inodes)


def fullness(scene: Scene, name: TierName) -> str:
    """`flash is 93.0% full`, or `96.0% of the inodes of flash are used` when those are scarcer."""
    usage = scene.usage(name)
    by_bytes = usage.used_bytes / usage.capacity_bytes if usage.capacity_bytes else 0.0
    if usage.used_ratio > by_bytes:
        return f"{usage.used_ratio:.1%} of the inodes of {name} are used"
    return f"{name} is {by_bytes:.1%} full"


# -- cold tiers ----------------------------------------------------------------------------------------------


class Room:
    """What still fits on the cold tiers; shrinks as copies are planned."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._left = {t.name: self._below_high(t) for t in scene.cold if scene.is_online(t.name)}
        for s in scene.view.snapshots:
            if s.live is not None and s.live.destination in self._left:
                self._left[s.live.destination] -= in_flight(scene, s, s.live)

    def _below_high(self, tier: Tier) -> Amount:
        usage = self._scene.usage(tier.name)
        size_bytes, inodes = usage.free_bytes, _UNLIMITED
        if usage.capacity_bytes:
            size_bytes = min(size_bytes, int(tier.high * usage.capacity_bytes) - usage.used_bytes)
        if usage.capacity_inodes:
            inodes = int(tier.high * usage.capacity_inodes) - usage.used_inodes
        return Amount(size_bytes, inodes)

    def fork(self) -> Room:
        """The same room, to try something out."""
        other = object.__new__(Room)
        other._scene, other._left = self._scene, dict(self._left)
        return other

    def destination(self, case: Case) -> TierName | None:
        """Where a new cold copy of it goes: home where that is cold, else the next slower tier that can take it.

        A further copy must leave its tier below the low watermark: what pressure took away does not come back at once.
        """
        tiers = (tier for tier in self._candidates(case) if self.takes(tier, case.s))
        return next((t.name for t in tiers if case.cold is None or self._stays_low(t, case.s)), None)

    def _stays_low(self, tier: Tier, s: SnapshotView) -> bool:
        usage, band = self._scene.usage(tier.name), tier.high - tier.low
        to_high = Amount(int(band * usage.capacity_bytes), int(band * usage.capacity_inodes))
        return copied(s).fits(self._left[tier.name] - to_high)

    def takes(self, tier: Tier, s: SnapshotView) -> bool:
        """Whether a tier is online, has no verified copy of it yet, and can take one."""
        left = self._left.get(tier.name)
        return left is not None and s.on(tier.name) is None and copied(s).fits(left)

    def take(self, name: TierName, s: SnapshotView) -> None:
        """A copy of it is planned there."""
        self._left[name] -= copied(s)

    def shortage(self, case: Case) -> str:
        """Why there is no destination for it."""
        tiers = self._candidates(case)
        if not tiers:
            return f"no tier below {self._scene.flash.name} to copy it to"
        need = copied(case.s)
        return f"no room for a copy: {'; '.join(self._lack(t, need) for t in tiers)}"

    def _lack(self, tier: Tier, need: Amount) -> str:
        left = self._left.get(tier.name)
        if left is None:
            return self._scene.offline(tier.name)
        below = f"below its high watermark of {format_percent(tier.high)}, with all copies under way or planned"
        if need.size_bytes > left.size_bytes:
            room = format_size(max(0, left.size_bytes))
            return f"it needs {format_size(need.size_bytes)} and {tier.name} has {room} {below}"
        return f"it needs {need.inodes} inodes and {tier.name} has {max(0, left.inodes)} {below}"

    def _candidates(self, case: Case) -> tuple[Tier, ...]:
        home = self._scene.tier(case.s.dataset.home)
        if home is not None and home.rank > self._scene.flash.rank:
            return (home,)
        return self._scene.cold
