"""The order of an audit: tier by tier, first the copies that the catalog names, then what it does not name.

The daemon may run meanwhile: what a transfer works on is left out, and what looks wrong is compared with the catalog
once more before it is told.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from tierd.catalog import Catalog
from tierd.config import Config
from tierd.errors import InvalidRequest, NotFound, TierdError, TierOffline
from tierd.model.dataset import WHOLE, Snapshot, SnapshotRef
from tierd.model.placement import PlacementState
from tierd.model.tier import Tier
from tierd.move.audit.litter import Litter
from tierd.move.audit.objects import Objects
from tierd.move.audit.trees import Trees
from tierd.move.audit.values import Finding, Held, Kind, Known, Question, Report, Round
from tierd.storage.control import Control
from tierd.storage.posix.identity import check_identity
from tierd.storage.s3.bucket import Bucket
from tierd.storage.s3.identity import check_identity as check_remote_identity
from tierd.storage.s3.lanes import Patience


def audit(config: Config, catalog: Catalog, question: Question, control: Control, *, now: datetime) -> Report:
    """Compare the catalog with the tiers.

    Args:
        catalog: may be one that can only be read, and that a daemon writes to meanwhile.

    Raises:
        NotFound: there is no snapshot of a name that was asked for.
        InvalidRequest: litter was to be removed of single snapshots.
        CatalogError
    """
    if question.refs and question.sweep:
        raise InvalidRequest(
            "litter belongs to no snapshot", hint="Use --sweep without names: it looks at everything on all tiers."
        )
    audited = _Audit(config, catalog, question, control, now)
    audited.check_refs()
    with tempfile.TemporaryDirectory(prefix="tierd-audit-") as scratch:
        for tier in config.tiers:
            audited.look_at(tier, Path(scratch))
    return audited.report()


class _Audit:
    def __init__(self, config: Config, catalog: Catalog, question: Question, control: Control, now: datetime) -> None:
        self._config, self._catalog, self._question = config, catalog, question
        self._control, self._now = control, now
        self._findings: list[Finding] = []
        self._removed: list[Finding] = []
        self._copies = self._moving = 0

    def report(self) -> Report:
        return Report(
            findings=tuple(self._findings), removed=tuple(self._removed), copies=self._copies, moving=self._moving
        )

    def check_refs(self) -> None:
        """Raises NotFound for a name that nothing has."""
        snapshots = self._catalog.snapshots(include_gone=True)
        for ref in self._question.refs:
            if not any(_is_meant(ref, s) for s in snapshots):
                self._catalog.snapshot(ref)  # its error has names that are near
                raise NotFound(f"there is no snapshot of {ref}")

    def look_at(self, tier: Tier, scratch: Path) -> None:
        """Look at one tier; one that cannot be read is a finding, and does not end the audit."""
        identity = self._identity(tier)
        if identity is None:
            return  # nothing was ever stored there
        this = Round(
            tier=tier,
            identity=identity,
            datasets=self._config.datasets,
            catalog=self._catalog,
            question=self._question,
            now=self._now,
            scratch=scratch,
            control=self._control,
        )
        try:
            if tier.s3 is None:
                check_identity(tier.root, identity)
                trees = Trees(this)
                self._go(this, trees, trees)
            else:
                bucket = Bucket(tier.s3, on_wait=Patience(self._control))
                check_remote_identity(bucket, identity)
                self._go(this, Objects(this, bucket), Litter(this, bucket))
        except TierdError as error:
            where = str(tier.root) if tier.s3 is None else f"s3://{tier.s3.bucket}/{tier.s3.prefix}"
            hint = error.hint or "Audit again when the tier can be read."
            self._findings.append(this.find(Kind.UNREADABLE, where, error.message, hint))

    def _identity(self, tier: Tier) -> str | None:
        try:
            return self._catalog.tier_identity(tier.name)
        except NotFound:  # configured since the daemon last started
            return None

    def _go(self, this: Round, copies: Trees | Objects, rest: Trees | Litter) -> None:
        for held in self._held(this.tier):
            self._control.checkpoint(f"look at {held.snapshot.ref} on {this.tier.name}")
            try:
                found = copies.check(held)
            except TierOffline:
                raise  # nor could any other copy be looked at
            except TierdError as error:
                found = [
                    this.find(Kind.UNREADABLE, held.location, error.message, error.hint or "", ref=held.snapshot.ref)
                ]
            self._copies += 1
            if found and not self._is_as_it_was(held):
                self._copies -= 1
                self._moving += 1
                continue
            self._findings += found
        if self._question.refs:
            return
        self._control.checkpoint(f"look for litter on {this.tier.name}")
        others = list(rest.others())
        litter = [finding for finding in others if finding.kind is Kind.LITTER]
        self._findings += others
        if self._question.sweep and litter:
            for removed in rest.sweep(litter):
                self._findings.remove(removed)
                self._removed.append(removed)

    def _held(self, tier: Tier) -> Iterator[Held]:
        """Verified copies in this tier's store; what is stale or being deleted protects nothing."""
        known = Known.read(self._catalog)
        for placement in known.placements:
            snapshot = known.snapshots[placement.snapshot_id]
            is_asked = not self._question.refs or any(_is_meant(ref, snapshot) for ref in self._question.refs)
            is_copy = placement.location is not None and placement.state is PlacementState.VERIFIED
            if placement.tier != tier.name or not is_copy or not is_asked:
                continue
            if placement.snapshot_id in known.moving:
                self._moving += 1
            else:
                yield Held(snapshot=snapshot, placement=placement)

    def _is_as_it_was(self, held: Held) -> bool:
        """Whether the catalog still names this copy, and nothing works on it."""
        known = Known.read(self._catalog)
        return held.placement in known.placements and held.snapshot.id not in known.moving


def _is_meant(ref: SnapshotRef, snapshot: Snapshot) -> bool:
    return snapshot.ref == ref or (ref.name == WHOLE and snapshot.ref.dataset == ref.dataset)
