"""The scene of a decision: what is the same for every snapshot, and each snapshot's case within it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from tierd.decide.value import Valuer
from tierd.model.dataset import SnapshotId
from tierd.model.hold import Hold
from tierd.model.placement import Placement, PlacementState
from tierd.model.plan import SnapshotView, View
from tierd.model.policy import Policy
from tierd.model.tier import Tier, TierName, TierUsage
from tierd.model.transfer import Transfer, TransferKind, TransferState

_LONGEST_BACKOFF = timedelta(hours=1)
_FIRST_BACKOFF = timedelta(seconds=60)


Coldness = tuple[int, float, datetime, int, str, str]


class Scene:
    """A view at one moment, with its tiers looked up once.

    Attributes:
        flash: the tier of rank 0; cold: the others, fastest first.
        between: the cold tiers that have a colder one below them.
        is_quiet: whether quiet hours are now; next_quiet: when the next ones begin.
    """

    def __init__(self, view: View, now: datetime) -> None:
        self.view, self.now = view, now
        self.flash = view.flash_tier
        self.cold = tuple(sorted((t for t in view.tiers if t.rank > self.flash.rank), key=lambda t: t.rank))
        self.between = self.cold[:-1]
        self._tiers = {t.name: t for t in view.tiers}
        self._ranks = {t.name: t.rank for t in self.cold}
        self.valuer = Valuer(self.cold, view.costs, view.judgement)
        self._values: dict[SnapshotId, float] = {}
        self._coldness: dict[SnapshotId, Coldness] = {}
        window = view.quiet.window
        self.is_quiet = window is not None and window.is_open(now)
        self.next_quiet = None if window is None else window.next_open(now)

    def tier(self, name: TierName) -> Tier | None:
        return self._tiers.get(name)

    def usage(self, name: TierName) -> TierUsage:
        """How full a tier is; one that nobody has looked at yet counts as offline."""
        found = self.view.usage.get(name)
        return found or TierUsage(tier=name, is_online=False, offline_reason="not looked at yet")

    def is_online(self, name: TierName) -> bool:
        found = self.view.usage.get(name)
        return found is not None and found.is_online

    def offline(self, name: TierName) -> str:
        """`tier hdd is offline: no such directory`."""
        return f"tier {name} is offline: {self.usage(name).offline_reason or 'its store was not found'}"

    def case(self, s: SnapshotView) -> Case:
        """One snapshot within this scene."""
        flash: Placement | None = None
        cold: list[Placement] = []
        for p in s.placements:
            if p.state is not PlacementState.VERIFIED:
                continue
            if p.tier == self.flash.name:
                flash = p
            elif p.tier in self._ranks:
                cold.append(p)
        if len(cold) > 1:
            cold.sort(key=lambda p: self._preference(p, s))
        return Case(scene=self, s=s, flash=flash, cold=cold[0] if cold else None, now=self.now, policy=s.dataset.policy)

    def value(self, case: Case) -> float:
        """What it is worth on flash; asked for many times, worked out once."""
        snapshot_id = case.s.snapshot.id
        found = self._values.get(snapshot_id)
        if found is None:
            found = self._values[snapshot_id] = self.valuer.value(case.s, case.cold, self.now)
        return found

    def coldness(self, case: Case) -> Coldness:
        """Its place in the order of release; as `value`."""
        known = case.s.snapshot
        found = self._coldness.get(known.id)
        if found is None:
            last = (-known.size_bytes, known.ref.dataset, known.ref.name)
            found = self._coldness[known.id] = (case.policy.leaves, self.value(case), known.accessed_at, *last)
        return found

    def _preference(self, p: Placement, s: SnapshotView) -> tuple[bool, bool, int]:
        """Which cold copy is read after a release: one that is online, at home first, then the fastest."""
        return (not self.is_online(p.tier), p.tier != s.dataset.home, self._ranks[p.tier])


@dataclass(eq=False, kw_only=True, slots=True)  # not frozen: making ten thousand of those takes twice as long
class Case:
    """One snapshot as a decision sees it. Never changed.

    Attributes:
        flash: its verified copy on flash.
        cold: the verified copy that its path would lead to after a release.
        now, policy: of the scene and of its dataset; they are asked for many times.
    """

    scene: Scene
    s: SnapshotView
    flash: Placement | None
    cold: Placement | None
    now: datetime
    policy: Policy

    @property
    def accessed_at(self) -> datetime:
        return self.s.snapshot.accessed_at

    @property
    def settles_at(self) -> datetime:
        return self.s.snapshot.changed_at + self.policy.settle_after

    @property
    def residency_ends_at(self) -> datetime | None:
        """When the minimum residency after the last warm is over; None for one that was never warmed."""
        warmed_at = self.s.snapshot.warmed_at
        return None if warmed_at is None else warmed_at + self.policy.min_residency

    @property
    def is_premigrated(self) -> bool:
        """Whether it has the cold copy that `migrate_after` asks for; tiers with an age of their own do not count."""
        own = self.policy.migrate_after_to.keys() - {tier.name for tier in self.scene.cold[:1]}
        if not own or self.cold is None:
            return self.cold is not None
        return any(
            p.state is PlacementState.VERIFIED and p.tier not in own for p in self.s.placements if p != self.flash
        )

    @property
    def migrates_at(self) -> datetime | None:
        after = self.policy.migrate_after
        return None if after is None else self.accessed_at + after

    @property
    def is_quiet_due(self) -> bool:
        """Whether quiet hours are now, and it is unused for as long as they ask for."""
        return self.scene.is_quiet and self.now >= self.accessed_at + self.scene.view.quiet.after

    @property
    def quiet_at(self) -> datetime | None:
        """The earliest moment, now or later, at which quiet hours and `quiet.after` have it copied; None: never."""
        quiet = self.scene.view.quiet
        if quiet.window is None:
            return None
        ready = max(self.now, self.accessed_at + quiet.after)
        if ready == self.now:
            return self.now if self.scene.is_quiet else self.scene.next_quiet
        return ready if quiet.window.is_open(ready) else quiet.window.next_open(ready)

    @property
    def releases_at(self) -> datetime | None:
        """When age alone releases it; None for under pressure only.

        Without a cold copy age must ask for that first: a release never comes before the migrate it needs.
        """
        after = self.policy.release_after
        if after is None or self.policy.keeps_flash:
            return None
        migrate = self.policy.migrate_after
        if self.cold is None and migrate is None:
            return None
        then = self.accessed_at + (after if self.cold is not None or migrate is None else max(after, migrate))
        announced = self.announced_until
        return then if announced is None else max(then, announced)

    @property
    def announced_until(self) -> datetime | None:
        """When the last announced use is over that age waits for: those nearer than the age itself."""
        after = self.policy.release_after
        if not self.s.announcements or after is None:
            return None
        ends = (a.until for a in self.s.announcements if a.until >= self.now and a.use_at - self.now <= after)
        return max(ends, default=None)

    @property
    def retries_at(self) -> datetime | None:
        """When the back-off from the last failure is over; None where nothing failed."""
        failed = self.s.last_failure
        if failed is None:
            return None
        # Beyond six doublings the longest wait is reached: no power of a large attempt number is computed.
        wait = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * (1 << min(max(failed.attempt, 1) - 1, 6)))
        return (failed.finished_at or failed.created_at) + wait

    @property
    def holds(self) -> tuple[Hold, ...]:
        if not self.s.holds:
            return ()
        return tuple(h for h in self.s.holds if h.is_active(self.now))

    @property
    def value(self) -> float:
        """What it is worth on flash, in the unit of the policy."""
        return self.scene.value(self)

    @property
    def coldness(self) -> Coldness:
        """Sort key, coldest first: what its phase lets go first, the least valuable, then the longest unused; of equals
        the largest, so that fewer have to go."""
        return self.scene.coldness(self)


def is_leaving(t: Transfer) -> bool:
    """Whether a live transfer takes the source's copy away in the end."""
    return t.kind is TransferKind.MIGRATE and t.release


def is_let_go(case: Case) -> bool:
    """Whether a live release has given its copy up already: it can only be finished, a hold comes too late."""
    live = case.s.live
    if live is None or not is_leaving(live) or live.state is not TransferState.RELEASING:
        return False
    return case.s.on(live.source) is None
