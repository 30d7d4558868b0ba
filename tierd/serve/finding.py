"""Reading one snapshot as it is now, and the configured things its name leads to."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tierd.catalog import Catalog
from tierd.config import Config
from tierd.errors import Conflict, InvalidRequest, NotFound
from tierd.model.dataset import Dataset, Snapshot, SnapshotRef
from tierd.model.part import Part
from tierd.model.placement import Placement, PlacementState, Residency, residency
from tierd.model.plan import SnapshotView
from tierd.model.tier import Tier, TierName
from tierd.model.transfer import TransferKind, TransferState
from tierd.serve.ports import Clock


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Proof that a snapshot is wholly on flash at this moment."""

    snapshot: Snapshot
    placement: Placement
    residency: Residency
    at: datetime


class Finder:
    """Looks one snapshot up without reading any other. Thread-safe."""

    def __init__(self, config: Config, catalog: Catalog, clock: Clock) -> None:
        self._config, self._catalog, self._clock = config, catalog, clock
        self._flash = frozenset(t.name for t in config.tiers if t.rank == 0)

    def find(self, ref: SnapshotRef) -> SnapshotView:
        """What the catalog says about one snapshot now, without reading any other.

        Raises:
            NotFound: there is no such snapshot, or its dataset is not configured.
        """
        snapshot = self._catalog.snapshot(ref)
        # The transfer before the placements: one that ends in between is then seen as still live, never as a snapshot
        # that is neither on flash nor on its way.
        live = self._catalog.transfers(live_only=True, snapshot_id=snapshot.id, limit=1)
        return SnapshotView(
            snapshot=snapshot,
            dataset=self.dataset(ref.dataset),
            placements=tuple(self._catalog.placements(snapshot.id)),
            holds=tuple(self._catalog.holds(snapshot.id, now=self._clock())),
            live=live[0] if live else None,
        )

    def residency(self, s: SnapshotView) -> Residency:
        """Where the snapshot's bytes are."""
        recalling = s.live is not None and s.live.brings_whole
        is_gone = s.snapshot.gone_at is not None
        return residency(s.placements, flash=self._flash, recalling=recalling, is_gone=is_gone)

    def receipt(self, s: SnapshotView) -> Receipt:
        """The receipt of a snapshot.

        Raises:
            Conflict: it is not wholly on flash, or about to leave.
        """
        placement = self.on_flash(s)
        if placement is None or not is_steady(s):
            raise Conflict(
                f"{s.ref} is not on flash",
                hint="Warm it, and ask for the receipt when its transfer is done.",
            )
        return Receipt(snapshot=s.snapshot, placement=placement, residency=self.residency(s), at=self._clock())

    def parts(self, s: SnapshotView) -> list[tuple[Part, Path]]:
        """Parts of a snapshot that are on flash, and where; the newest first."""
        return [(part, self.part_path(part)) for part in self._catalog.parts(s.snapshot.id)]

    def part_path(self, part: Part) -> Path:
        """Where a part is read."""
        return self.tier(part.tier).root / part.location

    def dataset(self, name: str) -> Dataset:
        """A configured dataset, in its present phase.

        Raises:
            NotFound: none of that name is configured.
        """
        found = next((d for d in self._config.datasets if d.name == name), None)
        if found is None:
            names = sorted(d.name for d in self._config.datasets)
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Configured are: {', '.join(names[:10]) or 'none'}."
            raise NotFound(f"no dataset {name!r} is configured", hint=hint)
        return self._catalog.in_given_phases([found])[0]

    def tier(self, name: TierName) -> Tier:
        found = next((t for t in self._config.tiers if t.name == name), None)
        if found is None:
            raise NotFound(f"no tier {name!r} is configured")
        return found

    def flash_tier(self) -> Tier:
        return min(self._config.tiers, key=lambda t: t.rank)

    def cold_tier(self, above: TierName) -> Tier:
        """The tier to which a snapshot goes from this one: the next slower one."""
        rank = self.tier(above).rank
        slower = [t for t in self._config.tiers if t.rank > rank]
        if not slower:
            raise InvalidRequest(f"there is no tier below {above}", hint="Configure a tier of a larger rank.")
        return min(slower, key=lambda t: t.rank)

    def on_flash(self, s: SnapshotView) -> Placement | None:
        return next((p for p in s.placements if p.tier in self._flash and _is_complete(p)), None)

    def cold(self, s: SnapshotView) -> Placement | None:
        """The cold copy that its path leads to after a release: at home first, then the fastest."""
        ranks = {t.name: t.rank for t in self._config.tiers}
        cold = [p for p in s.placements if p.tier in ranks and p.tier not in self._flash and _is_complete(p)]
        return min(cold, key=lambda p: (p.tier != s.dataset.home, ranks[p.tier]), default=None)


def _is_complete(p: Placement) -> bool:
    return p.state is PlacementState.VERIFIED


def is_steady(s: SnapshotView) -> bool:
    """Whether what is on flash is at the path and, given a hold, stays: no recall switches it, nothing releases it."""
    if s.live is None:
        return True
    return s.live.kind is TransferKind.MIGRATE and s.live.state is not TransferState.RELEASING
