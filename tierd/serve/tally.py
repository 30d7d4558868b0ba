"""Sums over all snapshots, worked out once per read of the catalog: there may be many thousands, and many who ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from tierd.model.placement import Residency
from tierd.model.plan import SnapshotView, View
from tierd.model.transfer import Transfer, TransferKind

ByResidency = Mapping[tuple[str, Residency], int]
ByCode = Mapping[tuple[TransferKind, str], int]


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What the snapshots and orphans of a view come to. The first of a key is the dataset where nothing else is said.

    Attributes:
        retrying: live transfers whose latest attempt failed, by kind and the code of the error.
        failed: snapshots whose newest transfer was given up, by the same.
        uncopied_since: when the snapshot that is on flash alone for longest was found or changed.
    """

    number: ByResidency
    size_bytes: ByResidency
    retrying: ByCode
    failed: ByCode
    uncopied_since: Mapping[str, datetime]

    def by_residency(self) -> Mapping[Residency, int]:
        """Snapshots of all datasets; 0 where there are none."""
        return {each: sum(n for (_, r), n in self.number.items() if r is each) for each in Residency}


def tally(view: View) -> Tally:
    """Sum up a view."""
    number: Counter[tuple[str, Residency]] = Counter()
    size_bytes: Counter[tuple[str, Residency]] = Counter()
    uncopied: dict[str, datetime] = {}
    everything = (*view.snapshots, *view.orphans)
    for s in everything:
        dataset, residency = s.dataset.name, view.residency(s)
        number[dataset, residency] += 1
        size_bytes[dataset, residency] += s.snapshot.size_bytes
        # What is at home on a colder tier has its only copy there by design.
        if residency is Residency.RESIDENT:
            since = _uncopied_since(s)
            uncopied[dataset] = min(since, uncopied.get(dataset, since))
    return Tally(
        number=number,
        size_bytes=size_bytes,
        retrying=_by_code(s.live for s in everything),
        failed=_by_code(s.last_failure for s in everything if s.live is None),
        uncopied_since=uncopied,
    )


def _uncopied_since(s: SnapshotView) -> datetime:
    # Files keep old times when they are copied here: it cannot be without a copy for longer than it is known.
    return max(s.snapshot.changed_at, s.snapshot.first_seen_at)


def _by_code(transfers: Iterable[Transfer | None]) -> ByCode:
    return Counter((t.kind, t.error_code) for t in transfers if t is not None and t.error_code is not None)
