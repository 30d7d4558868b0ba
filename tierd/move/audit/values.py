"""What an audit is asked, what it finds, and what both kinds of tiers share while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from tierd.catalog import Catalog
from tierd.model.dataset import Dataset, Snapshot, SnapshotId, SnapshotRef
from tierd.model.placement import Placement
from tierd.model.tier import Tier
from tierd.storage.base import Site
from tierd.storage.control import Control


class Kind(StrEnum):
    """What is the matter."""

    MISSING = "missing"
    """The catalog names a copy that is not there, or not whole."""
    CHANGED = "changed"
    """A copy is there, and is not as it was when it was verified."""
    DAMAGED = "damaged"
    """Nobody changed it, and its bytes are others."""
    UNKNOWN = "unknown"
    """A copy that the catalog does not know."""
    UNREADABLE = "unreadable"
    """It could not be looked at."""
    LITTER = "litter"
    """It belongs to nothing, and may be deleted."""
    KEPT = "kept"
    """A stale copy that somebody had written to: for people to look at."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        where: place on the tier: a location, a key, or a path.
        hint: a sentence that says what to do.
    """

    kind: Kind
    tier: str
    where: str
    message: str
    hint: str
    ref: SnapshotRef | None = None
    size_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is looked at.

    Attributes:
        is_deep: read every byte of every copy.
        older_than: what an unknown machine left is litter when it is older than this.
        refs: only these snapshots, a dataset's name standing for all of its; empty: everything, litter included.
        sweep: remove litter.
    """

    is_deep: bool = False
    sweep: bool = False
    older_than: timedelta = timedelta(hours=24)
    refs: tuple[SnapshotRef, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found. `copies`: looked at; `moving`: left out, as a transfer works on their snapshots; `removed`: what
    was litter."""

    findings: tuple[Finding, ...]
    removed: tuple[Finding, ...]
    copies: int
    moving: int


@dataclass(frozen=True, kw_only=True)
class Held:
    """A copy that the catalog names."""

    snapshot: Snapshot
    placement: Placement

    @property
    def location(self) -> str:
        return self.placement.location or ""

    @property
    def site(self) -> Site:
        return Site(
            snapshot_key=self.snapshot.key,
            dataset=self.snapshot.ref.dataset,
            name=self.snapshot.ref.name,
            location=self.placement.location,
            home_path=None,
        )


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the catalog says at one moment.

    Attributes:
        live: keys of transfers that are not over, or whose parts are there; ended: of all others that it remembers.
        moving: snapshots that a live transfer works on.
    """

    snapshots: Mapping[SnapshotId, Snapshot]
    placements: tuple[Placement, ...]
    live: frozenset[str]
    ended: frozenset[str]
    moving: frozenset[SnapshotId]

    @classmethod
    def read(cls, catalog: Catalog) -> Known:
        live = catalog.transfers(live_only=True, limit=100_000)
        keys = frozenset(catalog.keys_in_use())
        return cls(
            snapshots={s.id: s for s in catalog.snapshots(include_gone=True)},
            placements=tuple(p for placements in catalog.placements_by_snapshot().values() for p in placements),
            live=keys,
            ended=frozenset(catalog.transfer_keys()) - keys,
            moving=frozenset(t.snapshot_id for t in live),
        )

    def locations(self, tier: Tier) -> set[str]:
        """Of all copies in this tier's store, whatever they are worth."""
        return {p.location for p in self.placements if p.tier == tier.name and p.location is not None}

    def moving_keys(self) -> set[str]:
        """Of all snapshots that a live transfer works on."""
        return {self.snapshots[number].key for number in self.moving if number in self.snapshots}


@dataclass(frozen=True, kw_only=True)
class Round:
    """What a round over one tier is given.

    Attributes:
        identity: uuid that the tier must have.
        scratch: a directory for temporary files.
    """

    tier: Tier
    identity: str
    datasets: tuple[Dataset, ...]
    catalog: Catalog
    question: Question
    now: datetime
    scratch: Path
    control: Control

    def find(
        self,
        kind: Kind,
        where: str,
        message: str,
        hint: str,
        *,
        ref: SnapshotRef | None = None,
        size_bytes: int = 0,
    ) -> Finding:
        """A finding on this tier."""
        return Finding(
            kind=kind, tier=self.tier.name, where=where, message=message, hint=hint, ref=ref, size_bytes=size_bytes
        )

    def is_abandoned(self, known: Known, transfer_key: str, newest: datetime | None) -> bool:
        """Whether nobody works on what this transfer left: it is over, or of another machine and old."""
        if transfer_key in known.live:
            return False
        if transfer_key in known.ended:
            return True
        return newest is not None and self.now - newest > self.question.older_than
