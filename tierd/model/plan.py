"""What the planner sees (View) and what it proposes (Plan of Steps, each with its reason)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property

from tierd.model.announced import Announcement
from tierd.model.dataset import Dataset, Snapshot, SnapshotId, SnapshotRef
from tierd.model.hold import Hold
from tierd.model.placement import Placement, PlacementState, Residency, residency
from tierd.model.tier import Tier, TierName, TierUsage
from tierd.model.transfer import Transfer
from tierd.model.value import Cost, Judgement
from tierd.model.windows import Quiet


@dataclass(frozen=True, kw_only=True)
class SnapshotView:
    """Everything a decision about one snapshot may look at."""

    snapshot: Snapshot
    dataset: Dataset
    placements: tuple[Placement, ...] = ()
    holds: tuple[Hold, ...] = ()
    announcements: tuple[Announcement, ...] = ()
    """Announced uses that are not over, the next one first."""
    live: Transfer | None = None
    """The transfer that owns the snapshot now."""
    last_failure: Transfer | None = None
    """The newest transfer, if it failed; the planner backs off from it."""
    released_at: datetime | None = None
    """When it last left flash, if that is not long ago."""

    @property
    def ref(self) -> SnapshotRef:
        return self.snapshot.ref

    def on(self, tier: TierName) -> Placement | None:
        """The verified placement on this tier, if there is one."""
        for p in self.placements:
            if p.tier == tier and p.state is PlacementState.VERIFIED:
                return p
        return None


@dataclass(frozen=True, kw_only=True)
class View:
    """A consistent read of the catalog plus the tiers' usage at one moment.

    Attributes:
        snapshots: those that are there.
        costs: of bringing snapshots to flash, by cold tier.
        judgement: how snapshots are weighed.
        quiet: when copies are made that nobody needs yet.
        promoted_bytes: what automatic promotion wrote to flash in the last 24 hours.
        orphans: those whose owner deleted them and of which a tier still has a copy. A name may be among both: the
            present snapshot is another one.
    """

    snapshots: tuple[SnapshotView, ...]
    tiers: tuple[Tier, ...]
    usage: Mapping[TierName, TierUsage]
    orphans: tuple[SnapshotView, ...] = ()
    costs: Mapping[TierName, Cost] = field(default_factory=dict)
    judgement: Judgement = field(default_factory=Judgement)
    quiet: Quiet = field(default_factory=Quiet)
    promoted_bytes: int = 0

    @cached_property
    def flash(self) -> frozenset[TierName]:
        return frozenset(t.name for t in self.tiers if t.rank == 0)

    @property
    def flash_tier(self) -> Tier:
        """The tier of rank 0 (the configuration makes sure that there is exactly one)."""
        return min(self.tiers, key=lambda t: t.rank)

    def tier(self, name: TierName) -> Tier:
        return next(t for t in self.tiers if t.name == name)

    def find(self, ref: SnapshotRef) -> SnapshotView | None:
        return next((s for s in self.snapshots if s.ref == ref), None)

    def find_orphan(self, ref: SnapshotRef) -> SnapshotView | None:
        """The orphan that had this name last."""
        return max((s for s in self.orphans if s.ref == ref), key=lambda s: s.snapshot.id, default=None)

    def residency(self, s: SnapshotView) -> Residency:
        recalling = s.live is not None and s.live.brings_whole
        is_gone = s.snapshot.gone_at is not None
        return residency(s.placements, flash=self.flash, recalling=recalling, is_gone=is_gone)


class Action(StrEnum):
    MIGRATE = "migrate"
    """Make a verified cold copy; the snapshot becomes premigrated."""
    RELEASE = "release"
    """Remove the copy on the source (with a copy first where no verified colder one exists)."""
    WARM = "warm"
    """Bring it to flash, without being asked for."""
    REMOVE = "remove"
    """Delete one copy of a snapshot that its owner deleted; source and destination are its tier."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing the planner would have done now, and why."""

    action: Action
    snapshot_id: SnapshotId
    ref: SnapshotRef
    source: TierName
    destination: TierName
    reason: str
    frees_bytes: int = 0
    copies_bytes: int = 0
    priority: int = 0
    value: float = 0.0
    """What the snapshot is worth on flash, in the unit of the policy."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Steps in the order in which they should be done, and what was considered and left alone."""

    made_at: datetime
    steps: tuple[Step, ...] = ()
    kept: Mapping[SnapshotRef, str] = field(default_factory=dict)
    """Why each snapshot that is not in `steps` stays as it is (one sentence)."""
    notes: tuple[str, ...] = ()
    """Facts about tiers: over the watermark and nothing eligible, offline, …"""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One condition and whether it is met: the bricks of an explanation."""

    rule: str
    holds: bool
    detail: str
    until: datetime | None = None
    """When this finding changes by itself, if nothing else happens."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """One part of a value. `amount`: in the unit that its name says; `detail`: where it comes from."""

    name: str
    amount: float
    detail: str


@dataclass(frozen=True, kw_only=True)
class Worth:
    """What a snapshot is worth on flash.

    Attributes:
        value: in the unit of the policy; only the order of values means something.
        rank: its place in the order of release among the `of` snapshots on flash, 1 would leave first, holds and
            other guards aside; None where it is not there.
    """

    policy: str
    value: float
    terms: tuple[Term, ...]
    rank: int | None
    of: int


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a snapshot is where it is, what holds it, and what would move it."""

    ref: SnapshotRef
    residency: Residency
    summary: str
    findings: tuple[Finding, ...]
    next_step: Step | None = None
    next_event: str = ""
    worth: Worth | None = None
    """None for what is only remembered."""


@dataclass(frozen=True, kw_only=True)
class Restore:
    """What it takes to make a copy of an archive class readable.

    Attributes:
        retrieval: how it is asked for: "Standard", "Bulk" or "Expedited".
        takes: until it can be read, as the class promises for nearly all.
        cost: estimated, in `currency`; None where no price is configured.
    """

    tier: TierName
    storage_class: str
    retrieval: str
    takes: timedelta
    cost: float | None
    currency: str


class WarmAnswer(StrEnum):
    READY = "ready"
    ACCEPTED = "accepted"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class Admission:
    """Whether a warm can be granted now.

    Attributes:
        needs_bytes: to be copied to flash (0 when ready).
        releases: snapshots that would be released to make room, coldest first.
        reason: one sentence; for a refusal it says what is missing and what would help.
        restore: the copy must be restored first, for time and money: only somebody who asks for that gets it.
        ready_at: when it will be there, as far as rates and the queue tell; None for a refusal that no waiting helps.
        is_too_late: refused only because it could not be there by the time asked for.
    """

    answer: WarmAnswer
    reason: str
    needs_bytes: int = 0
    source: TierName | None = None
    releases: tuple[Step, ...] = ()
    restore: Restore | None = None
    ready_at: datetime | None = None
    is_too_late: bool = False
